//! The host below the fake: where its processes are, for a world that joins several fakes.

use crate::port::LaunchPlan;
use runtime_core::{
    ids::{HostProcess, SandboxUid},
    premises::Cgroup,
};
use std::{cell::Cell, io};

/// The host below the fake, in a world that joins several of them: where VMM processes are.
pub trait Ground {
    /// # Errors
    /// There is no such cgroup.
    fn spawn(&self, plan: &LaunchPlan) -> io::Result<HostProcess>;

    /// Starts what carries a channel.
    ///
    /// # Errors
    /// There is no such cgroup.
    fn spawn_backend(&self, cgroup: &Cgroup) -> io::Result<HostProcess>;

    /// The VMM of a sandbox has ended, however it did.
    fn ended(&self, uid: SandboxUid, process: HostProcess);

    /// The guest stands still from now on.
    fn paused(&self, uid: SandboxUid);

    fn resumed(&self, uid: SandboxUid);

    /// What carried a channel has ended, however it did.
    fn backend_ended(&self, uid: SandboxUid, process: HostProcess);
}

/// A ground of the fake's own: every cgroup exists, and nobody asks.
#[derive(Default)]
pub struct OwnGround {
    pids_issued: Cell<u32>,
}

impl OwnGround {
    fn begin(&self) -> HostProcess {
        let pid = self.pids_issued.get() + 1;
        self.pids_issued.set(pid);
        HostProcess {
            pid,
            start_time: u64::from(pid) * 10,
        }
    }
}

impl Ground for OwnGround {
    fn spawn(&self, _: &LaunchPlan) -> io::Result<HostProcess> {
        Ok(self.begin())
    }

    fn spawn_backend(&self, _: &Cgroup) -> io::Result<HostProcess> {
        Ok(self.begin())
    }

    fn ended(&self, _: SandboxUid, _: HostProcess) {}

    fn paused(&self, _: SandboxUid) {}

    fn resumed(&self, _: SandboxUid) {}

    fn backend_ended(&self, _: SandboxUid, _: HostProcess) {}
}
