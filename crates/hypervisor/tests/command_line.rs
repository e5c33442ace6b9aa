//! What QEMU is started with, word for word. `HUTCH_GOLDEN=write` renews the files after a change
//! that was meant; read the difference before committing it.

#![allow(clippy::unwrap_used)]

use hypervisor::{
    error::InvalidSpec,
    port::{LaunchPlan, PortPlan},
    qemu::{
        block::Backing,
        command_line::{Firmware, Found, SerialFds, command_line},
    },
};
use runtime_core::{
    hypervisor::{Accelerator, BlockSpec, ChannelKind, MachineType, StdioKind, VmSpec},
    ids::SandboxUid,
    premises::Cgroup,
};
use std::{fs, path::PathBuf};

fn plan() -> LaunchPlan {
    LaunchPlan {
        spec: VmSpec {
            uid: SandboxUid::from_random(0x0123_4567_89ab_cdef),
            folder: "/run/hutch/s/0123456789abcdef".into(),
            kernel: "/var/cache/hutch/vmlinux".into(),
            initrd: Some("/var/cache/hutch/initrd.cpio".into()),
            stdio: StdioKind::Ports,
            kernel_params: vec!["hutch.log=debug".into()],
            vcpus: 1,
            memory_mib: 256,
            machine: MachineType::Q35,
            accelerator: Accelerator::Tcg,
            channel: ChannelKind::Serial,
            cgroup: Cgroup("/hutch/0123456789abcdef/vmm".into()),
            netns: None,
            share_socket: Some("/run/hutch/s/0123456789abcdef/virtiofs.sock".into()),
            blocks: Vec::new(),
            own_blocks: 0,
        },
        ports: PortPlan { cold: 2, max: 30 },
        slots: 2,
    }
}

fn block(serial: &str, path: &str, read_only: bool) -> BlockSpec {
    BlockSpec {
        serial: serial.into(),
        path: path.into(),
        read_only,
    }
}

fn found(plan: &LaunchPlan) -> Found {
    Found {
        qmp: 10,
        serial: (plan.spec.channel == ChannelKind::Serial).then(|| SerialFds {
            control: 11,
            streams: (12..).take(plan.ports.cold as usize).collect(),
        }),
        backings: vec![Backing::File; plan.spec.blocks.len()],
    }
}

fn line(plan: &LaunchPlan) -> Result<Vec<String>, InvalidSpec> {
    command_line(plan, &Firmware("qboot.rom".into()), &found(plan))
}

/// One option and its value to a line.
fn readable(args: &[String]) -> String {
    let mut text = String::new();
    for arg in args {
        let separator = if arg.starts_with('-') { "\n" } else { " " };
        text.push_str(separator);
        text.push_str(arg);
    }
    format!("{}\n", text.trim_start())
}

fn assert_golden(name: &str, plan: &LaunchPlan) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("tests/golden/{name}.txt"));
    let said = readable(&line(plan).unwrap());
    if std::env::var_os("HUTCH_GOLDEN").is_some_and(|mode| mode == "write") {
        fs::write(&path, &said).unwrap();
    }
    let golden = fs::read_to_string(&path).unwrap();
    assert_eq!(said, golden, "{}", path.display());
}

#[test]
fn q35_under_emulation_with_a_share() {
    assert_golden("q35-tcg", &plan());
}

#[test]
fn q35_under_kvm_with_images_a_namespace_of_its_own_and_hybrid_vsock() {
    let mut plan = plan();
    plan.spec.accelerator = Accelerator::Kvm;
    plan.spec.vcpus = 4;
    plan.spec.memory_mib = 2048;
    plan.spec.channel = ChannelKind::HybridVsock {
        cid: 7,
        backend: Cgroup("/hutch/x/helpers".into()),
    };
    plan.spec.share_socket = None;
    plan.spec.blocks = vec![
        block("own", "/images/own", true),
        block("root", "/images/a,b.erofs", true),
        block("scratch", "/dev/vg/scratch", false),
        block("on-no-slot", "/images/c", false),
    ];
    plan.spec.own_blocks = 1;

    assert_golden("q35-kvm-hybrid-vsock", &plan);
}

#[test]
fn microvm_under_emulation_with_an_image() {
    let mut plan = plan();
    plan.spec.machine = MachineType::Microvm;
    plan.spec.blocks = vec![block("root", "/images/root.ext4", true)];

    assert_golden("microvm-tcg", &plan);
}

#[test]
fn q35_with_vhost_vsock() {
    let mut plan = plan();
    plan.spec.channel = ChannelKind::Vsock { cid: 42 };

    assert_golden("q35-vsock", &plan);
}

#[test]
fn a_comma_in_a_path_does_not_become_an_option() {
    let mut plan = plan();
    plan.spec.folder = "/run/a,server=off".into();
    plan.spec.share_socket = Some("/run/a,b/virtiofs.sock".into());

    let args = line(&plan).unwrap().join(" ");

    assert!(args.contains("path=/run/a,,server=off/console.log,append=on"));
    assert!(args.contains("path=/run/a,,b/virtiofs.sock"));
}

#[test]
fn a_wish_that_no_command_line_can_express_is_refused_by_name() {
    type Spoil = fn(&mut LaunchPlan);
    let wishes: [(Spoil, &str); 14] = [
        (|p| p.slots = 33, "number of slots is 33; 0 to 32"),
        (
            |p| p.spec.vcpus = 0,
            "number of vcpus is 0; 1 to 240 is expected",
        ),
        (
            |p| p.spec.vcpus = 241,
            "number of vcpus is 241; 1 to 240 is expected",
        ),
        (|p| p.spec.memory_mib = 8, "memory in MiB is 8"),
        (
            |p| p.ports.max = 127,
            "number of stream ports is 127; 1 to 126",
        ),
        (
            |p| p.ports.cold = 31,
            "number of stream ports made at boot is 31; 0 to 30",
        ),
        (
            |p| p.spec.kernel_params = vec!["a b".into()],
            "kernel parameter \"a b\"",
        ),
        (
            |p| p.spec.kernel_params = vec![String::new()],
            "kernel parameter \"\"",
        ),
        (
            |p| p.spec.kernel_params = vec!["x\ninit=/bin/sh".into()],
            "kernel parameter \"x\\ninit=/bin/sh\"",
        ),
        (
            |p| p.spec.blocks = vec![block("", "/i", true)],
            "block serial \"\"",
        ),
        (
            |p| p.spec.blocks = vec![block("x,file=/etc/shadow", "/i", true)],
            "block serial \"x,file=/etc/shadow\"",
        ),
        (
            |p| p.spec.blocks = vec![block("a", "/i", true), block("a", "/j", true)],
            "block serial \"a\" is given twice",
        ),
        (
            |p| p.spec.folder = format!("/run/{}", "x".repeat(100)).into(),
            "bytes; it may have 107",
        ),
        (
            |p| {
                p.spec.machine = MachineType::Microvm;
                p.spec.blocks = (0..6)
                    .map(|n| block(&format!("b{n}"), "/i", true))
                    .collect();
            },
            "microvm has 8 device slots; 9 are needed",
        ),
    ];
    for (spoil, reason) in wishes {
        let mut plan = plan();
        spoil(&mut plan);

        let refused = line(&plan).unwrap_err().to_string();

        assert!(refused.contains(reason), "{refused:?} lacks {reason:?}");
    }
}
