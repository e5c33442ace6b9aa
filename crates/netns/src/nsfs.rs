//! What lies at a path, as far as network namespaces go.

use crate::error::{Doing, Error};
use rustix::{
    fd::{AsFd, AsRawFd, OwnedFd},
    fs::{CWD, FileType, Mode, OFlags, fstat, fstatfs, openat},
    io::Errno,
};
use std::path::Path;

/// linux/magic.h: the file system in which namespaces are files.
const NSFS_MAGIC: u64 = 0x6e73_6673;

/// What lies at a path of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Found {
    Nothing,
    /// Before the namespace is bound to it, and after.
    EmptyFile,
    Network,
    Other,
}

/// What lies at `path`; a link there is itself what lies there.
pub(crate) fn look(path: &Path) -> Result<Found, Error> {
    let handle = match handle(path, OFlags::NOFOLLOW) {
        Ok(handle) => handle,
        Err(Errno::NOENT) => return Ok(Found::Nothing),
        Err(source) => return Err(fail(Doing::Open, path)(source)),
    };
    if is_network(&handle, path)? {
        return Ok(Found::Network);
    }
    let stat = fstat(&handle).map_err(fail(Doing::Look, path))?;
    let is_file = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
    Ok(
        match is_file && stat.st_size == 0 && !is_nsfs(&handle, path)? {
            true => Found::EmptyFile,
            false => Found::Other,
        },
    )
}

/// A caller's namespace: links are followed, `/proc/PID/ns/net` is one.
pub(crate) fn check(path: &Path) -> Result<(), Error> {
    let handle = handle(path, OFlags::empty()).map_err(fail(Doing::Open, path))?;
    match is_network(&handle, path)? {
        true => Ok(()),
        false => Err(Error::NotANetwork { path: path.into() }),
    }
}

pub(crate) fn fail(doing: Doing, path: &Path) -> impl FnOnce(Errno) -> Error {
    move |source| Error::Path {
        doing,
        path: path.into(),
        source: source.into(),
    }
}

/// Only names what is there: a device or a FIFO notices nothing.
fn handle(path: &Path, follow: OFlags) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::CLOEXEC | follow;
    openat(CWD, path, flags, Mode::empty())
}

fn is_nsfs(handle: &OwnedFd, path: &Path) -> Result<bool, Error> {
    let stat = fstatfs(handle).map_err(fail(Doing::Look, path))?;
    Ok(u64::try_from(stat.f_type) == Ok(NSFS_MAGIC))
}

fn is_network(handle: &OwnedFd, path: &Path) -> Result<bool, Error> {
    if !is_nsfs(handle, path)? {
        return Ok(false);
    }
    // A handle answers no ioctl; what it names is opened now that it is known to be harmless.
    let name = format!("/proc/self/fd/{}", handle.as_raw_fd());
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let file = openat(CWD, name, flags, Mode::empty()).map_err(fail(Doing::Open, path))?;
    let kind = namespace_type(&file).map_err(fail(Doing::Look, path))?;
    Ok(kind == libc::CLONE_NEWNET)
}

/// The CLONE_NEW flag of a namespace. ioctl_ns(2).
#[allow(unsafe_code)]
fn namespace_type(file: impl AsFd) -> rustix::io::Result<libc::c_int> {
    // SAFETY: the descriptor is open for the whole call, and NS_GET_NSTYPE takes no argument: the
    // kernel reads and writes no memory of ours.
    let kind = unsafe { libc::ioctl(file.as_fd().as_raw_fd(), libc::NS_GET_NSTYPE) };
    match kind {
        -1 => Err(last_errno()),
        kind => Ok(kind),
    }
}

/// After a call of libc's that failed.
pub(crate) fn last_errno() -> Errno {
    let error = std::io::Error::last_os_error();
    Errno::from_io_error(&error).expect("a call that failed says why")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;

    #[test]
    fn a_namespace_says_of_which_kind_it_is() {
        for (name, kind) in [("net", libc::CLONE_NEWNET), ("mnt", libc::CLONE_NEWNS)] {
            let file = File::open(format!("/proc/self/ns/{name}")).expect("it is ours");

            assert_eq!(namespace_type(file), Ok(kind));
        }
    }

    #[test]
    fn what_is_no_namespace_says_so() {
        let file = File::open("/dev/null").expect("it is everybody's");

        assert_eq!(namespace_type(file), Err(Errno::NOTTY));
    }

    #[test]
    fn a_caller_may_name_the_network_of_a_process_and_nothing_else() {
        assert!(check(Path::new("/proc/self/ns/net")).is_ok());
        for path in ["/proc/self/ns/mnt", "/dev/null", "/", "/proc/self/exe"] {
            let refused = check(Path::new(path));

            assert!(matches!(refused, Err(Error::NotANetwork { .. })), "{path}");
        }
    }
}
