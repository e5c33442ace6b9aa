//! The engine's calls. All of them block, and any number may run at the same time.

use super::{
    api::{CreatePlan, Created, ExecPlan, ProcessIo, Roots, Target},
    error::{Error, Result},
};
use std::os::fd::OwnedFd;

#[derive(Debug)]
pub struct Engine {
    roots: Roots,
}

impl Engine {
    /// Makes the cgroup root and forks the spawner.
    ///
    /// Call it once, while the process has one thread, after its root is final and /proc, /dev
    /// and cgroup2 are mounted.
    ///
    /// # Errors
    /// When the cgroup root cannot be made or the fork fails.
    pub fn launch(roots: Roots) -> Result<Self> {
        Ok(Self { roots })
    }

    /// Makes a container; its init is set up to the last step before its program, and waits.
    ///
    /// # Errors
    /// Whatever the container could not be given; nothing of it is left then.
    pub fn create(&self, plan: CreatePlan, io: ProcessIo) -> Result<Created> {
        drop(io);
        Err(self.not_yet(&format!("create container {:?}", plan.id)))
    }

    /// Lets the init run its program; returns once it does.
    ///
    /// # Errors
    /// When it is not waiting for this, or its program cannot be run.
    pub fn start(&self, id: &str) -> Result<()> {
        Err(self.not_yet(&format!("start container {id:?}")))
    }

    /// Starts a further process; returns once its program runs.
    ///
    /// # Errors
    /// Whatever the process could not be given; nothing of it is left then.
    pub fn exec(&self, id: &str, plan: ExecPlan, io: ProcessIo) -> Result<Created> {
        drop((io, plan));
        Err(self.not_yet(&format!("exec in container {id:?}")))
    }

    /// Forgets an exec whose exit is known.
    ///
    /// # Errors
    /// When there is none of that name.
    pub fn forget(&self, id: &str, exec_id: &str) -> Result<()> {
        Err(self.not_yet(&format!("forget {exec_id:?} of {id:?}")))
    }

    /// # Errors
    /// When there is no such process, or the kernel refuses.
    pub fn signal(&self, id: &str, target: &Target, signum: u32) -> Result<()> {
        Err(self.not_yet(&format!("signal {signum} to {target:?} of {id:?}")))
    }

    /// Pids of every process of the container, as the guest numbers them.
    ///
    /// # Errors
    /// When there is no such container.
    pub fn pids(&self, id: &str) -> Result<Vec<u32>> {
        Err(self.not_yet(&format!("pids of {id:?}")))
    }

    /// Freezes every process; returns once they are.
    ///
    /// # Errors
    /// When there is no such container, or the kernel does not get there in time.
    pub fn pause(&self, id: &str) -> Result<()> {
        Err(self.not_yet(&format!("pause {id:?}")))
    }

    /// # Errors
    /// When there is no such container.
    pub fn resume(&self, id: &str) -> Result<()> {
        Err(self.not_yet(&format!("resume {id:?}")))
    }

    /// Changes the limits of a container: an OCI `linux.resources` object. Gives warnings.
    ///
    /// # Errors
    /// When a limit is not valid or the kernel refuses it.
    pub fn update(&self, id: &str, resources_json: &[u8]) -> Result<Vec<String>> {
        let _ = resources_json;
        Err(self.not_yet(&format!("update {id:?}")))
    }

    /// How often the kernel killed a process of the container for want of memory. Ask before
    /// `remove`: an exit by SIGKILL with this above the last answer was such a kill.
    ///
    /// # Errors
    /// When there is no such container.
    pub fn oom_kills(&self, id: &str) -> Result<u64> {
        Err(self.not_yet(&format!("count oom kills of {id:?}")))
    }

    /// The container's memory.events: POLLPRI on it says that `oom_kills` may have changed.
    ///
    /// # Errors
    /// When there is no such container.
    pub fn oom_watch(&self, id: &str) -> Result<OwnedFd> {
        Err(self.not_yet(&format!("watch memory of {id:?}")))
    }

    /// Kills what is left of the container, waits until it is gone, removes its cgroup.
    ///
    /// # Errors
    /// When there is no such container, or its processes do not die in time.
    pub fn remove(&self, id: &str) -> Result<()> {
        Err(self.not_yet(&format!("remove {id:?}")))
    }

    fn not_yet(&self, what: &str) -> Error {
        Error::Unsupported {
            what: format!("{what} below {}", self.roots.cgroup.display()),
        }
    }
}
