//! A guest with a shared folder that holds a busybox root file system, and how containers in
//! it are asked for.

use super::{
    link::{Link, deadline},
    peer::Peer,
    vm::{Vm, Wanted, lay_rootfs},
};
use protocols::asynchronous::health::CheckRequest;
use protocols::asynchronous::hutch_agent::{
    AckExitsRequest, CreateRequest, ExecRequest, Exit, ListRequest, NextExitsRequest,
    RemoveRequest, Rootfs, SignalRequest, StartRequest, StreamEndpoint, rootfs, stream_endpoint,
};
use serde_json::{Value, json};
use std::path::PathBuf;
use stream::Padding;

pub struct House {
    pub vm: Vm,
    pub link: Link,
    pub ports: u32,
}

impl House {
    pub async fn new() -> Self {
        let share = tempfile::tempdir().unwrap();
        lay_rootfs(&share.path().join("c/1"));
        let vm = Vm::boot(Wanted {
            words: "hutch.share=1",
            share: Some(share),
            ..Wanted::default()
        });
        let link = Link::open(&vm, Padding::None).await;
        link.health
            .check(deadline(), &CheckRequest::new())
            .await
            .unwrap();
        Self { vm, link, ports: 0 }
    }

    /// A new port and what names it.
    pub fn port(&mut self) -> (String, PathBuf) {
        self.ports += 1;
        let name = format!("hutch.stream.{}", self.ports);
        let path = self.vm.plug_port(&name);
        (name, path)
    }

    pub async fn create(&mut self, id: &str, config: Value) -> Peer {
        let (name, path) = self.port();
        let request = create_request(id, &config, Some(name));
        self.link.agent.create(deadline(), &request).await.unwrap();
        Peer::connect(&path).await
    }

    pub async fn start(&self, id: &str) {
        self.try_start(id).await.unwrap();
    }

    pub async fn try_start(&self, id: &str) -> ttrpc::Result<()> {
        let request = StartRequest {
            container_id: id.to_owned(),
            ..StartRequest::default()
        };
        self.link.agent.start(deadline(), &request).await.map(drop)
    }

    /// Creates and starts a container that runs `script`.
    pub async fn run(&mut self, id: &str, script: &str) -> Peer {
        let peer = self
            .create(id, config(&["/bin/sh", "-c", script], false))
            .await;
        self.start(id).await;
        peer
    }

    pub async fn exec(&mut self, id: &str, exec: &str, process: Value) -> Peer {
        let path = self.try_exec(id, exec, process).await.unwrap();
        Peer::connect(&path).await
    }

    /// Gives where its stdio is.
    pub async fn try_exec(
        &mut self,
        id: &str,
        exec: &str,
        process: Value,
    ) -> ttrpc::Result<PathBuf> {
        let (name, path) = self.port();
        let request = ExecRequest {
            container_id: id.to_owned(),
            exec_id: exec.to_owned(),
            process_json: process.to_string().into_bytes(),
            stream: Some(serial(name)).into(),
            ..ExecRequest::default()
        };
        self.link.agent.exec(deadline(), &request).await?;
        Ok(path)
    }

    pub async fn signal(&self, id: &str, exec: &str, signal: u32) -> ttrpc::Result<()> {
        let request = SignalRequest {
            container_id: id.to_owned(),
            exec_id: exec.to_owned(),
            signal,
            ..SignalRequest::default()
        };
        self.link.agent.signal(deadline(), &request).await.map(drop)
    }

    pub async fn remove(&self, id: &str) -> ttrpc::Result<()> {
        let request = RemoveRequest {
            container_id: id.to_owned(),
            ..RemoveRequest::default()
        };
        self.link.agent.remove(deadline(), &request).await.map(drop)
    }

    pub async fn exits(&self, after: u64, wait_ms: u32) -> Vec<Exit> {
        let request = NextExitsRequest {
            after,
            wait_ms,
            ..NextExitsRequest::default()
        };
        self.link
            .agent
            .next_exits(deadline(), &request)
            .await
            .unwrap()
            .exits
    }

    pub async fn acknowledge(&self, up_to: u64) {
        let request = AckExitsRequest {
            up_to,
            ..AckExitsRequest::default()
        };
        self.link
            .agent
            .ack_exits(deadline(), &request)
            .await
            .unwrap();
    }

    /// Every process as `container/exec:state`.
    pub async fn list(&self) -> Vec<String> {
        let answer = self
            .link
            .agent
            .list(deadline(), &ListRequest::new())
            .await
            .unwrap();
        let mut lines = Vec::new();
        for container in answer.containers {
            for process in container.processes {
                let state = format!("{:?}", process.state.unwrap());
                let state = state.trim_start_matches("PROCESS_STATE_").to_lowercase();
                lines.push(format!(
                    "{}/{}:{state}",
                    container.container_id, process.exec_id
                ));
            }
        }
        lines
    }
}

pub fn create_request(id: &str, config: &Value, port: Option<String>) -> CreateRequest {
    CreateRequest {
        container_id: id.to_owned(),
        config_json: config.to_string().into_bytes(),
        rootfs: Some(Rootfs {
            source: Some(rootfs::Source::SharePath("c/1".to_owned())),
            ..Rootfs::default()
        })
        .into(),
        stream: port.map(serial).into(),
        ..CreateRequest::default()
    }
}

fn serial(name: String) -> StreamEndpoint {
    StreamEndpoint {
        endpoint: Some(stream_endpoint::Endpoint::SerialPort(name)),
        ..StreamEndpoint::default()
    }
}

pub fn process(args: &[&str], terminal: bool) -> Value {
    json!({
        "terminal": terminal,
        "user": {"uid": 0, "gid": 0},
        "args": args,
        "env": ["PATH=/bin", "TERM=xterm"],
        "cwd": "/",
    })
}

pub fn config(args: &[&str], terminal: bool) -> Value {
    json!({
        "ociVersion": "1.0.2",
        "process": process(args, terminal),
        "root": {"path": "rootfs"},
        "hostname": "box",
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs",
                "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]},
            {"destination": "/dev/pts", "type": "devpts", "source": "devpts",
                "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"]},
        ],
        "linux": {"namespaces": [
            {"type": "pid"}, {"type": "mount"}, {"type": "uts"}, {"type": "ipc"},
        ]},
    })
}
