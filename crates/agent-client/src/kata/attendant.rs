//! Attends one process of a stock guest from its creation to its removal: carries its stdio between
//! its relay and the agent's calls, and learns its exit.
//!
//! ```text
//!   relay ◄── station ──► stream::GuestEnd ──► WriteStdin, CloseStdin, TtyWinResize, SignalProcess
//!                              ▲
//!                              └── ReadStdout, ReadStderr, and after both have ended WaitProcess
//! ```
//!
//! - The agent's WaitProcess closes what was not read and forgets the process: it is asked when both
//!   outputs have ended. One that was killed, or removed, is asked for without regard to what it
//!   left in its pipes: nobody may read them.
//! - One read of each output and one write are under way at a time; what a reader does not take is
//!   not read from the guest.
//! - A write whose link broke may have been carried out: it is not sent again. Nor is one whose daemon
//!   died: the relay is told that its bytes were taken before the agent is told of them. A read is lost
//!   with its link where the agent had answered it.
//! - An output that the relay refuses is read on and dropped: no call closes it.

use super::{
    exits::{judge, lost},
    ledger::{Ledger, ProcessKey},
    pull::{CHUNK_MAX, Pull},
    station::{Station, Woken},
    taps::{Read, Tap},
};
use crate::error::Error;
use runtime_core::{agent::SignalTarget, kit};
use std::{future::pending, time::Duration};
use stream::{Channel, GuestEnd, Outputs, Request};
use tokio::{
    select,
    sync::{
        oneshot::{self, error::TryRecvError},
        watch,
    },
    time::{Instant, sleep_until},
};

/// What was killed and holds its outputs open after this is asked for its exit all the same.
const KILL_GRACE: Duration = Duration::from_secs(2);
/// After the exit, outputs that still do not end are over: what follows is not the process's.
const DRAIN_MAX: Duration = Duration::from_secs(2);
/// What a terminal that reads lines takes for the end of its input.
const END_OF_INPUT: u8 = 4;

/// Between two attempts on a link that is down and not replaced yet.
const PARTED: Duration = Duration::from_millis(50);

type Flight<T> = std::pin::Pin<Box<dyn Future<Output = T>>>;

pub(super) struct Attendant {
    key: ProcessKey,
    ledger: Ledger,
    links: watch::Receiver<Option<Pull>>,
    /// A call found the link down: it is left alone until then, or until there is another.
    parted: Option<Instant>,
    station: Option<Station>,
    end: GuestEnd,
    outputs: Outputs,
    stdout: Tap,
    stderr: Tap,
    inlet: Inlet,
    wait: Wait,
    buffer: Vec<u8>,
}

/// The process's stdin.
enum Inlet {
    Idle,
    /// The relay is being told that they are; then they are written.
    Taken(Vec<u8>),
    Writing {
        bytes: Vec<u8>,
        flight: Flight<Result<usize, Error>>,
    },
    Closing(Flight<Result<(), Error>>),
    Closed,
}

enum Wait {
    NotYet,
    Asked(Flight<Result<i32, Error>>),
    /// The exit is in the ledger; outputs are read on until then.
    Told {
        until: Instant,
    },
}

/// What there is to wait for was waited for.
enum Happened {
    Stopped,
    Link,
    Station(Woken),
    Read(Channel, Result<Vec<u8>, Error>),
    Paused(Channel),
    Written(Result<usize, Error>),
    Closed(Result<(), Error>),
    Exited(Result<i32, Error>),
    Due,
    Ledger,
}

impl Attendant {
    pub fn new(
        key: ProcessKey,
        ledger: Ledger,
        links: watch::Receiver<Option<Pull>>,
        stdio: Option<(Station, GuestEnd, Outputs)>,
    ) -> Self {
        let (station, end, outputs) = match stdio {
            Some((station, end, outputs)) => (Some(station), end, outputs),
            None => {
                let outputs = Outputs::StdoutAndStderr;
                (None, GuestEnd::new(outputs), outputs)
            }
        };
        // Without a reader nothing is read.
        let tap = |read: bool| if read { Tap::open() } else { Tap::closed() };
        Self {
            key,
            ledger,
            links,
            parted: None,
            stdout: tap(station.is_some()),
            stderr: tap(station.is_some() && outputs == Outputs::StdoutAndStderr),
            inlet: match station {
                Some(_) => Inlet::Idle,
                None => Inlet::Closed,
            },
            station,
            end,
            outputs,
            wait: Wait::NotYet,
            buffer: vec![0; CHUNK_MAX],
        }
    }

    /// Until it is over, the port is gone, or `stop` is dropped: another has its place.
    pub async fn attend(mut self, mut stop: oneshot::Receiver<()>) {
        loop {
            self.exchange();
            self.ask();
            // The socket of one that has its place is not ours to take away.
            if stop.try_recv() == Err(TryRecvError::Closed) {
                return;
            }
            if self.is_over() {
                if let Some(station) = self.station {
                    station.close();
                }
                return;
            }
            match self.next(&mut stop).await {
                Happened::Stopped => return,
                happened => self.note(happened),
            }
        }
    }

    fn is_over(&mut self) -> bool {
        if !matches!(self.wait, Wait::Told { .. }) {
            return false;
        }
        let told = self.end.is_exit_acknowledged() && self.end.outgoing().is_empty();
        self.station.is_none() || told || self.ledger.is_gone(&self.key)
    }

    /// Moves what can be moved between the relay and the machine.
    fn exchange(&mut self) {
        let Some(station) = &mut self.station else {
            return;
        };
        loop {
            let count = station.read(&mut self.buffer);
            if count == 0 {
                break;
            }
            if let Err(fault) = self.end.feed(&self.buffer[..count]) {
                tracing::debug!(%fault, "stream of a relay begins anew");
            }
        }
        loop {
            let outgoing = self.end.outgoing();
            let count = match outgoing.is_empty() {
                true => 0,
                false => station.write(outgoing),
            };
            if count == 0 {
                break;
            }
            self.end.sent(count);
        }
    }

    /// The link that stands, unless it is known to be down.
    fn link(&self) -> Option<Pull> {
        match self.parted {
            Some(_) => None,
            None => self.links.borrow().clone(),
        }
    }

    /// Begins every call that may begin.
    fn ask(&mut self) {
        self.obey();
        let Some(link) = self.link() else { return };
        self.begin_reads(&link);
        self.begin_write(&link);
        if matches!(self.wait, Wait::NotYet) && self.may_wait() {
            self.wait = Wait::Asked(Box::pin(link.wait(self.key.clone())));
        }
    }

    fn may_wait(&self) -> bool {
        let ended = self.stdout.is_ended() && self.stderr.is_ended();
        let gone = self.ledger.is_gone(&self.key);
        ended || gone || self.kill_due().is_some_and(|due| due <= Instant::now())
    }

    /// When its exit is asked for whatever its outputs hold.
    fn kill_due(&self) -> Option<Instant> {
        self.ledger
            .killed(&self.key)
            .map(|killed| killed + KILL_GRACE)
    }

    fn obey(&mut self) {
        while let Some(request) = self.end.next_request() {
            let (link, key) = (self.link(), self.key.clone());
            match (request, link) {
                (Request::Signal(signal), Some(link)) => {
                    let target = SignalTarget::Process(key.1.clone());
                    self.ledger.signaled(key.0, &target, signal);
                    say_failure("signal of a relay", link.signal(key, signal));
                }
                (Request::Resize(size), Some(link)) => {
                    say_failure("size of a terminal", link.resize(key, size));
                }
                (Request::Signal(signal), None) => {
                    tracing::warn!(signal, "signal of a relay is lost with the link");
                }
                // The next size comes with the next change.
                (Request::Resize(_), None) => {}
                (Request::CloseOutput(Channel::Stderr), _) => self.stderr.discard(),
                (Request::CloseOutput(_), _) => self.stdout.discard(),
            }
        }
    }

    fn begin_reads(&mut self, link: &Pull) {
        for (channel, tap) in [
            (Channel::Stdout, &mut self.stdout),
            (Channel::Stderr, &mut self.stderr),
        ] {
            let room = self.end.room(channel);
            tap.begin(room.min(CHUNK_MAX), |max| {
                Box::pin(link.clone().read(self.key.clone(), channel, max))
            });
        }
    }

    fn begin_write(&mut self, link: &Pull) {
        if matches!(self.inlet, Inlet::Idle) {
            self.take_or_close(link);
        }
        if let Inlet::Taken(bytes) = &mut self.inlet
            && self.end.outgoing().is_empty()
        {
            let bytes = std::mem::take(bytes);
            let flight = link.clone().write(self.key.clone(), bytes.clone());
            let flight = Box::pin(flight);
            self.inlet = Inlet::Writing { bytes, flight };
        }
    }

    fn take_or_close(&mut self, link: &Pull) {
        let (link, key) = (link.clone(), self.key.clone());
        let bytes = self.end.stdin();
        if !bytes.is_empty() {
            let bytes = bytes[..bytes.len().min(CHUNK_MAX)].to_vec();
            self.end.stdin_taken(bytes.len());
            self.inlet = Inlet::Taken(bytes);
            self.exchange();
        } else if self.end.stdin_is_over() {
            let closing: Flight<_> = match self.outputs {
                Outputs::StdoutAndStderr => Box::pin(link.close_stdin(key)),
                // A terminal ends by a character, as from a keyboard.
                Outputs::Terminal => {
                    Box::pin(async move { link.write(key, vec![END_OF_INPUT]).await.map(drop) })
                }
            };
            self.inlet = Inlet::Closing(closing);
        }
    }

    async fn next(&mut self, stop: &mut oneshot::Receiver<()>) -> Happened {
        let sending = !self.end.outgoing().is_empty();
        let due = match &self.wait {
            Wait::NotYet => self.kill_due().filter(|_| self.link().is_some()),
            Wait::Asked(_) => None,
            Wait::Told { until } => Some(*until).filter(|_| !self.outputs_ended()),
        };
        let due = [due, self.parted].into_iter().flatten().min();
        let changed = self.ledger.change();
        select! {
            biased;
            // Nothing is ever sent on it: it only closes.
            _ = stop => Happened::Stopped,
            linked = self.links.changed() => match linked {
                Ok(()) => Happened::Link,
                // The port is gone, and its guest or this daemon with it.
                Err(_) => Happened::Stopped,
            },
            woken = woken(&mut self.station, sending) => Happened::Station(woken),
            read = self.stdout.next() => read_of(Channel::Stdout, read),
            read = self.stderr.next() => read_of(Channel::Stderr, read),
            happened = moved(&mut self.inlet) => happened,
            exited = exited(&mut self.wait) => Happened::Exited(exited),
            () = until(due) => Happened::Due,
            () = changed => Happened::Ledger,
        }
    }

    fn outputs_ended(&self) -> bool {
        self.stdout.is_ended() && self.stderr.is_ended()
    }

    fn note(&mut self, happened: Happened) {
        match happened {
            Happened::Stopped | Happened::Station(Woken::Ready) | Happened::Ledger => {}
            Happened::Link => self.parted = None,
            Happened::Station(Woken::Replaced) => self.replaced(),
            Happened::Read(channel, outcome) => self.read(channel, outcome),
            Happened::Paused(channel) => self.tap(channel).rest(),
            Happened::Written(outcome) => self.written(outcome),
            Happened::Closed(outcome) => {
                self.inlet = match outcome {
                    // Closing it again is no harm; leaving it open is.
                    Err(Error::LinkLost { .. }) => {
                        self.part();
                        Inlet::Idle
                    }
                    Ok(()) | Err(_) => Inlet::Closed,
                };
            }
            Happened::Exited(outcome) => self.exited(outcome),
            Happened::Due => self.due(),
        }
    }

    fn replaced(&mut self) {
        // The last words of the one before: what it had taken is not told again.
        self.exchange();
        if let Some(station) = &mut self.station {
            station.turn_to_next();
        }
        self.end.reconnected();
    }

    fn due(&mut self) {
        let now = Instant::now();
        if self.parted.is_some_and(|until| until <= now) {
            self.parted = None;
        }
        match self.wait {
            Wait::Told { until } if until <= now => {
                self.ended(Channel::Stdout);
                self.ended(Channel::Stderr);
            }
            Wait::Told { .. } | Wait::NotYet | Wait::Asked(_) => {}
        }
    }

    fn part(&mut self) {
        self.parted = Some(Instant::now() + PARTED);
    }

    fn tap(&mut self, channel: Channel) -> &mut Tap {
        match channel {
            Channel::Stderr => &mut self.stderr,
            Channel::Stdout | Channel::Stdin | Channel::Control => &mut self.stdout,
        }
    }

    fn ended(&mut self, channel: Channel) {
        *self.tap(channel) = Tap::closed();
        self.end.output_ended(channel);
    }

    fn read(&mut self, channel: Channel, outcome: Result<Vec<u8>, Error>) {
        match outcome {
            Ok(bytes) if bytes.is_empty() => self.tap(channel).pause(),
            Ok(bytes) => {
                self.tap(channel).rest();
                // What was refused meanwhile has no room, and is dropped.
                self.end.output(channel, &bytes);
            }
            Err(Error::LinkLost { .. }) => {
                self.part();
                self.tap(channel).rest();
            }
            // Any refusal is the end of an output.
            Err(why) => {
                tracing::debug!(%why, container = %self.key.0, "an output has ended");
                self.ended(channel);
            }
        }
    }

    fn written(&mut self, outcome: Result<usize, Error>) {
        let Inlet::Writing { mut bytes, .. } = std::mem::replace(&mut self.inlet, Inlet::Idle)
        else {
            return;
        };
        match outcome {
            // The process took no more: the rest is next.
            Ok(count) if count < bytes.len() => {
                bytes.drain(..count);
                self.inlet = Inlet::Taken(bytes);
            }
            Ok(_) => {}
            Err(Error::LinkLost { .. }) => {
                self.part();
                let sent = bytes.len();
                tracing::warn!(sent, container = %self.key.0, "stdin may be lost with the link");
            }
            // The process reads no more.
            Err(_) => {
                self.end.stdin_closed();
                self.inlet = Inlet::Closed;
            }
        }
    }

    fn exited(&mut self, outcome: Result<i32, Error>) {
        let status = match outcome {
            Ok(status) => judge(&self.key.1, status, &self.ledger.signals(&self.key)),
            Err(Error::LinkLost { .. }) => {
                self.part();
                self.wait = Wait::NotYet;
                return;
            }
            // The entry was consumed by a wait whose answer never arrived.
            Err(error) => lost(&error.to_string()),
        };
        self.end.exited(status.code);
        self.ledger.exited(&self.key, status);
        let until = Instant::now() + DRAIN_MAX;
        self.wait = Wait::Told { until };
    }
}

/// Nothing hangs on it.
fn say_failure(what: &'static str, work: impl Future<Output = Result<(), Error>> + 'static) {
    kit::detach(async move {
        if let Err(why) = work.await {
            tracing::debug!(%why, what, "not taken by the agent");
        }
    });
}

fn read_of(channel: Channel, read: Read) -> Happened {
    match read {
        Read::Answered(outcome) => Happened::Read(channel, outcome),
        Read::Paused => Happened::Paused(channel),
    }
}

async fn woken(station: &mut Option<Station>, sending: bool) -> Woken {
    match station {
        Some(station) => station.wait(sending).await,
        None => pending().await,
    }
}

async fn moved(inlet: &mut Inlet) -> Happened {
    match inlet {
        Inlet::Writing { flight, .. } => Happened::Written(flight.await),
        Inlet::Closing(flight) => Happened::Closed(flight.await),
        Inlet::Idle | Inlet::Taken(_) | Inlet::Closed => pending().await,
    }
}

async fn exited(wait: &mut Wait) -> Result<i32, Error> {
    match wait {
        Wait::Asked(flight) => flight.await,
        Wait::NotYet | Wait::Told { .. } => pending().await,
    }
}

async fn until(due: Option<Instant>) {
    match due {
        Some(due) => sleep_until(due).await,
        None => pending().await,
    }
}
