//! Where a VM's files and sockets lie in its sandbox's folder. Names only; touches nothing.

use crate::{error::InvalidSpec, port::PortPlan};
use runtime_core::hypervisor::{ChannelKind, VmSpec};
use std::path::{Path, PathBuf};

/// sun_path has 108 bytes, one of them for the NUL.
const SOCKET_PATH_MAX: usize = 107;

/// The folder of one sandbox.
#[derive(Debug, Clone)]
pub struct Layout {
    folder: PathBuf,
    channel: ChannelKind,
}

impl Layout {
    pub fn of(spec: &VmSpec) -> Self {
        Self {
            folder: spec.folder.clone(),
            channel: spec.channel,
        }
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }

    pub fn qmp(&self) -> PathBuf {
        self.folder.join("qmp.sock")
    }

    pub fn control(&self) -> PathBuf {
        self.folder.join("control.sock")
    }

    pub fn stream(&self, number: u32) -> PathBuf {
        self.folder.join(format!("p{number}.sock"))
    }

    /// Where the host side of a hybrid vsock takes `CONNECT port`.
    pub fn vsock(&self) -> PathBuf {
        self.folder.join("vsock.sock")
    }

    /// Where the hybrid vsock's backend waits for the VMM.
    pub fn vsock_backend(&self) -> PathBuf {
        self.folder.join("vhost-vsock.sock")
    }

    pub fn console(&self) -> PathBuf {
        self.folder.join("console.log")
    }

    /// What the VMM writes to its standard error.
    pub fn stderr(&self) -> PathBuf {
        self.folder.join("vmm.log")
    }

    /// Refuses a folder whose sockets could not be bound.
    ///
    /// # Errors
    /// A socket's path would be too long.
    pub fn check(&self, ports: PortPlan) -> Result<(), InvalidSpec> {
        let longest = match self.channel {
            ChannelKind::Serial => vec![self.control(), self.stream(ports.max)],
            ChannelKind::Vsock { .. } => Vec::new(),
            ChannelKind::HybridVsock { .. } => vec![self.vsock(), self.vsock_backend()],
        };
        for path in longest.into_iter().chain([self.qmp()]) {
            let len = path.as_os_str().len();
            if len > SOCKET_PATH_MAX {
                let max = SOCKET_PATH_MAX;
                return Err(InvalidSpec::SocketPath { path, len, max });
            }
        }
        Ok(())
    }
}
