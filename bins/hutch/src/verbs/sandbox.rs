//! The verbs of `hutch sandbox`.

use super::{Place, fresh_key};
use crate::{
    args::{
        AnnotationGet, AnnotationSet, AnnotationVerb, Format, SandboxCreate, SandboxDelete,
        SandboxList, SandboxMonitor, SandboxStats, SandboxStop, SandboxVerb,
    },
    daemon::{Daemon, soon},
    log::rfc3339,
    output::{print, print_json, print_line, table},
};
use anyhow::{Result, bail};
use protocols::{
    annotations::{GUEST_PROFILE, MEMORY_MIB, VCPUS},
    asynchronous::{
        hutch::{
            AnnotateSandboxRequest, CreateSandboxRequest, CreateSandboxResponse,
            DeleteSandboxRequest, InspectSandboxRequest, ListSandboxesRequest,
            NextSandboxEventsRequest, SandboxEvent, SandboxInfo, SandboxRequest, SandboxResponse,
            SandboxStatsRequest, SandboxStatsResponse, StopSandboxRequest,
        },
        hutch_ttrpc::RuntimeClient,
    },
};
use serde_json::{Value, json};
use ttrpc::context::Context;

/// How long the daemon holds a question after what happened next.
const WATCH_MS: u32 = 20_000;

pub fn sandbox(at: &Place, verb: SandboxVerb) -> Result<u8> {
    match verb {
        SandboxVerb::Create(wish) => {
            print_line(create(at, wish)?.sandbox_id)?;
            Ok(0)
        }
        SandboxVerb::Run(wish) => {
            let created = create(at, wish)?;
            order(at, &created.sandbox_uid, RuntimeClient::start_sandbox)?;
            print_line(created.sandbox_id)?;
            Ok(0)
        }
        SandboxVerb::Start(named) => order(at, &named.id, RuntimeClient::start_sandbox),
        SandboxVerb::Pause(named) => order(at, &named.id, RuntimeClient::pause_sandbox),
        SandboxVerb::Resume(named) => order(at, &named.id, RuntimeClient::resume_sandbox),
        SandboxVerb::Stop(named) => stop(at, &named),
        SandboxVerb::Delete(named) => delete(at, &named),
        SandboxVerb::List(list_what) => list(at, &list_what),
        SandboxVerb::Status(named) => {
            let found = find(&mut at.daemon()?, &at.namespace, &named.id)?;
            print_line(found.status)?;
            Ok(0)
        }
        SandboxVerb::Inspect(named) => inspect(at, &named.id),
        SandboxVerb::Annotation(AnnotationVerb::Get(get)) => annotation(at, &get),
        SandboxVerb::Annotation(AnnotationVerb::Set(set)) => annotate(at, set),
        SandboxVerb::Stats(wanted) => stats(at, &wanted),
        SandboxVerb::Monitor(watched) => monitor(at, &watched),
    }
}

/// What a verb is about, in the words of the daemon's own refusals.
pub fn object(verb: &SandboxVerb) -> (&'static str, &String) {
    // The daemon calls one by its uid that was given no id.
    const UNNAMED: &String = &String::new();
    match verb {
        SandboxVerb::Create(wish) => ("create sandbox", wish.id.as_ref().unwrap_or(UNNAMED)),
        SandboxVerb::Run(wish) => ("run sandbox", wish.id.as_ref().unwrap_or(UNNAMED)),
        SandboxVerb::Start(named) => ("start sandbox", &named.id),
        SandboxVerb::Stop(named) => ("stop sandbox", &named.id),
        SandboxVerb::Delete(named) => ("delete sandbox", &named.id),
        SandboxVerb::Pause(named) => ("pause sandbox", &named.id),
        SandboxVerb::Resume(named) => ("resume sandbox", &named.id),
        SandboxVerb::Status(named) => ("status of sandbox", &named.id),
        SandboxVerb::Inspect(named) => ("inspect sandbox", &named.id),
        SandboxVerb::Annotation(AnnotationVerb::Get(get)) => ("annotations of sandbox", &get.id),
        SandboxVerb::Annotation(AnnotationVerb::Set(set)) => ("annotate sandbox", &set.id),
        SandboxVerb::Stats(wanted) => ("stats of sandbox", &wanted.id),
        SandboxVerb::Monitor(watched) => ("watch sandbox", &watched.id),
        SandboxVerb::List(_) => unreachable!("a list is about no sandbox"),
    }
}

fn create(at: &Place, wish: SandboxCreate) -> Result<CreateSandboxResponse> {
    let named = [
        (GUEST_PROFILE, wish.guest_profile),
        (VCPUS, wish.vcpus.map(|count| count.to_string())),
        (MEMORY_MIB, wish.memory.map(|mib| mib.to_string())),
    ];
    let named = named
        .into_iter()
        .filter_map(|(key, value)| Some((key.to_owned(), value?)));
    let request = CreateSandboxRequest {
        key: fresh_key(),
        namespace: at.namespace.clone(),
        sandbox_id: wish.id.unwrap_or_default(),
        hostname: wish.hostname,
        annotations: wish.annotations.into_iter().chain(named).collect(),
        ..Default::default()
    };
    at.daemon()?
        .ask(async |client| client.create_sandbox(soon(), &request).await)
}

fn order(
    at: &Place,
    sandbox: &str,
    verb: impl AsyncFn(&RuntimeClient, Context, &SandboxRequest) -> ttrpc::Result<SandboxResponse>,
) -> Result<u8> {
    let request = SandboxRequest {
        key: fresh_key(),
        namespace: at.namespace.clone(),
        sandbox: sandbox.to_owned(),
        ..Default::default()
    };
    let obeyed = at
        .daemon()?
        .ask(async |client| verb(client, soon(), &request).await)?;
    at.log.warn_beside(&obeyed.warnings);
    Ok(0)
}

fn stop(at: &Place, stop: &SandboxStop) -> Result<u8> {
    let request = StopSandboxRequest {
        key: fresh_key(),
        namespace: at.namespace.clone(),
        sandbox: stop.id.clone(),
        force: stop.force,
        ..Default::default()
    };
    let stopped = at
        .daemon()?
        .ask(async |client| client.stop_sandbox(soon(), &request).await)?;
    at.log.warn_beside(&stopped.warnings);
    Ok(0)
}

fn delete(at: &Place, delete: &SandboxDelete) -> Result<u8> {
    let request = DeleteSandboxRequest {
        key: fresh_key(),
        namespace: at.namespace.clone(),
        sandbox: delete.id.clone(),
        force: delete.force,
        ..Default::default()
    };
    let deleted = at
        .daemon()?
        .ask(async |client| client.delete_sandbox(soon(), &request).await)?;
    at.log.warn_beside(&deleted.warnings);
    Ok(0)
}

fn annotation(at: &Place, get: &AnnotationGet) -> Result<u8> {
    let found = find(&mut at.daemon()?, &at.namespace, &get.id)?;
    match &get.key {
        None => {
            let all: std::collections::BTreeMap<_, _> = found.annotations.into_iter().collect();
            print_json(&json!(all))?;
        }
        Some(key) => match found.annotations.get(key) {
            Some(value) => print_line(value)?,
            None => bail!("it has no annotation {key:?}"),
        },
    }
    Ok(0)
}

fn annotate(at: &Place, set: AnnotationSet) -> Result<u8> {
    let request = AnnotateSandboxRequest {
        key: fresh_key(),
        namespace: at.namespace.clone(),
        sandbox: set.id,
        annotations: set.annotations.into_iter().collect(),
        ..Default::default()
    };
    at.daemon()?
        .ask(async |client| client.annotate_sandbox(soon(), &request).await)?;
    Ok(0)
}

fn stats_json(answer: &SandboxStatsResponse) -> Value {
    json!({
        "at": rfc3339(answer.at_ms / 1_000),
        "vcpus": answer.vcpus,
        "memoryMib": answer.memory_mib,
        "cpuUsec": answer.parts.iter().map(|part| part.cpu_usec).sum::<u64>(),
        "memoryBytes": answer.parts.iter().map(|part| part.memory_bytes).sum::<u64>(),
        "parts": answer.parts.iter().map(|part| json!({
            "name": part.name,
            "cpuUsec": part.cpu_usec,
            "memoryBytes": part.memory_bytes,
            "processes": part.processes,
        })).collect::<Vec<_>>(),
    })
}

fn stats(at: &Place, wanted: &SandboxStats) -> Result<u8> {
    let request = SandboxStatsRequest {
        namespace: at.namespace.clone(),
        sandbox: wanted.id.clone(),
        ..Default::default()
    };
    let answer = at
        .daemon()?
        .ask(async |client| client.sandbox_stats(soon(), &request).await)?;
    match wanted.format {
        Format::Json => print_json(&stats_json(&answer))?,
        Format::Table => {
            let row = |part: &protocols::asynchronous::hutch::SandboxPart| {
                vec![
                    part.name.clone(),
                    part.processes.to_string(),
                    format!("{:.2}", part.cpu_usec as f64 / 1e6),
                    (part.memory_bytes >> 20).to_string(),
                ]
            };
            let rows: Vec<_> = answer.parts.iter().map(row).collect();
            print(&table(&["PART", "PROCESSES", "CPU S", "MIB"], &rows))?;
        }
    }
    Ok(0)
}

fn event_json(event: &SandboxEvent) -> Value {
    match event.exit.as_ref() {
        None => json!({
            "number": event.number,
            "status": event.status,
            "reason": event.reason,
        }),
        Some(exit) => json!({
            "number": event.number,
            "container": event.container_id,
            "exit": {
                "code": exit.code,
                "reason": exit.reason,
                "detail": exit.detail,
                "at": rfc3339(exit.at_ms / 1_000),
            },
        }),
    }
}

/// One line of JSON for each event, until the sandbox is gone.
fn monitor(at: &Place, watched: &SandboxMonitor) -> Result<u8> {
    let mut daemon = at.daemon()?;
    // By its uid: an id may be given to another when this one is gone.
    let uid = find(&mut daemon, &at.namespace, &watched.id)?.uid;
    let mut request = NextSandboxEventsRequest {
        namespace: at.namespace.clone(),
        sandbox: uid,
        ..Default::default()
    };
    let mut shown = !watched.new;
    loop {
        let asked = daemon.ask(async |client| client.next_sandbox_events(soon(), &request).await);
        let answer = match asked {
            Ok(answer) => answer,
            // It was there, and went while nobody asked.
            Err(why) if crate::daemon::is_not_found(&why) => return Ok(0),
            Err(why) => return Err(why),
        };
        for event in &answer.events {
            if shown {
                print_line(event_json(event))?;
            }
            request.after = event.number;
        }
        if answer.over {
            return Ok(0);
        }
        shown = true;
        request.wait_ms = WATCH_MS;
    }
}

fn as_json(info: &SandboxInfo) -> Value {
    json!({
        "id": info.id,
        "namespace": info.namespace,
        "uid": info.uid,
        "lifetime": info.lifetime,
        "hostname": info.hostname,
        "annotations": info.annotations.iter().collect::<std::collections::BTreeMap<_, _>>(),
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

fn list(at: &Place, list: &SandboxList) -> Result<u8> {
    let request = ListSandboxesRequest {
        namespace: match list.all_namespaces {
            true => String::new(),
            false => at.namespace.clone(),
        },
        ..Default::default()
    };
    let answer = at
        .daemon()?
        .ask(async |client| client.list_sandboxes(soon(), &request).await)?;
    // What is listed is no less true for it.
    for line in &answer.unread {
        eprintln!("hutch: warning: {line}");
    }
    if list.quiet {
        let ids = answer
            .sandboxes
            .iter()
            .map(|sandbox| format!("{}\n", sandbox.id));
        print(&ids.collect::<String>())?;
        return Ok(0);
    }
    match list.format {
        Format::Json => print_json(&answer.sandboxes.iter().map(as_json).collect::<Vec<_>>())?,
        Format::Table => {
            // Of one namespace it says nothing.
            let first = usize::from(!list.all_namespaces);
            let cells = |info: &SandboxInfo| cells(info)[first..].to_vec();
            let rows: Vec<_> = answer.sandboxes.iter().map(cells).collect();
            print(&table(&HEADS[first..], &rows))?;
        }
    }
    Ok(0)
}

const HEADS: [&str; 9] = [
    "NAMESPACE",
    "ID",
    "UID",
    "STATUS",
    "VMM",
    "ACCEL",
    "MIB",
    "CONTAINERS",
    "REASON",
];

fn cells(info: &SandboxInfo) -> [String; HEADS.len()] {
    [
        info.namespace.clone(),
        info.id.clone(),
        info.uid.clone(),
        info.status.clone(),
        info.vmm_pid.to_string(),
        info.accelerator.clone(),
        info.memory_mib.to_string(),
        info.containers.join(","),
        info.reason.clone(),
    ]
}

/// # Errors
/// No sandbox of that namespace, or several, go by that name.
pub fn find(daemon: &mut Daemon, namespace: &str, sandbox: &str) -> Result<SandboxInfo> {
    let request = InspectSandboxRequest {
        sandbox: sandbox.to_owned(),
        namespace: namespace.to_owned(),
        ..Default::default()
    };
    let answer = daemon.ask(async |client| client.inspect_sandbox(soon(), &request).await);
    let answer = answer.map_err(|why| super::unnamed(why, ("inspect sandbox", sandbox)))?;
    Ok(answer.sandbox.unwrap_or_default())
}

fn inspect(at: &Place, sandbox: &str) -> Result<u8> {
    print_json(&as_json(&find(&mut at.daemon()?, &at.namespace, sandbox)?))?;
    Ok(0)
}
