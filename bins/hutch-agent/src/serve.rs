//! Puts the parts together on one thread and serves until the sandbox is to end.

use crate::{
    agent::Agent,
    channel::{self, Way},
    cmdline::{Options, Share},
    engine::{Engine, Roots, SchedAttr, set_scheduler},
    error::{Doing, Error},
    guest::clock,
    ports::Reactor,
    reaper::{self, Ends},
    rootfs, service,
};
use std::{io, sync::Arc, time::Duration};
use tokio::{runtime::Builder, select, task::JoinHandle, time::timeout};
use ttrpc::r#async::Server;

/// The groups of containers are below.
const CGROUPS: &str = "/sys/fs/cgroup/hutch";
/// Init mounts it, and nothing can be written there.
const SYSFS: &str = "/run/sysfs";
/// Calls of the engine that block at the same time; more wait in line.
const BLOCKING_MAX: usize = 16;
/// The engine parses and plans on these threads; nothing of it is deep.
const BLOCKING_STACK: usize = 512 * 1024;
/// From linux/sched.h: threads and children begin as others do.
const SCHED_FLAG_RESET_ON_FORK: u64 = 1;
/// A host that listens takes an answer at once.
const LEAVE_LIMIT: Duration = Duration::from_secs(1);

/// Serves the host; returns when it asked for the end. `entered` is when init began.
///
/// # Errors
/// The guest cannot serve, or no longer.
pub fn run(options: Options, entered: Duration) -> Result<(), Error> {
    let cgroup = CGROUPS.into();
    // Before there is a thread: it forks.
    let sysfs = SYSFS.into();
    let engine = Engine::launch(Roots { cgroup, sysfs }).map_err(|source| Error::Engine {
        what: "start the container engine".to_owned(),
        source,
    })?;
    // After the spawner was forked: whom it forks is as any process is.
    if let Err(error) = come_first().doing(|| "take precedence over containers".to_owned()) {
        crate::error!("{}", error.chain());
    }
    let ends = Ends::listen().doing(|| "hear of children".to_owned())?;
    let runtime = Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(BLOCKING_MAX)
        .on_thread_start(come_last)
        .thread_stack_size(BLOCKING_STACK)
        .build()
        .doing(|| "start the runtime".to_owned())?;
    runtime.block_on(serve(options, engine, ends, entered))
}

/// Whoever asks for something is answered before the containers go on: without this a kill is answered
/// after what it killed has given up its memory. For this thread alone; those it makes do the work that takes
/// long. The kernel leaves a twentieth of the time to the others (sched_rt_runtime_us of sched(7)).
fn come_first() -> io::Result<()> {
    let first = SchedAttr {
        policy: libc::SCHED_FIFO.cast_unsigned(),
        priority: 1,
        flags: SCHED_FLAG_RESET_ON_FORK,
        ..SchedAttr::default()
    };
    Ok(set_scheduler(first)?)
}

/// Threads that parse and make containers take nobody's turn when they wake up, least of all that of the process that they
/// have just set up (SCHED_BATCH of sched(7)).
fn come_last() {
    let last = SchedAttr {
        policy: libc::SCHED_BATCH.cast_unsigned(),
        ..SchedAttr::default()
    };
    if let Err(error) = set_scheduler(last).doing(|| "let others go first".to_owned()) {
        crate::error!("{}", error.chain());
    }
}

async fn serve(
    options: Options,
    engine: Engine,
    ends: Ends,
    entered: Duration,
) -> Result<(), Error> {
    let reactor = Reactor::start().doing(|| "wait for ports".to_owned())?;
    let Way {
        listener,
        mut carrier,
    } = channel::open(options, &reactor).await?;
    let agent = Arc::new(Agent::new(engine, reactor, options));
    let reaped = agent.clone();
    let reaping = reaper::reap(ends, move |pid, ended| reaped.reaped(pid, ended));
    let mut server = Server::new().add_listener(listener);
    for service in service::all(&agent) {
        server = server.register_service(service);
    }
    server
        .start()
        .await
        .map_err(io::Error::other)
        .doing(|| "serve the host".to_owned())?;
    say_ready(entered);
    let early = agent.clone();
    tokio::task::spawn_blocking(move || do_early(&early, options.share));
    select! {
        biased;
        () = agent.ended() => {}
        reaped = reaping => return reaped,
        lost = &mut carrier => {
            let lost = lost.map_err(io::Error::other).flatten();
            return lost.doing(|| "the way to the host is lost".to_owned());
        }
    }
    leave(server, carrier).await;
    Ok(())
}

/// The console's one line of a guest in which all is well: that it is up, and how long that took.
/// Kernel notes do not reach a quiet console, and this is no error.
fn say_ready(entered: Duration) {
    let version = env!("CARGO_PKG_VERSION");
    let (ready, entered) = (clock::since_boot().as_millis(), entered.as_millis());
    eprintln!("hutch-agent {version}: ready {ready} ms after boot, init at {entered} ms");
}

/// Before anyone waits for it. A container tries again, and tells of the error.
fn do_early(agent: &Agent, share: Share) {
    let shared = match share {
        Share::AtStart => rootfs::mount_share(),
        Share::OnRequest => Ok(()),
    };
    for done in [shared, agent.loopback.ensure_up()] {
        if let Err(error) = done {
            crate::error!("{}", error.chain());
        }
    }
    agent.make_ready();
}

/// Lets the answer to the call that asked for the end reach the host; not for ever, since a
/// host that is away cannot be told.
async fn leave(mut server: Server, carrier: JoinHandle<io::Result<()>>) {
    let told = timeout(LEAVE_LIMIT, async {
        let stopped = server.shutdown().await;
        drop(server);
        stopped.is_ok() && matches!(carrier.await, Ok(Ok(())))
    });
    if !matches!(told.await, Ok(true)) {
        crate::note!("the host did not take the last answer");
    }
}
