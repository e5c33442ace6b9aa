//! Single processes: execs, signals, exits, stdio.

use super::{
    Agent, End, Live, blocking, denied, engine_failed,
    wish::{Io, Made, NewExec, SignalTo, target, terminal_of_process},
};
use crate::{
    engine::{self, Created, ExecPlan, ProcessIo},
    error::{Doing, Error},
    exits::Entry,
    id::{Id, Name, Which},
    stdio::{self, Carrier, Endpoint, Kill, Output, Prepared, Pulled, Terminal, Wire},
    table::{Denied, State as ProcessState},
};
use std::{
    fs,
    io::Read,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::Arc,
    time::Duration,
};
use tokio::{
    select,
    sync::watch,
    time::{sleep, timeout},
};

/// A process object of so many bytes is parsed on the spot, which spares waking a thread; most are far shorter. A longer one
/// must not hold up whoever else asks.
const SHORT_PROCESS: usize = 8 * 1024;
/// What is read at once of a terminal that nobody looks at.
const DRAIN: usize = 4096;
/// As much of a command as a line of `ps` is good for.
const COMMAND_BYTES_MAX: u64 = 1024;
/// One answer has 4 MiB at most: of more processes than these only the names are told.
const WHOLE_COMMANDS_MAX: usize = 2048;

/// Who will be at the agent's end of a process's stdio.
pub(super) enum Waiting {
    Stream(Endpoint, Prepared, Wire),
    Pulled(Prepared),
    /// A terminal must be read even if nobody looks, or its process hangs.
    Drained(Prepared),
    Nothing,
}

impl Agent {
    /// Starts a further process in a container.
    ///
    /// # Errors
    /// Whatever it could not be given; nothing of it is left then.
    pub async fn exec(self: Arc<Self>, wish: NewExec) -> Result<Made, Error> {
        let name = Name {
            container: wish.container,
            process: Which::Exec(wish.exec.clone()),
        };
        let busy = self.busy(&name.container)?;
        let _busy = busy.read().await;
        let reserved = self.state().table.reserve(&name, wish.host);
        reserved.map_err(|refused| denied(&name, refused))?;
        let plan = ExecPlan {
            exec_id: wish.exec.as_str().to_owned(),
            process_json: wish.process_json,
            cgroup: wish.cgroup,
        };
        let made = self.make_exec(&name, plan, wish.io).await;
        if made.is_err() {
            self.state().table.undone(&name);
        }
        self.changed();
        made
    }

    async fn make_exec(
        self: &Arc<Self>,
        name: &Name,
        plan: ExecPlan,
        io: Io,
    ) -> Result<Made, Error> {
        let terminal = terminal_of_process(&plan.process_json)?;
        let (far, near) = self.prepare(io, terminal).await?;
        let (agent, id) = (self.clone(), name.container.clone());
        let is_short = plan.process_json.len() <= SHORT_PROCESS;
        let begin = move || agent.engine.begin_exec(id.as_str(), plan, far);
        let execing = match is_short {
            true => begin(),
            false => blocking(begin).await,
        };
        let failed = || format!("start {name}");
        let execing = execing.map_err(engine_failed(failed))?;
        let closed = self.closed(execing.as_fd(), execing.limit()).await;
        let created = execing.conclude().map_err(engine_failed(failed))?;
        let (pid, warnings) = (created.pid, created.warnings.clone());
        for warning in &warnings {
            crate::note!("{name}: {warning}");
        }
        if let Err(error) = closed.and_then(|()| self.settle(name, near, created)) {
            // It may have ended of itself.
            let _ = self.kill(name, libc::SIGKILL.cast_unsigned());
            return Err(error);
        }
        Ok(Made { pid, warnings })
    }

    /// Returns when nobody is left at the other end, or after so long.
    pub(super) async fn closed(
        &self,
        socket: BorrowedFd<'_>,
        limit: Duration,
    ) -> Result<(), Error> {
        let closed = timeout(limit, self.reactor.closed(socket)).await;
        closed
            .unwrap_or(Ok(()))
            .doing(|| "wait for a process".to_owned())
    }

    /// The ends of a new process's stdio.
    pub(super) async fn prepare(
        &self,
        io: Io,
        terminal: Terminal,
    ) -> Result<(ProcessIo, Waiting), Error> {
        match (io, terminal) {
            (Io::Stream(endpoint), _) => {
                self.streams.free(&endpoint).await;
                let wire = Wire::open(&endpoint, self.vsock_peer, &self.reactor).await?;
                let (far, prepared) = stdio::prepare(terminal)?;
                Ok((far, Waiting::Stream(endpoint, prepared, wire)))
            }
            (Io::Pulled, _) => {
                let (far, prepared) = stdio::prepare(terminal)?;
                Ok((far, Waiting::Pulled(prepared)))
            }
            (Io::Nothing, Terminal::Yes) => {
                let (far, prepared) = stdio::prepare(terminal)?;
                Ok((far, Waiting::Drained(prepared)))
            }
            (Io::Nothing, Terminal::No) => Ok((stdio::nothing(), Waiting::Nothing)),
        }
    }

    /// Enters a process that was made into the books, and joins its stdio to the host.
    pub(super) fn settle(
        self: &Arc<Self>,
        name: &Name,
        waiting: Waiting,
        created: Created,
    ) -> Result<(), Error> {
        let exit = watch::Sender::new(None);
        let pulled = self.join_stdio(name, waiting, created.console, &exit)?;
        let mut state = self.state();
        if let Some(place) = state.places.get_mut(&name.container) {
            let live = Live {
                exit,
                pulled,
                end: End::Its,
            };
            place.processes.insert(name.process.clone(), live);
        }
        // It may have ended before we knew it.
        if let Some(ended) = state.table.made(name, created.pid) {
            state.tell_exit(name, ended.code);
        }
        Ok(())
    }

    fn join_stdio(
        self: &Arc<Self>,
        name: &Name,
        waiting: Waiting,
        console: Option<OwnedFd>,
        exit: &watch::Sender<Option<u32>>,
    ) -> Result<Option<Arc<Pulled>>, Error> {
        match waiting {
            Waiting::Stream(endpoint, prepared, wire) => {
                let carrier = Carrier::new(prepared.near(console)?, wire, self.killer(name));
                self.carry(name.clone(), endpoint, carrier, exit.subscribe());
                Ok(None)
            }
            Waiting::Pulled(prepared) => {
                let pulled = Pulled::new(prepared.near(console)?, exit.subscribe());
                Ok(Some(Arc::new(pulled)))
            }
            Waiting::Drained(prepared) => {
                let pulled = Pulled::new(prepared.near(console)?, exit.subscribe());
                tokio::spawn(drain(pulled));
                Ok(None)
            }
            Waiting::Nothing => Ok(None),
        }
    }

    fn carry(
        &self,
        name: Name,
        endpoint: Endpoint,
        carrier: Carrier,
        exit: watch::Receiver<Option<u32>>,
    ) {
        let stop = {
            let state = self.state();
            let place = state.places.get(&name.container);
            place
                .expect("a container is there while it is busy")
                .stop
                .subscribe()
        };
        self.streams.carry(endpoint, exit.clone(), async move {
            if let Err(error) = carrier.carry(exit, stop).await {
                crate::error!("stdio of {name}: {error}");
            }
        });
    }

    /// Weak: a stream of a container that is gone must not keep the agent.
    fn killer(self: &Arc<Self>, name: &Name) -> Kill {
        let (agent, name) = (Arc::downgrade(self), name.clone());
        Box::new(move |signal| {
            if let Some(agent) = agent.upgrade()
                && let Err(error) = agent.kill(&name, signal)
            {
                crate::note!("signal {signal} to {name}: {error}");
            }
        })
    }

    fn kill(&self, name: &Name, signal: u32) -> Result<(), engine::Error> {
        self.send(&SignalTo::One(name.clone()), signal)
    }

    fn send(&self, to: &SignalTo, signal: u32) -> Result<(), engine::Error> {
        if signal == libc::SIGKILL.cast_unsigned() {
            self.mark_killed(to);
        }
        let container = to.container().as_str();
        self.engine.signal(container, &to.target(), signal)
    }

    /// Remembers whom a SIGKILL of ours is to end, so that its exit is not taken for the work of
    /// another. Who is dead already was not ended by it.
    pub(super) fn mark_killed(&self, to: &SignalTo) {
        let container = to.container();
        let mut state = self.state();
        let Some(place) = state.places.get_mut(container) else {
            return;
        };
        for (process, live) in &mut place.processes {
            let meant = match to {
                SignalTo::One(name) => name.process == *process,
                SignalTo::All(_) => true,
            };
            if meant && let Ok(true) = self.engine.lives(container.as_str(), &target(process)) {
                live.end = End::Ours;
            }
        }
    }

    /// Sends a signal to a process that is there and has not ended, or to all of a container.
    ///
    /// # Errors
    /// There is no such process, it has ended, or there is no such signal.
    pub fn signal(&self, to: &SignalTo, signal: u32) -> Result<(), Error> {
        match to {
            SignalTo::One(name) => self.expect_alive(name)?,
            SignalTo::All(container) => drop(self.busy(container)?),
        }
        self.send(to, signal)
            .map_err(engine_failed(|| format!("signal {signal} to {to}")))
    }

    /// As [`Self::signal`], but what was delivered under this key is not delivered again.
    ///
    /// # Errors
    /// As [`Self::signal`]; then it may come again.
    pub fn signal_once(&self, to: &SignalTo, signal: u32, key: &str) -> Result<(), Error> {
        if !self.state().delivered.is_new(key) {
            return Ok(());
        }
        let sent = self.signal(to, signal);
        if sent.is_err() {
            self.state().delivered.undone(key);
        }
        sent
    }

    fn expect_alive(&self, name: &Name) -> Result<(), Error> {
        let state = self.state().table.state(name);
        match state.map_err(|refused| denied(name, refused))? {
            ProcessState::Created { .. } | ProcessState::Running { .. } => Ok(()),
            ProcessState::Making => Err(denied(name, Denied::Making)),
            ProcessState::Exited { .. } => Err(denied(name, Denied::NotRunning)),
        }
    }

    /// The pid of a process, if it is there.
    pub fn pid(&self, name: &Name) -> Option<u32> {
        match self.state().table.state(name).ok()? {
            ProcessState::Making => None,
            ProcessState::Created { pid }
            | ProcessState::Running { pid }
            | ProcessState::Exited { pid, .. } => Some(pid),
        }
    }

    /// Pids of a container with their commands.
    ///
    /// # Errors
    /// There is no such container.
    pub fn pids(&self, container: &Id) -> Result<Vec<(u32, String)>, Error> {
        let pids = self.engine.pids(container.as_str());
        let pids = pids.map_err(engine_failed(|| format!("list container {container}")))?;
        let command = match pids.len() {
            ..=WHOLE_COMMANDS_MAX => command,
            _ => name,
        };
        Ok(pids.into_iter().map(|pid| (pid, command(pid))).collect())
    }

    /// Every process, container by container, the init first.
    pub fn list(&self) -> Vec<(Name, ProcessState)> {
        let state = self.state();
        let all = state.table.all();
        all.map(|(name, state)| (name.clone(), state)).collect()
    }

    /// Exits and kills with a number above that; waits for the first so long.
    pub async fn next_exits(&self, after: u64, limit: Duration) -> Vec<Entry> {
        let mut changes = self.changes.subscribe();
        // Not the last number given: what was acknowledged is no news.
        let more = changes.wait_for(|_| self.state().table.exits().after(after).next().is_some());
        select! {
            biased;
            _ = more => {}
            () = self.ended() => {}
            () = sleep(limit) => {}
        }
        let state = self.state();
        state.table.exits().after(after).cloned().collect()
    }

    /// The host has recorded every exit and kill up to that number.
    pub fn acknowledge(&self, up_to: u64) {
        let forgotten = self.state().table.acknowledge(up_to);
        for name in forgotten {
            self.forget(&name);
        }
    }

    fn forget(&self, name: &Name) {
        let mut state = self.state();
        if let Some(place) = state.places.get_mut(&name.container) {
            place.processes.remove(&name.process);
        }
        drop(state);
        if let Which::Exec(exec) = &name.process {
            // Removed with its container meanwhile, perhaps.
            let _ = self.engine.forget(name.container.as_str(), exec.as_str());
        }
    }

    /// Waits for the exit of a process of a stock host, and forgets it if it is an exec.
    ///
    /// # Errors
    /// There is no such process.
    pub async fn wait(&self, name: &Name) -> Result<u32, Error> {
        let gone = || denied(name, Denied::NotFound);
        let mut exit = self
            .live(name, |live| live.exit.subscribe())
            .ok_or_else(gone)?;
        let ended = select! {
            biased;
            ended = exit.wait_for(Option::is_some) => ended,
            () = self.ended() => return Err(Error::Over { what: "the sandbox".to_owned() }),
        };
        let code = ended.map(|code| *code).ok().flatten().ok_or_else(gone)?;
        self.state().table.forget(name);
        if let Which::Exec(_) = name.process {
            self.forget(name);
        }
        Ok(code)
    }

    /// The stdio of a process whose host asks for it call by call.
    ///
    /// # Errors
    /// There is no such process, or it has a stream.
    pub fn pulled(&self, name: &Name) -> Result<Arc<Pulled>, Error> {
        let pulled = self.live(name, |live| live.pulled.clone());
        let pulled = pulled.ok_or_else(|| denied(name, Denied::NotFound))?;
        pulled.ok_or_else(|| Error::Invalid {
            what: format!("stdio of {name}"),
            why: "travels on a stream",
        })
    }

    fn live<T>(&self, name: &Name, look: impl FnOnce(&Live) -> T) -> Option<T> {
        let state = self.state();
        let place = state.places.get(&name.container)?;
        place.processes.get(&name.process).map(look)
    }
}

/// With its arguments, if it has any.
fn command(pid: u32) -> String {
    let mut line = Vec::new();
    if let Ok(file) = fs::File::open(format!("/proc/{pid}/cmdline")) {
        // Cut off is better than nothing, and so is what could be read before an error.
        let _ = file.take(COMMAND_BYTES_MAX).read_to_end(&mut line);
    }
    let text = String::from_utf8_lossy(&line).replace('\0', " ");
    if !text.trim().is_empty() {
        return text.trim_end().to_owned();
    }
    name(pid)
}

/// What the kernel calls it; nothing, if it has ended since.
fn name(pid: u32) -> String {
    let comm = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    comm.trim_end().to_owned()
}

async fn drain(pulled: Pulled) {
    while let Ok(1..) = pulled
        .read(Output::Stdout, DRAIN)
        .await
        .map(|bytes| bytes.len())
    {}
}
