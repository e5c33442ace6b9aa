//! The mounts of this mount namespace: reading them, and taking away those below a path.

use crate::{Doing, Error};
use rustix::{
    io::Errno,
    mount::{UnmountFlags, unmount},
};
use std::{
    ffi::OsString,
    fs,
    os::unix::ffi::OsStringExt,
    path::{Path, PathBuf},
};

/// A detached mount can uncover one below it; nobody stacks them higher than this on purpose.
const PASSES_MAX: u32 = 32;

/// One line of `/proc/self/mountinfo`, as far as it is of use here. proc(5).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// The folder of its file system that is its root.
    pub root: PathBuf,
    pub point: PathBuf,
    /// Whether it can be written, and the rest of its own options.
    pub options: String,
    pub fs_type: String,
    /// The options of its file system: of a cgroup, its controllers.
    pub super_options: String,
}

/// All mounts, in the order in which they were made: one comes after what it covers.
///
/// # Errors
/// /proc does not read.
pub fn list() -> Result<Vec<Mount>, Error> {
    let path = "/proc/self/mountinfo";
    let text = fs::read(path).map_err(Error::path(Doing::Read, path))?;
    Ok(parse(&text))
}

/// Mounts on `path` itself and below it.
///
/// # Errors
/// /proc does not read.
pub fn below(path: &Path) -> Result<Vec<PathBuf>, Error> {
    let path = resolved(path);
    let mut points: Vec<_> = list()?.into_iter().map(|mount| mount.point).collect();
    points.retain(|point| point.starts_with(&path));
    Ok(points)
}

/// As mountinfo names it: without links, but for the last component, which is not followed.
fn resolved(path: &Path) -> PathBuf {
    let parent = path.parent().and_then(|parent| parent.canonicalize().ok());
    match (parent, path.file_name()) {
        (Some(parent), Some(name)) => parent.join(name),
        (Some(_) | None, _) => path.to_owned(),
    }
}

/// Detaches every mount on `path` and below it, the last one first, and makes sure that they are
/// gone. Lazy: what holds a file of theirs keeps it, and nobody else finds them.
///
/// # Errors
/// Names those that stayed.
pub fn detach_below(path: &Path) -> Result<Vec<PathBuf>, Error> {
    let mut detached = Vec::new();
    for _ in 0..PASSES_MAX {
        let points = below(path)?;
        if points.is_empty() {
            return Ok(detached);
        }
        for point in points.iter().rev() {
            match unmount(point, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
                Ok(()) => detached.push(point.clone()),
                // Went with one above it, or by another hand.
                Err(Errno::INVAL | Errno::NOENT) => {}
                Err(errno) => return Err(Error::path(Doing::Unmount, point)(errno.into())),
            }
        }
    }
    Err(Error::StillMounted {
        path: path.to_owned(),
        left: below(path)?,
    })
}

pub(crate) fn parse(text: &[u8]) -> Vec<Mount> {
    text.split(|&byte| byte == b'\n')
        .filter_map(parse_line)
        .collect()
}

/// `36 35 98:0 /root /point rw,noatime shared:1 - ext3 /dev/root rw,errors=continue`; any number
/// of optional fields stands before the hyphen.
fn parse_line(line: &[u8]) -> Option<Mount> {
    let mut fields = line.split(|&byte| byte == b' ').skip(3);
    let root = unescape(fields.next()?);
    let point = unescape(fields.next()?);
    let options = text(fields.next()?);
    let mut fields = fields.skip_while(|field| *field != b"-").skip(1);
    let fs_type = text(fields.next()?);
    let super_options = text(fields.nth(1)?);
    Some(Mount {
        root,
        point,
        options,
        fs_type,
        super_options,
    })
}

fn text(field: &[u8]) -> String {
    String::from_utf8_lossy(field).into_owned()
}

/// Blank, tab, line end and backslash stand as three octal digits behind a backslash.
fn unescape(field: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&first, tail)) = rest.split_first() {
        let octal = tail.get(..3).filter(|_| first == b'\\').and_then(octal);
        bytes.push(octal.unwrap_or(first));
        rest = if octal.is_some() { &tail[3..] } else { tail };
    }
    PathBuf::from(OsString::from_vec(bytes))
}

fn octal(digits: &[u8]) -> Option<u8> {
    u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn optional_fields_and_escapes_do_not_shift_the_others() {
        let text = b"36 35 98:0 /a\\040b /mnt/c\\134\\011d\\999 rw,noatime shared:1 master:2 - \
                     cgroup none rw,cpu,cpuacct\n\
                     37 35 0:5 / /dev rw - devtmpfs devtmpfs rw\n\
                     half a line\n";

        let mounts = parse(text);

        assert_eq!(mounts.len(), 2);
        assert_eq!(mounts[0].root, Path::new("/a b"));
        assert_eq!(mounts[0].point, Path::new("/mnt/c\\\td\\999"));
        assert_eq!(mounts[0].fs_type, "cgroup");
        assert_eq!(mounts[0].super_options, "rw,cpu,cpuacct");
        assert_eq!(mounts[1].point, Path::new("/dev"));
        assert_eq!(mounts[1].options, "rw");
    }

    #[test]
    fn the_root_is_among_the_mounts_of_this_machine() {
        let mounts = list().unwrap();

        assert!(mounts.iter().any(|mount| mount.point == Path::new("/")));
        assert!(mounts.iter().any(|mount| mount.fs_type == "proc"));
    }

    #[test]
    fn a_path_without_mounts_is_already_so() {
        let folder = tempfile::tempdir().unwrap();

        let detached = detach_below(folder.path()).unwrap();

        assert!(detached.is_empty());
    }
}
