//! The processes of a container, played: each does what its room promises, one thing after another, and its
//! container hears of it when the story wants it to.

use proptest::sample::Index;
use runtime_core::{
    agent::ExitStatus,
    error::{Fault, Kind},
    hypervisor::{GuestEndpoint, HostEndpoint, StreamLease},
    ids::{ContainerNumber, ProcessId, RequestKey, SandboxUid},
    process::{Made, Notice, ProcessRecord, ProcessState},
};
use std::collections::{BTreeMap, VecDeque};

/// What a container tells its processes.
#[derive(Debug, Clone)]
pub enum Play {
    Exit(ExitStatus, u64),
    GuestGone(ExitStatus),
    Close,
}

#[derive(Debug)]
struct One {
    key: Option<RequestKey>,
    state: ProcessState,
    /// It failed or is closed, and is on no record.
    over: bool,
    drained: bool,
    heard: VecDeque<Play>,
}

#[derive(Debug, Clone)]
enum Move {
    /// The guest answers that it is made, or is not.
    Made(ProcessId),
    Heard(ProcessId),
}

#[derive(Debug, Default)]
pub struct Plays(BTreeMap<ProcessId, One>);

fn birth() -> Made {
    let (lease, warnings) = (lease(), Vec::new());
    Made { lease, warnings }
}

fn lease() -> StreamLease {
    StreamLease {
        number: 1,
        guest: GuestEndpoint::SerialPort("p".to_owned()),
        host: HostEndpoint::Socket("/p".into()),
    }
}

impl Plays {
    pub fn make(&mut self, process: ProcessId, key: Option<RequestKey>) {
        let one = One {
            key,
            state: ProcessState::Making,
            over: false,
            drained: false,
            heard: VecDeque::new(),
        };
        self.0.insert(process, one);
    }

    pub fn tell(&mut self, process: &ProcessId, what: Play) {
        if let Some(one) = self.0.get_mut(process) {
            one.heard.push_back(what);
        }
    }

    pub fn tell_all(&mut self, what: &Play) {
        for one in self.0.values_mut() {
            one.heard.push_back(what.clone());
        }
    }

    pub fn forget(&mut self, process: &ProcessId) {
        self.0.remove(process);
    }

    /// The program of the init runs from now on, where it was made and waits for that.
    pub fn begin(&mut self) -> bool {
        let init = self.0.get_mut(&ProcessId::Init);
        let init = init.filter(|init| !init.over && init.state == ProcessState::Created);
        init.map(|init| init.state = ProcessState::Running)
            .is_some()
    }

    /// Nobody reads the output of one that has exited any more.
    pub fn drain(&mut self, which: Index) -> Option<ProcessId> {
        let exited = self.0.iter_mut().filter(|(_, one)| {
            let exited = matches!(one.state, ProcessState::Exited(_));
            exited && !one.over && !one.drained
        });
        let mut exited: Vec<_> = exited.collect();
        if exited.is_empty() {
            return None;
        }
        let (process, one) = exited.swap_remove(which.index(exited.len()));
        one.drained = true;
        Some(process.clone())
    }

    fn possible(&self) -> Vec<Move> {
        let mut all = Vec::new();
        for (process, one) in &self.0 {
            if one.state == ProcessState::Making && !one.over {
                all.push(Move::Made(process.clone()));
            }
            if !one.heard.is_empty() {
                all.push(Move::Heard(process.clone()));
            }
        }
        all
    }

    pub fn is_idle(&self) -> bool {
        self.possible().is_empty()
    }

    /// What one of them does next, and what it tells of that.
    pub fn moves(
        &mut self,
        pick: impl FnOnce(usize) -> usize,
        made: Result<(), Fault>,
    ) -> Option<(ProcessId, Vec<Notice>)> {
        let mut possible = self.possible();
        if possible.is_empty() {
            return None;
        }
        let which = pick(possible.len());
        let (process, notices) = match possible.swap_remove(which) {
            Move::Made(process) => {
                let one = self.0.get_mut(&process)?;
                let notices = one.made(&process, made);
                (process, notices)
            }
            Move::Heard(process) => {
                let one = self.0.get_mut(&process)?;
                let what = one.heard.pop_front()?;
                let notices = one.hears(what);
                (process, notices)
            }
        };
        Some((process, notices))
    }

    /// What the next daemon finds on record of them.
    pub fn restart(&mut self, uid: SandboxUid) -> Vec<ProcessRecord> {
        self.0.retain(|_, one| !one.over);
        for one in self.0.values_mut() {
            one.heard.clear();
        }
        let records = self.0.iter().map(|(process, one)| ProcessRecord {
            uid,
            container: ContainerNumber(0),
            process: process.clone(),
            state: one.state.clone(),
            lease: (*process == ProcessId::Init || !one.drained).then(lease),
            warnings: Vec::new(),
            relay: None,
            begun_by: one.key.clone(),
            signaled_by: Vec::new(),
        });
        records.collect()
    }

    /// And what they tell when they are rebuilt: nobody is left to read what has exited.
    pub fn resumed(&mut self) -> Vec<(ProcessId, Vec<Notice>)> {
        let all = self.0.iter_mut().map(|(process, one)| {
            let notices = match one.state.clone() {
                ProcessState::Making | ProcessState::Created => Vec::new(),
                ProcessState::Running => vec![Notice::Began],
                ProcessState::Exited(status) => {
                    one.drained = true;
                    vec![Notice::Exited { status, seq: None }, Notice::Drained]
                }
            };
            (process.clone(), notices)
        });
        all.collect()
    }
}

impl One {
    fn made(&mut self, process: &ProcessId, made: Result<(), Fault>) -> Vec<Notice> {
        if let Err(why) = made {
            self.over = true;
            return vec![Notice::Failed { why }];
        }
        self.state = match process {
            ProcessId::Init => ProcessState::Created,
            ProcessId::Exec(_) => ProcessState::Running,
        };
        vec![Notice::Made(birth())]
    }

    fn hears(&mut self, what: Play) -> Vec<Notice> {
        match what {
            Play::Exit(status, seq) => self.exits(status, Some(seq)),
            Play::GuestGone(status) => match (self.over, &self.state) {
                (true, _) | (false, ProcessState::Exited(_)) => Vec::new(),
                (false, ProcessState::Making) => {
                    self.over = true;
                    let why = Fault::new(Kind::Aborted, status.detail);
                    vec![Notice::Failed { why }]
                }
                (false, ProcessState::Created | ProcessState::Running) => self.exits(status, None),
            },
            Play::Close if self.over => Vec::new(),
            Play::Close => {
                self.over = true;
                let mut notices = vec![Notice::Closed];
                // What it was told meanwhile it says too, before its container lets it go.
                for what in std::mem::take(&mut self.heard) {
                    if let Play::Exit(status, seq) = what {
                        let seq = Some(seq);
                        notices.push(Notice::Exited { status, seq });
                    }
                }
                notices
            }
        }
    }

    fn exits(&mut self, status: ExitStatus, seq: Option<u64>) -> Vec<Notice> {
        let mut notices = Vec::new();
        let status = match (self.over, &self.state) {
            (false, ProcessState::Exited(known)) => known.clone(),
            (true, _) => status,
            (false, state) => {
                // The guest is faster than its own answer.
                if *state == ProcessState::Making {
                    notices.push(Notice::Made(birth()));
                }
                self.state = ProcessState::Exited(status.clone());
                status
            }
        };
        notices.push(Notice::Exited { status, seq });
        notices
    }
}
