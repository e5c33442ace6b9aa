//! The real port and the room before our agent in a real guest.
//!
//! Needs QEMU, busybox, a guest kernel and an initramfs with the agent: `HUTCH_GUEST_TESTS=1
//! HUTCH_GUEST_KERNEL=… HUTCH_GUEST_INITRD=…`, and `HUTCH_GUEST_VIRTIOFSD=…` for one that is not
//! Debian's. Without the first, every test says so and passes.

#![allow(clippy::unwrap_used)]

// Its monitor and its further ports are the agent's own tests' business.
#[allow(dead_code)]
#[path = "../../../../bins/hutch-agent/tests/guest/vm.rs"]
mod vm;

use actix::prelude::*;
use agent_client::{
    actor::{AgentActor, Surroundings},
    contract::{
        agent::{self as contract, Bench, LIMIT, Offers},
        stdio,
    },
    port::AgentPort,
    rpc::TtrpcAgent,
    signs::ConsoleLog,
};
use runtime_core::{
    agent::{
        Address, CreateContainer, CreateSandbox, GuestNews, GuestRootfs, LinkSpec, Notice, Open,
        Parent, RoomGone, StartContainer,
    },
    hypervisor::{Accelerator, HostEndpoint, StdioKind},
    ids::{ContainerNumber, EpochMs},
};
use serde_json::json;
use std::{path::PathBuf, rc::Rc, time::Duration};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
    sync::mpsc,
    task::LocalSet,
    time::timeout,
};
use vm::{Vm, Wanted, asked, lay_rootfs};

/// A guest whose share holds a root with busybox, `rootfs`.
fn boot() -> Vm {
    let share = tempfile::tempdir().unwrap();
    lay_rootfs(&share.path().join("rootfs"));
    Vm::boot(Wanted {
        share: Some(share),
        ..Wanted::default()
    })
}

fn control(vm: &Vm) -> PathBuf {
    vm.socket("c")
}

struct GuestBench {
    control: PathBuf,
    port: Rc<TtrpcAgent>,
}

impl GuestBench {
    fn new(vm: &Vm) -> Self {
        Self {
            control: control(vm),
            port: Rc::new(TtrpcAgent::new()),
        }
    }

    /// Waits for the boot, and mounts the share.
    async fn prepared(vm: &Vm) -> Self {
        let bench = Self::new(vm);
        let details = bench.port.dial(bench.link(), LIMIT).await.unwrap();
        assert!(details.speaks_hutch, "{details:?}");
        bench.port.create_sandbox(sandbox(), LIMIT).await.unwrap();
        bench
    }
}

impl Bench for GuestBench {
    fn port(&self) -> Rc<dyn AgentPort> {
        self.port.clone()
    }

    fn link(&self) -> LinkSpec {
        link(&self.control)
    }

    fn container(&self, number: ContainerNumber, args: &[&str]) -> CreateContainer {
        container(number, args)
    }

    fn process(&self, args: &[&str]) -> Vec<u8> {
        process(args)
    }
}

fn process(args: &[&str]) -> Vec<u8> {
    let process = json!({ "args": args, "cwd": "/", "user": { "uid": 0, "gid": 0 } });
    process.to_string().into_bytes()
}

fn link(control: &std::path::Path) -> LinkSpec {
    LinkSpec {
        control: HostEndpoint::Socket(control.to_owned()),
        accelerator: Accelerator::Tcg,
        news_recorded: 0,
        stdio: StdioKind::Ports,
    }
}

fn sandbox() -> CreateSandbox {
    CreateSandbox {
        sandbox: "0123456789abcdef".to_owned(),
        hostname: "web".to_owned(),
        share: true,
        now: Some(EpochMs(1_700_000_000_123)),
        entropy: vec![7; 32],
    }
}

fn container(number: ContainerNumber, args: &[&str]) -> CreateContainer {
    let config = json!({
        "ociVersion": "1.0.2",
        "process": {
            "args": args, "cwd": "/", "user": { "uid": 0, "gid": 0 }, "env": ["PATH=/bin"]
        },
        "root": { "path": "rootfs" },
        "mounts": [{ "destination": "/proc", "type": "proc", "source": "proc" }],
        "linux": { "namespaces": [
            { "type": "pid" }, { "type": "mount" }, { "type": "ipc" }, { "type": "uts" }
        ] }
    });
    CreateContainer {
        container: number,
        config_json: config.to_string().into_bytes(),
        rootfs: GuestRootfs::Share("rootfs".to_owned()),
        mounts: Vec::new(),
        hook_programs: Vec::new(),
        disks: Vec::new(),
        devices: Vec::new(),
        bundle: "/bundle".into(),
        stream: None,
        hooks_limit: Duration::ZERO,
    }
}

#[tokio::test(flavor = "current_thread")]
async fn our_agent_keeps_the_contract() {
    if !asked() {
        return;
    }
    let vm = boot();
    let run = async {
        let bench = GuestBench::prepared(&vm).await;
        contract::suite(&bench, Offers::Hutch).await;
    };
    LocalSet::new().run_until(run).await;
}

/// The same agent, told to offer what a stock one does, before ports of one daemon after another.
struct StockBench {
    control: PathBuf,
    folder: PathBuf,
    port: Rc<TtrpcAgent>,
}

impl StockBench {
    fn stock_link(&self) -> LinkSpec {
        LinkSpec {
            stdio: StdioKind::Calls,
            ..link(&self.control)
        }
    }
}

impl Bench for StockBench {
    fn port(&self) -> Rc<dyn AgentPort> {
        self.port.clone()
    }

    fn link(&self) -> LinkSpec {
        self.stock_link()
    }

    fn container(&self, number: ContainerNumber, args: &[&str]) -> CreateContainer {
        container(number, args)
    }

    fn process(&self, args: &[&str]) -> Vec<u8> {
        process(args)
    }
}

impl stdio::Bench for StockBench {
    fn port(&self) -> Rc<dyn AgentPort> {
        Rc::new(TtrpcAgent::new())
    }

    fn link(&self) -> LinkSpec {
        self.stock_link()
    }

    fn container(&self, number: ContainerNumber, args: &[&str]) -> CreateContainer {
        container(number, args)
    }

    fn process(&self, args: &[&str]) -> Vec<u8> {
        process(args)
    }

    fn socket(&self, number: u32) -> PathBuf {
        self.folder.join(format!("p{number}.sock"))
    }
}

#[tokio::test(flavor = "current_thread")]
async fn our_agent_told_to_be_a_stock_one_keeps_that_contract() {
    if !asked() {
        return;
    }
    let share = tempfile::tempdir().unwrap();
    lay_rootfs(&share.path().join("rootfs"));
    let vm = Vm::boot(Wanted {
        share: Some(share),
        words: "hutch.features=stock",
        ..Wanted::default()
    });
    let run = async {
        let bench = StockBench {
            control: control(&vm),
            folder: vm.folder.path().to_owned(),
            port: Rc::new(TtrpcAgent::new()),
        };
        let dialed = bench.port.dial(bench.stock_link(), LIMIT).await;
        assert!(!dialed.unwrap().speaks_hutch);
        bench.port.create_sandbox(sandbox(), LIMIT).await.unwrap();

        contract::suite(&bench, Offers::Stock).await;
        bench.port.hang_up();
        stdio::suite(&bench).await;
    };
    LocalSet::new().run_until(run).await;
}

#[tokio::test(flavor = "current_thread")]
async fn a_host_end_that_died_in_the_middle_of_a_frame_is_replaced() {
    if !asked() {
        return;
    }
    let vm = boot();
    let run = async {
        let bench = GuestBench::prepared(&vm).await;
        bench.port.hang_up();
        for cut in [1, 20, 5_000, 29_999] {
            die_after(cut, &vm).await;

            let details = bench.port.dial(bench.link(), LIMIT).await;

            assert!(details.is_ok(), "{cut}: {details:?}");
            bench.port.hang_up();
        }
    };
    LocalSet::new().run_until(run).await;
}

/// A host end whose last frame is cut off after so many bytes.
async fn die_after(cut: usize, vm: &Vm) {
    let mut io = UnixStream::connect(control(vm)).await.unwrap();
    let mut session = stream::ControlHost::new(stream::Nonce([9; 16]), stream::Padding::Full);
    io.write_all(session.outgoing()).await.unwrap();
    session.sent(session.outgoing().len());
    let mut bytes = [0; 4096];
    while !session.is_established() {
        let count = timeout(LIMIT, io.read(&mut bytes)).await.unwrap().unwrap();
        assert!(count > 0, "the port was closed");
        session.feed(&bytes[..count]);
    }
    // What looks like a request of ttrpc.
    session
        .send(&[0, 0, 0, 9, 0, 0, 0, 1, 1, 0].repeat(3_000))
        .unwrap();
    io.write_all(&session.outgoing()[..cut]).await.unwrap();
    io.flush().await.unwrap();
}

/// The sandbox, as far as this room knows it.
struct Sandbox(mpsc::UnboundedSender<Notice>);

impl Actor for Sandbox {
    type Context = Context<Self>;
}

impl Handler<Notice> for Sandbox {
    type Result = ();
    fn handle(&mut self, notice: Notice, _: &mut Context<Self>) {
        let _ = self.0.send(notice);
    }
}

impl Handler<RoomGone> for Sandbox {
    type Result = ();
    fn handle(&mut self, _: RoomGone, _: &mut Context<Self>) {}
}

fn room(vm: &Vm) -> (Address, Addr<Sandbox>, mpsc::UnboundedReceiver<Notice>) {
    let (tell, hear) = mpsc::unbounded_channel();
    let sandbox = Sandbox(tell).start();
    let address = AgentActor::open(Surroundings {
        port: Rc::new(TtrpcAgent::new()),
        signs: Rc::new(ConsoleLog {
            path: vm.socket("console"),
        }),
        parent: Parent {
            notices: sandbox.clone().recipient().downgrade(),
            gone: sandbox.clone().recipient().downgrade(),
        },
    });
    (address, sandbox, hear)
}

#[tokio::test(flavor = "current_thread")]
async fn the_room_opens_while_the_guest_boots_and_tells_exits_and_the_end() {
    if !asked() {
        return;
    }
    let mut vm = boot();
    let run = async {
        let (room, _sandbox, mut hear) = room(&vm);
        let opened = room.open.send(Open(link(&control(&vm)))).await.unwrap();
        assert!(opened.unwrap().speaks_hutch);
        room.create_sandbox.send(sandbox()).await.unwrap().unwrap();
        let number = ContainerNumber(1);
        let create = container(number, &["/bin/sh", "-c", "exit 7"]);
        room.create_container.send(create).await.unwrap().unwrap();
        let start = StartContainer {
            container: number,
            hooks_limit: Duration::ZERO,
        };
        room.start_container.send(start).await.unwrap().unwrap();

        let exited = timeout(LIMIT, hear.recv()).await.unwrap();
        let Some(Notice::News(GuestNews::Exited(exit))) = exited else {
            panic!("{exited:?}")
        };
        assert_eq!((exit.container, exit.status.code), (number, 7));
        // The guest's clock was set.
        assert!(exit.status.at >= EpochMs(1_700_000_000_000));

        vm.kill();
        let lost = timeout(LIMIT * 2, hear.recv()).await.unwrap();
        let Some(Notice::Lost { why }) = lost else {
            panic!("{lost:?}")
        };
        assert!(
            why.to_string().starts_with("no answer from agent in "),
            "{why}"
        );
    };
    LocalSet::new().run_until(run).await;
}
