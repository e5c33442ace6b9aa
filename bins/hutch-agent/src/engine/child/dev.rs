//! Device nodes and the links in /dev that programs expect.

use super::{
    failure::{Doing, Outcome},
    mounts::attach,
    resolve::{Kind, Root},
};
use crate::engine::plan::{DeviceKind, DeviceNode, Failure};
use rustix::{
    fd::{AsFd, BorrowedFd, OwnedFd},
    fs::OFlags,
    fs::{
        AtFlags, CWD, FileType, Gid, Mode, Uid, chownat, makedev, mknodat, openat, statat,
        symlinkat, unlinkat,
    },
    io::Errno,
    mount::{OpenTreeFlags, open_tree},
};

const LINKS: [(&str, &str); 4] = [
    ("/proc/self/fd", "fd"),
    ("/proc/self/fd/0", "stdin"),
    ("/proc/self/fd/1", "stdout"),
    ("/proc/self/fd/2", "stderr"),
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Nodes {
    Made,
    /// A user namespace may not make nodes: the guest's are mounted in their place.
    Borrowed,
}

/// # Errors
/// The first node or link that cannot be made.
pub fn populate(root: &Root, nodes: &[DeviceNode], how: Nodes) -> Outcome<()> {
    let dev = root
        .find_or_make("/dev", Kind::Folder)
        .doing(|| "find /dev".to_owned())?;
    for node in nodes {
        let step = || format!("device {:?}", node.path);
        let elsewhere;
        let (folder, name) = match node.path.strip_prefix("/dev/") {
            Some(name) if !name.contains('/') => (dev.as_fd(), name),
            _ => {
                let (parent, name) = root.parent(&node.path).doing(step)?;
                elsewhere = parent;
                (elsewhere.as_fd(), name)
            }
        };
        match how {
            Nodes::Made => make(folder, name, node)?,
            Nodes::Borrowed => borrow(folder, name, node).doing(step)?,
        }
    }
    for (target, name) in LINKS {
        link(&dev, target, name).doing(|| format!("link /dev/{name}"))?;
    }
    replace_ptmx(&dev).doing(|| "link /dev/ptmx".to_owned())
}

fn make(folder: BorrowedFd<'_>, name: &str, node: &DeviceNode) -> Outcome<()> {
    let step = || format!("device {:?}", node.path);
    let mode = Mode::from_raw_mode(node.mode);
    match mknodat(folder, name, file_type(node.kind), mode, number(node)) {
        Ok(()) => {}
        Err(Errno::EXIST) => return same(folder, name, node),
        // The image's file system may refuse nodes, as a shared folder does.
        Err(Errno::PERM) => return borrow(folder, name, node).doing(step),
        Err(errno) => return Err(errno).doing(step),
    }
    if (node.uid, node.gid) == (0, 0) {
        return Ok(());
    }
    chownat(
        folder,
        name,
        Some(Uid::from_raw(node.uid)),
        Some(Gid::from_raw(node.gid)),
        AtFlags::SYMLINK_NOFOLLOW,
    )
    .doing(step)
}

/// What an image has brought along is good if it is the same device.
fn same(folder: BorrowedFd<'_>, name: &str, node: &DeviceNode) -> Outcome<()> {
    let step = || format!("device {:?}", node.path);
    let found = statat(folder, name, AtFlags::SYMLINK_NOFOLLOW).doing(step)?;
    let same = FileType::from_raw_mode(found.st_mode) == file_type(node.kind)
        && (node.kind == DeviceKind::Fifo || found.st_rdev == number(node));
    if same {
        return Ok(());
    }
    Err(Failure::Invalid {
        what: step(),
        why: "the image has another file there".to_owned(),
    })
}

fn borrow(folder: BorrowedFd<'_>, name: &str, node: &DeviceNode) -> Result<(), Errno> {
    let clone = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let path = node.guest_path.as_ref().unwrap_or(&node.path);
    let guests = open_tree(CWD, path.as_str(), clone)?;
    let flags = OFlags::CREATE | OFlags::NOFOLLOW | OFlags::WRONLY | OFlags::CLOEXEC;
    match openat(folder, name, flags, Mode::from_raw_mode(0o644)) {
        Ok(_) | Err(Errno::NXIO) => {}
        Err(errno) => return Err(errno),
    }
    let place = openat(
        folder,
        name,
        OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    attach(guests.as_fd(), place.as_fd())
}

fn link(dev: &OwnedFd, target: &str, name: &str) -> Result<(), Errno> {
    match symlinkat(target, dev, name) {
        // The image's own, for whatever reason it has one.
        Err(Errno::EXIST) => Ok(()),
        made => made,
    }
}

/// The one of the container's own devpts, whatever the image has.
fn replace_ptmx(dev: &OwnedFd) -> Result<(), Errno> {
    match symlinkat(c"pts/ptmx", dev, c"ptmx") {
        Err(Errno::EXIST) => {
            unlinkat(dev, c"ptmx", AtFlags::empty())?;
            symlinkat(c"pts/ptmx", dev, c"ptmx")
        }
        made => made,
    }
}

fn file_type(kind: DeviceKind) -> FileType {
    match kind {
        DeviceKind::Char => FileType::CharacterDevice,
        DeviceKind::Block => FileType::BlockDevice,
        DeviceKind::Fifo => FileType::Fifo,
    }
}

fn number(node: &DeviceNode) -> u64 {
    makedev(node.major, node.minor)
}
