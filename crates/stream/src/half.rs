//! The two halves of one channel: the sender keeps bytes until they are acknowledged, the receiver
//! until they are taken. Both bound themselves by [`WINDOW`], and the receiver checks the sender.
//!
//! ```text
//!   sender:    acked ≤ first ────── sent ────── written        written - acked ≤ WINDOW
//!   receiver:  told ≤ taken ────── received                    received - taken ≤ WINDOW
//! ```
//!
//! An acknowledgement is credit: it says what was taken, not what arrived. So whatever the sender
//! keeps it may also send, and a channel whose reader is slow stops its own writer and no other.

use crate::{
    fault::Fault,
    frame::{Channel, Frame, PAYLOAD_MAX},
};
use std::collections::VecDeque;

/// Bytes of one channel between the two ends. Ten times what the fastest channel measured carries
/// in one round trip under emulation (60 MiB/s, 0.4 ms), and small enough to hold for every
/// channel of every process.
pub const WINDOW: usize = 256 * 1024;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SendHalf {
    channel: Channel,
    kept: VecDeque<u8>,
    /// Offset of the first byte in `kept`.
    first: u64,
    /// Behind `first` while bytes that an earlier sender sent wait in the receiver.
    acked: u64,
    /// Offset of the next byte for this session.
    sent: u64,
    /// Bytes still to be written that the receiver has from an earlier sender.
    skip: usize,
    end: SendEnd,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum SendEnd {
    Open,
    /// Nothing more will be written; this session has not been told.
    Untold,
    Told,
}

impl SendHalf {
    pub fn new(channel: Channel) -> Self {
        Self {
            channel,
            kept: VecDeque::new(),
            first: 0,
            acked: 0,
            sent: 0,
            skip: 0,
            end: SendEnd::Open,
        }
    }

    pub fn room(&self) -> usize {
        match self.end {
            SendEnd::Open => WINDOW.min(WINDOW.saturating_sub(self.unacked()) + self.skip),
            SendEnd::Untold | SendEnd::Told => 0,
        }
    }

    fn unacked(&self) -> usize {
        usize::try_from(self.first - self.acked).map_or(WINDOW, |gap| gap + self.kept.len())
    }

    /// Takes as many bytes as there is room for.
    pub fn write(&mut self, bytes: &[u8]) -> usize {
        let taken = bytes.len().min(self.room());
        let skipped = taken.min(self.skip);
        self.skip -= skipped;
        self.kept.extend(&bytes[skipped..taken]);
        taken
    }

    pub fn end(&mut self) {
        if self.end == SendEnd::Open {
            self.end = SendEnd::Untold;
        }
    }

    pub fn is_ended(&self) -> bool {
        self.end != SendEnd::Open
    }

    /// Nobody will read any more: what is kept is dropped, and the end is here.
    pub fn refused(&mut self) {
        self.first = self.written();
        self.acked = self.first;
        self.sent = self.first;
        self.kept = VecDeque::new();
        self.end();
    }

    pub fn first(&self) -> u64 {
        self.first
    }

    pub fn sent(&self) -> u64 {
        self.sent
    }

    pub fn written(&self) -> u64 {
        self.first + self.kept.len() as u64
    }

    /// Ended, and everything acknowledged.
    pub fn is_finished(&self) -> bool {
        self.is_ended() && self.kept.is_empty()
    }

    pub fn acknowledge(&mut self, offset: u64) -> Result<(), Fault> {
        if offset > self.sent {
            return Err(self.misplaced(self.sent, offset));
        }
        self.forget_before(offset);
        Ok(())
    }

    fn forget_before(&mut self, offset: u64) {
        self.acked = self.acked.max(offset);
        let gone = offset.saturating_sub(self.first);
        let gone = usize::try_from(gone).expect("only kept bytes are forgotten");
        self.kept.drain(..gone);
        self.first += gone as u64;
    }

    /// A new session whose receiver wants everything from `offset` on, or what is still there.
    /// Returns where it will begin.
    pub fn restart_at(&mut self, offset: u64) -> u64 {
        if (self.first..=self.written()).contains(&offset) {
            self.forget_before(offset);
        }
        self.rewind(self.first);
        self.first
    }

    /// A new session whose receiver has `received` and took `acked` of it.
    pub fn restart_after(&mut self, received: u64, acked: u64) -> Result<(), Fault> {
        if received < self.first || received > self.written() {
            return Err(self.misplaced(self.first, received));
        }
        if acked > received {
            return Err(self.misplaced(received, acked));
        }
        self.forget_before(acked);
        self.rewind(received);
        Ok(())
    }

    /// The first session of a sender whose receiver may have heard another one: what was written
    /// here begins at byte `from`, or with the next byte that the receiver expects.
    pub fn settle(&mut self, from: Option<u64>, received: u64, acked: u64) -> Result<(), Fault> {
        if acked > received || received - acked > WINDOW as u64 {
            return Err(self.misplaced(received, acked));
        }
        let known = received.checked_sub(from.unwrap_or(received));
        let Some(known) = known.and_then(|known| usize::try_from(known).ok()) else {
            return Err(Fault::Gone {
                channel: self.channel,
                wanted: received,
                oldest: from.unwrap_or(received),
            });
        };
        let dropped = known.min(self.kept.len());
        self.kept.drain(..dropped);
        self.skip = known - dropped;
        self.first = received;
        self.acked = acked;
        self.rewind(received);
        Ok(())
    }

    /// A new session whose receiver goes on wherever we do: what was not acknowledged is sent again.
    pub fn restart_unacked(&mut self) {
        self.acked = self.first;
        self.rewind(self.first);
    }

    /// Nothing was written yet: the next byte has this place.
    pub fn begin_at(&mut self, offset: u64) {
        self.first = offset;
        self.acked = offset;
        self.rewind(offset);
    }

    fn rewind(&mut self, to: u64) {
        self.sent = to;
        if self.end == SendEnd::Told {
            self.end = SendEnd::Untold;
        }
    }

    fn misplaced(&self, expected: u64, got: u64) -> Fault {
        Fault::WrongOffset {
            channel: self.channel,
            expected,
            got,
        }
    }

    /// The next bytes to send, if there are any.
    pub fn next_data(&mut self) -> Option<Frame<'_>> {
        let offset = self.sent;
        let behind = usize::try_from(offset - self.first).expect("only kept bytes are sent");
        let (front, back) = self.kept.as_slices();
        let rest = match front.get(behind..) {
            Some(rest) if !rest.is_empty() => rest,
            Some(_) | None => &back[behind - front.len()..],
        };
        let bytes = &rest[..rest.len().min(PAYLOAD_MAX)];
        self.sent += bytes.len() as u64;
        (!bytes.is_empty()).then_some(Frame::Data {
            channel: self.channel,
            offset,
            bytes,
        })
    }

    /// The end, once and when all before it was sent.
    pub fn next_end(&mut self) -> Option<Frame<'static>> {
        if self.end != SendEnd::Untold || self.sent != self.written() {
            return None;
        }
        self.end = SendEnd::Told;
        Some(Frame::End {
            channel: self.channel,
            offset: self.sent,
        })
    }

    pub fn trim(&mut self) {
        self.kept.shrink_to_fit();
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ReceiveHalf {
    channel: Channel,
    buffer: VecDeque<u8>,
    /// Offset of the first byte in `buffer`.
    taken: u64,
    /// What this session has acknowledged.
    told: u64,
    end: ReceiveEnd,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ReceiveEnd {
    Open,
    Ended,
    /// Our reader is gone. What comes is dropped.
    Refused(Told),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Told {
    No,
    Yes,
}

impl ReceiveHalf {
    pub fn new(channel: Channel) -> Self {
        Self {
            channel,
            buffer: VecDeque::new(),
            taken: 0,
            told: 0,
            end: ReceiveEnd::Open,
        }
    }

    pub fn received(&self) -> u64 {
        self.taken + self.buffer.len() as u64
    }

    pub fn taken_offset(&self) -> u64 {
        self.taken
    }

    /// What can be taken at once; more may follow when it is.
    pub fn bytes(&self) -> &[u8] {
        self.buffer.as_slices().0
    }

    pub fn take(&mut self, count: usize) {
        self.buffer.drain(..count);
        self.taken += count as u64;
    }

    /// No byte will follow, since the end came and everything before it was taken, or since our
    /// reader is gone.
    pub fn is_over(&self) -> bool {
        match self.end {
            ReceiveEnd::Open => false,
            ReceiveEnd::Ended => self.buffer.is_empty(),
            ReceiveEnd::Refused(_) => true,
        }
    }

    pub fn is_refused(&self) -> bool {
        matches!(self.end, ReceiveEnd::Refused(_))
    }

    /// The peer need not send any more.
    pub fn is_closed(&self) -> bool {
        self.end != ReceiveEnd::Open
    }

    pub fn refuse(&mut self) {
        match self.end {
            ReceiveEnd::Open | ReceiveEnd::Ended => {
                self.taken = self.received();
                self.buffer = VecDeque::new();
                self.end = ReceiveEnd::Refused(Told::No);
            }
            ReceiveEnd::Refused(_) => {}
        }
    }

    pub fn data(&mut self, offset: u64, bytes: &[u8]) -> Result<(), Fault> {
        match self.end {
            ReceiveEnd::Open => {}
            ReceiveEnd::Ended => {
                return Err(Fault::AfterEnd {
                    channel: self.channel,
                });
            }
            ReceiveEnd::Refused(_) => {
                self.taken = offset.saturating_add(bytes.len() as u64);
                return Ok(());
            }
        }
        self.expect_offset(offset)?;
        if self.buffer.len() + bytes.len() > WINDOW {
            return Err(Fault::WindowExceeded {
                channel: self.channel,
            });
        }
        self.buffer.extend(bytes);
        Ok(())
    }

    pub fn ended(&mut self, offset: u64) -> Result<(), Fault> {
        match self.end {
            ReceiveEnd::Open | ReceiveEnd::Ended => {
                self.expect_offset(offset)?;
                self.end = ReceiveEnd::Ended;
            }
            ReceiveEnd::Refused(_) => {}
        }
        Ok(())
    }

    fn expect_offset(&self, got: u64) -> Result<(), Fault> {
        let expected = self.received();
        if got == expected {
            return Ok(());
        }
        Err(Fault::WrongOffset {
            channel: self.channel,
            expected,
            got,
        })
    }

    /// A new session whose sender was told how much was received and taken.
    pub fn resumed(&mut self) {
        self.told = self.taken;
        if let ReceiveEnd::Refused(told) = &mut self.end {
            *told = Told::No;
        }
    }

    /// The session is over: what was not taken will be sent again.
    pub fn forget_untaken(&mut self) {
        self.end = match self.end {
            ReceiveEnd::Ended if !self.buffer.is_empty() => ReceiveEnd::Open,
            end @ (ReceiveEnd::Open | ReceiveEnd::Ended | ReceiveEnd::Refused(_)) => end,
        };
        self.buffer.clear();
    }

    /// Gives the next byte its place in the channel.
    pub fn settle(&mut self, offset: u64) {
        self.taken = offset;
    }

    pub fn next_ack(&mut self) -> Option<Frame<'static>> {
        if self.told == self.taken {
            return None;
        }
        self.told = self.taken;
        Some(Frame::Ack {
            channel: self.channel,
            offset: self.taken,
        })
    }

    pub fn next_refusal(&mut self) -> Option<Frame<'static>> {
        if self.end != ReceiveEnd::Refused(Told::No) {
            return None;
        }
        self.end = ReceiveEnd::Refused(Told::Yes);
        Some(Frame::Refused {
            channel: self.channel,
        })
    }

    pub fn trim(&mut self) {
        self.buffer.shrink_to_fit();
    }
}
