//! What is in the fake guest, and what each call does to it. No waiting here: time is given.

use super::program::Program;
use crate::convert::NEWS_MAX;
use runtime_core::{
    agent::{
        ContainerStats, CreateContainer, CreateSandbox, Exec, ExitReason, ExitStatus, GuestExit,
        GuestNews, GuestOom, GuestPid, GuestProcess, GuestProcessState, PidsStats, Signal,
        SignalTarget, UpdateContainer, Warnings,
    },
    error::Kind,
    ids::{ContainerNumber, EpochMs, ProcessId, RequestKey},
};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use tokio::time::Instant;

/// Why the guest does not do what it is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    pub kind: Kind,
    pub what: String,
}

type Done<T> = Result<T, Refusal>;

/// It ends a frozen process too.
const SIGKILL: u32 = 9;
/// Signals that end the fake's processes; the rest is ignored.
const DEADLY: [u32; 6] = [1, 2, 3, 6, 9, 15];

/// This guest has nothing behind the field, if it is asked for.
fn lacking(json: &[u8], pointer: &str) -> Warnings {
    let json: serde_json::Value = serde_json::from_slice(json).unwrap_or_default();
    let field = pointer.trim_start_matches('/').replace('/', ".");
    let named = json.pointer(pointer).map(|_| format!("{field}: ignored"));
    named.into_iter().collect()
}

/// What became of an exec.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RanExec {
    pub container: ContainerNumber,
    pub process: ProcessId,
    /// How often it was begun.
    pub times: u32,
    pub runs: bool,
}

#[derive(Debug)]
pub(crate) struct World {
    /// What the guest was prepared with.
    pub sandbox: Option<CreateSandbox>,
    containers: BTreeMap<ContainerNumber, BTreeMap<ProcessId, Process>>,
    /// Containers that are frozen, and since when.
    frozen: BTreeMap<ContainerNumber, Instant>,
    /// How many processes each may have, where it was told.
    pids_max: BTreeMap<ContainerNumber, u64>,
    /// Signals that wait for the thaw.
    pending: BTreeMap<ContainerNumber, Vec<(ProcessId, u32)>>,
    news: VecDeque<GuestNews>,
    delivered: BTreeSet<RequestKey>,
    news_issued: u64,
    /// Whatever was acknowledged or removed since.
    ends: BTreeMap<(ContainerNumber, ProcessId), ExitStatus>,
    /// How often each exec was begun, also of what was removed since.
    begun: BTreeMap<(ContainerNumber, ProcessId), u32>,
    pids_issued: u32,
    /// The guest's clock said this then.
    clock: (EpochMs, Instant),
}

#[derive(Debug)]
struct Process {
    pid: u32,
    program: Program,
    phase: Phase,
}

#[derive(Debug)]
enum Phase {
    Created,
    Running { since: Instant },
    Exited,
}

impl World {
    pub fn new(now: Instant) -> Self {
        Self {
            sandbox: None,
            containers: BTreeMap::new(),
            frozen: BTreeMap::new(),
            pids_max: BTreeMap::new(),
            pending: BTreeMap::new(),
            news: VecDeque::new(),
            delivered: BTreeSet::new(),
            news_issued: 0,
            ends: BTreeMap::new(),
            begun: BTreeMap::new(),
            pids_issued: 1,
            clock: (EpochMs(0), now),
        }
    }

    pub fn prepare(&mut self, ask: CreateSandbox, now: Instant) {
        if let Some(time) = ask.now {
            self.set_clock(time, now);
        }
        self.sandbox = Some(ask);
    }

    pub fn set_clock(&mut self, time: EpochMs, now: Instant) {
        self.clock = (time, now);
    }

    pub fn create(&mut self, ask: &CreateContainer) -> Done<Warnings> {
        if self.containers.contains_key(&ask.container) {
            return refuse(Kind::AlreadyExists, "container exists already");
        }
        let Some(program) = Program::of_config(&ask.config_json) else {
            return refuse(Kind::Invalid, "config.json is none");
        };
        let init = self.process(program, Phase::Created);
        let processes = BTreeMap::from([(ProcessId::Init, init)]);
        self.containers.insert(ask.container, processes);
        Ok(lacking(&ask.config_json, "/linux/intelRdt"))
    }

    pub fn start(&mut self, container: ContainerNumber, now: Instant) -> Done<()> {
        let init = self.find(container, &ProcessId::Init)?;
        match init.phase {
            Phase::Created => {
                init.phase = Phase::Running { since: now };
                Ok(())
            }
            Phase::Running { .. } | Phase::Exited => refuse(Kind::Denied, "not created"),
        }
    }

    pub fn exec(&mut self, ask: &Exec, now: Instant) -> Done<Warnings> {
        let init = self.find(ask.container, &ProcessId::Init)?;
        if matches!(init.phase, Phase::Exited) {
            return refuse(Kind::Denied, "not running");
        }
        let Some(program) = Program::of_process(&ask.program.process_json) else {
            return refuse(Kind::Invalid, "the process is none");
        };
        if ask.process == ProcessId::Init {
            return refuse(Kind::Unsupported, "an exec that is the init");
        }
        // Its programs make none.
        if !ask.program.is_where_execs_are() {
            return refuse(Kind::Invalid, "no such cgroup");
        }
        let process = self.process(program, Phase::Running { since: now });
        let processes = self.processes(ask.container)?;
        if processes.contains_key(&ask.process) {
            return refuse(Kind::AlreadyExists, "exec exists already");
        }
        processes.insert(ask.process.clone(), process);
        let key = (ask.container, ask.process.clone());
        *self.begun.entry(key).or_default() += 1;
        Ok(lacking(&ask.program.process_json, "/apparmorProfile"))
    }

    pub fn signal(&mut self, ask: &Signal, now: Instant) -> Done<()> {
        let Some(once) = &ask.once else {
            return self.deliver(ask, now);
        };
        if !self.delivered.contains(&once.key) {
            self.deliver(ask, now)?;
            self.delivered.insert(once.key.clone());
        }
        Ok(())
    }

    fn deliver(&mut self, ask: &Signal, now: Instant) -> Done<()> {
        let targets = match &ask.target {
            SignalTarget::All => self.living(ask.container)?,
            SignalTarget::Process(process) => match self.find(ask.container, process)?.phase {
                Phase::Created | Phase::Running { .. } => vec![process.clone()],
                Phase::Exited => return refuse(Kind::NotFound, "not running"),
            },
        };
        if !DEADLY.contains(&ask.signal) {
            return Ok(());
        }
        if self.is_frozen(ask.container) && ask.signal != SIGKILL {
            let pending = targets.into_iter().map(|t| (t, ask.signal));
            self.pending
                .entry(ask.container)
                .or_default()
                .extend(pending);
            return Ok(());
        }
        for process in targets {
            let code = 128 + ask.signal;
            self.end(ask.container, process, code, ExitReason::Signaled, now);
        }
        Ok(())
    }

    pub fn remove(&mut self, container: ContainerNumber, now: Instant) {
        for process in self.living(container).unwrap_or_default() {
            self.end(container, process, 137, ExitReason::Signaled, now);
        }
        self.containers.remove(&container);
        self.frozen.remove(&container);
        self.pids_max.remove(&container);
        self.pending.remove(&container);
    }

    /// Whether it is removed, or was already.
    pub fn remove_empty(&mut self, container: ContainerNumber, now: Instant) -> bool {
        let Ok(processes) = self.processes(container) else {
            return true;
        };
        let over = |process: &Process| matches!(process.phase, Phase::Exited);
        let empty = processes.values().all(over);
        if empty {
            self.remove(container, now);
        }
        empty
    }

    pub fn knows(&self, container: ContainerNumber) -> bool {
        self.containers.contains_key(&container)
    }

    pub fn list(&self) -> Vec<GuestProcess> {
        let mut list = Vec::new();
        for (container, processes) in &self.containers {
            list.extend(processes.iter().map(|(id, process)| GuestProcess {
                container: *container,
                process: id.clone(),
                state: match process.phase {
                    Phase::Created => GuestProcessState::Created,
                    Phase::Running { .. } => GuestProcessState::Running,
                    Phase::Exited => GuestProcessState::Exited,
                },
            }));
        }
        list
    }

    pub fn pids(&mut self, container: ContainerNumber) -> Done<Vec<GuestPid>> {
        let living = self.living(container)?;
        let processes = self.processes(container)?;
        let pid = |id: &ProcessId| processes.get(id).map(|process| process.pid);
        Ok(living
            .iter()
            .filter_map(pid)
            .map(|pid| GuestPid {
                pid,
                command: "fake".to_owned(),
            })
            .collect())
    }

    #[cfg(feature = "contract")]
    pub fn has_begun(&self, container: ContainerNumber, process: &ProcessId) -> bool {
        let processes = self.containers.get(&container);
        let found = processes.and_then(|processes| processes.get(process));
        found.is_some_and(|found| !matches!(found.phase, Phase::Created))
    }

    /// Every exec that was ever begun, how often, and whether it runs.
    pub fn execs(&self) -> Vec<RanExec> {
        let runs = |container: &ContainerNumber, process: &ProcessId| {
            let found = self.containers.get(container)?.get(process)?;
            Some(matches!(found.phase, Phase::Running { .. }))
        };
        let begun = self.begun.iter();
        begun
            .map(|((container, process), times)| RanExec {
                container: *container,
                process: process.clone(),
                times: *times,
                runs: runs(container, process).unwrap_or(false),
            })
            .collect()
    }

    pub fn end_of(&self, container: ContainerNumber, process: &ProcessId) -> Option<ExitStatus> {
        self.ends.get(&(container, process.clone())).cloned()
    }

    pub fn news_above(&self, after: u64) -> Vec<GuestNews> {
        let above = self.news.iter().filter(|news| news.seq() > after);
        above.take(NEWS_MAX).cloned().collect()
    }

    pub fn acknowledge(&mut self, up_to: u64) {
        self.news.retain(|news| news.seq() > up_to);
    }

    /// Its programs stand still until it is thawed.
    pub fn freeze(&mut self, container: ContainerNumber, now: Instant) -> Done<()> {
        self.processes(container)?;
        self.frozen.entry(container).or_insert(now);
        Ok(())
    }

    pub fn thaw(&mut self, container: ContainerNumber, now: Instant) -> Done<()> {
        let Some(frozen) = self.frozen.remove(&container) else {
            return self.processes(container).map(drop);
        };
        let stood = now.saturating_duration_since(frozen);
        for process in self.processes(container)?.values_mut() {
            if let Phase::Running { since } = &mut process.phase {
                *since += stood;
            }
        }
        for (process, signal) in self.pending.remove(&container).unwrap_or_default() {
            let code = 128 + signal;
            self.end(container, process, code, ExitReason::Signaled, now);
        }
        Ok(())
    }

    pub fn is_frozen(&self, container: ContainerNumber) -> bool {
        self.frozen.contains_key(&container)
    }

    pub fn update(&mut self, ask: &UpdateContainer) -> Done<Warnings> {
        self.processes(ask.container)?;
        match serde_json::from_slice::<serde_json::Value>(&ask.resources_json) {
            Ok(json) if json.is_object() => {
                let limit = json.pointer("/pids/limit").and_then(|limit| limit.as_u64());
                self.pids_max
                    .extend(limit.map(|limit| (ask.container, limit)));
                Ok(lacking(&ask.resources_json, "/network"))
            }
            Ok(_) | Err(_) => refuse(Kind::Invalid, "resources are none"),
        }
    }

    pub fn stats(&mut self, container: ContainerNumber, now: Instant) -> Done<ContainerStats> {
        let living = self.living(container)?.len();
        Ok(ContainerStats {
            pids: PidsStats {
                current: u64::try_from(living).unwrap_or(u64::MAX),
                max: self.pids_max.get(&container).copied().unwrap_or(0),
            },
            at: self.time(now),
            ..ContainerStats::default()
        })
    }

    /// The kernel killed something in this container for want of memory.
    pub fn oom(&mut self, container: ContainerNumber, now: Instant) -> Done<()> {
        self.processes(container)?;
        self.news_issued += 1;
        self.news.push_back(GuestNews::OomKilled(GuestOom {
            seq: self.news_issued,
            container,
            at: self.time(now),
        }));
        Ok(())
    }

    fn time(&self, now: Instant) -> EpochMs {
        let (told, then) = self.clock;
        let since = u64::try_from(now.saturating_duration_since(then).as_millis());
        EpochMs(told.0 + since.unwrap_or(0))
    }

    /// Ends every process whose time has come, in the order in which it came.
    pub fn settle(&mut self, now: Instant) {
        while let Some((at, container, process, code)) = self.first_to_end() {
            if at > now {
                return;
            }
            self.end(container, process, code, ExitReason::Exited, at);
        }
    }

    /// When the next process ends by itself.
    pub fn next_end(&self) -> Option<Instant> {
        self.first_to_end().map(|(at, ..)| at)
    }

    /// A process ends as the story has it; its init takes the others along.
    pub fn end(
        &mut self,
        container: ContainerNumber,
        process: ProcessId,
        code: u32,
        reason: ExitReason,
        now: Instant,
    ) {
        let Ok(found) = self.find(container, &process) else {
            return;
        };
        if matches!(found.phase, Phase::Exited) {
            return;
        }
        found.phase = Phase::Exited;
        self.news_issued += 1;
        let status = ExitStatus {
            code,
            reason,
            detail: String::new(),
            at: self.time(now),
        };
        self.ends
            .insert((container, process.clone()), status.clone());
        self.news.push_back(GuestNews::Exited(GuestExit {
            seq: self.news_issued,
            container,
            process: process.clone(),
            status,
        }));
        if process == ProcessId::Init {
            for other in self.living(container).unwrap_or_default() {
                self.end(container, other, 137, ExitReason::Signaled, now);
            }
        }
    }

    fn first_to_end(&self) -> Option<(Instant, ContainerNumber, ProcessId, u32)> {
        let mut first = None;
        let containers = self.containers.iter();
        for (container, processes) in containers.filter(|(c, _)| !self.frozen.contains_key(c)) {
            for (id, process) in processes {
                if let (Phase::Running { since }, Program::Ends { after, code }) =
                    (&process.phase, process.program)
                {
                    let candidate = (*since + after, *container, id.clone(), code);
                    if first.as_ref().is_none_or(|first| candidate < *first) {
                        first = Some(candidate);
                    }
                }
            }
        }
        first
    }

    fn process(&mut self, program: Program, phase: Phase) -> Process {
        self.pids_issued += 1;
        Process {
            pid: self.pids_issued,
            program,
            phase,
        }
    }

    fn processes(&mut self, container: ContainerNumber) -> Done<&mut BTreeMap<ProcessId, Process>> {
        let processes = self.containers.get_mut(&container);
        processes.ok_or_else(|| Refusal {
            kind: Kind::NotFound,
            what: "container not found".to_owned(),
        })
    }

    fn find(&mut self, container: ContainerNumber, process: &ProcessId) -> Done<&mut Process> {
        let found = self.processes(container)?.get_mut(process);
        found.ok_or_else(|| Refusal {
            kind: Kind::NotFound,
            what: "process not found".to_owned(),
        })
    }

    /// The init last: it takes the others along.
    fn living(&mut self, container: ContainerNumber) -> Done<Vec<ProcessId>> {
        let processes = self.processes(container)?.iter().rev();
        let living = processes.filter(|(_, process)| !matches!(process.phase, Phase::Exited));
        Ok(living.map(|(id, _)| id.clone()).collect())
    }
}

fn refuse<T>(kind: Kind, what: &str) -> Done<T> {
    let what = what.to_owned();
    Err(Refusal { kind, what })
}
