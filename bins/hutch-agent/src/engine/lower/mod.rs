//! From what config.json asks for to what a process has to do: pure, and refused if it makes no
//! sense. Nothing here touches the guest.

mod container;
mod devices;
mod env;
mod hooks;
mod mounts;
mod names;
mod namespaces;
mod newer_calls;
mod process;
mod seccomp;

pub use container::{Lowered, lower_container};
pub use devices::{default_rules, is_default as is_default_device};
pub use process::{ExecDefaults, lower_process};

use super::error::{Error, Result};
use oci_spec::runtime::LinuxIdMapping;
use std::{ffi::CString, fmt::Write, path::Path};

/// Refuses what makes no sense, naming it.
fn invalid<T>(what: impl Into<String>, why: impl Into<String>) -> Result<T> {
    Err(Error::Invalid {
        what: what.into(),
        why: why.into(),
    })
}

fn unsupported<T>(what: impl Into<String>) -> Result<T> {
    Err(Error::Unsupported { what: what.into() })
}

/// A string for the kernel: without a NUL inside.
fn c_string(text: &str, what: impl FnOnce() -> String) -> Result<CString> {
    CString::new(text).or_else(|_| invalid(what(), "has a NUL character inside"))
}

/// A path for the kernel: UTF-8, as JSON is, and without a NUL inside.
fn plain_path(path: &Path, what: impl FnOnce() -> String) -> Result<String> {
    match path.to_str() {
        Some(text) if !text.contains('\0') => Ok(text.to_owned()),
        Some(_) => invalid(what(), "has a NUL character inside"),
        None => invalid(what(), "is not UTF-8"),
    }
}

/// As the kernel has it in uid_map and gid_map.
fn id_map(ids: &[LinuxIdMapping]) -> String {
    ids.iter().fold(String::new(), |mut lines, one| {
        writeln!(
            lines,
            "{} {} {}",
            one.container_id(),
            one.host_id(),
            one.size()
        )
        .expect("a string takes all");
        lines
    })
}
