//! The mounts of config.json, made in the image before it becomes the root.
//!
//! A destination is a handle, never a path: what was resolved is what is mounted on.

use super::{
    Fds, copy,
    failure::{Doing, Outcome, expected},
    resolve::{Kind, Links, Root, kind_of},
};
use crate::engine::{
    plan::{AttrChange, Failure, MountStep, MountWhat},
    sys::{self, MountAttr},
};
use rustix::{
    fd::{AsFd, BorrowedFd, OwnedFd},
    fs::{AtFlags, CWD, statat},
    io::Errno,
    mount::{
        MountFlags, MoveMountFlags, OpenTreeFlags, mount, mount_remount, move_mount, open_tree,
    },
    process::fchdir,
};
use std::ffi::{CStr, CString};

/// Trees that came with the plan, in the order of the mounts that they are for.
pub struct Trees {
    all: Vec<OwnedFd>,
    taken: usize,
}

impl Trees {
    pub fn of(fds: &mut Fds) -> Self {
        let (all, taken) = (fds.collect(), 0);
        Self { all, taken }
    }

    fn take(&mut self) -> Outcome<&OwnedFd> {
        let next = expected(self.all.get(self.taken), "a tree")?;
        self.taken += 1;
        Ok(next)
    }

    /// The same once more: of each that is mounted, a copy that is not.
    ///
    /// # Errors
    /// When the kernel does not copy one.
    pub fn again(self) -> Outcome<Self> {
        let how = OpenTreeFlags::OPEN_TREE_CLONE
            | OpenTreeFlags::OPEN_TREE_CLOEXEC
            | OpenTreeFlags::AT_EMPTY_PATH
            | OpenTreeFlags::AT_RECURSIVE;
        let mut all = self.all;
        for tree in &mut all[..self.taken] {
            match open_tree(&*tree, c"", how) {
                Ok(copy) => *tree = copy,
                // Its destination could not be made: it was never mounted.
                Err(Errno::INVAL) => {}
                Err(errno) => return Err(errno).doing(|| "copy a tree".to_owned()),
            }
        }
        Ok(Self { all, taken: 0 })
    }
}

const RECURSIVE: i32 = libc::AT_RECURSIVE;

/// # Errors
/// The first mount that fails, by its destination.
pub fn mount_all(root: &Root, steps: &[MountStep], trees: &mut Trees) -> Outcome<()> {
    for step in steps {
        match &step.what {
            MountWhat::FileSystem { .. } => mount_file_system(root, step)?,
            MountWhat::Bind { .. } => mount_bind(root, step, trees)?,
            MountWhat::Sysfs { shown } => show_sysfs(root, step, shown)?,
            MountWhat::Tree => attach_as_planned(root, step, trees.take()?.as_fd())?,
            MountWhat::Remount { flags, data } => {
                let destination = find(root, step, Links::Followed)?;
                fchdir(&destination).doing(|| about(step, "enter destination"))?;
                let data = data.as_deref().unwrap_or(c"");
                mount_remount(c".", MountFlags::from_bits_retain(*flags), data)
                    .doing(|| about(step, "remount"))?;
                change_attributes(root, step)?;
            }
        }
    }
    Ok(())
}

fn mount_file_system(root: &Root, step: &MountStep) -> Outcome<()> {
    let MountWhat::FileSystem {
        kind,
        source,
        flags,
        data,
        no_links,
        copy_up,
    } = &step.what
    else {
        return Ok(());
    };
    let links = match no_links {
        true => Links::Refused,
        false => Links::Followed,
    };
    let (found, is_new) = match root.find(&step.destination, links) {
        Err(Errno::NOENT) => (root.find_or_make(&step.destination, Kind::Folder), true),
        found => (found, false),
    };
    let destination = found.doing(|| about(step, "find destination"))?;
    // What was made for it has no mode that anybody chose: the kernel opens such a tmpfs to all.
    let data = if kind == "tmpfs" && !is_new {
        as_covered(destination.as_fd(), data.as_deref(), *copy_up)
            .doing(|| about(step, "look at destination"))?
    } else {
        data.clone()
    };
    fchdir(&destination).doing(|| about(step, "enter destination"))?;
    let flags = MountFlags::from_bits_retain(*flags);
    let making = match copy_up {
        true => flags.difference(MountFlags::RDONLY),
        false => flags,
    };
    mount(
        source.as_str(),
        c".",
        kind.as_str(),
        making,
        data.as_deref(),
    )
    .doing(|| about(step, &format!("mount {kind}")))?;
    if *copy_up {
        let mounted = find(root, step, Links::Followed)?;
        copy::fill(destination.as_fd(), mounted.as_fd())
            .doing(|| about(step, "copy what it covers"))?;
        if flags.contains(MountFlags::RDONLY) {
            let attr = AttrChange {
                set: libc::MOUNT_ATTR_RDONLY,
                clear: 0,
            };
            change(mounted.as_fd(), attr, 0).doing(|| about(step, "make read-only"))?;
        }
    }
    change_attributes(root, step)
}

/// Options that were not given are those of the folder that a tmpfs covers: the mode, so that
/// /tmp stays open to all, and the owner of what begins as a copy.
fn as_covered(
    destination: BorrowedFd<'_>,
    data: Option<&CStr>,
    copy_up: bool,
) -> Result<Option<CString>, Errno> {
    let given = data.map(|data| data.to_string_lossy()).unwrap_or_default();
    let stat = statat(destination, c"", AtFlags::EMPTY_PATH)?;
    let mut options: Vec<String> = given
        .split(',')
        .filter(|option| !option.is_empty())
        .map(str::to_owned)
        .collect();
    let mut add = |key: &str, value: String| {
        if !options.iter().any(|option| option.starts_with(key)) {
            options.push(format!("{key}{value}"));
        }
    };
    add("mode=", format!("{:o}", stat.st_mode & 0o7777));
    if copy_up {
        add("uid=", stat.st_uid.to_string());
        add("gid=", stat.st_gid.to_string());
    }
    CString::new(options.join(","))
        .map(Some)
        .map_err(|_| Errno::INVAL)
}

fn mount_bind(root: &Root, step: &MountStep, trees: &mut Trees) -> Outcome<()> {
    let MountWhat::Bind {
        source,
        recursive,
        attr,
        mapped,
        given: _,
    } = &step.what
    else {
        return Ok(());
    };
    let mut how = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    if *recursive {
        how |= OpenTreeFlags::AT_RECURSIVE;
    }
    let opened;
    let tree = match mapped {
        Some(_) => trees.take()?,
        None => {
            opened = open_tree(CWD, source.as_str(), how)
                .doing(|| about(step, &format!("open source {source:?}")))?;
            &opened
        }
    };
    change(tree.as_fd(), *attr, 0).doing(|| about(step, "set attributes"))?;
    attach_as_planned(root, step, tree.as_fd())
}

/// On a folder of the image and not where a link leads, like one that is mounted.
fn show_sysfs(root: &Root, step: &MountStep, shown: &str) -> Outcome<()> {
    let how = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let tree = open_tree(CWD, shown, how).doing(|| about(step, "open the guest's sysfs"))?;
    if root.find(&step.destination, Links::Refused).err() == Some(Errno::LOOP) {
        return Err(Errno::LOOP).doing(|| about(step, "find destination"));
    }
    attach_as_planned(root, step, tree.as_fd())
}

/// With all of its attributes set before it can be seen: nobody ever meets it without them.
fn attach_as_planned(root: &Root, step: &MountStep, tree: BorrowedFd<'_>) -> Outcome<()> {
    let kind = match root.find(&step.destination, Links::Followed) {
        Err(Errno::NOENT) => kind_of(tree).doing(|| about(step, "look at source"))?,
        // What is there decides; the kernel refuses a folder on a file.
        _ => Kind::Folder,
    };
    change(tree, step.recursive, RECURSIVE).doing(|| about(step, "set recursive attributes"))?;
    propagate(tree, &step.propagation).doing(|| about(step, "set propagation"))?;
    let destination = root
        .find_or_make(&step.destination, kind)
        .doing(|| about(step, "find destination"))?;
    match attach(tree, destination.as_fd()) {
        Err(Errno::INVAL) => Err(misfit(step, tree, destination.as_fd())),
        attached => attached.doing(|| about(step, "attach")),
    }
}

/// The kernel's word for a file on a folder, and the reverse, is that of many other things. Nobody looks beforehand: that
/// may ask the host.
fn misfit(step: &MountStep, tree: BorrowedFd<'_>, destination: BorrowedFd<'_>) -> Failure {
    let words = |kind| match kind {
        Kind::Folder => "a folder",
        Kind::File => "a file",
    };
    let named = match &step.what {
        MountWhat::Bind { given, .. } => format!("its source {given:?}"),
        _ => "what is mounted".to_owned(),
    };
    let (errno, doing) = match (kind_of(tree), kind_of(destination)) {
        (Ok(source), Ok(place)) if source != place => (
            Errno::NOTDIR,
            format!(
                "{named} is {}, its destination {}",
                words(source),
                words(place)
            ),
        ),
        _ => (Errno::INVAL, "attach".to_owned()),
    };
    Failure::Step {
        step: about(step, &doing),
        errno: errno.raw_os_error(),
    }
}

/// Puts a detached tree where a handle points.
///
/// # Errors
/// What move_mount says.
pub fn attach(tree: BorrowedFd<'_>, destination: BorrowedFd<'_>) -> Result<(), Errno> {
    let how = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(tree, c"", destination, c"", how)
}

/// For what was mounted by path: the handle of the destination is that of what it covers.
fn change_attributes(root: &Root, step: &MountStep) -> Outcome<()> {
    if step.recursive.is_none() && step.propagation.is_empty() {
        return Ok(());
    }
    let mounted = find(root, step, Links::Followed)?;
    change(mounted.as_fd(), step.recursive, RECURSIVE)
        .doing(|| about(step, "set recursive attributes"))?;
    propagate(mounted.as_fd(), &step.propagation).doing(|| about(step, "set propagation"))
}

fn find(root: &Root, step: &MountStep, links: Links) -> Outcome<OwnedFd> {
    root.find(&step.destination, links)
        .doing(|| about(step, "find destination"))
}

fn change(tree: BorrowedFd<'_>, attr: AttrChange, flags: i32) -> Result<(), Errno> {
    if attr.is_none() {
        return Ok(());
    }
    let attr = MountAttr {
        set: attr.set,
        clear: attr.clear,
        ..MountAttr::default()
    };
    sys::mount_setattr(tree, c"", libc::AT_EMPTY_PATH | flags, attr)
}

fn propagate(tree: BorrowedFd<'_>, changes: &[u32]) -> Result<(), Errno> {
    for change in changes {
        let recursive = u64::from(*change) & libc::MS_REC != 0;
        let attr = MountAttr {
            propagation: u64::from(*change) & !libc::MS_REC,
            ..MountAttr::default()
        };
        let flags = libc::AT_EMPTY_PATH | if recursive { RECURSIVE } else { 0 };
        sys::mount_setattr(tree, c"", flags, attr)?;
    }
    Ok(())
}

fn about(step: &MountStep, doing: &str) -> String {
    format!("mount {} on {:?}: {doing}", step.index, step.destination)
}
