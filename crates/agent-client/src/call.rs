//! The calls that rooms make on an agent, and how long each may take.

use runtime_core::hypervisor::Accelerator;
use std::{fmt, time::Duration};

/// hutch-agent's, for a process to come to be (`engine/spawn.rs`).
const SETUP_LIMIT: Duration = Duration::from_secs(60);

/// A call, without what it carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Call {
    CreateSandbox,
    SetClock,
    CreateContainer,
    StartContainer,
    Exec,
    Signal,
    RemoveContainer,
    RemoveEmpty,
    PauseContainer,
    ResumeContainer,
    UpdateContainer,
    Stats,
    List,
    Pids,
}

impl Call {
    /// With hardware acceleration; see [`Self::deadline`].
    fn base(self) -> Duration {
        Duration::from_secs(match self {
            // Mounts, and for a stock agent modules and hooks.
            Self::CreateSandbox => 20,
            // A block device may have to appear first; a stock agent needs 1.4 s under emulation.
            Self::CreateContainer => 20,
            Self::StartContainer | Self::Exec => 10,
            // A process in the middle of a system call is frozen at its end.
            Self::PauseContainer | Self::ResumeContainer => 10,
            // Shrinking memory reclaims it first.
            Self::UpdateContainer => 10,
            // Kills and reaps what is left, unmounts, removes cgroups that may be busy for a while.
            Self::RemoveContainer => 20,
            // Nothing in the guest waits for anything here.
            Self::SetClock
            | Self::Signal
            | Self::RemoveEmpty
            | Self::Stats
            | Self::List
            | Self::Pids => 5,
        })
    }

    /// When our agent ends it itself, where a file system does not answer for example, and says how far it came.
    fn guests_own(self) -> Duration {
        match self {
            Self::CreateContainer | Self::StartContainer | Self::Exec => SETUP_LIMIT,
            Self::CreateSandbox
            | Self::SetClock
            | Self::Signal
            | Self::RemoveContainer
            | Self::RemoveEmpty
            | Self::PauseContainer
            | Self::ResumeContainer
            | Self::UpdateContainer
            | Self::Stats
            | Self::List
            | Self::Pids => Duration::ZERO,
        }
    }

    /// When the caller hears `Timeout`: behind what the guest ends itself, and scaled by how slow its processor is. A
    /// guest that hangs is noticed sooner, by what it is asked all the time. Hooks come on top of it.
    pub fn deadline(self, accelerator: Accelerator) -> Duration {
        self.guests_own() + self.base() * accelerator.patience()
    }

    /// For errors: what was being done.
    pub fn name(self) -> &'static str {
        match self {
            Self::CreateSandbox => "create sandbox",
            Self::SetClock => "set clock",
            Self::CreateContainer => "create container",
            Self::StartContainer => "start container",
            Self::Exec => "exec",
            Self::Signal => "signal",
            Self::RemoveContainer => "remove container",
            Self::RemoveEmpty => "remove empty container",
            Self::PauseContainer => "pause container",
            Self::ResumeContainer => "resume container",
            Self::UpdateContainer => "update container",
            Self::Stats => "read statistics",
            Self::List => "list processes",
            Self::Pids => "list pids",
        }
    }
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
