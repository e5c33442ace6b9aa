//! A daemon that a command started: it leaves the session and the cgroup of whoever that was, so
//! that a ctrl-C there, or the end of that cgroup, is not its own.
//!
//! Its cgroup is named after its state folder, so that the next daemon of a killed one finds it
//! again. It carries no mark of a sandbox: no sweep looks at it.

use anyhow::{Context as _, Result};
use host::cgroup::{CgroupPath, Hierarchies, REMOVE_LIMIT};
use std::{fs, os::unix::fs::MetadataExt as _, path::Path};

/// The cgroup that this process is in until it ends.
#[derive(Debug)]
pub struct Apart {
    hierarchies: Hierarchies,
    cgroup: CgroupPath,
}

impl Apart {
    /// # Errors
    /// There is no hierarchy, or no cgroup can be made in it.
    pub fn from_caller(root: &Path) -> Result<Self> {
        // Who leads a session already needs no other.
        let _ = nix::unistd::setsid();
        let folder = fs::metadata(root).with_context(|| format!("look at {}", root.display()))?;
        let name = format!("/hutch/daemon-{:x}-{:x}", folder.dev(), folder.ino());
        let apart = Self {
            hierarchies: Hierarchies::discover()?,
            cgroup: CgroupPath::new(&name)?,
        };
        apart.hierarchies.create(&apart.cgroup)?;
        apart.hierarchies.enter(&apart.cgroup)?;
        Ok(apart)
    }

    /// Leaves nothing behind: whoever is in a cgroup cannot remove it.
    ///
    /// # Errors
    /// Something else is in it.
    pub fn end(self) -> Result<()> {
        self.hierarchies.leave()?;
        self.hierarchies.remove(&self.cgroup, REMOVE_LIMIT)?;
        Ok(())
    }
}
