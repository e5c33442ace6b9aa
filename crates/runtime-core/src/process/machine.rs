//! A process as a pure machine.
//!
//! ```text
//!        Make           Leased            Made (init)         Begin            Begun
//!  New ───────► Leasing ───────► Making ─────────────► Created ──────► Starting ───────► Running
//!                  │                │ Made (exec) ────────────────────────────────────────►│
//!                  └── failed ──► Failed ◄── failed            Exited, GuestGone           │
//!                                             any state after Making ──────► Exited ◄──────┘
//!                  any state ── Close ──► Closing (its relay is told) ── Dismissed ──► Closed
//! ```
//!
//! Invariants:
//! - The lease of a stream is on record before the guest hears of it.
//! - An exit is on record before anyone is told: waiters, the container, the guest.
//! - A request that is asked again under its key is answered as the first one was; its signal is
//!   on record before it is sent, so that the guest can tell a repetition.
//! - A process whose last step is not known, since the daemon was restarted or the guest's answer was lost, asks the
//!   guest how far it came, and keeps its stream until that is known.
//! - The first exit stands; a second one, or a start that answers late, changes nothing.
//! - A closed process writes no record. What is on record of it goes with its container's.
//! - Whoever waits for a process to be made is told before that is on record, where a next daemon finds it out.
//! - A relay that ends while its process lives takes the process with it, as any runtime's child
//!   would; with its sandbox's bytes drained, the stream is given back.

use super::events::{Answer, Denied, Event, Notice, Reason, World};
use super::messages::{AttachRelay, Made, Make};
use super::record::{ProcessRecord, ProcessState};
use crate::{
    agent::{ExitStatus, GuestProcessState, Program, Warnings},
    error::{Fault, Kind},
    hypervisor::{GuestEndpoint, StreamLease},
    ids::{ContainerNumber, HostProcess, OpId, ProcessId, RequestKey, SandboxUid},
    kit::{Batch, Machine, Waiter},
    records::{self, Change},
};

/// Waiters of one process; each holds a connection to the daemon, far below this.
pub(super) const WAITERS_MAX: usize = 1024;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    New,
    Leasing {
        op: OpId,
        program: Option<Program>,
    },
    Making {
        op: OpId,
        /// How it ended and the number of that, where the guest was faster than its own answer.
        early: Option<(ExitStatus, Option<u64>)>,
        /// The guest is being asked whether it heard of it: why its answer is not known.
        doubt: Option<Fault>,
    },
    Created,
    Starting {
        op: OpId,
        waiters: Vec<Waiter>,
    },
    Running,
    Exited(ExitStatus),
    Failed(Fault),
    /// Its relay is being told; what is on record stays until it was.
    Closing(ExitStatus),
    Closed(ExitStatus),
}

/// Who stands for the process on the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Relay {
    None,
    Attached(HostProcess),
    /// It has all output and the exit, or it is gone.
    Done,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Process {
    pub(super) uid: SandboxUid,
    pub(super) container: ContainerNumber,
    pub(super) id: ProcessId,
    pub(super) state: State,
    pub(super) lease: Option<StreamLease>,
    warnings: Warnings,
    pub(super) relay: Relay,
    pub(super) waiters: Vec<Waiter>,
    pub(super) begun_by: Option<RequestKey>,
    pub(super) signaled_by: Vec<RequestKey>,
    ops_issued: u64,
}

impl Process {
    pub fn new(uid: SandboxUid, container: ContainerNumber, id: ProcessId) -> Self {
        Self {
            uid,
            container,
            id,
            state: State::New,
            lease: None,
            warnings: Warnings::new(),
            relay: Relay::None,
            waiters: Vec::new(),
            begun_by: None,
            signaled_by: Vec::new(),
            ops_issued: 0,
        }
    }

    /// From the record. A process that was being made is not rebuilt, and its container undoes it;
    /// but whoever asked for an exec under a key asks again.
    pub fn rebuilt(record: ProcessRecord) -> Self {
        let mut process = Self::new(record.uid, record.container, record.process);
        let asked_again = matches!(process.id, ProcessId::Exec(_)) && record.begun_by.is_some();
        process.state = match record.state {
            ProcessState::Making if asked_again => State::Making {
                op: process.next_op(),
                early: None,
                doubt: Some(Fault::new(
                    Kind::Unavailable,
                    "the daemon ended before the guest heard of it; ask again",
                )),
            },
            ProcessState::Making => State::Failed(Fault::new(
                Kind::Aborted,
                "the daemon was restarted while this process was being made",
            )),
            ProcessState::Created => State::Created,
            ProcessState::Running if process.id == ProcessId::Init => State::Starting {
                op: process.next_op(),
                waiters: Vec::new(),
            },
            ProcessState::Running => State::Running,
            ProcessState::Exited(status) => State::Exited(status),
        };
        Self {
            lease: record.lease,
            warnings: record.warnings,
            relay: record.relay.map_or(Relay::None, Relay::Attached),
            begun_by: record.begun_by,
            signaled_by: record.signaled_by,
            ..process
        }
    }

    pub fn id(&self) -> &ProcessId {
        &self.id
    }

    pub fn state(&self) -> &State {
        &self.state
    }

    pub fn lease(&self) -> Option<&StreamLease> {
        self.lease.as_ref()
    }

    pub fn relay(&self) -> Option<HostProcess> {
        match self.relay {
            Relay::Attached(relay) => Some(relay),
            Relay::None | Relay::Done => None,
        }
    }

    pub(super) fn next_op(&mut self) -> OpId {
        self.ops_issued += 1;
        OpId(self.ops_issued)
    }

    pub(super) fn record(&self) -> Change {
        let state = match &self.state {
            State::New
            | State::Leasing { .. }
            | State::Making { .. }
            | State::Failed(_)
            | State::Closing(_)
            | State::Closed(_) => ProcessState::Making,
            State::Created => ProcessState::Created,
            State::Starting { .. } | State::Running => ProcessState::Running,
            State::Exited(status) => ProcessState::Exited(status.clone()),
        };
        let record = ProcessRecord {
            uid: self.uid,
            container: self.container,
            process: self.id.clone(),
            state,
            lease: self.lease.clone(),
            warnings: self.warnings.clone(),
            relay: self.relay(),
            begun_by: self.begun_by.clone(),
            signaled_by: self.signaled_by.clone(),
        };
        records::put(
            ProcessRecord::key(self.uid, self.container, &self.id),
            &record,
        )
    }

    fn leased(&mut self, program: Option<Program>, lease: StreamLease, batch: &mut Batch<Self>) {
        let op = self.next_op();
        let stream = lease.guest.clone();
        self.lease = Some(lease);
        self.state = State::Making {
            op,
            early: None,
            doubt: None,
        };
        batch.records.push(self.record());
        batch.world.push(match program {
            None => World::Create { op, stream },
            Some(program) => World::Exec {
                op,
                stream,
                program,
            },
        });
    }

    fn answered(&mut self, outcome: Result<Warnings, Fault>, batch: &mut Batch<Self>) {
        if let Ok(warnings) = &outcome {
            self.warnings = warnings.clone();
        }
        if self.ended_early(batch) {
            return;
        }
        match outcome {
            Ok(_) => self.made(batch),
            Err(why) if self.may_live_after(&why) => self.doubt(why, batch),
            Err(why) => self.failed(why, batch),
        }
    }

    /// That it is being made is on record. That it was is found out again: of an init by its container's record, of an
    /// exec that is asked for again by the guest. So whoever waits for it does not wait for the store too.
    pub(super) fn made(&mut self, batch: &mut Batch<Self>) {
        let is_found_out;
        (self.state, is_found_out) = match self.id {
            ProcessId::Init => (State::Created, true),
            ProcessId::Exec(_) => (State::Running, self.begun_by.is_some()),
        };
        match is_found_out && self.warnings.is_empty() {
            true => batch.world.push(World::Note),
            false => batch.records.push(self.record()),
        }
        self.is_made(batch);
    }

    /// Whoever stands for it from the start may be gone already.
    pub(super) fn is_made(&self, batch: &mut Batch<Self>) {
        let lease = self.lease.clone();
        let lease = lease.expect("a process is made with its lease");
        let warnings = self.warnings.clone();
        batch.announce.push(Notice::Made(Made { lease, warnings }));
        if let Relay::Attached(relay) = self.relay {
            batch.world.push(World::WatchRelay { relay });
        }
    }

    pub(super) fn failed(&mut self, why: Fault, batch: &mut Batch<Self>) {
        self.give_back(batch);
        self.state = State::Failed(why.clone());
        let key = ProcessRecord::key(self.uid, self.container, &self.id);
        batch.records.push(records::delete(key));
        batch.announce.push(Notice::Failed { why });
    }

    fn wait(&mut self, waiter: Waiter, batch: &mut Batch<Self>) -> Result<(), Reason> {
        match &self.state {
            State::Exited(status) | State::Closing(status) | State::Closed(status) => {
                let status = status.clone();
                batch.replies.push((waiter, Answer::Exit(Ok(status))));
            }
            State::Failed(why) => {
                let why = why.clone();
                batch.replies.push((waiter, Answer::Exit(Err(why))));
            }
            State::New
            | State::Leasing { .. }
            | State::Making { .. }
            | State::Created
            | State::Starting { .. }
            | State::Running => {
                if self.waiters.len() == WAITERS_MAX {
                    return Err(Reason::TooManyWaiters);
                }
                self.waiters.push(waiter);
            }
        }
        Ok(())
    }

    fn attach_relay(
        &mut self,
        waiter: Waiter,
        AttachRelay { relay }: AttachRelay,
        batch: &mut Batch<Self>,
    ) -> Result<(), Reason> {
        match self.relay {
            Relay::Attached(known) if known == relay => {}
            Relay::Attached(known) => return Err(Reason::RelayAttached(known)),
            Relay::None | Relay::Done => {
                self.relay = Relay::Attached(relay);
                batch.records.push(self.record());
                batch.world.push(World::WatchRelay { relay });
                let relay = Some(relay);
                batch.announce.push(Notice::Relay { relay });
            }
        }
        batch.replies.push((waiter, Answer::Done(Ok(()))));
        Ok(())
    }

    /// Its stdio is carried by this daemon, and its exit told once: both need a daemon that knows it.
    pub(super) fn adopt(&self, batch: &mut Batch<Self>) {
        let state = match self.state {
            State::Created | State::Starting { .. } => GuestProcessState::Created,
            State::Running => GuestProcessState::Running,
            State::Making { .. } => GuestProcessState::Making,
            State::New
            | State::Leasing { .. }
            | State::Exited(_)
            | State::Failed(_)
            | State::Closing(_)
            | State::Closed(_) => return,
        };
        match self.lease.as_ref().map(|lease| lease.guest.clone()) {
            Some(stream @ GuestEndpoint::Calls(_)) => {
                batch.world.push(World::Adopt { state, stream });
            }
            Some(GuestEndpoint::SerialPort(_) | GuestEndpoint::VsockPort(_)) | None => {}
        }
    }

    fn resume(&mut self, batch: &mut Batch<Self>) {
        self.adopt(batch);
        match self.state.clone() {
            State::Failed(why) => {
                self.kill_unknown(batch);
                self.failed(why, batch);
            }
            State::Starting { op, .. } | State::Making { op, .. } => {
                batch.world.push(World::Look { op });
            }
            // The container may not have had it on record.
            State::Running => batch.announce.push(Notice::Began),
            State::Exited(status) => batch.announce.push(Notice::Exited { status, seq: None }),
            State::New
            | State::Leasing { .. }
            | State::Created
            | State::Closing(_)
            | State::Closed(_) => {}
        }
        match (self.relay, &self.state) {
            // Watched once it is made.
            (Relay::Attached(_), State::Making { .. } | State::Failed(_)) => {}
            (Relay::Attached(relay), _) => batch.world.push(World::WatchRelay { relay }),
            // Done before the rebuild, or never there: nobody is left to read its streams.
            (Relay::None | Relay::Done, State::Exited(_)) => {
                self.relay = Relay::Done;
                self.drained(batch);
                batch.records.push(self.record());
            }
            (Relay::None | Relay::Done, _) => {}
        }
    }
}

impl Machine for Process {
    type Event = Event;
    type World = World;
    type Notice = Notice;
    type Answer = Answer;
    type Denied = Denied;

    // tidy: one table, every pair visible; each arm is a call or a few lines
    fn on(&mut self, event: Event, batch: &mut Batch<Self>) -> Result<(), Denied> {
        match (&self.state, event) {
            (State::Closing(status), Event::Dismissed) => {
                let status = status.clone();
                self.closed(status, batch);
            }
            // Answered, but nothing is recorded any more.
            (
                State::Failed(_) | State::Closing(_) | State::Closed(_),
                Event::AttachRelay { .. },
            ) => {
                let state = self.state_name();
                return Err(Denied::Command(Reason::NotRunning { state }));
            }
            (
                State::Failed(_) | State::Closing(_) | State::Closed(_),
                Event::RelayEnded { .. } | Event::RelayDone,
            ) => {}
            (
                State::Closing(_) | State::Closed(_),
                Event::GuestGone { .. } | Event::Close { .. } | Event::Resume,
            ) => {}
            (_, Event::Close { status }) => self.close(status, batch),
            (State::Exited(status), Event::Forget) => {
                let status = status.clone();
                self.forgotten(status, batch);
            }
            (
                State::New,
                Event::Make(Make {
                    program,
                    key,
                    relay,
                }),
            ) => {
                let op = self.next_op();
                self.begun_by = key;
                self.relay = relay.map_or(Relay::None, Relay::Attached);
                self.state = State::Leasing { op, program };
                batch.world.push(World::Lease { op });
            }
            (State::Leasing { op, program }, Event::Leased { op: done, outcome })
                if *op == done =>
            {
                let program = program.clone();
                match outcome {
                    Ok(lease) => self.leased(program, lease, batch),
                    Err(why) => self.failed(why, batch),
                }
            }
            // It was closed while it was looked for.
            (_, Event::Leased { outcome, .. }) => {
                if let Ok(StreamLease { number, .. }) = outcome {
                    batch.world.push(World::GiveBack { number });
                }
            }
            (&State::Making { op, .. }, Event::Made { op: done, outcome }) if op == done => {
                self.answered(outcome, batch);
            }
            (&State::Making { op, .. }, Event::Unsent { op: done, why }) if op == done => {
                self.failed(why, batch);
            }
            (State::Created | State::Running, Event::Note) => batch.records.push(self.record()),
            (_, Event::Begin { waiter, key }) => {
                return self.begin(waiter, key, batch).map_err(Denied::Command);
            }
            (&State::Starting { op, .. }, Event::Begun { op: done, outcome }) if op == done => {
                self.begun(outcome, batch);
            }
            (
                &State::Starting { op, .. } | &State::Making { op, .. },
                Event::Looked { op: done, outcome },
            ) if op == done => self.looked(outcome, batch),
            (_, Event::Kill { waiter, kill }) => {
                return self.kill(waiter, kill, batch).map_err(Denied::Command);
            }
            (_, Event::Wait { waiter }) => {
                return self.wait(waiter, batch).map_err(Denied::Wait);
            }
            (_, Event::AttachRelay { waiter, relay }) => {
                return self
                    .attach_relay(waiter, relay, batch)
                    .map_err(Denied::Command);
            }
            (_, Event::RelayEnded { relay }) if self.relay == Relay::Attached(relay) => {
                self.relay_ended(relay, batch);
            }
            (_, Event::RelayDone) => self.relay_done(batch),
            (
                _,
                Event::Signaled {
                    waiter,
                    is_the_end,
                    outcome,
                },
            ) => {
                if is_the_end && outcome.is_ok() {
                    batch.announce.push(Notice::Doomed);
                }
                batch.replies.push((waiter, Answer::Done(outcome)));
            }
            (_, Event::Exited { seq, status }) => self.exited(status, Some(seq), batch),
            (State::Leasing { .. } | State::Making { .. }, Event::GuestGone { status }) => {
                self.gone_unmade(status, batch);
            }
            (State::Exited(_) | State::Failed(_) | State::New, Event::GuestGone { .. }) => {}
            (_, Event::GuestGone { status }) => self.exited(status, None, batch),
            (_, Event::Resume) => self.resume(batch),
            // One that is being made is made by the new room, or is looked for after the old one failed.
            (
                State::Created
                | State::Starting { .. }
                | State::Running
                | State::Making { doubt: Some(_), .. },
                Event::AgentRebuilt,
            ) => self.adopt(batch),
            // Stale completions, a relay that was replaced, a second Make.
            (
                _,
                Event::Make { .. }
                | Event::Note
                | Event::Forget
                | Event::Made { .. }
                | Event::Unsent { .. }
                | Event::Begun { .. }
                | Event::Looked { .. }
                | Event::AgentRebuilt
                | Event::Dismissed
                | Event::RelayEnded { .. },
            ) => {}
        }
        Ok(())
    }

    fn refuse(denied: Denied) -> Answer {
        match denied {
            Denied::Command(reason) => Answer::Done(Err(reason.into())),
            Denied::Wait(reason) => Answer::Exit(Err(reason.into())),
        }
    }

    fn state_name(&self) -> &'static str {
        match self.state {
            State::New => "new",
            State::Leasing { .. } | State::Making { .. } => "creating",
            State::Created => "created",
            State::Starting { .. } => "starting",
            State::Running => "running",
            State::Exited(_) => "stopped",
            State::Failed(_) => "failed",
            State::Closing(_) => "closing",
            State::Closed(_) => "closed",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        agent::{ExitReason, SignalTarget},
        hypervisor::HostEndpoint,
        ids::{EpochMs, ExecId},
    };

    const RELAY: HostProcess = HostProcess {
        pid: 4711,
        start_time: 1,
    };
    const PORT: u32 = 7;

    fn on(process: &mut Process, event: Event) -> Batch<Process> {
        let mut batch = Batch::default();
        process.on(event, &mut batch).unwrap();
        batch
    }

    fn running_exec() -> Process {
        let process = made(ProcessId::Exec(ExecId::new("e").unwrap()));
        assert_eq!(process.state(), &State::Running);
        process
    }

    fn made(id: ProcessId) -> Process {
        let mut process = being_made(id, None);
        let (op, outcome) = (OpId(2), Ok(Warnings::new()));
        on(&mut process, Event::Made { op, outcome });
        process
    }

    fn being_made(id: ProcessId, relay: Option<HostProcess>) -> Process {
        let uid = SandboxUid::from_random(1);
        let mut process = Process::new(uid, ContainerNumber(0), id);
        let program = matches!(process.id(), ProcessId::Exec(_)).then(Program::default);
        let make = Make {
            program,
            key: None,
            relay,
        };
        on(&mut process, Event::Make(make));
        let lease = StreamLease {
            number: PORT,
            guest: GuestEndpoint::SerialPort("hutch.stream.7".into()),
            host: HostEndpoint::Socket("/run/p7.sock".into()),
        };
        let (op, outcome) = (OpId(1), Ok(lease));
        on(&mut process, Event::Leased { op, outcome });
        process
    }

    fn status() -> ExitStatus {
        ExitStatus {
            code: 0,
            reason: ExitReason::Exited,
            detail: String::new(),
            at: EpochMs(0),
        }
    }

    fn exited() -> Event {
        Event::Exited {
            seq: 1,
            status: status(),
        }
    }

    /// The relay hears of an exit by the stream, the daemon by the control link: neither waits for
    /// the other.
    #[test]
    fn an_execs_port_is_given_back_once_whoever_hears_of_its_exit_first() {
        for relay_first in [false, true] {
            let mut process = running_exec();
            let events = match relay_first {
                false => [exited(), Event::RelayDone],
                true => [Event::RelayDone, exited()],
            };

            let given: Vec<u32> = events
                .into_iter()
                .flat_map(|event| on(&mut process, event).world)
                .filter_map(|effect| match effect {
                    World::GiveBack { number } => Some(number),
                    _ => None,
                })
                .collect();

            assert_eq!(given, [PORT], "relay first: {relay_first}");
            assert_eq!(process.lease(), None);
        }
    }

    #[test]
    fn an_inits_port_and_record_go_with_its_container_though_its_output_was_drained() {
        let mut process = made(ProcessId::Init);
        on(&mut process, Event::RelayDone);
        let drained = on(&mut process, exited());
        assert!(drained.announce.contains(&Notice::Drained));
        assert_eq!(drained.world, []);
        let Event::Exited { status, .. } = exited() else {
            unreachable!()
        };

        let batch = on(&mut process, Event::Close { status });

        assert_eq!(batch.announce, [Notice::Closed]);
        assert!(batch.world.is_empty() && batch.records.is_empty());
    }

    /// A guest that takes the container away without a word about its exit would else keep the relay, and the
    /// relay the port.
    #[test]
    fn a_relay_hears_that_its_container_goes_before_the_record_does() {
        let mut process = made(ProcessId::Init);
        let relay = RELAY;
        attach(&mut process, relay);
        let status = status();

        let closing = on(
            &mut process,
            Event::Close {
                status: status.clone(),
            },
        );
        assert_eq!(closing.world, [World::Dismiss { relay, status }]);
        assert!(closing.records.is_empty() && closing.announce.is_empty());

        let ended = on(&mut process, Event::RelayEnded { relay });
        assert_eq!((ended.world, ended.announce), (vec![], vec![]));

        let closed = on(&mut process, Event::Dismissed);
        assert_eq!(closed.announce, [Notice::Closed]);
        assert!(closed.world.is_empty() && closed.records.is_empty());
    }

    #[test]
    fn a_rebuilt_process_is_told_to_a_guest_that_has_no_streams_while_it_lives() {
        let calls = GuestEndpoint::Calls("/run/p7.sock".into());
        for (state, wanted) in [
            (ProcessState::Created, Some(GuestProcessState::Created)),
            (ProcessState::Running, Some(GuestProcessState::Created)),
            (ProcessState::Exited(status()), None),
        ] {
            let mut record = record_of(made(ProcessId::Init), state);
            let plain = on(&mut Process::rebuilt(record.clone()), Event::Resume);
            record.lease.as_mut().unwrap().guest = calls.clone();

            let batch = on(&mut Process::rebuilt(record), Event::Resume);

            let adopts = |batch: &Batch<Process>| {
                let mut world = batch.world.iter();
                world.find_map(|effect| match effect {
                    World::Adopt { state, stream } if *stream == calls => Some(*state),
                    _ => None,
                })
            };
            assert_eq!(adopts(&batch), wanted);
            assert_eq!(adopts(&plain), None);
        }
    }

    fn record_of(process: Process, state: ProcessState) -> ProcessRecord {
        ProcessRecord {
            uid: process.uid,
            container: process.container,
            process: process.id.clone(),
            state,
            lease: process.lease.clone(),
            warnings: Warnings::new(),
            relay: None,
            begun_by: None,
            signaled_by: Vec::new(),
        }
    }

    #[test]
    fn an_exec_that_ended_before_a_restart_gives_its_port_back_after_it() {
        let mut before = running_exec();
        on(&mut before, exited());
        let record = ProcessRecord {
            uid: before.uid,
            container: before.container,
            process: before.id.clone(),
            state: ProcessState::Exited(match before.state() {
                State::Exited(status) => status.clone(),
                other => panic!("it exited and is {other:?}"),
            }),
            lease: before.lease.clone(),
            warnings: Warnings::new(),
            relay: None,
            begun_by: None,
            signaled_by: Vec::new(),
        };

        let batch = on(&mut Process::rebuilt(record), Event::Resume);

        assert!(batch.world.contains(&World::GiveBack { number: PORT }));
        assert_eq!(batch.records.len(), 1);
    }

    /// A signal can fail, as when the agent's room is being rebuilt.
    #[test]
    fn a_process_whose_relay_is_gone_is_killed_until_it_is_gone_too() {
        let mut process = running_exec();
        let relay = RELAY;
        attach(&mut process, relay);
        let target = SignalTarget::Process(process.id.clone());

        for _ in 0..2 {
            let batch = on(&mut process, Event::RelayEnded { relay });
            let target = target.clone();
            assert_eq!(batch.world, [World::KillOrphan { relay, target }]);
            assert!(batch.records.is_empty());
        }
        on(&mut process, exited());
        let batch = on(&mut process, Event::RelayEnded { relay });

        assert_eq!(batch.world, [World::GiveBack { number: PORT }]);
        assert!(batch.announce.contains(&Notice::Drained));
    }

    fn attach(process: &mut Process, relay: HostProcess) -> Batch<Process> {
        let (waiter, relay) = (Waiter(1), relay.into());
        on(process, Event::AttachRelay { waiter, relay })
    }

    #[test]
    fn one_relay_stands_for_a_process_and_may_say_so_again() {
        let mut process = running_exec();
        let attached = attach(&mut process, RELAY);
        assert_eq!(attached.world, [World::WatchRelay { relay: RELAY }]);
        assert_eq!(attached.records.len(), 1);

        let again = attach(&mut process, RELAY);

        assert_eq!(again.replies, [(Waiter(1), Answer::Done(Ok(())))]);
        assert!(again.records.is_empty() && again.world.is_empty());
        let other = HostProcess {
            pid: RELAY.pid + 1,
            ..RELAY
        };
        let (waiter, relay) = (Waiter(2), other.into());
        let uninvited = process.on(Event::AttachRelay { waiter, relay }, &mut Batch::default());
        assert_eq!(
            uninvited,
            Err(Denied::Command(Reason::RelayAttached(RELAY)))
        );
    }

    #[test]
    fn an_exec_that_was_being_made_before_a_restart_has_its_relay_watched_once_it_is_known_to_be() {
        let before = being_made(exec_id(), Some(RELAY));
        let record = ProcessRecord {
            relay: Some(RELAY),
            begun_by: Some(RequestKey::new("k").unwrap()),
            ..record_of(before, ProcessState::Making)
        };
        let mut process = Process::rebuilt(record);

        let resumed = on(&mut process, Event::Resume);
        let [World::Look { op }] = resumed.world[..] else {
            panic!("{:?}", resumed.world);
        };
        let outcome = Ok(Some(GuestProcessState::Running));
        let found = on(&mut process, Event::Looked { op, outcome });

        let watched = World::WatchRelay { relay: RELAY };
        assert_eq!(found.world, [World::Note, watched]);
    }

    #[test]
    fn whoever_waits_for_a_process_waits_for_no_record_that_can_be_found_out_again() {
        let key = || Some(RequestKey::new("k").unwrap());
        let warned = || vec!["cwd: not honoured".to_owned()];
        for (id, key, warnings, recorded_first) in [
            (ProcessId::Init, None, Warnings::new(), false),
            (exec_id(), key(), Warnings::new(), false),
            (exec_id(), None, Warnings::new(), true),
            (exec_id(), key(), warned(), true),
            (ProcessId::Init, None, warned(), true),
        ] {
            let mut process = being_made(id, None);
            process.begun_by = key;
            let (op, outcome) = (OpId(2), Ok(warnings));

            let told = on(&mut process, Event::Made { op, outcome });

            assert!(matches!(told.announce[..], [Notice::Made(_)]));
            assert_eq!(told.records.len(), usize::from(recorded_first));
            assert_eq!(told.world.contains(&World::Note), !recorded_first);
            let noted = on(&mut process, Event::Note);
            assert_eq!(noted.records, [process.record()]);
            on(&mut process, exited());
            let late = on(&mut process, Event::Note);
            assert!(late.is_empty(), "its exit is on record");
        }
    }

    fn exec_id() -> ProcessId {
        ProcessId::Exec(ExecId::new("e").unwrap())
    }

    /// Who asked for an exec may die before it hears of it: its stream would be lent for ever.
    #[test]
    fn an_exec_that_was_asked_for_by_its_relay_is_killed_when_that_is_gone() {
        let relay = RELAY;
        let mut process = being_made(exec_id(), Some(relay));

        let made = on(
            &mut process,
            Event::Made {
                op: OpId(2),
                outcome: Ok(Warnings::new()),
            },
        );
        assert_eq!(made.world, [World::WatchRelay { relay }]);
        let gone = on(&mut process, Event::RelayEnded { relay });
        let target = SignalTarget::Process(exec_id());
        assert_eq!(gone.world, [World::KillOrphan { relay, target }]);
        on(&mut process, exited());
        let over = on(&mut process, Event::RelayEnded { relay });
        assert_eq!(over.world, [World::GiveBack { number: PORT }]);
    }

    #[test]
    fn an_exec_that_is_over_before_it_is_said_to_be_made_has_its_relay_watched_too() {
        let mut process = being_made(exec_id(), Some(RELAY));

        let early = on(&mut process, exited());
        let op = OpId(2);
        let warnings = vec!["the guest lacks it".to_owned()];
        let batch = on(
            &mut process,
            Event::Made {
                op,
                outcome: Ok(warnings.clone()),
            },
        );

        assert!(
            early.announce.is_empty() && early.records.is_empty(),
            "the answer brings what it warns of"
        );
        assert_eq!(batch.world, [World::WatchRelay { relay: RELAY }]);
        assert!(
            matches!(&batch.announce[..], [Notice::Made(made), Notice::Exited { seq: Some(1), .. }] if made.warnings == warnings),
            "{:?}",
            batch.announce
        );
        assert_eq!(batch.records.len(), 1, "one record has both");
    }

    fn unanswered(kind: Kind) -> Event {
        let (op, outcome) = (OpId(2), Err(Fault::new(kind, "why")));
        Event::Made { op, outcome }
    }

    #[test]
    fn an_exec_whose_answer_is_lost_keeps_its_stream_until_the_guest_says_how_far_it_came() {
        for kind in [Kind::Unavailable, Kind::Timeout, Kind::Aborted] {
            let mut process = being_made(exec_id(), None);
            let doubted = on(&mut process, unanswered(kind));
            let [World::Look { op }] = doubted.world[..] else {
                panic!("{:?}", doubted.world);
            };
            assert!(doubted.announce.is_empty() && doubted.records.is_empty());

            let (mut lives, mut unheard) = (process.clone(), process);
            let outcome = Ok(Some(GuestProcessState::Running));
            let found = on(&mut lives, Event::Looked { op, outcome });
            let outcome = Ok(None);
            let missed = on(&mut unheard, Event::Looked { op, outcome });

            assert_eq!(lives.state(), &State::Running);
            assert!(matches!(&found.announce[..], [Notice::Made(_)]));
            let why = Fault::new(kind, "why");
            assert_eq!(missed.announce, [Notice::Failed { why }]);
            assert_eq!(missed.world, [World::GiveBack { number: PORT }]);
        }
    }

    #[test]
    fn an_exec_of_which_no_guest_heard_is_not_looked_for() {
        let mut process = being_made(exec_id(), None);
        let why = Fault::new(Kind::Unavailable, "the sandbox has no agent now");

        let (op, sent) = (OpId(2), why.clone());
        let failed = on(&mut process, Event::Unsent { op, why: sent });

        assert_eq!(failed.announce, [Notice::Failed { why }]);
        assert_eq!(failed.world, [World::GiveBack { number: PORT }]);
    }

    #[test]
    fn a_guest_that_cannot_be_asked_now_is_asked_again_and_one_that_hangs_is_not() {
        let mut process = being_made(exec_id(), None);
        let doubted = on(&mut process, unanswered(Kind::Unavailable));
        let [World::Look { op }] = doubted.world[..] else {
            panic!("{:?}", doubted.world);
        };

        let outcome = Err(Fault::new(Kind::Unavailable, "the link is down"));
        let again = on(&mut process, Event::Looked { op, outcome });
        let outcome = Err(Fault::new(Kind::Timeout, "it hangs"));
        let hung = on(&mut process, Event::Looked { op, outcome });

        assert_eq!(again.world, [World::LookAgain { op }]);
        assert!(again.announce.is_empty());
        assert!(matches!(hung.world[..], [World::Signal { signal: 9, .. }]));
        assert!(matches!(&hung.announce[..], [Notice::Failed { .. }]));
        assert_eq!(process.lease(), None, "and its port is nobody else's");
    }

    #[test]
    fn what_a_guest_refuses_and_an_init_are_not_looked_for() {
        let mut refused = being_made(exec_id(), None);
        let mut init = being_made(ProcessId::Init, None);

        let of_refused = on(&mut refused, unanswered(Kind::Invalid));
        let of_init = on(&mut init, unanswered(Kind::Timeout));

        for batch in [of_refused, of_init] {
            assert!(matches!(&batch.announce[..], [Notice::Failed { .. }]));
        }
    }

    /// A hostile guest guesses the number of its next container: a creation would wait for ever.
    #[test]
    fn an_exit_of_what_no_guest_was_asked_for_changes_nothing() {
        let uid = SandboxUid::from_random(1);
        let mut process = Process::new(uid, ContainerNumber(0), ProcessId::Init);
        let make = Make {
            program: None,
            key: None,
            relay: None,
        };
        let early = on(&mut process, exited());
        on(&mut process, Event::Make(make));
        let leasing = process.clone();

        let told = on(&mut process, exited());

        for batch in [early, told] {
            assert_eq!(batch.announce, [Notice::Disbelieved { seq: 1 }]);
            assert!(batch.records.is_empty());
        }
        assert_eq!(process, leasing);
    }

    /// Its link broke, or its guest went, between what it said and its answer.
    #[test]
    fn an_exec_that_is_over_keeps_its_exit_though_its_answer_never_comes() {
        let ends: [fn() -> Event; 3] = [
            || Event::Made {
                op: OpId(2),
                outcome: Err(Fault::new(Kind::Unavailable, "the link broke")),
            },
            || Event::GuestGone { status: lost() },
            || Event::Looked {
                op: OpId(2),
                outcome: Ok(None),
            },
        ];
        for end in ends {
            let mut process = being_made(exec_id(), None);
            on(&mut process, exited());

            let batch = on(&mut process, end());

            assert_eq!(process.state(), &State::Exited(status()));
            assert!(matches!(
                &batch.announce[..],
                [Notice::Made(_), Notice::Exited { seq: Some(1), .. }]
            ));
        }
        let mut process = being_made(exec_id(), None);
        on(&mut process, exited());
        let batch = on(&mut process, Event::Close { status: lost() });
        assert_eq!(
            process.state(),
            &State::Closed(status()),
            "the first exit stands"
        );
        assert!(
            matches!(
                &batch.announce[..],
                [Notice::Exited { seq: Some(1), .. }, Notice::Closed]
            ),
            "the guest would keep it for ever: {:?}",
            batch.announce
        );
    }

    fn lost() -> ExitStatus {
        ExitStatus {
            code: 255,
            ..status()
        }
    }

    #[test]
    fn what_its_relay_says_of_a_process_that_was_never_made_leaves_no_record() {
        let mut process = being_made(exec_id(), Some(RELAY));
        let why = Fault::invalid("no such program");
        on(
            &mut process,
            Event::Made {
                op: OpId(2),
                outcome: Err(why),
            },
        );

        for event in [Event::RelayDone, Event::RelayEnded { relay: RELAY }] {
            assert!(on(&mut process, event).records.is_empty());
        }
    }

    /// Its caller hears that it was not made, asks again, and would take the word for one of the next.
    #[test]
    fn who_stands_for_what_was_never_made_is_not_dismissed() {
        let record = ProcessRecord {
            relay: Some(RELAY),
            ..record_of(
                being_made(ProcessId::Init, Some(RELAY)),
                ProcessState::Making,
            )
        };
        let mut process = Process::rebuilt(record);
        assert!(matches!(process.state(), State::Failed(_)));

        let closed = on(&mut process, Event::Close { status: status() });

        assert_eq!(closed.world, []);
        assert_eq!(closed.announce, [Notice::Closed]);
    }

    #[test]
    fn only_what_is_over_is_forgotten() {
        let mut process = running_exec();
        let early = on(&mut process, Event::Forget);
        assert!(early.records.is_empty() && early.announce.is_empty());
        on(&mut process, exited());
        on(&mut process, Event::RelayDone);

        let forgotten = on(&mut process, Event::Forget);

        let key = ProcessRecord::key(SandboxUid::from_random(1), ContainerNumber(0), &exec_id());
        assert_eq!(forgotten.records, [records::delete(key)]);
        assert_eq!(forgotten.announce, [Notice::Closed]);
    }
}
