//! The backend of a hybrid vsock: a program of others beside QEMU that carries the channel between
//! a unix socket of the host and the guest's vsock device.
//!
//! It listens before its VMM starts, lives in a cgroup that was recorded before, and is found there
//! again by the socket on its command line. It would outlive its VMM, and listen for another: so
//! whoever sees the VMM's end ends it. A VMM that loses it runs on without a channel, and is ended.

use crate::{
    console,
    error::Error,
    layout::Layout,
    port::LaunchPlan,
    process::Held,
    qemu::{blocking, command_line::text, member, spawn},
};
use runtime_core::{hypervisor::ChannelKind, ids::HostProcess, kit::Work};
use std::{path::Path, rc::Rc, time::Duration};
use tokio::time::{Instant, timeout};

/// It listens within milliseconds; a host that is starting a hundred VMs is slower.
const LISTEN_LIMIT: Duration = Duration::from_secs(20);
/// A socket that comes to be tells nobody.
const LISTEN_STEP: Duration = Duration::from_millis(1);

/// It holds the guest's memory mapped, which is given back by then.
const KILL_LIMIT: Duration = Duration::from_secs(10);

/// What carries a VM's channel beside its VMM. Clones share it.
#[derive(Debug, Clone)]
pub enum Carrier {
    /// Nothing: the VMM or the host's kernel does.
    Nobody,
    Backend(Rc<Held>),
    /// It should be there, and is not.
    Gone,
}

impl Carrier {
    /// Starts what the plan's channel needs. Answers when a VMM can connect to it.
    ///
    /// # Errors
    /// It does not start, or does not listen; nothing of it is left.
    pub async fn start(plan: &LaunchPlan, binary: &Path) -> Result<Self, Error> {
        let ChannelKind::HybridVsock { cid, .. } = plan.spec.channel else {
            return Ok(Self::Nobody);
        };
        let layout = Layout::of(&plan.spec);
        let (of, with) = (plan.clone(), binary.to_owned());
        let pid = blocking(move || spawn::backend(&of, &with, cid)).await?;
        let held = Held::child(pid).map_err(|source| Error::Watch {
            process: HostProcess { pid, start_time: 0 },
            source,
        })?;
        let carrier = Self::Backend(Rc::new(held));
        match carrier.listens(&layout).await {
            Ok(()) => Ok(carrier),
            Err(why) => {
                carrier.end(&layout).await;
                Err(why)
            }
        }
    }

    /// What a daemon before this one started for this plan.
    ///
    /// # Errors
    /// /proc or the cgroup cannot be read.
    pub async fn find(plan: &LaunchPlan) -> Result<Self, Error> {
        let ChannelKind::HybridVsock { backend, .. } = &plan.spec.channel else {
            return Ok(Self::Nobody);
        };
        let found = member(backend, &name(plan)?).await?;
        Ok(found.map_or(Self::Gone, |held| Self::Backend(Rc::new(held))))
    }

    /// Answers when the channel is carried no more; never where that is nobody's task.
    pub fn lost(&self) -> Work<()> {
        let this = self.clone();
        Box::pin(async move {
            match this {
                Self::Nobody => std::future::pending().await,
                // A watch that fails has lost the reactor: the daemon is going down.
                Self::Backend(held) => drop(held.ended().await),
                Self::Gone => {}
            }
        })
    }

    /// Ends it, and takes its sockets away. Answers when it is gone.
    pub async fn end(&self, layout: &Layout) {
        let Self::Backend(held) = self else { return };
        let killed = held.kill();
        let gone = timeout(KILL_LIMIT, held.ended()).await;
        held.reap();
        if killed.is_err() || gone.is_err() {
            // Its cgroup is cleared with its sandbox.
            let process = held.process();
            tracing::warn!(%process, "a vsock backend survives its vmm");
        }
        spawn::forget(&[layout.vsock_backend(), layout.vsock()]);
    }

    async fn listens(&self, layout: &Layout) -> Result<(), Error> {
        let (socket, begun) = (layout.vsock_backend(), Instant::now());
        let mut lost = self.lost();
        while begun.elapsed() < LISTEN_LIMIT {
            if socket.exists() {
                return Ok(());
            }
            if timeout(LISTEN_STEP, &mut lost).await.is_ok() {
                let words = last_words(layout).await;
                return Err(Error::BackendEnded { words });
            }
        }
        Err(Error::BackendSilent {
            limit: LISTEN_LIMIT,
            words: last_words(layout).await,
        })
    }
}

/// The argument by which a backend is recognised among the members of its cgroup.
fn name(plan: &LaunchPlan) -> Result<String, Error> {
    let socket = Layout::of(&plan.spec).vsock_backend();
    text(&socket).map(str::to_owned).map_err(Error::Spec)
}

async fn last_words(layout: &Layout) -> String {
    let log = layout.vsock_log();
    let read = tokio::task::spawn_blocking(move || console::tail(&log));
    // The daemon is going down where this fails.
    read.await.unwrap_or_default()
}
