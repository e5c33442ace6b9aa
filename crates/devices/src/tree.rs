//! A small directory tree of the host as a value: what is in it, and a copy of it.
//!
//! Somebody may change the tree while it is read, and not everybody who may is trusted: it is
//! walked by descriptors, no link is followed, and what is read is bounded.

use rustix::{
    fs::{
        AtFlags, Dir, FileType, Gid, Mode, OFlags, RawMode, ResolveFlags, Stat, Timespec,
        Timestamps, Uid, chownat, fchmod, fchown, fstat, futimens, mkdirat, openat, openat2,
        readlinkat, statat, symlinkat,
    },
    io::Errno,
};
use std::{
    collections::BTreeMap,
    ffi::{CStr, OsStr, OsString},
    fs::File,
    io::{self, Read},
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::{Path, PathBuf},
};

/// Files, folders and links of one tree. A projected volume of Kubernetes has about ten; while it
/// is being renewed, twice as many.
pub const ENTRIES_MAX: usize = 256;
/// Bytes in the files of one tree: the most that a ConfigMap or a Secret may hold, twice over,
/// since the old set and the new one are there together for a moment.
pub const BYTES_MAX: u64 = 2 * 1024 * 1024;
/// Kubernetes nests a projected path by hand; nobody does so deeper.
const DEPTH_MAX: usize = 16;

/// Kubernetes names the current set of a volume that it publishes whole by this link: it renames
/// a new one over it when the new set is complete.
const PUBLISHED: &str = "..data";

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub what: What,
    pub mode: RawMode,
    pub uid: u32,
    pub gid: u32,
    pub modified: (i64, u64),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    Folder,
    /// The inode tells a file that was written anew from one that was replaced.
    File {
        bytes: u64,
        inode: u64,
    },
    Link(OsString),
}

/// What is below a directory, by path; the directory itself is the empty path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tree(BTreeMap<PathBuf, Entry>);

/// Why a tree cannot be copied.
#[derive(Debug, thiserror::Error)]
pub enum Unfit {
    #[error("it has more than {ENTRIES_MAX} entries")]
    TooMany,
    #[error("its files have more than {BYTES_MAX} bytes")]
    TooLarge,
    #[error("it is nested deeper than {DEPTH_MAX} folders")]
    TooDeep,
    #[error("{0:?} is neither a file, a folder nor a link")]
    Special(PathBuf),
    #[error("something is mounted on {0:?}")]
    Mounted(PathBuf),
    #[error("read it")]
    Unreadable(#[source] io::Error),
}

impl From<Errno> for Unfit {
    fn from(errno: Errno) -> Self {
        Self::Unreadable(errno.into())
    }
}

/// Where a walk is.
struct Walk {
    found: BTreeMap<PathBuf, Entry>,
    device: u64,
    bytes: u64,
}

impl Tree {
    /// Looks at everything below `root`. What goes meanwhile is not in it.
    ///
    /// # Errors
    /// It is too large, or it holds what no copy can stand for.
    pub fn scan(root: BorrowedFd<'_>) -> Result<Self, Unfit> {
        let stat = fstat(root)?;
        let mut walk = Walk {
            found: BTreeMap::from([(PathBuf::new(), entry(&stat, What::Folder))]),
            device: stat.st_dev,
            bytes: 0,
        };
        walk.folder(root, Path::new(""), 0)?;
        Ok(Self(walk.found))
    }

    /// Whether it is a volume that Kubernetes publishes whole: ConfigMap, Secret, projected.
    pub fn is_published(root: BorrowedFd<'_>) -> bool {
        statat(root, PUBLISHED, AtFlags::SYMLINK_NOFOLLOW)
            .is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Symlink)
    }

    /// Whether the other one is a copy of it.
    pub fn equals(&self, other: &Self) -> bool {
        let same = |(ours, theirs): (&Entry, &Entry)| {
            let what = match (&ours.what, &theirs.what) {
                (What::File { bytes, .. }, What::File { bytes: other, .. }) => bytes == other,
                (ours, theirs) => ours == theirs,
            };
            let owned = (ours.mode, ours.uid, ours.gid) == (theirs.mode, theirs.uid, theirs.gid);
            // The time of a folder changes with its copying, that of a link is nobody's concern.
            let timed = !matches!(ours.what, What::File { .. }) || ours.modified == theirs.modified;
            what && owned && timed
        };
        self.0.keys().eq(other.0.keys()) && self.0.values().zip(other.0.values()).all(same)
    }

    /// Files that were written in place since `before`: the same inode, and not the same time.
    pub fn written_since(&self, before: &Self) -> Vec<PathBuf> {
        let written = |(path, now): &(&PathBuf, &Entry)| {
            let Some(then) = before.0.get(*path) else {
                return false;
            };
            match (&then.what, &now.what) {
                (
                    What::File { inode, .. },
                    What::File {
                        inode: now_inode, ..
                    },
                ) => inode == now_inode && then != *now,
                _ => false,
            }
        };
        let all = self.0.iter().filter(written);
        all.map(|(path, _)| path.clone()).collect()
    }

    /// Its folders, itself first.
    ///
    /// # Errors
    /// One is not there any more.
    pub fn folders(&self, root: BorrowedFd<'_>) -> Result<Vec<OwnedFd>, Unfit> {
        let folders = self
            .0
            .iter()
            .filter(|(_, entry)| entry.what == What::Folder);
        let open = |(path, _): (&PathBuf, _)| Ok(open_entry(root, path)?);
        folders.map(open).collect()
    }

    /// Makes the same tree in an empty folder, from what it was scanned from.
    ///
    /// # Errors
    /// It changed meanwhile, or it cannot be written.
    pub fn copy(&self, from: BorrowedFd<'_>, into: BorrowedFd<'_>) -> Result<(), Unfit> {
        // Parents come before what is in them.
        for (path, entry) in self.0.iter().skip(1) {
            match &entry.what {
                What::Folder => mkdirat(into, path, Mode::RWXU)?,
                What::File { bytes, .. } => copy_file(from, into, path, *bytes)?,
                What::Link(target) => symlinkat(target, into, path)?,
            }
            if let What::Link(_) = entry.what {
                own_link(into, path, entry)?;
            }
        }
        // Their own attributes last, children first: a folder may be closed to its writer.
        for (path, entry) in self.0.iter().rev() {
            if !matches!(entry.what, What::Link(_)) {
                let made = open_entry(into, path)?;
                fchown(
                    &made,
                    Some(Uid::from_raw(entry.uid)),
                    Some(Gid::from_raw(entry.gid)),
                )?;
                fchmod(&made, Mode::from_raw_mode(entry.mode & 0o7777))?;
                futimens(&made, &times(entry))?;
            }
        }
        Ok(())
    }
}

impl Walk {
    fn folder(&mut self, folder: BorrowedFd<'_>, at: &Path, depth: usize) -> Result<(), Unfit> {
        if depth > DEPTH_MAX {
            return Err(Unfit::TooDeep);
        }
        for child in Dir::read_from(folder)? {
            let child = child?;
            let name = child.file_name();
            if name == c"." || name == c".." {
                continue;
            }
            match self.child(folder, name, at, depth) {
                // It went while it was looked at, as the old set of a volume does that is published anew.
                Err(Unfit::Unreadable(why)) if why.kind() == io::ErrorKind::NotFound => {
                    let gone = at.join(OsStr::from_bytes(name.to_bytes()));
                    self.found.retain(|path, _| !path.starts_with(&gone));
                }
                looked => looked?,
            }
        }
        Ok(())
    }

    fn child(
        &mut self,
        folder: BorrowedFd<'_>,
        name: &CStr,
        at: &Path,
        depth: usize,
    ) -> Result<(), Unfit> {
        let path = at.join(OsStr::from_bytes(name.to_bytes()));
        let stat = statat(folder, name, AtFlags::SYMLINK_NOFOLLOW)?;
        if stat.st_dev != self.device {
            return Err(Unfit::Mounted(path));
        }
        let kind = FileType::from_raw_mode(stat.st_mode);
        let what = match kind {
            FileType::Directory => What::Folder,
            FileType::RegularFile => {
                let bytes = u64::try_from(stat.st_size).unwrap_or(u64::MAX);
                self.bytes = self.bytes.saturating_add(bytes);
                let inode = stat.st_ino;
                What::File { bytes, inode }
            }
            FileType::Symlink => {
                let target = readlinkat(folder, name, Vec::new())?;
                What::Link(OsStr::from_bytes(target.as_bytes()).to_owned())
            }
            _ => return Err(Unfit::Special(path)),
        };
        if self.bytes > BYTES_MAX {
            return Err(Unfit::TooLarge);
        }
        self.found.insert(path.clone(), entry(&stat, what));
        if self.found.len() > ENTRIES_MAX {
            return Err(Unfit::TooMany);
        }
        if kind == FileType::Directory {
            let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let inner = openat(folder, name, flags, Mode::empty())?;
            self.folder(inner.as_fd(), &path, depth + 1)?;
        }
        Ok(())
    }
}

fn entry(stat: &Stat, what: What) -> Entry {
    Entry {
        what,
        mode: stat.st_mode,
        uid: stat.st_uid,
        gid: stat.st_gid,
        modified: (stat.st_mtime, stat.st_mtime_nsec),
    }
}

fn times(entry: &Entry) -> Timestamps {
    let (tv_sec, nanoseconds) = entry.modified;
    let time = Timespec {
        tv_sec,
        tv_nsec: i64::try_from(nanoseconds).expect("less than a second"),
    };
    Timestamps {
        last_access: time,
        last_modification: time,
    }
}

/// Below `root`, without a link anywhere: openat2 would say so in one call, and path after path
/// of a tree that was just made by us needs no more than this.
fn open_entry(root: BorrowedFd<'_>, path: &Path) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let beneath = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    let path = if path.as_os_str().is_empty() {
        Path::new(".")
    } else {
        path
    };
    openat2(root, path, flags, Mode::empty(), beneath)
}

fn copy_file(
    from: BorrowedFd<'_>,
    into: BorrowedFd<'_>,
    path: &Path,
    bytes: u64,
) -> Result<(), Unfit> {
    let source = File::from(open_entry(from, path)?);
    if !source.metadata().map_err(Unfit::Unreadable)?.is_file() {
        return Err(Unfit::Special(path.to_owned()));
    }
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let mut copy = File::from(openat(into, path, flags, Mode::RUSR | Mode::WUSR)?);
    // One byte more than it had: a file that grew meanwhile is seen by its size.
    io::copy(&mut source.take(bytes + 1), &mut copy).map_err(Unfit::Unreadable)?;
    Ok(())
}

fn own_link(folder: BorrowedFd<'_>, path: &Path, entry: &Entry) -> Result<(), Errno> {
    let (uid, gid) = (Uid::from_raw(entry.uid), Gid::from_raw(entry.gid));
    chownat(
        folder,
        path,
        Some(uid),
        Some(gid),
        AtFlags::SYMLINK_NOFOLLOW,
    )
}

#[cfg(test)]
mod tests;
