//! One suite for every driver of the port `Vmm`: what holds of the fake holds of QEMU.
//!
//! The fake always runs. QEMU runs with `HUTCH_GUEST_TESTS=1`, a guest kernel (an ELF vmlinux) at
//! `$HUTCH_GUEST_KERNEL` and vhost-device-vsock at `$HUTCH_GUEST_VSOCK_BACKEND`; the guest is a
//! busybox.

#![allow(clippy::unwrap_used)]

mod support;

use hypervisor::{
    error::Error,
    fake::{Call, FakeHost, Fate, Outcome},
    port::{ExitHow, LaunchPlan, PortPlan, Vmm},
    qemu::{Qemu, QemuConfig},
};
use runtime_core::{
    hypervisor::{Accelerator, BlockSpec, ChannelKind, MachineType, StdioKind, VmSpec},
    ids::{HostProcess, SandboxUid},
    premises::Cgroup,
};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal},
};
use std::{fs, path::PathBuf, rc::Rc, time::Duration};
use support::{TestCgroup, write_initrd};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::UnixStream,
    task::LocalSet,
    time::timeout,
};

/// A guest under emulation on a loaded machine.
const GUEST_LIMIT: Duration = Duration::from_secs(120);

/// A killed process gives its memory back first.
const DEATH_LIMIT: Timespec = Timespec {
    tv_sec: 20,
    tv_nsec: 0,
};

/// A story boots at most one guest.
const STORY_LIMIT: Duration = Duration::from_secs(180);

/// What a suite needs of the world around a driver.
trait Stage {
    fn vmm(&self) -> Rc<dyn Vmm>;
    /// A driver that knows nothing: another daemon's.
    fn successor(&self) -> Rc<dyn Vmm>;
    fn plan(&self) -> LaunchPlan;
    /// A block image that exists.
    fn image(&self) -> PathBuf;
    /// Has the guest do something; returns when it has done so, or is about to go down.
    async fn guest(&self, order: &str);
    /// kill -9 from outside.
    fn murder(&self);
    /// A plan whose channel is carried by a program beside the VMM.
    fn carried(&self) -> LaunchPlan;
    /// What carries it and lives.
    fn backends(&self) -> usize;
    /// kill -9 of that.
    fn murder_backend(&self);
    /// A driver, and a plan for it, whose VMM lives and never speaks.
    fn mute(&self) -> (Rc<dyn Vmm>, LaunchPlan);
    /// A plan whose VMM ends by itself at once.
    fn hopeless(&self) -> LaunchPlan;
}

async fn booted(stage: &impl Stage) -> Rc<dyn Vmm> {
    let vmm = stage.vmm();
    vmm.spawn(stage.plan()).await.unwrap();
    vmm.connect(stage.plan().spec.uid).await.unwrap();
    stage.guest("nothing").await;
    vmm
}

/// Takes a VM away at the end of a story, and sees that it went.
async fn away(vmm: Rc<dyn Vmm>, uid: SandboxUid) {
    vmm.kill(uid).await.unwrap();
    vmm.ended(uid).await;
    vmm.kill(uid).await.unwrap();
    vmm.forget(uid);
    assert!(matches!(vmm.kill(uid).await, Err(Error::Unknown { .. })));
}

async fn a_killed_vmm_ends_by_that_signal_however_often_it_is_asked(stage: &impl Stage) {
    let vmm = stage.vmm();
    let uid = stage.plan().spec.uid;
    vmm.spawn(stage.plan()).await.unwrap();
    vmm.connect(uid).await.unwrap();
    vmm.connect(uid).await.unwrap();

    vmm.kill(uid).await.unwrap();

    assert_eq!(vmm.ended(uid).await.how, ExitHow::Signal(9));
    assert_eq!(vmm.ended(uid).await.how, ExitHow::Signal(9));
    assert_eq!(vmm.find(stage.plan(), None).await.unwrap(), None);
    assert!(vmm.pause(uid).await.is_err());
    away(vmm, uid).await;
}

async fn a_vmm_killed_by_others_is_noticed(stage: &impl Stage) {
    let vmm = stage.vmm();
    let uid = stage.plan().spec.uid;
    vmm.spawn(stage.plan()).await.unwrap();
    vmm.connect(uid).await.unwrap();

    stage.murder();

    assert_eq!(vmm.ended(uid).await.how, ExitHow::Signal(9));
    away(vmm, uid).await;
}

async fn a_guest_that_powers_off_says_so(stage: &impl Stage) {
    let vmm = booted(stage).await;
    let uid = stage.plan().spec.uid;

    stage.guest("poweroff").await;

    assert_eq!(vmm.ended(uid).await.how, ExitHow::PoweredOff);
    away(vmm, uid).await;
}

async fn a_guest_that_panics_ends_its_vmm_and_leaves_its_last_words(stage: &impl Stage) {
    let vmm = booted(stage).await;
    let uid = stage.plan().spec.uid;

    stage.guest("panic").await;

    let exit = vmm.ended(uid).await;
    assert!(
        matches!(exit.how, ExitHow::Reset | ExitHow::Panicked),
        "{exit:?}"
    );
    assert!(!exit.console.is_empty());
    away(vmm, uid).await;
}

async fn a_vmm_that_cannot_start_its_guest_ends_early_with_its_own_words(stage: &impl Stage) {
    let vmm = stage.vmm();
    let plan = stage.hopeless();
    let uid = plan.spec.uid;
    let started = vmm.spawn(plan).await;

    let refused = match started {
        Ok(_) => vmm.connect(uid).await,
        Err(error) => panic!("a VMM starts before it fails: {error}"),
    };

    match refused {
        Err(Error::EndedEarly { stderr, .. }) => assert!(!stderr.is_empty()),
        other => panic!("{other:?}"),
    }
    away(vmm, uid).await;
}

async fn a_plan_that_cannot_be_is_refused_and_nothing_started(stage: &impl Stage) {
    let vmm = stage.vmm();
    let mut plan = stage.plan();
    plan.spec.vcpus = 0;

    let refused = vmm.spawn(plan.clone()).await;

    assert!(matches!(refused, Err(Error::Spec(_))));
    assert_eq!(vmm.find(plan.clone(), None).await.unwrap(), None);
    vmm.forget(plan.spec.uid);
}

async fn a_mute_vmm_is_given_up_within_its_limit_and_can_be_killed(stage: &impl Stage) {
    let (vmm, plan) = stage.mute();
    let uid = plan.spec.uid;
    vmm.spawn(plan).await.unwrap();

    let refused = vmm.connect(uid).await;

    assert!(
        matches!(refused, Err(Error::NoAnswer { .. })),
        "{refused:?}"
    );
    away(vmm, uid).await;
}

async fn another_daemon_adopts_what_was_recorded(stage: &impl Stage) {
    let uid = stage.plan().spec.uid;
    let first = stage.vmm();
    let process = first.spawn(stage.plan()).await.unwrap();
    first.connect(uid).await.unwrap();
    first.forget(uid);
    drop(first);
    let second = stage.successor();

    let found = second.find(stage.plan(), Some(process)).await.unwrap();

    assert_eq!(found, Some(process));
    second.connect(uid).await.unwrap();
    second.pause(uid).await.unwrap();
    away(second, uid).await;
}

async fn another_daemon_finds_what_was_started_and_never_recorded(stage: &impl Stage) {
    let uid = stage.plan().spec.uid;
    let first = stage.vmm();
    let process = first.spawn(stage.plan()).await.unwrap();
    first.forget(uid);
    drop(first);
    let second = stage.successor();

    let found = second.find(stage.plan(), None).await.unwrap();

    assert_eq!(found, Some(process));
    second.connect(uid).await.unwrap();
    second.pause(uid).await.unwrap();
    away(second, uid).await;
}

async fn what_is_not_there_is_not_found_and_has_ended(stage: &impl Stage) {
    let vmm = stage.vmm();
    let uid = stage.plan().spec.uid;

    assert_eq!(vmm.find(stage.plan(), None).await.unwrap(), None);

    assert_eq!(vmm.ended(uid).await.how, ExitHow::Unknown);
    assert!(matches!(
        vmm.connect(uid).await,
        Err(Error::EndedEarly { .. })
    ));
    away(vmm, uid).await;
}

async fn streams_are_added_to_a_running_vm_and_twice_is_once(stage: &impl Stage) {
    let vmm = booted(stage).await;
    let plan = stage.plan();
    let number = plan.ports.cold + 1;

    vmm.add_stream(plan.spec.uid, number).await.unwrap();
    vmm.add_stream(plan.spec.uid, number).await.unwrap();

    stage.guest(&format!("port hutch.stream.{number}")).await;
    stage
        .guest(&format!("port hutch.stream.{}", plan.ports.cold))
        .await;
    away(vmm, plan.spec.uid).await;
}

async fn blocks_come_and_go_and_twice_is_once(stage: &impl Stage) {
    let vmm = booted(stage).await;
    let uid = stage.plan().spec.uid;
    let block = BlockSpec {
        serial: "extra-1".into(),
        path: stage.image(),
        read_only: true,
    };

    for _ in 0..2 {
        vmm.attach_block(uid, 2, block.clone()).await.unwrap();
        vmm.attach_block(uid, 2, block.clone()).await.unwrap();
        stage.guest("block extra-1").await;
        vmm.detach_block(uid, "extra-1".into()).await.unwrap();
        vmm.detach_block(uid, "extra-1".into()).await.unwrap();
        stage.guest("noblock extra-1").await;
    }

    away(vmm, uid).await;
}

async fn pausing_twice_is_pausing_once_and_the_guest_goes_on_afterwards(stage: &impl Stage) {
    let vmm = booted(stage).await;
    let uid = stage.plan().spec.uid;

    vmm.pause(uid).await.unwrap();
    vmm.pause(uid).await.unwrap();
    vmm.resume(uid).await.unwrap();
    vmm.resume(uid).await.unwrap();

    stage.guest("nothing").await;
    away(vmm, uid).await;
}

async fn a_microvm_has_the_same_channel_and_no_slots(stage: &impl Stage) {
    let vmm = stage.vmm();
    let mut plan = stage.plan();
    plan.spec.machine = MachineType::Microvm;
    plan.slots = 0;
    let uid = plan.spec.uid;
    vmm.spawn(plan.clone()).await.unwrap();
    vmm.connect(uid).await.unwrap();

    let block = BlockSpec {
        serial: "extra-1".into(),
        path: stage.image(),
        read_only: true,
    };
    let refused = vmm.attach_block(uid, 1, block).await;
    assert!(matches!(refused, Err(Error::NoHotplug { .. })));
    stage.guest("nothing").await;
    vmm.add_stream(uid, 3).await.unwrap();
    stage.guest("port hutch.stream.3").await;

    away(vmm, uid).await;
}

/// A VM whose channel is carried, up.
async fn launched_carried(stage: &impl Stage) -> (Rc<dyn Vmm>, HostProcess) {
    let (vmm, plan) = (stage.vmm(), stage.carried());
    let uid = plan.spec.uid;
    let process = vmm.spawn(plan).await.unwrap();
    vmm.connect(uid).await.unwrap();
    assert_eq!(stage.backends(), 1);
    (vmm, process)
}

async fn what_carries_a_channel_goes_with_its_vmm(stage: &impl Stage) {
    let (vmm, _) = launched_carried(stage).await;
    let uid = stage.carried().spec.uid;

    stage.murder();

    assert_eq!(vmm.ended(uid).await.how, ExitHow::Signal(9));
    assert_eq!(stage.backends(), 0);
    away(vmm, uid).await;
}

async fn a_vmm_whose_channel_is_lost_ends_and_says_so(stage: &impl Stage) {
    let (vmm, _) = launched_carried(stage).await;
    let uid = stage.carried().spec.uid;

    stage.murder_backend();

    assert_eq!(vmm.ended(uid).await.how, ExitHow::ChannelLost);
    assert_eq!(vmm.find(stage.carried(), None).await.unwrap(), None);
    away(vmm, uid).await;
}

async fn another_daemon_adopts_what_carries_a_channel_too(stage: &impl Stage) {
    let (first, process) = launched_carried(stage).await;
    let uid = stage.carried().spec.uid;
    first.forget(uid);
    drop(first);
    let second = stage.successor();
    second.find(stage.carried(), Some(process)).await.unwrap();
    second.connect(uid).await.unwrap();

    stage.murder_backend();

    assert_eq!(second.ended(uid).await.how, ExitHow::ChannelLost);
    away(second, uid).await;
}

async fn a_channel_lost_while_nobody_looked_ends_its_vmm_when_somebody_does(stage: &impl Stage) {
    let (first, process) = launched_carried(stage).await;
    let uid = stage.carried().spec.uid;
    first.forget(uid);
    drop(first);
    stage.murder_backend();
    let second = stage.successor();

    second.find(stage.carried(), Some(process)).await.unwrap();

    assert_eq!(second.ended(uid).await.how, ExitHow::ChannelLost);
    away(second, uid).await;
}

async fn what_carried_the_channel_of_a_vmm_that_is_gone_is_ended_when_looked_for(
    stage: &impl Stage,
) {
    let (first, _) = launched_carried(stage).await;
    let uid = stage.carried().spec.uid;
    first.forget(uid);
    drop(first);
    stage.murder();
    let second = stage.successor();

    let found = second.find(stage.carried(), None).await.unwrap();

    assert_eq!(found, None);
    assert_eq!(stage.backends(), 0);
    away(second, uid).await;
}

async fn a_vm_that_nobody_knows_is_refused_by_name(stage: &impl Stage) {
    let vmm = stage.vmm();
    let uid = SandboxUid::from_random(0xdead);

    let refused = vmm.add_stream(uid, 1).await;

    assert!(matches!(refused, Err(Error::Unknown { .. })));
    assert_eq!(vmm.ended(uid).await.how, ExitHow::Unknown);
}

/// The fake's stage.
struct InMemory(FakeHost);

impl Stage for InMemory {
    fn vmm(&self) -> Rc<dyn Vmm> {
        Rc::new(self.0.driver())
    }

    fn successor(&self) -> Rc<dyn Vmm> {
        Rc::new(self.0.driver())
    }

    fn plan(&self) -> LaunchPlan {
        plan(
            "/nowhere".into(),
            "/nowhere".into(),
            "/nowhere".into(),
            "/x".into(),
        )
    }

    fn image(&self) -> PathBuf {
        "/nowhere".into()
    }

    async fn guest(&self, order: &str) {
        let uid = self.plan().spec.uid;
        let argument = order.split(' ').nth(1).unwrap_or_default();
        match order.split(' ').next().unwrap() {
            "poweroff" => self.0.end(uid, ExitHow::PoweredOff),
            "panic" => self.0.end(uid, ExitHow::Reset),
            "port" => {
                let number = argument.rsplit('.').next().unwrap().parse().unwrap();
                assert!(self.0.streams(uid).contains(&number));
            }
            "block" => assert!(self.0.blocks(uid).contains(argument)),
            "noblock" => assert!(!self.0.blocks(uid).contains(argument)),
            _ => {}
        }
    }

    fn murder(&self) {
        self.0.end(self.plan().spec.uid, ExitHow::Signal(9));
    }

    fn carried(&self) -> LaunchPlan {
        carried(self.plan(), "/y".to_owned())
    }

    fn backends(&self) -> usize {
        usize::from(self.0.backend(self.plan().spec.uid).is_some())
    }

    fn murder_backend(&self) {
        self.0.end_backend(self.plan().spec.uid);
    }

    fn mute(&self) -> (Rc<dyn Vmm>, LaunchPlan) {
        self.0.bend(|_, call| Fate {
            outcome: match call {
                Call::Connect => Outcome::Mute,
                _ => Outcome::AsAsked,
            },
            ..Fate::default()
        });
        (self.vmm(), self.plan())
    }

    fn hopeless(&self) -> LaunchPlan {
        let host = self.0.clone();
        self.0.bend(move |uid, call| {
            if call == Call::Connect {
                host.end(uid, ExitHow::Code(1));
            }
            Fate::default()
        });
        self.plan()
    }
}

fn given(name: &str) -> PathBuf {
    std::env::var_os(name).expect(name).into()
}

/// QEMU's stage: a folder, a cgroup, a real guest.
struct OnThisHost {
    folder: tempfile::TempDir,
    cgroup: TestCgroup,
    helpers: TestCgroup,
    control: tokio::sync::Mutex<Option<BufReader<UnixStream>>>,
}

impl OnThisHost {
    fn new(name: &str) -> Option<Self> {
        if std::env::var_os("HUTCH_GUEST_TESTS").is_none_or(|on| on != "1") {
            eprintln!("skipped: HUTCH_GUEST_TESTS=1 runs this with a real guest");
            return None;
        }
        let folder = tempfile::tempdir().unwrap();
        write_initrd(&folder.path().join("initrd"));
        fs::write(folder.path().join("image"), vec![0; 1024 * 1024]).unwrap();
        Some(Self {
            folder,
            cgroup: TestCgroup::make(name),
            helpers: TestCgroup::make(&format!("{name}-helpers")),
            control: tokio::sync::Mutex::default(),
        })
    }
}

impl Stage for OnThisHost {
    fn vmm(&self) -> Rc<dyn Vmm> {
        Rc::new(Qemu::new(QemuConfig {
            vsock_backend: given("HUTCH_GUEST_VSOCK_BACKEND"),
            ..QemuConfig::default()
        }))
    }

    fn successor(&self) -> Rc<dyn Vmm> {
        self.vmm()
    }

    fn plan(&self) -> LaunchPlan {
        let kernel = given("HUTCH_GUEST_KERNEL");
        let folder = self.folder.path().to_owned();
        let initrd = folder.join("initrd");
        plan(folder, kernel, initrd, self.cgroup.path.clone())
    }

    fn image(&self) -> PathBuf {
        self.folder.path().join("image")
    }

    async fn guest(&self, order: &str) {
        let mut control = self.control.lock().await;
        if control.is_none() {
            let socket = self.folder.path().join("control.sock");
            let mut stream = BufReader::new(UnixStream::connect(socket).await.unwrap());
            expect(&mut stream, "hello").await;
            *control = Some(stream);
        }
        let stream = control.as_mut().unwrap();
        let line = format!("{order}\n");
        stream.get_mut().write_all(line.as_bytes()).await.unwrap();
        let mut words = order.split(' ');
        let answer = match (words.next(), words.next()) {
            (Some("port" | "block"), Some(what)) => format!("have {what}"),
            (Some("noblock"), Some(what)) => format!("no {what}"),
            (Some("flood"), _) => "flooded".to_owned(),
            (_, _) => return,
        };
        expect(stream, &answer).await;
    }

    fn murder(&self) {
        kill_all(self.cgroup.members());
    }

    fn carried(&self) -> LaunchPlan {
        carried(self.plan(), self.helpers.path.clone())
    }

    fn backends(&self) -> usize {
        self.helpers.members().len()
    }

    fn murder_backend(&self) {
        kill_all(self.helpers.members());
    }

    fn mute(&self) -> (Rc<dyn Vmm>, LaunchPlan) {
        let binary = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/vmms/mute").into();
        let mut plan = self.plan();
        // Nothing is emulated here; the shorter limit serves.
        plan.spec.accelerator = Accelerator::Kvm;
        let config = QemuConfig {
            binary,
            ..QemuConfig::default()
        };
        (Rc::new(Qemu::new(config)), plan)
    }

    fn hopeless(&self) -> LaunchPlan {
        let mut plan = self.plan();
        plan.spec.kernel = "/nowhere/vmlinux".into();
        plan
    }
}

/// kill -9; they are dead when it returns, reaped or not.
fn kill_all(pids: Vec<i32>) {
    for pid in pids {
        let pid = Pid::from_raw(pid).unwrap();
        let held = pidfd_open(pid, PidfdFlags::empty()).unwrap();
        pidfd_send_signal(&held, Signal::KILL).unwrap();
        // A pidfd is readable when its process has ended. pidfd_open(2).
        let mut ended = [PollFd::new(&held, PollFlags::IN)];
        assert_eq!(poll(&mut ended, Some(&DEATH_LIMIT)), Ok(1));
    }
}

fn carried(mut plan: LaunchPlan, backend: String) -> LaunchPlan {
    plan.spec.channel = ChannelKind::HybridVsock {
        cid: 3,
        backend: Cgroup(backend),
    };
    plan
}

/// Reads lines until the guest says this one.
async fn expect(stream: &mut BufReader<UnixStream>, answer: &str) {
    let heard = async {
        let mut line = String::new();
        while line.trim() != answer {
            line.clear();
            let count = stream.read_line(&mut line).await.unwrap();
            assert!(count > 0, "the guest went away before it said {answer:?}");
        }
    };
    timeout(GUEST_LIMIT, heard).await.expect(answer);
}

fn plan(folder: PathBuf, kernel: PathBuf, initrd: PathBuf, cgroup: String) -> LaunchPlan {
    LaunchPlan {
        spec: VmSpec {
            uid: SandboxUid::from_random(0x5eed),
            folder,
            kernel,
            initrd: Some(initrd),
            stdio: StdioKind::Ports,
            kernel_params: Vec::new(),
            vcpus: 1,
            memory_mib: 128,
            machine: MachineType::Q35,
            accelerator: Accelerator::Tcg,
            channel: ChannelKind::Serial,
            cgroup: Cgroup(cgroup),
            netns: None,
            share_socket: None,
            blocks: Vec::new(),
            own_blocks: 0,
        },
        ports: PortPlan { cold: 2, max: 30 },
        slots: 2,
    }
}

/// Each story as a test of the fake and a test of QEMU.
macro_rules! contract {
    ($($story:ident)*) => {
        mod fake {
            $(#[test]
            fn $story() {
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .start_paused(true)
                    .build()
                    .unwrap();
                let stage = super::InMemory(super::FakeHost::new());
                let story = async {
                    super::timeout(super::STORY_LIMIT, super::$story(&stage)).await
                };
                super::LocalSet::new().block_on(&runtime, story).unwrap();
                assert!(stage.0.live().is_empty(), "{:?}", stage.0.live());
                assert_eq!(super::Stage::backends(&stage), 0);
            })*
        }

        mod qemu {
            $(#[test]
            fn $story() {
                let Some(stage) = super::OnThisHost::new(stringify!($story)) else { return };
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build()
                    .unwrap();
                let story = async {
                    super::timeout(super::STORY_LIMIT, super::$story(&stage)).await
                };
                super::LocalSet::new().block_on(&runtime, story).unwrap();
                assert!(stage.cgroup.members().is_empty());
                assert!(stage.helpers.members().is_empty());
            })*
        }
    };
}

contract! {
    a_killed_vmm_ends_by_that_signal_however_often_it_is_asked
    a_vmm_killed_by_others_is_noticed
    a_guest_that_powers_off_says_so
    a_guest_that_panics_ends_its_vmm_and_leaves_its_last_words
    a_vmm_that_cannot_start_its_guest_ends_early_with_its_own_words
    a_plan_that_cannot_be_is_refused_and_nothing_started
    a_mute_vmm_is_given_up_within_its_limit_and_can_be_killed
    another_daemon_adopts_what_was_recorded
    another_daemon_finds_what_was_started_and_never_recorded
    what_is_not_there_is_not_found_and_has_ended
    streams_are_added_to_a_running_vm_and_twice_is_once
    blocks_come_and_go_and_twice_is_once
    pausing_twice_is_pausing_once_and_the_guest_goes_on_afterwards
    a_microvm_has_the_same_channel_and_no_slots
    what_carries_a_channel_goes_with_its_vmm
    a_vmm_whose_channel_is_lost_ends_and_says_so
    another_daemon_adopts_what_carries_a_channel_too
    a_channel_lost_while_nobody_looked_ends_its_vmm_when_somebody_does
    what_carried_the_channel_of_a_vmm_that_is_gone_is_ended_when_looked_for
    a_vm_that_nobody_knows_is_refused_by_name
}
