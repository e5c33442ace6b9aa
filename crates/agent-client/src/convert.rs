//! The border to hutch.agent.v1: our messages to its, and what it answers to our types.
//!
//! A guest is untrusted: each answer is bounded and checked here, once, and trusted afterwards.

mod stats;

pub use stats::stats;

use crate::error::Malformed;
use protocols::asynchronous::{agent as kata, hutch_agent as wire};
use runtime_core::{
    agent::{
        AgentDetails, CreateContainer, DiskPurpose, Exec, ExitReason, ExitStatus, FsType,
        GuestDevice, GuestDisk, GuestExit, GuestHookProgram, GuestMount, GuestNews, GuestOom,
        GuestPid, GuestProcess, GuestProcessState, GuestRootfs, Signal, SignalTarget, Warnings,
    },
    hypervisor::GuestEndpoint,
    ids::{ContainerNumber, EpochMs, ExecId, ProcessId},
};
use std::collections::BTreeSet;

/// What an agent with our own calls announces.
pub const HUTCH_FEATURE: &str = "hutch.agent.v1";
/// What one announces that puts an exec below its container's own cgroup.
pub const PLACES_EXECS_FEATURE: &str = "hutch.places-execs";

/// The protocol promises it.
pub const NEWS_MAX: usize = 256;
/// A sandbox with more processes that we started than that is none of ours.
const PROCESSES_MAX: usize = 16 * 1024;
/// Linux's own bound without a cgroup, `/proc/sys/kernel/pid_max`.
const PIDS_MAX: usize = 32 * 1024;
/// One line of `hutch ps`, and one page of a kernel's command line.
const COMMAND_BYTES_MAX: usize = 4096;
/// The protocol promises both.
const WARNINGS_MAX: usize = 64;
const WARNING_BYTES_MAX: usize = 1024;
const VERSION_BYTES_MAX: usize = 128;
const FEATURES_MAX: usize = 256;
/// An exit code, or 128 + signal.
const CODE_MAX: u32 = 255;
/// `/proc/sys/kernel/pid_max` on 64 bits.
const PID_MAX: u32 = 1 << 22;

/// Text of a guest for people: one line, nothing that moves a cursor, at most `max` bytes and an
/// ellipsis.
pub fn printable(text: &str, max: usize) -> String {
    let clean = |c: char| if c.is_control() { ' ' } else { c };
    let mut end = text.len().min(max);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let mut line: String = text[..end].chars().map(clean).collect();
    if end < text.len() {
        line.push('…');
    }
    line.trim().to_owned()
}

pub fn details(answer: kata::GuestDetailsResponse) -> Result<AgentDetails, Malformed> {
    let details = answer.agent_details.into_option();
    let details = details.ok_or(Malformed::Missing {
        field: "agent details",
    })?;
    bounded("extra features", details.extra_features.len(), FEATURES_MAX)?;
    let announces = |feature: &str| details.extra_features.iter().any(|one| one == feature);
    Ok(AgentDetails {
        version: printable(&details.version, VERSION_BYTES_MAX),
        speaks_hutch: announces(HUTCH_FEATURE),
        places_execs: announces(PLACES_EXECS_FEATURE),
        supports_seccomp: details.supports_seccomp,
    })
}

/// News must follow each other without a gap: one that is missing here would be missing for ever.
/// The first may be any above `after`: those before it were acknowledged by a daemon before us.
pub fn news(answer: wire::NextExitsResponse, after: u64) -> Result<Vec<GuestNews>, Malformed> {
    let (exits, ooms) = (answer.exits, answer.ooms);
    bounded("exits", exits.len().saturating_add(ooms.len()), NEWS_MAX)?;
    let in_order = exits.is_sorted_by_key(|exit| exit.seq) && ooms.is_sorted_by_key(|oom| oom.seq);
    if !in_order {
        return Err(Malformed::Order { field: "exits" });
    }
    let exits = exits.into_iter().map(|e| exit(e).map(GuestNews::Exited));
    let ooms = ooms.iter().map(|o| oom(o).map(GuestNews::OomKilled));
    let mut news: Vec<GuestNews> = exits.chain(ooms).collect::<Result<_, _>>()?;
    news.sort_by_key(GuestNews::seq);
    let mut last = None;
    for seq in news.iter().map(GuestNews::seq) {
        let follows = match last {
            None => seq > after,
            Some(last) => seq.checked_sub(1) == Some(last),
        };
        if !follows {
            return Err(Malformed::Order { field: "exits" });
        }
        last = Some(seq);
    }
    Ok(news)
}

fn oom(oom: &wire::Oom) -> Result<GuestOom, Malformed> {
    Ok(GuestOom {
        seq: oom.seq,
        container: container(&oom.container_id)?,
        at: EpochMs(oom.at_ms),
    })
}

fn exit(exit: wire::Exit) -> Result<GuestExit, Malformed> {
    Ok(GuestExit {
        seq: exit.seq,
        container: container(&exit.container_id)?,
        process: process(exit.exec_id)?,
        status: ExitStatus {
            code: code(exit.code)?,
            reason: match exit.reason.enum_value() {
                Ok(wire::ExitReason::EXIT_REASON_EXITED) => ExitReason::Exited,
                Ok(wire::ExitReason::EXIT_REASON_SIGNALED) => ExitReason::Signaled,
                Ok(wire::ExitReason::EXIT_REASON_OOM) => ExitReason::Oom,
                Ok(wire::ExitReason::EXIT_REASON_UNSPECIFIED) => {
                    return Err(unknown("exit reason", 0));
                }
                Err(value) => return Err(unknown("exit reason", value)),
            },
            detail: String::new(),
            at: EpochMs(exit.at_ms),
        },
    })
}

pub fn code(code: u32) -> Result<u32, Malformed> {
    in_range("exit code", code, 0, CODE_MAX)
}

pub fn processes(answer: wire::ListResponse) -> Result<Vec<GuestProcess>, Malformed> {
    let count = answer.containers.iter().map(|c| c.processes.len().max(1));
    bounded("processes", count.sum(), PROCESSES_MAX)?;
    let mut processes = Vec::new();
    let mut seen = BTreeSet::new();
    for status in answer.containers {
        let container = container(&status.container_id)?;
        for status in status.processes {
            let process = process(status.exec_id)?;
            if !seen.insert((container, process.clone())) {
                return Err(Malformed::Twice { field: "process" });
            }
            processes.push(GuestProcess {
                container,
                process,
                state: match status.state.enum_value() {
                    // An agent that knows no word for it says nothing.
                    Ok(
                        wire::ProcessState::PROCESS_STATE_MAKING
                        | wire::ProcessState::PROCESS_STATE_UNSPECIFIED,
                    ) => GuestProcessState::Making,
                    Ok(wire::ProcessState::PROCESS_STATE_CREATED) => GuestProcessState::Created,
                    Ok(wire::ProcessState::PROCESS_STATE_RUNNING) => GuestProcessState::Running,
                    Ok(wire::ProcessState::PROCESS_STATE_EXITED) => GuestProcessState::Exited,
                    Err(value) => return Err(unknown("process state", value)),
                },
            });
        }
    }
    Ok(processes)
}

pub fn pids(answer: wire::PidsResponse) -> Result<Vec<GuestPid>, Malformed> {
    bounded("pids", answer.pids.len(), PIDS_MAX)?;
    let entries = answer.pids.into_iter();
    entries
        .map(|entry| {
            Ok(GuestPid {
                pid: in_range("pid", entry.pid, 1, PID_MAX)?,
                command: printable(&entry.command, COMMAND_BYTES_MAX),
            })
        })
        .collect()
}

/// What a guest could not honour, for people: what is more than was promised is passed over.
pub fn warnings(warnings: Vec<String>) -> Warnings {
    let lines = warnings.into_iter().take(WARNINGS_MAX);
    let lines = lines.map(|line| printable(&line, WARNING_BYTES_MAX));
    lines.collect()
}

/// The guest calls a container by its number in decimal, and in no other spelling.
fn container(id: &str) -> Result<ContainerNumber, Malformed> {
    let number: Result<u32, _> = id.parse();
    match number {
        Ok(number) if number.to_string() == id => Ok(ContainerNumber(number)),
        Ok(_) | Err(_) => Err(Malformed::Id {
            field: "container id",
        }),
    }
}

fn process(exec_id: String) -> Result<ProcessId, Malformed> {
    if exec_id.is_empty() {
        return Ok(ProcessId::Init);
    }
    let id = ExecId::new(exec_id);
    id.map(ProcessId::Exec)
        .map_err(|_| Malformed::Id { field: "exec id" })
}

fn bounded(field: &'static str, len: usize, max: usize) -> Result<(), Malformed> {
    match len > max {
        true => Err(Malformed::TooMany { field, len, max }),
        false => Ok(()),
    }
}

fn in_range(field: &'static str, value: u32, min: u32, max: u32) -> Result<u32, Malformed> {
    match (min..=max).contains(&value) {
        true => Ok(value),
        false => Err(Malformed::Range {
            field,
            value: value.into(),
            min: min.into(),
            max: max.into(),
        }),
    }
}

fn unknown(field: &'static str, value: i32) -> Malformed {
    Malformed::Unknown { field, value }
}

pub fn create(ask: CreateContainer) -> wire::CreateRequest {
    let mut request = wire::CreateRequest::new();
    request.container_id = ask.container.to_string();
    request.config_json = ask.config_json;
    request.rootfs = Some(rootfs(ask.rootfs)).into();
    request.host_mounts = ask.mounts.into_iter().map(host_mount).collect();
    request.host_disks = ask.disks.into_iter().map(host_disk).collect();
    request.host_devices = ask.devices.into_iter().map(host_device).collect();
    request.hook_programs = ask.hook_programs.into_iter().map(hook_program).collect();
    request.bundle_path = ask.bundle.display().to_string();
    request.stream = ask.stream.map(endpoint).into();
    request
}

pub fn exec(ask: Exec, id: &ExecId) -> wire::ExecRequest {
    let mut request = wire::ExecRequest::new();
    request.container_id = ask.container.to_string();
    request.exec_id = id.as_str().to_owned();
    request.process_json = ask.program.process_json;
    request.cgroup = ask.program.cgroup;
    request.stream = ask.stream.map(endpoint).into();
    request
}

pub fn signal(ask: Signal) -> wire::SignalRequest {
    let mut request = wire::SignalRequest::new();
    request.container_id = ask.container.to_string();
    request.signal = ask.signal;
    match ask.target {
        SignalTarget::All => request.all = true,
        SignalTarget::Process(ProcessId::Init) => {}
        SignalTarget::Process(ProcessId::Exec(id)) => request.exec_id = id.into(),
    }
    if let Some(once) = ask.once {
        request.key = once.key.into();
    }
    request
}

fn rootfs(rootfs: GuestRootfs) -> wire::Rootfs {
    let mut message = wire::Rootfs::new();
    match rootfs {
        GuestRootfs::Share(path) => message.set_share_path(path),
        GuestRootfs::Block {
            serial,
            fs_type,
            read_only,
        } => {
            let mut block = wire::BlockRootfs::new();
            block.serial = serial;
            block.fs_type = self::fs_type(fs_type).to_owned();
            block.read_only = read_only;
            message.set_block(block);
        }
    }
    message
}

pub fn fs_type(fs_type: FsType) -> &'static str {
    match fs_type {
        FsType::Ext4 => "ext4",
        FsType::Erofs => "erofs",
    }
}

fn host_mount(mount: GuestMount) -> wire::HostMount {
    let mut message = wire::HostMount::new();
    message.index = mount.index;
    message.share_path = mount.share_path;
    message.copies_path = mount.copies_path.unwrap_or_default();
    message
}

fn host_disk(disk: GuestDisk) -> wire::HostDisk {
    let mut message = wire::HostDisk::new();
    message.serial = disk.serial;
    message.read_only = disk.read_only;
    match disk.purpose {
        DiskPurpose::Mount(index) => message.set_mount(index),
        DiskPurpose::Device(index) => message.set_device(index),
    }
    message
}

fn host_device(device: GuestDevice) -> wire::HostDevice {
    let mut message = wire::HostDevice::new();
    message.major = device.number.major;
    message.minor = device.number.minor;
    message.serial = device.serial;
    message
}

fn hook_program(program: GuestHookProgram) -> wire::HookProgram {
    let mut message = wire::HookProgram::new();
    message.index = program.index;
    message.share_path = program.share_path;
    message
}

fn endpoint(endpoint: GuestEndpoint) -> wire::StreamEndpoint {
    let mut message = wire::StreamEndpoint::new();
    match endpoint {
        GuestEndpoint::SerialPort(name) => message.set_serial_port(name),
        GuestEndpoint::VsockPort(port) => message.set_vsock_port(port),
        // Such a guest is spoken to as a stock one; an endpoint that is none is refused.
        GuestEndpoint::Calls(_) => {}
    }
    message
}

#[cfg(test)]
mod tests;
