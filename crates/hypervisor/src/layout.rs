//! Where a VM's files and sockets lie in its sandbox's folder, and how either side of its channel
//! is reached. Names only; touches nothing.

use crate::{error::InvalidSpec, port::PortPlan};
use runtime_core::hypervisor::{ChannelKind, GuestEndpoint, HostEndpoint, StdioKind, VmSpec};
use std::path::{Path, PathBuf};

/// sun_path has 108 bytes, one of them for the NUL.
const SOCKET_PATH_MAX: usize = 107;

/// Where the agent listens on vsock.
const CONTROL_VSOCK_PORT: u32 = 1024;

/// Stream 1 is the next one; ports below 1024 are for the guest's root, 1025 and 1026 are taken by
/// a stock agent's log and debug console.
const STREAMS_VSOCK_PORT: u32 = 2048;

/// The folder of one sandbox.
#[derive(Debug, Clone)]
pub struct Layout {
    folder: PathBuf,
    channel: ChannelKind,
    stdio: StdioKind,
}

impl Layout {
    pub fn of(spec: &VmSpec) -> Self {
        Self {
            folder: spec.folder.clone(),
            channel: spec.channel.clone(),
            stdio: spec.stdio,
        }
    }

    /// Every log that somebody writes for as long as the VM lives.
    pub fn logs(&self) -> Vec<PathBuf> {
        let mut logs = vec![self.console(), self.stderr()];
        match self.channel {
            ChannelKind::Serial | ChannelKind::Vsock { .. } => {}
            ChannelKind::HybridVsock { .. } => logs.push(self.vsock_log()),
        }
        logs
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

    /// What that backend says.
    pub fn vsock_log(&self) -> PathBuf {
        self.folder.join("vsock.log")
    }

    pub fn console(&self) -> PathBuf {
        self.folder.join("console.log")
    }

    /// What the VMM writes to its standard error.
    pub fn stderr(&self) -> PathBuf {
        self.folder.join("vmm.log")
    }

    pub fn control_endpoint(&self) -> HostEndpoint {
        match self.channel {
            ChannelKind::Serial => HostEndpoint::Socket(self.control()),
            ChannelKind::Vsock { .. } | ChannelKind::HybridVsock { .. } => {
                self.vsock_endpoint(CONTROL_VSOCK_PORT)
            }
        }
    }

    pub fn stream_endpoint(&self, number: u32) -> HostEndpoint {
        match (self.stdio, &self.channel) {
            (StdioKind::Calls, _) => HostEndpoint::Carried(self.stream(number)),
            (StdioKind::Ports, ChannelKind::Serial) => HostEndpoint::Socket(self.stream(number)),
            (StdioKind::Ports, ChannelKind::Vsock { .. } | ChannelKind::HybridVsock { .. }) => {
                self.vsock_endpoint(STREAMS_VSOCK_PORT + number)
            }
        }
    }

    /// What the guest calls stream `number`.
    pub fn stream_name(&self, number: u32) -> GuestEndpoint {
        match (self.stdio, &self.channel) {
            (StdioKind::Calls, _) => GuestEndpoint::Calls(self.stream(number)),
            (StdioKind::Ports, ChannelKind::Serial) => {
                GuestEndpoint::SerialPort(stream_port_name(number))
            }
            (StdioKind::Ports, ChannelKind::Vsock { .. } | ChannelKind::HybridVsock { .. }) => {
                GuestEndpoint::VsockPort(STREAMS_VSOCK_PORT + number)
            }
        }
    }

    fn vsock_endpoint(&self, port: u32) -> HostEndpoint {
        match &self.channel {
            ChannelKind::Vsock { cid } => HostEndpoint::Vsock { cid: *cid, port },
            ChannelKind::Serial | ChannelKind::HybridVsock { .. } => HostEndpoint::Hybrid {
                socket: self.vsock(),
                port,
            },
        }
    }

    /// Refuses a folder whose sockets could not be bound.
    ///
    /// # Errors
    /// A socket's path would be too long.
    pub fn check(&self, ports: PortPlan) -> Result<(), InvalidSpec> {
        let mut longest = match self.channel {
            ChannelKind::Serial => vec![self.control(), self.stream(ports.max)],
            ChannelKind::Vsock { .. } => Vec::new(),
            ChannelKind::HybridVsock { .. } => vec![self.vsock(), self.vsock_backend()],
        };
        match self.stdio {
            StdioKind::Ports => {}
            StdioKind::Calls => longest.push(self.stream(ports.max)),
        }
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

/// The name of a stream's virtio-serial port.
pub fn stream_port_name(number: u32) -> String {
    format!("hutch.stream.{number}")
}

#[cfg(test)]
mod tests {
    use super::*;

    const PORTS: PortPlan = PortPlan { cold: 2, max: 30 };

    fn layout(folder: &Path, channel: ChannelKind) -> Layout {
        Layout {
            folder: folder.to_owned(),
            channel,
            stdio: StdioKind::Ports,
        }
    }

    #[test]
    fn each_sandbox_has_one_socket_for_its_vmm_and_one_for_its_agent() {
        let folder = Path::new("/run/hutch/s/00000000000000ab");
        let serial = layout(folder, ChannelKind::Serial);

        assert_eq!(serial.qmp(), folder.join("qmp.sock"));
        let control = HostEndpoint::Socket(folder.join("control.sock"));
        assert_eq!(serial.control_endpoint(), control);
        let stream = HostEndpoint::Socket(folder.join("p3.sock"));
        assert_eq!(serial.stream_endpoint(3), stream);
        assert_eq!(
            serial.logs(),
            [folder.join("console.log"), folder.join("vmm.log")]
        );
    }

    #[test]
    fn a_root_that_leaves_no_room_for_a_sockets_name_is_refused_with_that_name() {
        let of = |bytes: usize| {
            let folder = format!("/{}", "r".repeat(bytes - 1));
            layout(Path::new(&folder), ChannelKind::Serial).check(PORTS)
        };
        let room = SOCKET_PATH_MAX - "/control.sock".len();

        assert!(of(room).is_ok());
        match of(room + 1) {
            Err(InvalidSpec::SocketPath { path, len, max }) => {
                assert!(path.ends_with("control.sock"), "{path:?}");
                assert_eq!((len, max), (SOCKET_PATH_MAX + 1, SOCKET_PATH_MAX));
            }
            other => panic!("{other:?}"),
        }
    }
}
