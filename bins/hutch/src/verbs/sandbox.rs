//! sandbox list, sandbox inspect.

use super::Place;
use crate::{
    args::{Format, SandboxList},
    daemon::{Daemon, soon},
    output::table,
    run::rfc3339,
};
use anyhow::Result;
use protocols::blocking::hutch::{InspectSandboxRequest, ListSandboxesRequest, SandboxInfo};
use serde_json::{Value, json};

fn as_json(info: &SandboxInfo) -> Value {
    json!({
        "uid": info.uid,
        "status": info.status,
        "reason": info.reason,
        "containers": info.containers,
        "vmmPid": info.vmm_pid,
        "accelerator": info.accelerator,
        "machine": info.machine,
        "vcpus": info.vcpus,
        "memoryMib": info.memory_mib,
        "created": rfc3339(info.created_ms / 1_000),
        "createdMs": info.created_ms,
        "cgroup": info.cgroup,
        "console": info.console_path,
        "phases": info.phases.iter().map(|phase| json!({
            "name": phase.name,
            "micros": phase.micros,
        })).collect::<Vec<_>>(),
    })
}

pub fn list(at: &Place, list: &SandboxList) -> Result<u8> {
    let request = ListSandboxesRequest::default();
    let answer = at
        .daemon()?
        .ask(|client| client.list_sandboxes(soon(), &request))?;
    match list.format {
        Format::Json => println!(
            "{:#}",
            answer.sandboxes.iter().map(as_json).collect::<Value>()
        ),
        Format::Table => {
            let row = |info: &SandboxInfo| {
                vec![
                    info.uid.clone(),
                    info.status.clone(),
                    info.vmm_pid.to_string(),
                    info.accelerator.clone(),
                    info.memory_mib.to_string(),
                    info.containers.join(","),
                    info.reason.clone(),
                ]
            };
            let rows: Vec<_> = answer.sandboxes.iter().map(row).collect();
            let head = [
                "UID",
                "STATUS",
                "VMM",
                "ACCEL",
                "MIB",
                "CONTAINERS",
                "REASON",
            ];
            print!("{}", table(&head, &rows));
        }
    }
    Ok(0)
}

/// # Errors
/// No sandbox, or several, go by that name.
pub fn find(daemon: &mut Daemon, sandbox: &str) -> Result<SandboxInfo> {
    let request = InspectSandboxRequest {
        sandbox: sandbox.to_owned(),
        ..Default::default()
    };
    let answer = daemon.ask(|client| client.inspect_sandbox(soon(), &request))?;
    Ok(answer.sandbox.unwrap_or_default())
}

pub fn inspect(at: &Place, sandbox: &str) -> Result<u8> {
    println!("{:#}", as_json(&find(&mut at.daemon()?, sandbox)?));
    Ok(0)
}
