//! The command line of a QEMU process, as a pure function of what is wanted and what was found.
//!
//! It looks nothing up: descriptors and kinds of files are handed in. Golden files in
//! `tests/golden/` hold what it says; read them first.

use crate::{
    error::InvalidSpec,
    layout::{Layout, stream_port_name},
    port::{LaunchPlan, PortPlan},
    qemu::block,
};
use runtime_core::{
    hypervisor::{Accelerator, ChannelKind, MachineType, VmSpec},
    ids::SandboxUid,
};
use serde_json::{Value, json};
use std::{collections::BTreeSet, os::fd::RawFd, path::Path};

/// Translated code, in MiB. 128 booted faster than 32 and a minimal guest fills less than half.
const TB_SIZE_MIB: u32 = 128;

/// microvm has 8 virtio-mmio transports as long as ACPI, and so its second I/O APIC, is off.
const MICROVM_SLOTS: usize = 8;

/// More processors than this need more than one APIC id space to be set up on q35.
const VCPUS_MAX: u64 = 240;

/// The minimal guest kernel and its initrd do not fit into less.
const MEMORY_MIB_MIN: u64 = 48;
const MEMORY_MIB_MAX: u64 = 4 * 1024 * 1024;

/// virtio-serial allows 511, each of which costs the guest two queues at boot. Port 0 is kept
/// for a console, port 1 carries control.
pub const SERIAL_PORTS_MAX: u32 = 128;
const SERIAL_PORTS_KEPT: u32 = 2;

/// A root port holds one device and costs 0.7 MiB and some boot time. pcie.0 itself refuses what
/// comes later, and a pcie-pci-bridge would hold 31 devices but gets no address windows from
/// qboot, nor from Linux: its devices do not start.
pub const SLOTS_MAX: u32 = 32;

/// Eight root ports share one place on the bus; the guest looks at fewer places.
const FUNCTIONS: u32 = 8;

/// Where on pcie.0 the root ports begin: what QEMU places by itself comes before it.
const SLOTS_PLACE: u32 = 0x10;

/// What had to be looked up before the command line could be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Listening sockets that the VMM inherits, so that they can be connected to before it runs.
    pub qmp: RawFd,
    pub serial: Option<SerialFds>,
    /// What stands behind each of the plan's blocks, in their order.
    pub backings: Vec<block::Backing>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SerialFds {
    pub control: RawFd,
    /// Streams 1 to n.
    pub streams: Vec<RawFd>,
}

/// What QEMU starts the guest with: a file name in its own data folder, or a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Firmware(pub String);

/// How a VMM is recognised among the members of its cgroup: the argument after `-name`.
pub fn name_of(uid: SandboxUid) -> String {
    format!("guest=hutch-{uid},debug-threads=on")
}

/// Every argument after the program's name.
///
/// # Errors
/// The plan holds something that QEMU's options cannot express or its machine cannot hold.
pub fn command_line(
    plan: &LaunchPlan,
    firmware: &Firmware,
    found: &Found,
) -> Result<Vec<String>, InvalidSpec> {
    check(plan)?;
    let mut line = Line(Vec::new());
    identity(&mut line, &plan.spec);
    machine(&mut line, &plan.spec, firmware);
    kernel(&mut line, &plan.spec)?;
    console_and_qmp(&mut line, &plan.spec, found)?;
    channel(&mut line, plan, found)?;
    devices(&mut line, plan, found)?;
    Ok(line.0)
}

/// Refuses what no command line can express, before anything is made for it.
///
/// # Errors
/// As [`command_line`].
pub fn check(plan: &LaunchPlan) -> Result<(), InvalidSpec> {
    let spec = &plan.spec;
    range("number of vcpus", u64::from(spec.vcpus), 1, VCPUS_MAX)?;
    range(
        "memory in MiB",
        spec.memory_mib,
        MEMORY_MIB_MIN,
        MEMORY_MIB_MAX,
    )?;
    range(
        "number of stream ports",
        u64::from(plan.ports.max),
        1,
        u64::from(SERIAL_PORTS_MAX - SERIAL_PORTS_KEPT),
    )?;
    range(
        "number of stream ports made at boot",
        u64::from(plan.ports.cold),
        0,
        u64::from(plan.ports.max),
    )?;
    range(
        "number of slots",
        u64::from(plan.slots),
        0,
        u64::from(SLOTS_MAX),
    )?;
    let mut serials = BTreeSet::new();
    for block in &spec.blocks {
        block::check_serial(&block.serial)?;
        if !serials.insert(&block.serial) {
            let serial = block.serial.clone();
            return Err(InvalidSpec::SerialTwice { serial });
        }
    }
    if spec.machine == MachineType::Microvm {
        let wanted = microvm_devices(spec);
        if wanted > MICROVM_SLOTS {
            let max = MICROVM_SLOTS;
            return Err(InvalidSpec::MicrovmSlots { wanted, max });
        }
    }
    Layout::of(spec).check(plan.ports)
}

fn range(what: &'static str, value: u64, min: u64, max: u64) -> Result<(), InvalidSpec> {
    match (min..=max).contains(&value) {
        true => Ok(()),
        false => Err(InvalidSpec::Range {
            what,
            value,
            min,
            max,
        }),
    }
}

fn microvm_devices(spec: &VmSpec) -> usize {
    let rng_and_channel = 2;
    rng_and_channel + usize::from(spec.share_socket.is_some()) + spec.blocks.len()
}

fn identity(line: &mut Line, spec: &VmSpec) {
    let uid = spec.uid.to_string();
    line.option("-name", name_of(spec.uid));
    line.option(
        "-uuid",
        format!("00000000-0000-0000-{}-{}", &uid[..4], &uid[4..]),
    );
    line.flag("-nodefaults");
    line.flag("-no-user-config");
    line.option("-display", "none");
    // A guest that resets has panicked or was told to: it never starts over.
    line.flag("-no-reboot");
    line.option(
        "-sandbox",
        "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
    );
}

fn machine(line: &mut Line, spec: &VmSpec, firmware: &Firmware) {
    let options = match spec.machine {
        // What a container's guest never uses costs boot time.
        MachineType::Q35 => {
            "q35,memory-backend=ram,sata=off,smbus=off,i8042=off,usb=off,vmport=off,hpet=off"
        }
        // With ACPI microvm hangs under TCG: no timer is left to calibrate the TSC by.
        MachineType::Microvm => "microvm,memory-backend=ram,acpi=off",
    };
    line.option("-machine", options);
    match spec.accelerator {
        Accelerator::Kvm => {
            line.option("-accel", "kvm");
            line.option("-cpu", "host");
        }
        Accelerator::Tcg => {
            line.option("-accel", format!("tcg,tb-size={TB_SIZE_MIB}"));
            // Emulated, `rep stosb` and `rep movsb` take a step for each byte; without ERMS the guest uses eight at a time.
            line.option("-cpu", "max,-erms");
        }
    }
    line.option("-smp", spec.vcpus);
    line.option("-m", format!("size={}M", spec.memory_mib));
    // vhost-user backends (virtiofsd) map the guest's memory, so it is shared.
    line.option(
        "-object",
        format!(
            "memory-backend-memfd,id=ram,size={}M,share=on",
            spec.memory_mib
        ),
    );
    line.option("-bios", escaped(&firmware.0));
}

fn kernel(line: &mut Line, spec: &VmSpec) -> Result<(), InvalidSpec> {
    line.option("-kernel", text(&spec.kernel)?);
    if let Some(initrd) = &spec.initrd {
        line.option("-initrd", text(initrd)?);
    }
    let mut params = vec!["console=ttyS0", "quiet", "panic=-1", "reboot=t"];
    if spec.accelerator == Accelerator::Tcg {
        // The emulated TSC is steady and calibrating it costs a tenth of the boot; what the
        // mitigations guard against is done by the real processor beneath the emulator.
        params.extend(["tsc=reliable", "no_timer_check", "mitigations=off"]);
        // To sleep for an answer and to be woken takes as long as the answer (guest/patches/0006). A kernel without that
        // passes over it.
        params.push("virtiofs.answer_spin_us=200");
    }
    match spec.channel {
        ChannelKind::Serial => {}
        // To our agent; a stock one listens there anyway and passes over words of others.
        ChannelKind::Vsock { .. } | ChannelKind::HybridVsock { .. } => {
            params.push("hutch.channel=vsock");
        }
    }
    for param in &spec.kernel_params {
        let plain = |c: char| !c.is_whitespace() && !c.is_control() && c != '"';
        if param.is_empty() || !param.chars().all(plain) {
            let param = param.clone();
            return Err(InvalidSpec::KernelParam { param });
        }
        params.push(param);
    }
    line.option("-append", params.join(" "));
    Ok(())
}

fn console_and_qmp(line: &mut Line, spec: &VmSpec, found: &Found) -> Result<(), InvalidSpec> {
    let console = escaped(text(&Layout::of(spec).console())?);
    line.option(
        "-chardev",
        format!("file,id=console,path={console},append=on"),
    );
    line.option("-serial", "chardev:console");
    line.option("-chardev", listening("qmp", found.qmp));
    line.option("-mon", "chardev=qmp,mode=control");
    Ok(())
}

fn channel(line: &mut Line, plan: &LaunchPlan, found: &Found) -> Result<(), InvalidSpec> {
    let spec = &plan.spec;
    match &spec.channel {
        ChannelKind::Serial => {
            let serial = found
                .serial
                .as_ref()
                .expect("sockets were made for the plan's channel");
            serial_ports(line, spec.machine, plan.ports, serial);
        }
        ChannelKind::Vsock { cid } => line.option(
            "-device",
            format!("vhost-vsock-{},guest-cid={cid}", bus_suffix(spec.machine)),
        ),
        ChannelKind::HybridVsock { .. } => {
            let backend = escaped(text(&Layout::of(spec).vsock_backend())?);
            line.option("-chardev", format!("socket,id=vsock,path={backend}"));
            line.option(
                "-device",
                format!(
                    "vhost-user-vsock-{},chardev=vsock",
                    bus_suffix(spec.machine)
                ),
            );
        }
    }
    Ok(())
}

fn serial_ports(line: &mut Line, machine: MachineType, ports: PortPlan, fds: &SerialFds) {
    line.option(
        "-device",
        format!(
            "virtio-serial-{},id=serial,max_ports={}",
            bus_suffix(machine),
            ports.max + SERIAL_PORTS_KEPT
        ),
    );
    line.option("-chardev", listening("control", fds.control));
    line.option(
        "-device",
        "virtserialport,bus=serial.0,nr=1,chardev=control,id=port-control,name=hutch.control",
    );
    for (number, fd) in (1..).zip(&fds.streams) {
        line.option("-chardev", listening(&stream_chardev(number), *fd));
        line.option("-device", stream_device(number));
    }
}

/// The chardev's id of stream port `number`, for whoever adds one later too.
pub fn stream_chardev(number: u32) -> String {
    format!("stream-{number}")
}

/// The device of stream port `number`: on the command line, or for `device_add`.
pub fn stream_device(number: u32) -> Value {
    json!({
        "driver": "virtserialport",
        "bus": "serial.0",
        "nr": number + 1,
        "chardev": stream_chardev(number),
        "id": format!("port-{number}"),
        "name": stream_port_name(number),
    })
}

fn devices(line: &mut Line, plan: &LaunchPlan, found: &Found) -> Result<(), InvalidSpec> {
    let spec = &plan.spec;
    let suffix = bus_suffix(spec.machine);
    if let Some(socket) = &spec.share_socket {
        let socket = escaped(text(socket)?);
        line.option("-chardev", format!("socket,id=share,path={socket}"));
        line.option(
            "-device",
            format!("vhost-user-fs-{suffix},chardev=share,tag=hutch"),
        );
    }
    line.option("-object", "rng-builtin,id=rng");
    line.option("-device", format!("virtio-rng-{suffix},rng=rng"));
    if spec.machine == MachineType::Q35 {
        // Lets a guest kernel that has a driver for it say that it panicked.
        line.option("-device", "pvpanic");
        for slot in 1..=plan.slots {
            line.option("-device", root_port(slot));
        }
    }
    for (at, (wish, backing)) in spec.blocks.iter().zip(&found.backings).enumerate() {
        line.option("-blockdev", block::node(wish, *backing)?.to_string());
        let device = match plan.slot_of(at) {
            Some(slot) => block::slot_device(wish, slot),
            None => block::fixed_device(wish, spec.machine),
        };
        line.option("-device", device.to_string());
    }
    Ok(())
}

/// The bus that a device plugged into `slot` hangs on.
pub fn slot_bus(slot: u32) -> String {
    format!("slot-{slot}")
}

fn root_port(slot: u32) -> String {
    let (place, function) = ((slot - 1) / FUNCTIONS, (slot - 1) % FUNCTIONS);
    let multi = if function == 0 {
        ",multifunction=on"
    } else {
        ""
    };
    format!(
        "pcie-root-port,id={},chassis={slot},slot={slot},addr={:x}.{function}{multi}",
        slot_bus(slot),
        SLOTS_PLACE + place,
    )
}

fn bus_suffix(machine: MachineType) -> &'static str {
    match machine {
        MachineType::Q35 => "pci",
        MachineType::Microvm => "device",
    }
}

fn listening(id: &str, fd: RawFd) -> String {
    format!("socket,id={id},fd={fd},server=on,wait=off")
}

/// A path as QEMU's options take it.
///
/// # Errors
/// It is not UTF-8.
pub fn text(path: &Path) -> Result<&str, InvalidSpec> {
    path.to_str().ok_or_else(|| InvalidSpec::NotUtf8 {
        path: path.to_owned(),
    })
}

/// In `key=value,key=value` a comma of a value is doubled.
fn escaped(value: &str) -> String {
    value.replace(',', ",,")
}

struct Line(Vec<String>);

impl Line {
    fn flag(&mut self, flag: &str) {
        self.0.push(flag.to_owned());
    }

    fn option(&mut self, name: &str, value: impl ToString) {
        self.0.push(name.to_owned());
        self.0.push(value.to_string());
    }
}
