//! A file system in memory.

use anyhow::{Context, Result};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use std::{
    fs,
    path::{Path, PathBuf},
};

/// Unmounted when it is dropped. The folder below it stays.
pub struct Tmpfs {
    place: PathBuf,
}

impl Tmpfs {
    /// Mounts one on a folder that it makes.
    pub fn mount(place: PathBuf) -> Result<Self> {
        let kind = Some("tmpfs");
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
        fs::create_dir(&place).with_context(|| format!("create {}", place.display()))?;
        mount(kind, &place, kind, flags, Some("mode=700"))
            .with_context(|| format!("mount a tmpfs on {}", place.display()))?;
        Ok(Self { place })
    }

    pub fn path(&self) -> &Path {
        &self.place
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        // It goes with our mount namespace at the latest.
        let _ = umount2(&self.place, MntFlags::MNT_DETACH);
    }
}
