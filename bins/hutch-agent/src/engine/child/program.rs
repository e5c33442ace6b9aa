//! Finds the program of a process as a shell would, with root and user of the container in place.

use crate::engine::{error::ProgramFault, plan::Failure};
use rustix::{
    fs::{Access, AtFlags, CWD, FileType, accessat, stat},
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

/// Whether this file can be run by who asks.
fn look_at(path: &CStr) -> Result<(), Errno> {
    let found = stat(path)?;
    if FileType::from_raw_mode(found.st_mode).is_dir() {
        return Err(Errno::ISDIR);
    }
    accessat(CWD, path, Access::EXEC_OK, AtFlags::EACCESS)
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
