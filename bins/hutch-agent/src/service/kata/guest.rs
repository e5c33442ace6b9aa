//! Calls about the guest as a whole.

use crate::{
    agent::Agent,
    cmdline::Features,
    error::{Doing, Error},
    guest::{clock, hotplug},
    service::{FEATURE, PLACES_EXECS, VERSION},
};
use protocols::asynchronous::{
    agent::{
        AgentDetails, DestroySandboxRequest, GuestDetailsRequest, GuestDetailsResponse,
        MemHotplugByProbeRequest, OnlineCPUMemRequest, ReseedRandomDevRequest,
        SetGuestDateTimeRequest,
    },
    empty::Empty,
};
use std::{io, sync::Arc};

/// Drivers of `Storage` that the agent mounts.
const STORAGE: [&str; 4] = ["virtio-fs", "blk", "ephemeral", "local"];

pub async fn details(
    agent: &Arc<Agent>,
    request: GuestDetailsRequest,
) -> Result<GuestDetailsResponse, Error> {
    let mut answer = GuestDetailsResponse::new();
    if request.mem_block_size {
        answer.mem_block_size_bytes = hotplug::memory_block_bytes();
    }
    if request.mem_hotplug_probe {
        answer.support_mem_hotplug_probe = hotplug::can_probe_memory();
    }
    answer.agent_details = Some(AgentDetails {
        version: VERSION.to_owned(),
        init_daemon: true,
        storage_handlers: STORAGE.map(str::to_owned).to_vec(),
        supports_seccomp: true,
        extra_features: match agent.features() {
            Features::All => [FEATURE, PLACES_EXECS].map(str::to_owned).to_vec(),
            Features::Stock => Vec::new(),
        },
        ..AgentDetails::default()
    })
    .into();
    Ok(answer)
}

pub async fn online(_: &Arc<Agent>, request: OnlineCPUMemRequest) -> Result<Empty, Error> {
    if request.wait {
        hotplug::await_cpus(request.nb_cpus).await?;
    }
    hotplug::online_cpus()?;
    if !request.cpu_only {
        hotplug::online_memory()?;
    }
    Ok(Empty::new())
}

pub async fn probe_memory(
    _: &Arc<Agent>,
    request: MemHotplugByProbeRequest,
) -> Result<Empty, Error> {
    for address in request.memHotplugProbeAddr {
        hotplug::probe_memory(address)?;
    }
    Ok(Empty::new())
}

pub async fn set_time(_: &Arc<Agent>, request: SetGuestDateTimeRequest) -> Result<Empty, Error> {
    let nsec = request.Usec.checked_mul(1000);
    let nsec = nsec.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput));
    clock::set(request.Sec, nsec.doing(|| "set the clock".to_owned())?)?;
    Ok(Empty::new())
}

pub async fn reseed(_: &Arc<Agent>, request: ReseedRandomDevRequest) -> Result<Empty, Error> {
    clock::stir(&request.data)?;
    Ok(Empty::new())
}

pub async fn end(agent: &Arc<Agent>, _: DestroySandboxRequest) -> Result<Empty, Error> {
    agent.end();
    Ok(Empty::new())
}
