//! Copies what a new tmpfs covers into it: the option tmpcopyup.
//!
//! The image is not trusted: no link is followed, and what lies in another mount is left out.
//! Mounts are told by their ids: layers above one another give their files other devices than
//! their folders.

use rustix::{
    fd::{AsFd, BorrowedFd, OwnedFd},
    fs::{
        AtFlags, Dir, FileType, Gid, Mode, OFlags, Stat, StatxFlags, Timespec, Timestamps, Uid,
        chownat, fchmod, fchown, fstat, futimens, mkdirat, mknodat, openat, readlinkat, sendfile,
        statat, statx, symlinkat,
    },
    io::Errno,
};
use std::ffi::CStr;

/// Deeper than this nobody goes on purpose, and each level holds two descriptors.
const DEPTH_MAX: u32 = 64;
/// Of one copy; a file that grows meanwhile is not followed for ever.
const PIECE_BYTES: usize = 1 << 20;

const FOLDER: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

/// Handles of folders, which need not be open for reading. Owner and mode of the upper one stay.
///
/// # Errors
/// What the kernel says of the first entry that cannot be copied.
pub fn fill(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> Result<(), Errno> {
    let from = openat(from, c".", FOLDER, Mode::empty())?;
    let to = openat(to, c".", FOLDER, Mode::empty())?;
    let covered = fstat(&from)?;
    let mount = mount_of(&from, c"")?;
    copy_entries(&from, &to, mount, DEPTH_MAX)?;
    futimens(&to, &times(&covered))
}

/// The id of the mount that an entry, or with an empty name the folder itself, is in.
fn mount_of(folder: &OwnedFd, name: &CStr) -> Result<u64, Errno> {
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::EMPTY_PATH;
    let found = statx(folder, name, flags, StatxFlags::MNT_ID)?;
    match found.stx_mask & StatxFlags::MNT_ID.bits() {
        0 => Err(Errno::NOSYS),
        _ => Ok(found.stx_mnt_id),
    }
}

fn copy_entries(from: &OwnedFd, to: &OwnedFd, mount: u64, depth_left: u32) -> Result<(), Errno> {
    let depth_left = depth_left.checked_sub(1).ok_or(Errno::LOOP)?;
    for entry in Dir::read_from(from)? {
        let entry = entry?;
        let name = entry.file_name();
        if name == c"." || name == c".." {
            continue;
        }
        let stat = statat(from, name, AtFlags::SYMLINK_NOFOLLOW)?;
        if mount_of(from, name)? != mount {
            continue;
        }
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => {
                mkdirat(to, name, Mode::RWXU)?;
                let below = openat(from, name, FOLDER, Mode::empty())?;
                let copy = openat(to, name, FOLDER, Mode::empty())?;
                copy_entries(&below, &copy, mount, depth_left)?;
                dress(&copy, &stat)?;
            }
            FileType::RegularFile => copy_file(from, to, name, &stat)?,
            FileType::Symlink => {
                symlinkat(readlinkat(from, name, Vec::new())?, to, name)?;
                own(to, name, &stat)?;
            }
            kind => {
                let mode = Mode::from_raw_mode(stat.st_mode & 0o7777);
                mknodat(to, name, kind, mode, stat.st_rdev)?;
                own(to, name, &stat)?;
            }
        }
    }
    Ok(())
}

fn copy_file(from: &OwnedFd, to: &OwnedFd, name: &CStr, stat: &Stat) -> Result<(), Errno> {
    let flags = OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let source = openat(
        from,
        name,
        flags | OFlags::RDONLY | OFlags::NONBLOCK,
        Mode::empty(),
    )?;
    let made = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
    let copy = openat(to, name, flags | made, Mode::RUSR | Mode::WUSR)?;
    let mut left = usize::try_from(stat.st_size).unwrap_or(0);
    while left > 0 {
        match sendfile(copy.as_fd(), source.as_fd(), None, left.min(PIECE_BYTES))? {
            0 => break,
            count => left = left.saturating_sub(count),
        }
    }
    dress(&copy, stat)
}

/// Owner, mode and times; the owner first, since to change it takes bits off the mode.
fn dress(copy: &OwnedFd, stat: &Stat) -> Result<(), Errno> {
    let (uid, gid) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
    fchown(copy, Some(uid), Some(gid))?;
    fchmod(copy, Mode::from_raw_mode(stat.st_mode & 0o7777))?;
    futimens(copy, &times(stat))
}

fn times(stat: &Stat) -> Timestamps {
    let time = |tv_sec: i64, nanoseconds: u64| Timespec {
        tv_sec,
        tv_nsec: i64::try_from(nanoseconds).unwrap_or(0),
    };
    Timestamps {
        last_access: time(stat.st_atime, stat.st_atime_nsec),
        last_modification: time(stat.st_mtime, stat.st_mtime_nsec),
    }
}

fn own(folder: &OwnedFd, name: &CStr, stat: &Stat) -> Result<(), Errno> {
    let (uid, gid) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
    chownat(
        folder,
        name,
        Some(uid),
        Some(gid),
        AtFlags::SYMLINK_NOFOLLOW,
    )
}
