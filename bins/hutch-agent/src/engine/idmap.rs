//! Bind mounts whose ids are mapped: made here and not by the process that mounts them, since only
//! who rules over a file system may map its ids, and a container with ids of its own does not.

use super::{
    error::{Doing, Error, Result},
    plan::{MappedIds, MountStep, MountWhat, Plan},
    spawn::{self, Birth, Place},
    sys::{self, MountAttr},
};
use rustix::{
    fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    fs::{CWD, Mode, OFlags, openat},
    io::Errno,
    mount::{OpenTreeFlags, open_tree},
};
use std::time::Duration;

/// Each is a descriptor that goes with the plan.
pub const TREES_MAX: usize = 16;

/// The trees of these mounts that have mapped ids, each with the index of its mount.
///
/// # Errors
/// When there are too many, or a file system cannot have mapped ids.
pub fn trees(spawner: BorrowedFd<'_>, mounts: &[MountStep]) -> Result<Vec<(usize, OwnedFd)>> {
    let mut known: Vec<(&MappedIds, OwnedFd)> = Vec::new();
    let mut trees = Vec::new();
    for step in mounts {
        let MountWhat::Bind {
            source,
            recursive,
            mapped: Some(ids),
            ..
        } = &step.what
        else {
            continue;
        };
        let about = || format!("mount {} on {:?}", step.index, step.destination);
        if trees.len() == TREES_MAX {
            return Err(Error::Invalid {
                what: about(),
                why: format!("more than {TREES_MAX} mounts have mapped ids"),
            });
        }
        if !known.iter().any(|(other, _)| same(other, ids)) {
            known.push((ids, user_namespace(spawner, ids)?));
        }
        let found = known.iter().find(|(other, _)| same(other, ids));
        let (_, namespace) = found.expect("it was made above");
        let mut how = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        if *recursive {
            how |= OpenTreeFlags::AT_RECURSIVE;
        }
        let tree = open_tree(CWD, source.as_str(), how)
            .doing(|| format!("{}: open source {source:?}", about()))?;
        map(&tree, namespace, ids.recursive, about)?;
        trees.push((step.index, tree));
    }
    Ok(trees)
}

fn same(one: &MappedIds, other: &MappedIds) -> bool {
    (&one.uids, &one.gids) == (&other.uids, &other.gids)
}

fn map(
    tree: &OwnedFd,
    namespace: &OwnedFd,
    recursive: bool,
    about: impl Fn() -> String,
) -> Result<()> {
    let attr = MountAttr {
        set: libc::MOUNT_ATTR_IDMAP,
        userns_fd: namespace.as_raw_fd() as u64,
        ..MountAttr::default()
    };
    let below = if recursive { libc::AT_RECURSIVE } else { 0 };
    match sys::mount_setattr(tree.as_fd(), c"", libc::AT_EMPTY_PATH | below, attr) {
        Err(Errno::INVAL) => Err(Error::Invalid {
            what: about(),
            why: "the file system of its source cannot have mapped ids".to_owned(),
        }),
        mapped => mapped.doing(|| format!("{}: map ids", about())),
    }
}

/// One with these ids, kept alive by the descriptor: whoever was born into it is gone.
fn user_namespace(spawner: BorrowedFd<'_>, ids: &MappedIds) -> Result<OwnedFd> {
    let birth = Birth {
        namespaces: libc::CLONE_NEWUSER as u64,
        time_offsets: None,
        pid_namespace_of: None,
        place: Place::Agents,
        id_maps: Some(&(ids.uids.clone(), ids.gids.clone())),
        hooks_limit: Duration::ZERO,
    };
    let (held, _gate) = spawn::spawn(spawner, &birth, &Plan::Hold, &[])?;
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let path = format!("/proc/{}/ns/user", held.pid);
    openat(CWD, path, flags, Mode::empty()).doing(|| "open a user namespace".to_owned())
}
