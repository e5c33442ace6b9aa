//! The sandbox: mounts and names that all its containers share.

use crate::{
    agent::Agent,
    error::{Doing, Error},
    guest::storage::Wanted,
    service::whole,
};
use protocols::asynchronous::{
    agent::{CreateSandboxRequest, GetOOMEventRequest, OOMEvent, Storage},
    empty::Empty,
};
use std::{fs, sync::Arc};

/// As the kernel has it.
const HOSTNAME_MAX: usize = 64;
/// Where containers of stock hosts look for it.
const RESOLV_CONF: &str = "/run/kata-containers/sandbox/resolv.conf";

pub async fn create(agent: &Arc<Agent>, request: CreateSandboxRequest) -> Result<Empty, Error> {
    refuse(&request)?;
    let agent = agent.clone();
    whole(async move {
        if !request.hostname.is_empty() {
            let hostname: String = request.hostname.chars().take(HOSTNAME_MAX).collect();
            nix::unistd::sethostname(&hostname).doing(|| format!("set hostname {hostname:?}"))?;
        }
        if !request.dns.is_empty() {
            write_dns(&request.dns)?;
        }
        let storages = request
            .storages
            .into_iter()
            .map(wanted)
            .collect::<Result<_, _>>()?;
        agent.mount_for_sandbox(storages).await?;
        Ok(Empty::new())
    })
    .await
}

fn refuse(request: &CreateSandboxRequest) -> Result<(), Error> {
    let invalid = |what: &str| {
        Err(Error::Invalid {
            what: format!("create sandbox: {what}"),
            why: "is not supported by this agent",
        })
    };
    if let Some(module) = request.kernel_modules.first() {
        return invalid(&format!("kernel module {:?}", module.name));
    }
    if !request.guest_hook_path.is_empty() {
        return invalid("guest_hook_path");
    }
    if request.sandbox_pidns {
        return invalid("sandbox_pidns");
    }
    Ok(())
}

fn write_dns(dns: &[String]) -> Result<(), Error> {
    let step = || format!("write {RESOLV_CONF}");
    let folder = RESOLV_CONF.trim_end_matches("/resolv.conf");
    fs::create_dir_all(folder).doing(step)?;
    fs::write(RESOLV_CONF, dns.join("\n") + "\n").doing(step)
}

pub fn wanted(storage: Storage) -> Result<Wanted, Error> {
    if storage.fs_group.is_some() {
        return Err(Error::Invalid {
            what: format!("storage of {:?}: fs_group", storage.mount_point),
            why: "is not supported by this agent",
        });
    }
    Ok(Wanted {
        driver: storage.driver,
        source: storage.source,
        kind: storage.fstype,
        options: storage.options,
        mount_point: storage.mount_point.into(),
    })
}

/// Waits for the next kill for want of memory.
pub async fn next_oom(agent: &Arc<Agent>, _: GetOOMEventRequest) -> Result<OOMEvent, Error> {
    tokio::select! {
        biased;
        () = agent.ended() => Err(Error::Over { what: "the sandbox".to_owned() }),
        container = agent.oom.next() => Ok(OOMEvent {
            container_id: container.as_str().to_owned(),
            ..OOMEvent::default()
        }),
    }
}
