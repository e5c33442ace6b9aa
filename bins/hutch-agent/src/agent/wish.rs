//! What the host may ask for, checked.

use crate::{
    engine::{DiskPurpose, Target},
    error::Error,
    guest::storage::Wanted,
    id::{Id, Name, Which},
    rootfs::{Access, Source},
    stdio::{Endpoint, Terminal},
    table::Host,
};
use serde::Deserialize;
use std::{fmt, path::PathBuf};

pub struct NewContainer {
    pub id: Id,
    pub host: Host,
    pub config_json: Vec<u8>,
    pub rootfs: Source,
    /// Sources of config.json's mounts.
    pub binds: Vec<HostMount>,
    /// Programs of hooks.createContainer, by index, as paths below the shared folder.
    pub hook_programs: Vec<(usize, PathBuf)>,
    pub disks: Vec<HostDisk>,
    /// What of the host's its disks stand for. `None`: the host has put the guest's numbers into its limits itself.
    pub host_devices: Option<Vec<HostDevice>>,
    /// Where the bundle is on the host.
    pub bundle: String,
    /// Mounts that a stock host wants for it.
    pub storages: Vec<Wanted>,
    pub io: Io,
}

/// A source of a mount, as paths below the shared folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostMount {
    /// Index into config.json's mounts.
    pub index: usize,
    pub path: PathBuf,
    /// Where the host keeps copies of it, of which the newest is to stand for it.
    pub copies: Option<PathBuf>,
}

/// A disk that the host has plugged for something of config.json.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostDisk {
    pub serial: String,
    pub purpose: DiskPurpose,
    pub access: Access,
}

/// A block device of the host, and the disk of the guest that stands for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostDevice {
    pub serial: String,
    /// Major and minor, on the host.
    pub number: (i64, i64),
}

pub struct NewExec {
    pub container: Id,
    pub exec: Id,
    pub host: Host,
    pub process_json: Vec<u8>,
    /// As in `ExecPlan`.
    pub cgroup: PathBuf,
    pub io: Io,
}

/// A process that was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Made {
    /// In the guest.
    pub pid: u32,
    /// What was asked for and cannot be honoured, each named.
    pub warnings: Vec<String>,
}

/// Who is at the other end of a process's stdio.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Io {
    Stream(Endpoint),
    /// The host asks for it call by call.
    Pulled,
    /// Nobody.
    Nothing,
}

/// To whom a signal goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SignalTo {
    One(Name),
    All(Id),
}

impl SignalTo {
    pub fn container(&self) -> &Id {
        match self {
            Self::One(name) => &name.container,
            Self::All(container) => container,
        }
    }

    pub fn target(&self) -> Target {
        match self {
            Self::One(name) => target(&name.process),
            Self::All(_) => Target::All,
        }
    }
}

impl fmt::Display for SignalTo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::One(name) => name.fmt(f),
            Self::All(container) => write!(f, "all of container {container}"),
        }
    }
}

pub fn target(process: &Which) -> Target {
    match process {
        Which::Init => Target::Init,
        Which::Exec(id) => Target::Exec(id.as_str().to_owned()),
    }
}

#[derive(Deserialize)]
struct Config {
    #[serde(default)]
    process: Process,
}

#[derive(Deserialize, Default)]
struct Process {
    #[serde(default)]
    terminal: bool,
}

impl From<Process> for Terminal {
    fn from(process: Process) -> Self {
        match process.terminal {
            true => Self::Yes,
            false => Self::No,
        }
    }
}

/// Whether the init of that config.json has a terminal.
pub fn terminal_of_config(json: &[u8]) -> Result<Terminal, Error> {
    let what = "config.json";
    let config: Config =
        serde_json::from_slice(json).map_err(|source| Error::Json { what, source })?;
    Ok(config.process.into())
}

/// Whether that process has a terminal.
pub fn terminal_of_process(json: &[u8]) -> Result<Terminal, Error> {
    let what = "process";
    let process: Process =
        serde_json::from_slice(json).map_err(|source| Error::Json { what, source })?;
    Ok(process.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_is_found_where_it_is_asked_for() {
        for (json, terminal) in [
            (r#"{"process":{"terminal":true,"args":[]}}"#, Terminal::Yes),
            (r#"{"process":{"terminal":false}}"#, Terminal::No),
            (r#"{"process":{}}"#, Terminal::No),
            (r#"{"ociVersion":"1.0.2"}"#, Terminal::No),
        ] {
            assert_eq!(terminal_of_config(json.as_bytes()).unwrap(), terminal);
        }
        assert_eq!(
            terminal_of_process(br#"{"terminal":true}"#).unwrap(),
            Terminal::Yes
        );
    }

    #[test]
    fn a_config_that_is_none_is_an_error_that_says_so() {
        let refused = terminal_of_config(b"{").unwrap_err();

        assert!(
            refused
                .chain()
                .to_string()
                .starts_with("parse config.json: ")
        );
    }
}
