//! Where in the guest the root file system of a container is, and its mounts from the host.
//!
//! Paths from the host are below the shared folder, and stay there: links are not followed.

use crate::{
    error::{Doing, Error},
    ports::uevents,
};
use nix::{
    fcntl::{AT_FDCWD, OFlag, OpenHow, ResolveFlag, openat2},
    mount::{MntFlags, MsFlags, mount, umount2},
    sys::statfs::statfs,
};
use std::{
    fs,
    os::fd::OwnedFd,
    path::{Component, Path, PathBuf},
    sync::{Mutex, PoisonError},
    time::Duration,
};
use tokio::sync::Semaphore;

/// The host's name for the shared folder.
const SHARE_TAG: &str = "hutch";
/// Where it is mounted.
pub const SHARE: &str = "/run/hutch/share";
/// Folders of containers: `c/<n>`.
const CONTAINERS: &str = "/run/hutch/c";
/// The host plugs a disk before it asks for the container; a loaded host takes a while.
const PLUG_LIMIT: Duration = Duration::from_secs(10);
/// As the virtio-blk device has it.
const SERIAL_MAX: usize = 20;
const PATH_MAX: usize = 4096;
/// The kernel believes for a second (virtiofs, cache=auto) what it was told of a folder, and asks again after that.
const LOOK_EVERY: Duration = Duration::from_millis(1_100);
static LOOKING: Semaphore = Semaphore::const_new(1);
/// A host that takes longer has trouble of its own.
const LOOKS_MAX: u32 = 60;
const FUSE_MAGIC: i64 = 0x6573_5546;

/// Where the host has the root file system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// Below the shared folder.
    Share(PathBuf),
    Block(Block),
    /// A guest path, of a stock host.
    Guest(PathBuf),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Block {
    pub serial: String,
    pub kind: BlockKind,
    pub access: Access,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BlockKind {
    Ext4,
    Erofs,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    ReadWrite,
    ReadOnly,
}

/// A root file system in its place. Dropping it takes away what was mounted for it.
#[derive(Debug)]
pub struct Rootfs {
    pub path: PathBuf,
    /// Folder in `CONTAINERS` with a mount of ours on `path`.
    folder: Option<PathBuf>,
}

/// Mounts the shared folder, if that was not done.
///
/// # Errors
/// The host exports none.
pub fn mount_share() -> Result<(), Error> {
    static MOUNTED: Mutex<bool> = Mutex::new(false);
    // One look and mount at a time, or it would be mounted twice; and a look asks the host.
    let mut mounted = MOUNTED.lock().unwrap_or_else(PoisonError::into_inner);
    if *mounted || statfs(SHARE).is_ok_and(|fs| fs.filesystem_type().0 == FUSE_MAGIC) {
        *mounted = true;
        return Ok(());
    }
    fs::create_dir_all(SHARE).doing(|| format!("make {SHARE}"))?;
    mount(
        Some(SHARE_TAG),
        SHARE,
        Some("virtiofs"),
        MsFlags::empty(),
        None::<&str>,
    )
    .doing(|| format!("mount the share {SHARE_TAG:?} on {SHARE}"))?;
    *mounted = true;
    Ok(())
}

/// The guest path of something in the shared folder, which must be mounted.
///
/// # Errors
/// It is not there, or not below the shared folder.
pub fn in_share(path: &Path) -> Result<PathBuf, Error> {
    below(Path::new(SHARE), path)
}

/// Looks at a folder of the share until the host has taken it away. The kernel keeps what it knows of a folder until it
/// looks and finds nothing, and so long the host keeps open, and its file system busy, what we looked at in it.
pub async fn look_until_gone(folder: PathBuf) {
    for _ in 0..LOOKS_MAX {
        tokio::time::sleep(LOOK_EVERY).await;
        // One at a time: where the host answers no question, the engine needs the other threads.
        let Ok(_turn) = LOOKING.acquire().await else {
            return;
        };
        let place = Path::new(SHARE).join(&folder);
        let look = tokio::task::spawn_blocking(move || fs::symlink_metadata(place));
        if !matches!(look.await, Ok(Ok(_))) {
            return;
        }
    }
}

fn below(root: &Path, path: &Path) -> Result<PathBuf, Error> {
    let step = || format!("find {path:?} in the share");
    let plain = path
        .components()
        .all(|part| matches!(part, Component::Normal(_)));
    if !plain || path.as_os_str().is_empty() || path.as_os_str().len() > PATH_MAX {
        return Err(Error::Invalid {
            what: step(),
            why: "is not a plain path below it",
        });
    }
    let open = |from: &OwnedFd, path: &Path| {
        let how = OpenHow::new()
            .flags(OFlag::O_PATH | OFlag::O_CLOEXEC)
            .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS);
        openat2(from, path, how)
    };
    let how = OpenHow::new().flags(OFlag::O_PATH | OFlag::O_CLOEXEC | OFlag::O_DIRECTORY);
    let root_fd = openat2(AT_FDCWD, root, how).doing(step)?;
    open(&root_fd, path).doing(step)?;
    Ok(root.join(path))
}

/// The disk with that serial number, waiting for it to be plugged in.
///
/// # Errors
/// No such disk in time.
pub async fn disk(serial: &str) -> Result<PathBuf, Error> {
    let known = !serial.is_empty()
        && serial.len() <= SERIAL_MAX
        && serial.bytes().all(|byte| byte.is_ascii_graphic());
    if !known {
        return Err(Error::Invalid {
            what: format!("disk {:?}", serial.chars().take(32).collect::<String>()),
            why: "is not a serial number",
        });
    }
    let find = || find_disk(Path::new("/sys/block"), serial);
    uevents::until(&format!("disk {serial:?}"), PLUG_LIMIT, find).await
}

fn find_disk(block: &Path, serial: &str) -> Option<PathBuf> {
    for entry in fs::read_dir(block).ok()?.flatten() {
        let named = fs::read_to_string(entry.path().join("serial"));
        if named.is_ok_and(|named| named.trim_end() == serial) {
            return Some(Path::new("/dev").join(entry.file_name()));
        }
    }
    None
}

impl Rootfs {
    /// A root file system that is in its place already.
    pub fn at(path: PathBuf) -> Self {
        Self { path, folder: None }
    }

    /// Mounts a disk for container number `n`.
    ///
    /// # Errors
    /// The disk holds no such file system.
    pub fn mount_disk(
        n: u64,
        device: &Path,
        kind: BlockKind,
        access: Access,
    ) -> Result<Self, Error> {
        let folder = PathBuf::from(format!("{CONTAINERS}/{n}"));
        let path = folder.join("rootfs");
        let step = || format!("make {}", path.display());
        fs::create_dir_all(&path).doing(step)?;
        let kind = match kind {
            BlockKind::Ext4 => "ext4",
            BlockKind::Erofs => "erofs",
        };
        let flags = match access {
            Access::ReadWrite => MsFlags::empty(),
            Access::ReadOnly => MsFlags::MS_RDONLY,
        };
        let mounted = mount(Some(device), &path, Some(kind), flags, None::<&str>);
        let rootfs = Self {
            path: path.clone(),
            folder: mounted.is_ok().then(|| folder.clone()),
        };
        if mounted.is_err() {
            remove_folder(&folder);
        }
        mounted.doing(|| format!("mount {kind} of {} on {}", device.display(), path.display()))?;
        Ok(rootfs)
    }
}

impl Drop for Rootfs {
    fn drop(&mut self) {
        if let Some(folder) = &self.folder {
            // Lazily: whoever still looks in must not keep the disk from being unplugged later.
            if let Err(error) = umount2(&self.path, MntFlags::MNT_DETACH) {
                crate::error!("unmount {}: {error}", self.path.display());
            }
            remove_folder(folder);
        }
    }
}

fn remove_folder(folder: &Path) {
    // What is left of it is in memory only, and empty.
    let _ = fs::remove_dir(folder.join("rootfs"));
    let _ = fs::remove_dir(folder);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn a_path_in_the_share_is_found() {
        let share = tempfile::tempdir().unwrap();
        fs::create_dir_all(share.path().join("c/1/rootfs")).unwrap();

        let found = below(share.path(), Path::new("c/1/rootfs")).unwrap();

        assert_eq!(found, share.path().join("c/1/rootfs"));
    }

    #[test]
    fn a_path_out_of_the_share_is_refused() {
        let share = tempfile::tempdir().unwrap();
        symlink("/etc", share.path().join("out")).unwrap();
        symlink("..", share.path().join("up")).unwrap();
        for path in [
            "",
            "/",
            "/etc",
            "..",
            "../x",
            "out",
            "out/passwd",
            "up/x",
            "none",
        ] {
            assert!(below(share.path(), Path::new(path)).is_err(), "{path:?}");
        }
        let long = "a/".repeat(PATH_MAX);
        assert!(below(share.path(), Path::new(&long)).is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn a_disk_is_found_by_its_whole_serial_number() {
        let block = tempfile::tempdir().unwrap();
        for (name, serial) in [("vda", "root-1"), ("vdb", "root-10")] {
            fs::create_dir(block.path().join(name)).unwrap();
            fs::write(block.path().join(name).join("serial"), serial).unwrap();
        }
        fs::create_dir(block.path().join("loop0")).unwrap();

        let found = find_disk(block.path(), "root-10");

        assert_eq!(found, Some(PathBuf::from("/dev/vdb")));
        assert_eq!(find_disk(block.path(), "root"), None);
        for bad in ["", "a b", &"x".repeat(SERIAL_MAX + 1)] {
            assert!(disk(bad).await.is_err());
        }
    }
}
