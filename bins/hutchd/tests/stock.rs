//! Whole lives in a guest with a stock agent: the daemon's own wiring and the real port to the agent,
//! over fakes of everything else. The agent is the one that has every habit of Kata's, behind a
//! socket where a VMM would have it.

#![allow(clippy::unwrap_used)] // Tests may.

mod ground;

use actix::Addr;
use agent_client::{
    contract::{channel::Peer, peers::SerialPeer, server, stdio::Relay, stock::stock_services},
    fake::FakeGuest,
    rpc::TtrpcAgent,
};
use ground::{Ground, LIMIT, told};
use hutchd::{
    api::now,
    bundle,
    config::{ChannelChoice, Config},
    profile::ProfileName,
    wiring::{self, Ports},
};
use netns::fake::FakeNamespaces;
use runtime_core::{
    agent::{ExitReason, ExitStatus, Program},
    container::{
        Exec, Force, Freeze, FreezeContainer, NextOoms, ProcessCommand, Start, UpdateLimits,
    },
    error::Fault,
    host::{CreateContainer, Delete, Find, HostActor, Located},
    hypervisor::{HostEndpoint, StreamLease},
    ids::{ContainerId, ContainerNumber, ExecId, Namespace, ProcessId, SandboxUid},
    kit,
    process::Kill,
    sandbox::{
        ExecIn, FreezeIn, GetStatsOf, NextOomsIn, ProcessIn, SandboxActor, StartIn, UpdateIn,
        WaitIn,
    },
};
use std::{
    path::{Path, PathBuf},
    rc::Rc,
};
use tempfile::TempDir;
use ttrpc::r#async::Server;

const CONFIG: &str = r#"{
    "ociVersion": "1.0.2",
    "process": { "args": ARGS, "cwd": "/", "user": { "uid": 0, "gid": 0 } },
    "root": { "path": "rootfs" },
    "linux": { "namespaces": [
        { "type": "pid" }, { "type": "mount" }, { "type": "network" }, { "type": "time" }
    ] }
}"#;
const RANDOM: u64 = 7;

/// A daemon whose sandboxes have a stock agent; the first of them has this guest.
struct House {
    folder: TempDir,
    host: Addr<HostActor>,
    guest: FakeGuest,
    _agent: Server,
}

impl House {
    async fn open() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("r");
        let sandbox = root
            .join("s")
            .join(SandboxUid::from_random(RANDOM).to_string());
        std::fs::create_dir_all(&sandbox).unwrap();
        let guest = FakeGuest::new();
        let peer = SerialPeer::new(&sandbox);
        let (agent, door) = server::serve(stock_services(&guest)).await;
        kit::detach(async move { server::usher(|| peer.accept(), door).await });
        let host = wiring::build(ports(&root, folder.path())).await.unwrap();
        Self {
            folder,
            host,
            guest,
            _agent: agent,
        }
    }

    fn bundle(&self) -> PathBuf {
        self.folder.path().join("bundle")
    }

    async fn find(&self) -> Result<Located, Fault> {
        let find = Find {
            namespace: Namespace::new("default").unwrap(),
            id: "web".to_owned(),
        };
        self.host.send(find).await.unwrap()
    }

    async fn create(&self, args: &str) -> Life<'_> {
        let config = CONFIG.replace("ARGS", args);
        let wish = bundle::wish(bundle::Request {
            namespace: Namespace::new("default").unwrap(),
            id: ContainerId::new("web").unwrap(),
            bundle: &self.bundle().display().to_string(),
            config_json: config.as_bytes(),
            join: None,
            neighbours: None,
            cgroups_path: String::new(),
            relay: None,
            uid: SandboxUid::from_random(RANDOM),
            created: now(),
        });
        let (key, wish) = (None, Box::new(wish.unwrap()));
        let created = self.host.send(CreateContainer { key, wish }).await;
        let created = created.unwrap().unwrap();
        let located = self.find().await.unwrap();
        Life {
            house: self,
            sandbox: located.sandbox,
            container: created.place.number,
            lease: created.init.lease,
        }
    }
}

fn ports(root: &Path, folder: &Path) -> Ports {
    let file = |name: &str| {
        let path = folder.join(name);
        std::fs::write(&path, "").unwrap();
        path
    };
    let mut config = Config::default();
    config.guest.profile = ProfileName::Kata;
    config.guest.channel = ChannelChoice::Serial;
    config.kata.channel = ChannelChoice::Serial;
    config.kata.kernel = file("vmlinux");
    config.kata.initrd = file("initrd.img");
    let bundle = folder.join("bundle");
    std::fs::create_dir_all(bundle.join("rootfs")).unwrap();
    let ground = Ground {
        root,
        config,
        bundle: &bundle,
        namespaces: FakeNamespaces::default(),
        agent: Rc::new(|_| (Rc::new(TtrpcAgent::new()), Rc::new(FakeGuest::new()))),
    };
    ground.ports()
}

/// One container.
struct Life<'a> {
    house: &'a House,
    sandbox: Addr<SandboxActor>,
    container: ContainerNumber,
    lease: StreamLease,
}

fn socket(lease: &StreamLease) -> &Path {
    match &lease.host {
        HostEndpoint::Carried(socket) => socket,
        other => panic!("a stock guest has no streams: {other:?}"),
    }
}

impl Life<'_> {
    async fn relay(&self) -> Relay {
        Relay::at(socket(&self.lease)).await
    }

    async fn command(&self, command: ProcessCommand) -> Result<(), Fault> {
        let container = self.container;
        self.sandbox
            .send(ProcessIn { container, command })
            .await
            .unwrap()
    }

    async fn begin(&self) {
        let start = StartIn {
            container: self.container,
            start: Start { key: None },
        };
        self.sandbox.send(start).await.unwrap().unwrap();
    }

    async fn kill(&self, signal: u32) {
        let kill = Kill {
            key: None,
            signal,
            all: false,
        };
        let kill = ProcessCommand::Kill(ProcessId::Init, kill);
        self.command(kill).await.unwrap();
    }

    async fn freeze(&self, wish: Freeze) {
        let freeze = FreezeIn {
            container: self.container,
            freeze: FreezeContainer { key: None, wish },
        };
        self.sandbox.send(freeze).await.unwrap().unwrap();
    }

    async fn exec(&self, id: &str, json: &str) -> (ProcessId, Relay) {
        let id = ExecId::new(id).unwrap();
        let exec = ExecIn {
            container: self.container,
            exec: Exec {
                key: None,
                exec: id.clone(),
                program: Program {
                    process_json: json.as_bytes().to_vec(),
                    ..Program::default()
                },
                relay: None,
            },
        };
        let lease = self.sandbox.send(exec).await.unwrap().unwrap().lease;
        (ProcessId::Exec(id), Relay::at(socket(&lease)).await)
    }

    async fn wait(&self, process: ProcessId) -> ExitStatus {
        let container = self.container;
        let wait = self.sandbox.send(WaitIn { container, process });
        wait.await.unwrap().unwrap()
    }

    async fn delete(self) {
        let delete = Delete {
            key: None,
            namespace: Namespace::new("default").unwrap(),
            id: "web".to_owned(),
            force: Force::No,
            at: now(),
        };
        self.house.host.send(delete).await.unwrap().unwrap();
    }
}

#[test]
fn a_container_in_a_stock_guest_is_created_heard_entered_and_deleted() {
    told(async {
        let house = House::open().await;
        let life = house.create(r#"["/bin/cat"]"#).await;
        let mut relay = life.relay().await;
        life.begin().await;

        relay.say(b"hello").await;
        relay.hear(b"hello").await;
        let echo =
            r#"{ "args": ["/bin/echo", "inside"], "cwd": "/", "user": { "uid": 0, "gid": 0 } }"#;
        let (exec, mut inside) = life.exec("e", echo).await;
        assert_eq!(inside.exit().await, 0);
        assert_eq!(inside.said(), b"inside\n");
        assert_eq!(life.wait(exec).await.code, 0);
        relay.hang_up_stdin().await;

        assert_eq!(relay.exit().await, 0);
        assert_eq!(life.wait(ProcessId::Init).await.reason, ExitReason::Exited);
        life.delete().await;
        assert!(house.find().await.is_err());
    });
}

#[test]
fn a_container_in_a_stock_guest_is_frozen_counted_limited_and_killed() {
    told(async {
        let house = House::open().await;
        let life = house.create(r#"["/bin/sleep", "1000"]"#).await;
        let mut relay = life.relay().await;
        life.begin().await;

        life.freeze(Freeze::Pause).await;
        assert!(house.guest.is_frozen(life.container));
        life.freeze(Freeze::Resume).await;
        assert!(!house.guest.is_frozen(life.container));
        let stats = life.sandbox.send(GetStatsOf(life.container)).await;
        assert_eq!(stats.unwrap().unwrap().pids.current, 1);
        let limits = UpdateIn {
            container: life.container,
            update: UpdateLimits {
                resources: br#"{"pids": {"limit": 5}}"#.to_vec(),
            },
        };
        life.sandbox.send(limits).await.unwrap().unwrap();
        let stats = life.sandbox.send(GetStatsOf(life.container)).await;
        assert_eq!(stats.unwrap().unwrap().pids.max, 5);
        // The agent makes SIGKILL of it, and tells a bare 9.
        life.kill(15).await;

        assert_eq!(relay.exit().await, 137);
        let status = life.wait(ProcessId::Init).await;
        assert_eq!((status.code, status.reason), (137, ExitReason::Signaled));
        life.delete().await;
    });
}

#[test]
fn a_kill_for_want_of_memory_in_a_stock_guest_is_numbered_and_is_the_reason_of_the_exit() {
    told(async {
        let house = House::open().await;
        let life = house.create(r#"["/bin/sleep", "1000"]"#).await;
        life.begin().await;
        let next = NextOomsIn {
            container: life.container,
            next: NextOoms {
                after: 0,
                wait: LIMIT,
            },
        };

        assert!(house.guest.oom(life.container));
        let ooms = life.sandbox.send(next).await.unwrap().unwrap();
        house
            .guest
            .end(life.container, ProcessId::Init, 137, ExitReason::Signaled);

        assert_eq!(ooms.ooms.len(), 1);
        assert_eq!(ooms.ooms[0].number, 1);
        let status = life.wait(ProcessId::Init).await;
        assert_eq!((status.code, status.reason), (137, ExitReason::Oom));
        life.delete().await;
    });
}
