//! Containers and processes as a stock host sees them.
//!
//! What differs from ours: an exit waits in its process until asked for, an empty exec id in
//! SignalProcess may mean all processes, and an init that has no handler is killed instead.

use super::sandbox;
use crate::{
    agent::{Agent, Io, NewContainer, NewExec, SignalTo},
    error::Error,
    id::{Id, Name, Which},
    rootfs::Source,
    service::{convert::oci, whole},
    table::Host,
};
use protocols::asynchronous::{
    agent::{
        CreateContainerRequest, ExecProcessRequest, PauseContainerRequest, RemoveContainerRequest,
        ResumeContainerRequest, SignalProcessRequest, StartContainerRequest,
        UpdateContainerRequest, WaitProcessRequest, WaitProcessResponse,
    },
    empty::Empty,
};
use std::{fs, path::PathBuf, sync::Arc};

const SIGKILL: u32 = libc::SIGKILL.cast_unsigned();
const SIGTERM: u32 = libc::SIGTERM.cast_unsigned();

/// The init goes by an empty exec id or by its container's.
pub fn name(container: String, exec: String) -> Result<Name, Error> {
    let exec = if exec == container {
        String::new()
    } else {
        exec
    };
    Name::parse(container, exec)
}

pub async fn create(agent: &Arc<Agent>, request: CreateContainerRequest) -> Result<Empty, Error> {
    let id = Id::parse("container", request.container_id)?;
    let invalid = |what: &str| Error::Invalid {
        what: format!("create container {id}: {what}"),
        why: "is not supported by this agent",
    };
    if request.sandbox_pidns {
        return Err(invalid("sandbox_pidns"));
    }
    if !request.devices.is_empty() {
        return Err(invalid("devices"));
    }
    if !request.shared_mounts.is_empty() {
        return Err(invalid("shared_mounts"));
    }
    if request.stdin_port + request.stdout_port + request.stderr_port != 0 {
        return Err(invalid("stdio ports"));
    }
    let spec = request.OCI.into_option().unwrap_or_default();
    let storages = request
        .storages
        .into_iter()
        .map(sandbox::wanted)
        .collect::<Result<_, _>>()?;
    let wish = NewContainer {
        host: Host::Stock,
        config_json: oci::config(&spec).to_string().into_bytes(),
        rootfs: Source::Guest(spec.Root.get_or_default().Path.as_str().into()),
        binds: Vec::new(),
        hook_programs: Vec::new(),
        disks: Vec::new(),
        host_devices: None,
        bundle: String::new(),
        storages,
        io: Io::Pulled,
        id,
    };
    whole(agent.clone().create(wish)).await?;
    Ok(Empty::new())
}

pub async fn start(agent: &Arc<Agent>, request: StartContainerRequest) -> Result<Empty, Error> {
    let id = Id::parse("container", request.container_id)?;
    whole(agent.clone().start(id)).await?;
    Ok(Empty::new())
}

pub async fn exec(agent: &Arc<Agent>, request: ExecProcessRequest) -> Result<Empty, Error> {
    let container = Id::parse("container", request.container_id)?;
    let exec = Id::parse("exec", request.exec_id)?;
    if request.stdin_port + request.stdout_port + request.stderr_port != 0 {
        return Err(Error::Invalid {
            what: format!("exec {exec} in container {container}: stdio ports"),
            why: "are not supported by this agent",
        });
    }
    let process = oci::process(request.process.get_or_default());
    let wish = NewExec {
        container,
        exec,
        host: Host::Stock,
        process_json: process.to_string().into_bytes(),
        cgroup: PathBuf::new(),
        io: Io::Pulled,
    };
    whole(agent.clone().exec(wish)).await?;
    Ok(Empty::new())
}

pub async fn signal(agent: &Arc<Agent>, request: SignalProcessRequest) -> Result<Empty, Error> {
    let everything = request.exec_id.is_empty() && request.signal == SIGKILL;
    let name = name(request.container_id, request.exec_id)?;
    let mut signal = request.signal;
    if name.process == Which::Init && signal == SIGTERM && !catches(agent, &name, SIGTERM) {
        signal = SIGKILL;
    }
    let to = if everything {
        SignalTo::All(name.container)
    } else {
        SignalTo::One(name)
    };
    agent.signal(&to, signal)?;
    Ok(Empty::new())
}

/// Whether a process has a handler; the kernel drops signals to an init that has none.
fn catches(agent: &Agent, name: &Name, signal: u32) -> bool {
    let Some(pid) = agent.pid(name) else {
        return true;
    };
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    handles(&status, signal)
}

fn handles(status: &str, signal: u32) -> bool {
    let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
    let caught = caught.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    caught.is_none_or(|mask| mask & (1 << (signal - 1)) != 0)
}

pub async fn wait(
    agent: &Arc<Agent>,
    request: WaitProcessRequest,
) -> Result<WaitProcessResponse, Error> {
    let name = name(request.container_id, request.exec_id)?;
    let code = agent.wait(&name).await?;
    Ok(WaitProcessResponse {
        status: code.cast_signed(),
        ..WaitProcessResponse::default()
    })
}

pub async fn remove(agent: &Arc<Agent>, request: RemoveContainerRequest) -> Result<Empty, Error> {
    let id = Id::parse("container", request.container_id)?;
    whole(agent.clone().remove(id)).await?;
    Ok(Empty::new())
}

pub async fn pause(agent: &Arc<Agent>, request: PauseContainerRequest) -> Result<Empty, Error> {
    let id = Id::parse("container", request.container_id)?;
    whole(agent.clone().pause(id)).await?;
    Ok(Empty::new())
}

pub async fn resume(agent: &Arc<Agent>, request: ResumeContainerRequest) -> Result<Empty, Error> {
    let id = Id::parse("container", request.container_id)?;
    whole(agent.clone().resume(id)).await?;
    Ok(Empty::new())
}

pub async fn update(agent: &Arc<Agent>, request: UpdateContainerRequest) -> Result<Empty, Error> {
    let id = Id::parse("container", request.container_id)?;
    let resources = oci::resources(request.resources.get_or_default());
    whole(agent.clone().update(id, resources.to_string().into_bytes())).await?;
    Ok(Empty::new())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_init_goes_by_two_names() {
        for exec in ["", "web"] {
            let init = name("web".to_owned(), exec.to_owned()).unwrap();

            assert_eq!(init.process, Which::Init);
        }
    }

    #[test]
    fn a_handler_is_found_in_the_mask_of_caught_signals() {
        let status = "Name:\tsh\nSigCgt:\t0000000000004000\n";

        assert!(handles(status, 15));
        assert!(!handles(status, 14));
        assert!(handles("", 15), "one that is gone is not killed harder");
    }
}
