//! Finds the program of a process as a shell would, with root and user of the container in place.

use crate::engine::{error::ProgramFault, plan::Failure, sys};
use rustix::{
    fd::AsFd as _,
    fs::{CWD, FileType, Mode, OFlags, fstat, openat},
    io::Errno,
};
use std::ffi::{CStr, CString};

/// # Errors
/// Why it cannot be run, as callers of OCI runtimes expect to be told.
pub fn find(name: &CStr, env: &[CString]) -> Result<CString, Failure> {
    let shown = name.to_string_lossy();
    if name.to_bytes().contains(&b'/') {
        return match look_at(name) {
            Ok(()) => Ok(name.to_owned()),
            Err(errno) => Err(fault(shown.into_owned(), errno)),
        };
    }
    let folders = env
        .iter()
        .find_map(|one| one.to_bytes().strip_prefix(b"PATH="))
        .unwrap_or_default();
    for folder in folders.split(|byte| *byte == b':') {
        let folder = if folder.is_empty() {
            b".".as_slice()
        } else {
            folder
        };
        let path = [folder, b"/", name.to_bytes()].concat();
        // Neither part has a NUL inside: both were C strings.
        if let Ok(path) = CString::new(path)
            && look_at(&path).is_ok()
        {
            return Ok(path);
        }
    }
    Err(Failure::Program(ProgramFault::NotInPath {
        name: shown.into_owned(),
    }))
}

/// Whether this file can be run by who asks. The path is walked once: each walk may ask the host.
fn look_at(path: &CStr) -> Result<(), Errno> {
    let file = openat(CWD, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    if FileType::from_raw_mode(fstat(&file)?.st_mode).is_dir() {
        return Err(Errno::ISDIR);
    }
    sys::may_execute(file.as_fd())
}

fn fault(path: String, errno: Errno) -> Failure {
    Failure::Program(match errno {
        Errno::NOENT | Errno::NOTDIR => ProgramFault::Missing { path },
        Errno::ISDIR => ProgramFault::Directory { path },
        Errno::ACCESS | Errno::PERM => ProgramFault::Forbidden { path },
        errno => ProgramFault::Refused {
            path,
            errno: errno.raw_os_error(),
        },
    })
}

/// The kernel's answer to an attempt to run what `find` found.
pub fn refused(path: &CStr, errno: Errno) -> Failure {
    Failure::Program(ProgramFault::Refused {
        path: path.to_string_lossy().into_owned(),
        errno: errno.raw_os_error(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        fs::{self, Permissions},
        os::unix::{ffi::OsStrExt, fs::PermissionsExt},
    };

    #[test]
    fn a_program_is_a_file_that_may_be_executed_also_behind_a_link() {
        let folder = tempfile::tempdir().unwrap();
        let at =
            |name: &str| CString::new(folder.path().join(name).as_os_str().as_bytes()).unwrap();
        for (name, mode) in [("program", 0o755), ("text", 0o644)] {
            fs::write(folder.path().join(name), "").unwrap();
            fs::set_permissions(folder.path().join(name), Permissions::from_mode(mode)).unwrap();
        }
        std::os::unix::fs::symlink("program", folder.path().join("link")).unwrap();

        assert_eq!(look_at(&at("program")), Ok(()));
        assert_eq!(look_at(&at("link")), Ok(()));
        assert_eq!(look_at(&at("text")), Err(Errno::ACCESS));
        assert_eq!(look_at(&at("")), Err(Errno::ISDIR));
        assert_eq!(look_at(&at("none")), Err(Errno::NOENT));
    }
}
