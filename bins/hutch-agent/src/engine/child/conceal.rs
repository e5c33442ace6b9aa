//! Paths of the container that it may not read, or not write. Called with the root in place.

use super::failure::{Doing, Outcome};
use crate::engine::{
    plan::Failure,
    sys::{self, MountAttr},
};
use rustix::{
    fd::{AsFd, OwnedFd},
    fs::{CWD, FileType, major, makedev, minor, stat},
    io::Errno,
    mount::{
        MountFlags, MoveMountFlags, OpenTreeFlags, mount, mount_bind, mount_bind_recursive,
        move_mount, open_tree,
    },
};
use std::ffi::CString;

const NULL: (u32, u32) = (1, 3);

/// # Errors
/// The first path that cannot be covered; one that is not there needs no cover.
pub fn mask(paths: &[String]) -> Outcome<()> {
    if paths.is_empty() {
        return Ok(());
    }
    check_null()?;
    // One empty folder serves all: each further one is a clone of the first mount.
    let mut empty: Option<OwnedFd> = None;
    for path in paths {
        match mount_bind(c"/dev/null", path.as_str()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(Errno::NOTDIR) => {
                let step = || format!("mask {path:?}");
                empty = Some(cover(path, empty.take()).doing(step)?);
            }
            Err(errno) => return Err(errno).doing(|| format!("mask {path:?}")),
        }
    }
    Ok(())
}

/// An image may bring a /dev/null of its own: what hides a file must be the real one.
fn check_null() -> Outcome<()> {
    let found = stat(c"/dev/null").doing(|| "mask paths: look at /dev/null".to_owned())?;
    let is_null = FileType::from_raw_mode(found.st_mode).is_char_device()
        && found.st_rdev == makedev(NULL.0, NULL.1);
    if is_null {
        return Ok(());
    }
    Err(Failure::Invalid {
        what: "mask paths".to_owned(),
        why: format!(
            "the container's /dev/null is another file (device {}:{})",
            major(found.st_rdev),
            minor(found.st_rdev)
        ),
    })
}

/// Covers a folder with an empty one, and gives a further, detached one.
fn cover(path: &str, spare: Option<OwnedFd>) -> Result<OwnedFd, Errno> {
    match spare {
        Some(spare) => {
            move_mount(
                spare.as_fd(),
                c"",
                CWD,
                path,
                MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH,
            )?;
        }
        None => mount(
            c"tmpfs",
            path,
            c"tmpfs",
            MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC,
            c"nr_blocks=1,nr_inodes=1",
        )?,
    }
    open_tree(
        CWD,
        path,
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC,
    )
}

/// # Errors
/// The first path that cannot be made read-only; one that is not there needs nothing.
pub fn make_readonly(paths: &[String]) -> Outcome<()> {
    let attr = MountAttr {
        set: libc::MOUNT_ATTR_RDONLY,
        ..MountAttr::default()
    };
    for path in paths {
        let step = || format!("make {path:?} read-only");
        match mount_bind_recursive(path.as_str(), path.as_str()) {
            Ok(()) => {
                let name = CString::new(path.as_str())
                    .map_err(|_| Errno::INVAL)
                    .doing(step)?;
                sys::mount_setattr(CWD, &name, libc::AT_RECURSIVE, attr).doing(step)?;
            }
            Err(Errno::NOENT) => {}
            Err(errno) => return Err(errno).doing(step),
        }
    }
    Ok(())
}
