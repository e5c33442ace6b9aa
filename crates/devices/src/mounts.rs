//! The shared folder of a sandbox and what is mounted below it.
//!
//! ```text
//!   tree/            the host writes here: mount points, <container>/rootfs, <container>/m<index>
//!   share/           a mount that no bind takes along, and on it
//!   share/           tree/ once more, read-only, a shared mount: what virtiofsd exports
//!   share/3/rootfs   a bind mount; it reaches virtiofsd's own namespace by propagation
//! ```
//!
//! Paths below a bind mount belong to the guest and are never walked here. A bind is cloned,
//! made private and read-only as asked, and only then attached: it is never seen half made.

use crate::{
    error::Error,
    follow::{self, Follow},
    plan,
    steps::{Access, Bind, Depth, Shape},
};
use rustix::{
    fs::{
        AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags, StatVfsMountFlags, StatxAttributes,
        StatxFlags, fstat, openat2, statvfs, statx,
    },
    io::Errno,
    mount::{
        MountPropagationFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags, mount_change,
        move_mount, open_tree, unmount,
    },
};
use std::{
    fs, io,
    os::fd::{AsFd, AsRawFd, OwnedFd},
    path::{Path, PathBuf},
};

/// A mount point can be covered more than once only by somebody else's doing.
const LAYERS_MAX: usize = 8;

/// What virtiofsd exports: read-only but for what is mounted below it, so that a guest cannot
/// plant links where the host walks.
pub fn share(folder: &Path) -> PathBuf {
    folder.join("share")
}

/// The same folder as the host writes to it.
pub fn tree(folder: &Path) -> PathBuf {
    folder.join("tree")
}

fn failed(step: &'static str, path: impl Into<PathBuf>, source: impl Into<io::Error>) -> Error {
    Error::path(step, path)(source.into())
}

/// Makes `share/` a mount of its own: a read-only view of `tree/` that passes on what is later
/// mounted below it.
///
/// It stands on a mount that is unbindable (mount_namespaces(7)), which recursive binds leave out with all that is
/// mounted on it: a container of ours or of anybody that is given the host's root would else hold a copy of each bind
/// of every sandbox, and what is a mount point cannot be removed.
pub fn make_share(folder: &Path) -> Result<(), Error> {
    let (tree, share) = (tree(folder), share(folder));
    make_directory(&tree)?;
    make_directory(&share)?;
    let source = hold(&tree)?;
    let failed = |source| failed("set up mount of", &share, source);
    match Standing::of(&share)? {
        Standing::Whole => return Ok(()),
        Standing::Ground => {}
        Standing::Nothing => {
            let ground = clone_mount(&source, Depth::Top, &tree)?;
            // Private first: the folder's own mount may be shared, and a bind must not appear there too.
            set_attributes(&ground, Change::Private).map_err(failed)?;
            attach(&ground, &share)?;
        }
    }
    // In its place: the kernel takes no unbindable mount to below a shared one.
    mount_change(&share, MountPropagationFlags::UNBINDABLE).map_err(|why| failed(why.into()))?;
    let clone = clone_mount(&source, Depth::Top, &tree)?;
    [Change::Private, Change::Shared, Change::ReadOnly]
        .into_iter()
        .try_for_each(|change| set_attributes(&clone, change))
        .map_err(failed)?;
    attach(&clone, &share)
}

/// How far a share has come.
enum Standing {
    Nothing,
    /// What the view is to stand on.
    Ground,
    Whole,
}

impl Standing {
    /// The view is read-only, the ground is not.
    fn of(share: &Path) -> Result<Self, Error> {
        if !is_mounted(share)? {
            return Ok(Self::Nothing);
        }
        let found = statvfs(share).map_err(|error| failed("look at", share, error))?;
        Ok(match found.f_flag.contains(StatVfsMountFlags::RDONLY) {
            true => Self::Whole,
            false => Self::Ground,
        })
    }
}

/// Takes `share/` away with whatever is still mounted below it, then `tree/`.
pub fn unmake_share(folder: &Path) -> Result<(), Error> {
    let share = share(folder);
    take_off(&share)?;
    remove_directory(&share)?;
    let tree = tree(folder);
    for (_, container) in children(&tree)? {
        for (_, point) in children(&container)? {
            clear_place(&point)?;
        }
        remove_directory(&container)?;
    }
    remove_directory(&tree)
}

pub fn bind(bind: &Bind) -> Result<(), Error> {
    let below = tree(&bind.folder).join(&bind.place);
    let parent = below.parent().expect("a place has two parts");
    make_directory(parent)?;
    match bind.shape {
        Shape::Directory => make_directory(&below)?,
        Shape::File => make_file(&below)?,
        Shape::Copies => {
            make_directory(&below)?;
            return Follow::new(bind).look().map(|_| ());
        }
    }
    let target = share(&bind.folder).join(&bind.place);
    if is_mounted(&target)? {
        return Ok(());
    }
    let source = hold(&bind.source)?;
    check_shape(&source, bind)?;
    let clone = clone_mount(&source, bind.depth, &bind.source)?;
    let set = |change| {
        let done = set_attributes(&clone, change);
        done.map_err(|source| failed("set up mount of", &bind.source, source))
    };
    set(Change::Private)?;
    match bind.access {
        Access::ReadWrite => {}
        Access::ReadOnly => set(Change::ReadOnly)?,
    }
    attach(&clone, &target)
}

/// Plainly where nothing in the guest holds it, else lazily: it vanishes at once, and its file
/// system is free when the guest has forgotten it or virtiofsd has ended.
pub fn unbind(folder: &Path, place: &str) -> Result<(), Error> {
    take_off(&share(folder).join(place))?;
    let below = tree(folder).join(place);
    clear_place(&below)?;
    let parent = below.parent().expect("a place has two parts");
    match fs::remove_dir(parent) {
        Ok(()) => Ok(()),
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::DirectoryNotEmpty
            ) =>
        {
            Ok(())
        }
        Err(source) => Err(failed("remove", parent, source)),
    }
}

/// Names and paths in a folder of ours; none where there is no folder.
fn children(folder: &Path) -> Result<Vec<(String, PathBuf)>, Error> {
    let list = |source| failed("list", folder, source);
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(list(error)),
    };
    let mut children = Vec::new();
    for entry in entries {
        let entry = entry.map_err(list)?;
        // We name them, in ASCII.
        if let Ok(name) = entry.file_name().into_string() {
            children.push((name, entry.path()));
        }
    }
    children.sort();
    Ok(children)
}

/// Whether a mount begins here. Does not ask the file system, which may be dead.
fn is_mounted(path: &Path) -> Result<bool, Error> {
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT | AtFlags::STATX_DONT_SYNC;
    match statx(CWD, path, flags, StatxFlags::empty()) {
        Ok(found) => Ok(found.stx_attributes.contains(StatxAttributes::MOUNT_ROOT)),
        Err(Errno::NOENT | Errno::NOTDIR) => Ok(false),
        Err(error) => Err(failed("look at", path, error)),
    }
}

/// Opens what is there without following a single link.
fn hold(path: &Path) -> Result<OwnedFd, Error> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let resolve = ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    match openat2(CWD, path, flags, Mode::empty(), resolve) {
        Ok(held) => Ok(held),
        // It was resolved before; a link that is there now was put there since.
        Err(Errno::LOOP) => Err(Error::Changed { path: path.into() }),
        Err(error) => Err(failed("open", path, error)),
    }
}

fn check_shape(source: &OwnedFd, bind: &Bind) -> Result<(), Error> {
    let found = fstat(source).map_err(|error| failed("look at", &bind.source, error))?;
    match (FileType::from_raw_mode(found.st_mode), bind.shape) {
        (FileType::Directory, Shape::Directory) | (FileType::RegularFile, Shape::File) => Ok(()),
        _ => Err(Error::Changed {
            path: bind.source.clone(),
        }),
    }
}

fn clone_mount(source: &OwnedFd, depth: Depth, path: &Path) -> Result<OwnedFd, Error> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH;
    match depth {
        Depth::Top => {}
        Depth::Recursive => flags |= OpenTreeFlags::AT_RECURSIVE,
    }
    open_tree(source, "", flags).map_err(|error| failed("clone mount of", path, error))
}

fn attach(clone: &OwnedFd, target: &Path) -> Result<(), Error> {
    let point = hold(target)?;
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(clone, "", &point, "", flags).map_err(|error| failed("mount on", target, error))
}

fn take_off(target: &Path) -> Result<(), Error> {
    for _ in 0..LAYERS_MAX {
        if !is_mounted(target)? {
            return Ok(());
        }
        let unmounted = match unmount(target, UnmountFlags::NOFOLLOW) {
            Err(Errno::BUSY) => unmount(target, UnmountFlags::NOFOLLOW | UnmountFlags::DETACH),
            unmounted => unmounted,
        };
        match unmounted {
            // A container may leave as its sandbox goes: then the other was faster.
            Ok(()) | Err(Errno::INVAL | Errno::NOENT) => {}
            Err(error) => return Err(failed("unmount", target, error)),
        }
    }
    Err(failed("unmount", target, Errno::BUSY))
}

fn make_directory(path: &Path) -> Result<(), Error> {
    match fs::create_dir(path) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
        Err(source) => Err(failed("make folder", path, source)),
    }
}

fn make_file(path: &Path) -> Result<(), Error> {
    match fs::File::create_new(path) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_file() => Ok(()),
        Err(source) => Err(failed("make file", path, source)),
    }
}

fn remove_directory(path: &Path) -> Result<(), Error> {
    match fs::remove_dir(path) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(source) => Err(failed("remove", path, source)),
    }
}

/// Copies go whole: the host alone writes them. Whatever else is at a place is a mount point.
fn clear_place(path: &Path) -> Result<(), Error> {
    let copies = path.file_name().is_some_and(plan::holds_copies);
    match copies {
        true => follow::remove(path),
        false => remove_point(path),
    }
}

/// An empty directory, or an empty file: a mount point of ours.
fn remove_point(path: &Path) -> Result<(), Error> {
    match fs::symlink_metadata(path) {
        Ok(found) if found.is_file() && found.len() == 0 => match fs::remove_file(path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                Err(failed("remove", path, source))
            }
            Ok(()) | Err(_) => Ok(()),
        },
        Ok(_) => remove_directory(path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(source) => Err(failed("look at", path, source)),
    }
}

/// What is set on a mount that nobody sees yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Change {
    /// It and all below it take no part in what happens to the source's mounts.
    Private,
    /// It passes on what is mounted below it.
    Shared,
    /// It alone, not what is mounted below it.
    ReadOnly,
}

#[allow(unsafe_code)]
fn set_attributes(mount: &OwnedFd, change: Change) -> io::Result<()> {
    let (flags, attributes) = match change {
        Change::Private => (libc::AT_RECURSIVE, propagation(libc::MS_PRIVATE)),
        Change::Shared => (0, propagation(libc::MS_SHARED)),
        Change::ReadOnly => (
            0,
            libc::mount_attr {
                attr_set: libc::MOUNT_ATTR_RDONLY,
                ..propagation(0)
            },
        ),
    };
    // SAFETY: the descriptor is open for the whole call, the path is an empty C string, and
    // `attributes` is a live mount_attr whose size is given; the kernel only reads them.
    let done = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_fd().as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH | flags,
            &raw const attributes,
            size_of::<libc::mount_attr>(),
        )
    };
    match done {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

fn propagation(kind: libc::c_ulong) -> libc::mount_attr {
    libc::mount_attr {
        attr_set: 0,
        attr_clr: 0,
        propagation: kind,
        userns_fd: 0,
    }
}

#[cfg(test)]
mod tests;
