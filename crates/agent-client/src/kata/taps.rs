//! One output of a process, read call by call.

use crate::error::Error;
use std::{future::pending, pin::Pin, time::Duration};
use tokio::time::{Sleep, sleep};

/// After an answer without a byte, which no agent gives to one who waits: one that does so for ever
/// costs little.
const PAUSE: Duration = Duration::from_millis(20);

/// What is read at once of an output that nobody wants.
const DROPPED_MAX: usize = 32 * 1024;

type Reading = Pin<Box<dyn Future<Output = Result<Vec<u8>, Error>>>>;

pub(super) struct Tap {
    reader: Reader,
    work: Work,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reader {
    Waits,
    /// Nobody wants it, and the process must not stand still for it.
    Gone,
}

enum Work {
    Idle,
    Reading(Reading),
    Pausing(Pin<Box<Sleep>>),
    Ended,
}

pub(super) enum Read {
    Answered(Result<Vec<u8>, Error>),
    Paused,
}

impl Tap {
    pub fn open() -> Self {
        let (reader, work) = (Reader::Waits, Work::Idle);
        Self { reader, work }
    }

    pub fn closed() -> Self {
        let (reader, work) = (Reader::Gone, Work::Ended);
        Self { reader, work }
    }

    pub fn is_ended(&self) -> bool {
        matches!(self.work, Work::Ended)
    }

    /// Begins a read where there is none and `room` for what it yields.
    pub fn begin(&mut self, room: usize, read: impl FnOnce(usize) -> Reading) {
        let most = match self.reader {
            Reader::Waits => room,
            Reader::Gone => DROPPED_MAX,
        };
        if matches!(self.work, Work::Idle) && most > 0 {
            self.work = Work::Reading(read(most));
        }
    }

    /// From now on what is read is dropped.
    pub fn discard(&mut self) {
        self.reader = Reader::Gone;
    }

    /// No read is under way any more.
    pub fn rest(&mut self) {
        match self.work {
            Work::Reading(_) | Work::Pausing(_) => self.work = Work::Idle,
            Work::Idle | Work::Ended => {}
        }
    }

    /// Nothing yet.
    pub fn pause(&mut self) {
        match self.work {
            Work::Reading(_) | Work::Idle | Work::Pausing(_) => {
                self.work = Work::Pausing(Box::pin(sleep(PAUSE)));
            }
            Work::Ended => {}
        }
    }

    pub async fn next(&mut self) -> Read {
        match &mut self.work {
            Work::Reading(reading) => Read::Answered(reading.as_mut().await),
            Work::Pausing(pause) => {
                pause.as_mut().await;
                Read::Paused
            }
            Work::Idle | Work::Ended => pending().await,
        }
    }
}
