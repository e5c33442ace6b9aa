//! The agent's side of making a process: order, plan, and what becomes of it.

use super::{
    error::{Doing, Error, Result},
    home::KnownHome,
    plan::{Plan, Report},
    sys,
    wire::{self, ForkOrder, OrderedPlace, Packed},
};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fd::{AsFd, BorrowedFd, OwnedFd},
    io::{Errno, ioctl_fionbio},
    net::sockopt::{Timeout, set_socket_timeout},
};
use std::time::Duration;

/// A set-up is a few hundred system calls; what takes longer waits for a file system of the host
/// that does not answer, and a guest under emulation is fifty times slower than any other.
const SETUP_LIMIT: Duration = Duration::from_secs(60);

/// In which cgroup a process is born.
#[derive(Debug, Clone, Copy)]
pub enum Place<'f> {
    /// The agent's own.
    Agents,
    In(BorrowedFd<'f>),
    /// In that, or below it where this process is, once it takes none itself.
    InOrBeside(BorrowedFd<'f>, u32),
}

impl<'f> Place<'f> {
    fn ordered(self) -> (OrderedPlace, Option<BorrowedFd<'f>>) {
        match self {
            Self::Agents => (OrderedPlace::Spawners, None),
            Self::In(cgroup) => (OrderedPlace::Cgroup { beside: None }, Some(cgroup)),
            Self::InOrBeside(cgroup, init) => {
                let beside = Some(init);
                (OrderedPlace::Cgroup { beside }, Some(cgroup))
            }
        }
    }
}

/// Where and how a process is born.
#[derive(Debug)]
pub struct Birth<'f> {
    /// CLONE_NEW* of the namespaces that are made for it.
    pub namespaces: u64,
    /// Lines for timens_offsets, if it gets a time namespace of its own.
    pub time_offsets: Option<&'f str>,
    /// A process whose pid namespace it is born into.
    pub pid_namespace_of: Option<BorrowedFd<'f>>,
    pub place: Place<'f>,
    /// Texts for uid_map and gid_map.
    pub id_maps: Option<&'f (String, String)>,
    /// How long its hooks may take, on top of its set-up and its start.
    pub hooks_limit: Duration,
}

impl<'f> Birth<'f> {
    /// Into new namespaces, and as nobody else.
    pub fn plain(namespaces: u64, cgroup: BorrowedFd<'f>) -> Self {
        Self {
            namespaces,
            time_offsets: None,
            pid_namespace_of: None,
            place: Place::In(cgroup),
            id_maps: None,
            hooks_limit: Duration::ZERO,
        }
    }

    fn limit(&self) -> Duration {
        SETUP_LIMIT + self.hooks_limit
    }
}

#[derive(Debug)]
pub struct Spawned {
    pub pid: u32,
    pub pidfd: OwnedFd,
    pub console: Option<OwnedFd>,
    /// What it found out.
    pub home: Option<KnownHome>,
}

/// What is known of a process that is not set up yet.
#[derive(Debug, Default)]
struct Unborn {
    process: Option<(u32, OwnedFd)>,
    console: Option<OwnedFd>,
    home: Option<KnownHome>,
}

/// The socket of a process that is not known to run its program. Once its other end is closed the process does, or never
/// will, and what there is to hear is in the socket.
#[derive(Debug)]
pub struct Unheard {
    socket: OwnedFd,
    limit: Duration,
}

/// A process that was forked and is told later what it is to do. If it never is, it ends.
#[derive(Debug)]
pub struct Waiting(OwnedFd);

/// Has a process forked, and tells it what it is to do.
///
/// # Errors
/// The spawner cannot be asked.
pub fn order(
    spawner: BorrowedFd<'_>,
    birth: &Birth<'_>,
    plan: &Plan,
    plan_fds: &[BorrowedFd<'_>],
) -> Result<Unheard> {
    let (socket, theirs) = wire::pair().doing(asking)?;
    let limit = birth.limit();
    // The process is nobody before its ids are mapped, and waits for its plan until then.
    let (early, late) = match birth.id_maps {
        Some(_) => (None, None),
        None => match pack(plan)? {
            // There before the process is, which then need not wait for it.
            packed if packed.is_short() => (Some(packed), None),
            // Somebody must read it while it is sent.
            packed => (None, Some(packed)),
        },
    };
    if let Some(packed) = early {
        send_plan(&socket, &packed, plan_fds)?;
    }
    ask(spawner, birth, theirs)?;
    if let Some(packed) = late {
        send_plan(&socket, &packed, plan_fds)?;
    }
    Ok(Unheard { socket, limit })
}

/// Has a process forked that waits to be told what it is to do.
///
/// # Errors
/// The spawner cannot be asked.
pub fn order_waiting(spawner: BorrowedFd<'_>, birth: &Birth<'_>) -> Result<Waiting> {
    let (socket, theirs) = wire::pair().doing(asking)?;
    ask(spawner, birth, theirs)?;
    Ok(Waiting(socket))
}

fn ask(spawner: BorrowedFd<'_>, birth: &Birth<'_>, theirs: OwnedFd) -> Result<()> {
    let (place, cgroup) = birth.place.ordered();
    let order = ForkOrder {
        namespaces: birth.namespaces,
        time_offsets: birth.time_offsets.map(str::to_owned),
        enter_pid_namespace: birth.pid_namespace_of.is_some(),
        place,
    };
    let fds: Vec<BorrowedFd<'_>> = [theirs.as_fd()]
        .into_iter()
        .chain(birth.pid_namespace_of)
        .chain(cgroup)
        .collect();
    wire::send_order(spawner, &order, &fds).doing(asking)
}

fn asking() -> String {
    "ask the spawner".to_owned()
}

/// Comes back when an init waits at its gate: to be told to go on.
///
/// # Errors
/// The step that failed; the process is dead or about to be.
pub fn spawn(
    spawner: BorrowedFd<'_>,
    birth: &Birth<'_>,
    plan: &Plan,
    plan_fds: &[BorrowedFd<'_>],
) -> Result<(Spawned, Unheard)> {
    let gate = order(spawner, birth, plan, plan_fds)?;
    at_gate(gate, birth, plan, plan_fds)
}

impl Waiting {
    /// Whether it was forked, or will be, and has not ended.
    pub fn is_there(&self) -> bool {
        // What it sent may be read, whether or not its end is closed.
        let mut polled = [PollFd::new(&self.0, PollFlags::empty())];
        matches!(poll(&mut polled, Some(&Timespec::default())), Ok(0))
    }

    /// As [`spawn`], of a process that was born as `birth` says.
    ///
    /// # Errors
    /// The step that failed; the process is dead or about to be.
    pub fn spawn(
        self,
        birth: &Birth<'_>,
        plan: &Plan,
        plan_fds: &[BorrowedFd<'_>],
    ) -> Result<(Spawned, Unheard)> {
        let Self(socket) = self;
        send_plan(&socket, &pack(plan)?, plan_fds)?;
        let limit = birth.limit();
        at_gate(Unheard { socket, limit }, birth, plan, plan_fds)
    }
}

fn at_gate(
    gate: Unheard,
    birth: &Birth<'_>,
    plan: &Plan,
    plan_fds: &[BorrowedFd<'_>],
) -> Result<(Spawned, Unheard)> {
    set_socket_timeout(&gate.socket, Timeout::Recv, Some(gate.limit)).doing(hearing)?;
    let mut unborn = Unborn::default();
    match follow(&gate, birth, plan, plan_fds, &mut unborn) {
        Ok(()) => Ok((unborn.born()?, gate)),
        Err(error) => Err(unborn.given_up(error)),
    }
}

/// The spawner and the process write to the same socket, and the process may be the faster.
fn follow(
    gate: &Unheard,
    birth: &Birth<'_>,
    plan: &Plan,
    plan_fds: &[BorrowedFd<'_>],
    unborn: &mut Unborn,
) -> Result<()> {
    let mut at_gate = false;
    while !(at_gate && unborn.process.is_some()) {
        match next_report(gate)? {
            Some((Report::Ready, _)) => at_gate = true,
            Some(report) => {
                let was_known = unborn.process.is_some();
                unborn.hear(report)?;
                if let (false, Some((pid, _)), Some(maps)) =
                    (was_known, &unborn.process, birth.id_maps)
                {
                    map_ids(*pid, maps)?;
                    send_plan(&gate.socket, &pack(plan)?, plan_fds)?;
                }
            }
            None => return Err(Error::Died { oom: false }),
        }
    }
    Ok(())
}

impl Unborn {
    fn hear(&mut self, report: (Report, Option<OwnedFd>)) -> Result<()> {
        match report {
            (Report::Forked { pid }, Some(pidfd)) => self.process = Some((pid, pidfd)),
            (Report::Console, Some(console)) => self.console = Some(console),
            (Report::Forked { .. } | Report::Console, None) => {
                return Err(Errno::BADMSG).doing(|| "hear from the spawner".to_owned());
            }
            (Report::NotForked { step, errno }, _) => {
                return Err(Errno::from_raw_os_error(errno)).doing(|| step);
            }
            (Report::Failed(failure), _) => return Err(failure.into()),
            (Report::Home(home), _) => self.home = Some(home),
            // Of no more use to an exec, which has no gate.
            (Report::Ready, _) => {}
        }
        Ok(())
    }

    fn born(self) -> Result<Spawned> {
        let (pid, pidfd) = self.process.ok_or(Error::Died { oom: false })?;
        Ok(Spawned {
            pid,
            pidfd,
            console: self.console,
            home: self.home,
        })
    }

    /// Most often the process is dead already.
    fn given_up(self, error: Error) -> Error {
        if let Some((_, pidfd)) = self.process {
            let _ = sys::pidfd_signal(pidfd.as_fd(), libc::SIGKILL);
        }
        error
    }
}

impl Unheard {
    /// How long it may take.
    pub fn limit(&self) -> Duration {
        self.limit
    }

    /// Of an exec, when its end of the socket is closed. Nothing needs to be heard of it before: whoever wakes up for less
    /// takes the processor from it, and each switch to and fro empties the caches of an emulated one.
    ///
    /// # Errors
    /// The step that failed, or that it has not come so far; the process is dead or about to be.
    pub fn conclude_exec(self) -> Result<Spawned> {
        let mut unborn = Unborn::default();
        let mut hear_all = || {
            ioctl_fionbio(&self.socket, true).doing(hearing)?;
            while let Some(report) = next_report(&self)? {
                unborn.hear(report)?;
            }
            Ok(())
        };
        match hear_all() {
            // Closed without a word of failure.
            Ok(()) => unborn.born(),
            Err(error) => Err(unborn.given_up(error)),
        }
    }

    /// Lets an init go on from its gate.
    ///
    /// # Errors
    /// It cannot be told.
    pub fn open_gate(&self) -> Result<()> {
        match wire::send_go(self.socket.as_fd()) {
            // It is gone; what it had to say can still be heard.
            Ok(()) | Err(Errno::PIPE | Errno::CONNRESET) => Ok(()),
            Err(errno) => Err(errno).doing(|| "tell the init to go on".to_owned()),
        }
    }

    /// Of an init whose gate was opened, when its end of the socket is closed. What it found out at the gate.
    ///
    /// # Errors
    /// Why it does not run its program, or that it has not come so far.
    pub fn conclude_start(self) -> Result<Option<KnownHome>> {
        ioctl_fionbio(&self.socket, true).doing(hearing)?;
        let mut found = None;
        while let Some((report, _)) = next_report(&self)? {
            match report {
                Report::Home(home) => found = Some(home),
                Report::Failed(failure) => return Err(failure.into()),
                Report::Forked { .. }
                | Report::NotForked { .. }
                | Report::Console
                | Report::Ready => return Err(Errno::BADMSG).doing(hearing),
            }
        }
        Ok(found)
    }
}

impl AsFd for Unheard {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn hearing() -> String {
    "hear from the process".to_owned()
}

fn next_report(from: &Unheard) -> Result<Option<(Report, Option<OwnedFd>)>> {
    loop {
        match wire::receive_report(from.as_fd()) {
            // Told once, when the other end closed without reading all; what it sent comes after.
            Err(Errno::CONNRESET) => {}
            Err(Errno::AGAIN) => {
                return Err(Error::Timeout {
                    step: "set up the process".to_owned(),
                    seconds: from.limit.as_secs(),
                });
            }
            heard => return heard.doing(hearing),
        }
    }
}

fn pack(plan: &Plan) -> Result<Packed> {
    Packed::of(plan).doing(sending)
}

fn send_plan(socket: &OwnedFd, packed: &Packed, fds: &[BorrowedFd<'_>]) -> Result<()> {
    match packed.send(socket.as_fd(), fds) {
        // Nobody is there to read it; why, the next report says.
        Ok(()) | Err(Errno::PIPE | Errno::CONNRESET) => Ok(()),
        Err(errno) => Err(errno).doing(sending),
    }
}

fn sending() -> String {
    "send the plan".to_owned()
}

fn map_ids(pid: u32, (uids, gids): &(String, String)) -> Result<()> {
    for (file, map) in [("uid_map", uids), ("gid_map", gids)] {
        std::fs::write(format!("/proc/{pid}/{file}"), map)
            .doing(|| format!("user namespace: set {file} to {map:?}"))?;
    }
    Ok(())
}
