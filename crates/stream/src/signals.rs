//! Signals that the host sent, on their way to the process.

use crate::frame::Frame;
use std::collections::VecDeque;

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Signals {
    pub waiting: VecDeque<u32>,
    pub received: u64,
    pub told: u64,
}

impl Signals {
    /// The next one has this number.
    pub fn begin_at(&mut self, seq: u64) {
        self.received = seq.saturating_sub(1);
        self.told = self.received;
    }

    pub fn taken(&self) -> u64 {
        self.received - self.waiting.len() as u64
    }

    pub fn next_ack(&mut self) -> Option<Frame<'static>> {
        let taken = self.taken();
        if self.told == taken {
            return None;
        }
        self.told = taken;
        Some(Frame::SignalAck { seq: taken })
    }
}
