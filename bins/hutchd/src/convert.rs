//! From what the rooms say to what the interface carries.

use protocols::asynchronous::hutch::{
    ContainerInfo, CpuStats, ExitInfo, HugetlbStats, IoStats, MemoryStats, NextOomsResponse, Oom,
    Phase, PidsStats, PsEntry, SandboxEvent, SandboxInfo, SandboxPart, StatsResponse, StoreFigures,
    StreamAddress,
};
use runtime_core::{
    agent::{ContainerStats, ExitStatus, GuestPid},
    container::{ContainerState, ContainerView, Ooms},
    host::{Listed, Name},
    hypervisor::{HostEndpoint, MachineType},
    ids::SandboxUid,
    premises::Spent,
    sandbox::{Happening, JournalEntry, PhaseTook, SandboxView},
};
use std::time::Duration;
use store::Figures;

pub fn stream_address(endpoint: &HostEndpoint) -> StreamAddress {
    let (socket, connect_port) = match endpoint {
        HostEndpoint::Socket(socket) => (socket.display().to_string(), 0),
        HostEndpoint::Hybrid { socket, port } => (socket.display().to_string(), *port),
        HostEndpoint::Carried(socket) => (format!("calls:{}", socket.display()), 0),
        HostEndpoint::Vsock { cid, port } => (format!("vsock:{cid}"), *port),
    };
    StreamAddress {
        socket,
        connect_port,
        ..Default::default()
    }
}

pub fn exit_info(exit: &ExitStatus) -> ExitInfo {
    ExitInfo {
        code: exit.code,
        reason: exit.reason.name().to_owned(),
        detail: exit.detail.clone(),
        at_ms: exit.at.0,
        ..Default::default()
    }
}

pub fn ps_entry(pid: &GuestPid) -> PsEntry {
    PsEntry {
        pid: pid.pid,
        command: pid.command.clone(),
        ..Default::default()
    }
}

pub fn ooms(found: &Ooms) -> NextOomsResponse {
    let oom = |oom: &runtime_core::container::Oom| Oom {
        number: oom.number,
        at_ms: oom.at.0,
        ..Default::default()
    };
    NextOomsResponse {
        ooms: found.ooms.iter().map(oom).collect(),
        over: found.over,
        ..Default::default()
    }
}

pub fn stats(stats: &ContainerStats) -> StatsResponse {
    StatsResponse {
        cpu: Some(cpu_stats(stats)).into(),
        memory: Some(memory_stats(stats)).into(),
        pids: Some(PidsStats {
            current: stats.pids.current,
            max: stats.pids.max,
            ..Default::default()
        })
        .into(),
        io: stats.io.iter().map(io_stats).collect(),
        hugetlb: stats.hugetlb.iter().map(hugetlb_stats).collect(),
        at_ms: stats.at.0,
        ..Default::default()
    }
}

fn cpu_stats(stats: &ContainerStats) -> CpuStats {
    let cpu = &stats.cpu;
    CpuStats {
        usage_usec: cpu.usage_usec,
        user_usec: cpu.user_usec,
        system_usec: cpu.system_usec,
        nr_periods: cpu.nr_periods,
        nr_throttled: cpu.nr_throttled,
        throttled_usec: cpu.throttled_usec,
        ..Default::default()
    }
}

fn memory_stats(stats: &ContainerStats) -> MemoryStats {
    let memory = &stats.memory;
    MemoryStats {
        current: memory.current,
        peak: memory.peak,
        max: memory.max,
        swap_current: memory.swap_current,
        swap_max: memory.swap_max,
        stat: memory.stat.clone().into_iter().collect(),
        events_max: memory.events_max,
        events_oom_kill: memory.events_oom_kill,
        ..Default::default()
    }
}

fn io_stats(io: &runtime_core::agent::IoStats) -> IoStats {
    IoStats {
        major: io.major,
        minor: io.minor,
        rbytes: io.rbytes,
        wbytes: io.wbytes,
        rios: io.rios,
        wios: io.wios,
        ..Default::default()
    }
}

fn hugetlb_stats(stats: &runtime_core::agent::HugetlbStats) -> HugetlbStats {
    HugetlbStats {
        page_size: stats.page_size.clone(),
        current: stats.current,
        events_max: stats.events_max,
        ..Default::default()
    }
}

pub fn container_info(uid: SandboxUid, view: &ContainerView) -> ContainerInfo {
    let spec = &view.spec;
    let exit = match &view.state {
        ContainerState::Stopped(exit) => Some(exit_info(exit)),
        ContainerState::Creating
        | ContainerState::Created
        | ContainerState::Running
        | ContainerState::Paused => None,
    };
    let pid = match exit {
        Some(_) => 0,
        None => view.relay.map_or(0, |relay| relay.pid),
    };
    ContainerInfo {
        namespace: spec.namespace.to_string(),
        container_id: spec.id.to_string(),
        sandbox_uid: uid.to_string(),
        status: view.state.name().to_owned(),
        pid,
        bundle: spec.bundle.display().to_string(),
        rootfs: spec.rootfs.display().to_string(),
        created_ms: spec.created.0,
        annotations: spec.annotations.clone().into_iter().collect(),
        oci_version: spec.oci_version.clone(),
        exit: exit.into(),
        owner_uid: spec.owner_uid,
        ..Default::default()
    }
}

/// What nobody looks after may be otherwise than it was.
pub fn listed_info(listed: &Listed) -> ContainerInfo {
    let info = container_info(listed.uid, &listed.view);
    match listed.unsure.as_str() {
        "" => info,
        why => ContainerInfo {
            status: "unknown".to_owned(),
            reason: why.to_owned(),
            ..info
        },
    }
}

fn machine_name(machine: MachineType) -> &'static str {
    match machine {
        MachineType::Q35 => "q35",
        MachineType::Microvm => "microvm",
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

pub fn store_figures(figures: Figures) -> StoreFigures {
    StoreFigures {
        writes: figures.writes,
        changes: figures.changes,
        bytes: figures.bytes,
        flushes: figures.flushes,
        busy_micros: micros(figures.busy),
        ..Default::default()
    }
}

pub fn sandbox_info(view: &SandboxView, names: &[Name]) -> SandboxInfo {
    let vm = &view.spec.vm;
    let phase = |step: &PhaseTook| Phase {
        name: step.name.to_owned(),
        micros: micros(step.took),
        ..Default::default()
    };
    SandboxInfo {
        uid: view.spec.uid.to_string(),
        id: view.spec.id.to_string(),
        namespace: view.spec.namespace.to_string(),
        annotations: view.annotations.clone().into_iter().collect(),
        lifetime: view.spec.lifetime.name().to_owned(),
        hostname: view.spec.hostname.clone(),
        status: view.standing.name().to_owned(),
        vmm_pid: view.vm.as_ref().map_or(0, |vm| vm.vmm.pid),
        accelerator: vm.accelerator.name().to_owned(),
        machine: machine_name(vm.machine).to_owned(),
        created_ms: view.spec.created.0,
        reason: view.reason.clone(),
        console_path: vm.folder.join("console.log").display().to_string(),
        containers: names.iter().map(|name| name.id.to_string()).collect(),
        cgroup: view.spec.premises.vmm.0.clone(),
        vcpus: vm.vcpus,
        memory_mib: vm.memory_mib,
        phases: view.phases.iter().map(phase).collect(),
        ..Default::default()
    }
}

pub fn sandbox_event(entry: &JournalEntry) -> SandboxEvent {
    let mut event = SandboxEvent {
        number: entry.number,
        ..Default::default()
    };
    match &entry.happened {
        Happening::State { standing, reason } => {
            event.status = standing.name().to_owned();
            event.reason.clone_from(reason);
        }
        Happening::Exited { container, status } => {
            event.container_id = container.to_string();
            event.exit = Some(exit_info(status)).into();
        }
    }
    event
}

pub fn part((name, spent): &(&'static str, Spent)) -> SandboxPart {
    SandboxPart {
        name: (*name).to_owned(),
        cpu_usec: spent.cpu_usec,
        memory_bytes: spent.memory_bytes,
        processes: spent.processes,
        ..Default::default()
    }
}
