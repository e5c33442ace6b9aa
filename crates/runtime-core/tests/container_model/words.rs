//! What a story is told with: a container, what comes home, and how the model calls what the machine says.

use crate::model::{Came, Hooks};
use runtime_core::{
    agent::{ExitReason, ExitStatus, GuestRootfs, Warnings},
    container::{Answer, Container, ContainerSpec, Denied, HostHooks, Notice, Stage, World},
    devices::{Attached, ContainerDevices},
    error::{Fault, Kind},
    hypervisor::BlockSpec,
    ids::{ContainerId, ContainerNumber, EpochMs, Namespace, RequestKey, SandboxUid},
    kit::Machine,
    premises::Hook,
};
use std::collections::BTreeMap;

pub fn uid() -> SandboxUid {
    SandboxUid::from_random(7)
}

pub fn spec(hooks: Hooks) -> ContainerSpec {
    let some = |wanted: bool| match wanted {
        false => Vec::new(),
        true => vec![Hook {
            name: "hook".to_owned(),
            path: "/hook".into(),
            args: Vec::new(),
            env: Vec::new(),
            timeout_s: None,
        }],
    };
    ContainerSpec {
        number: ContainerNumber(0),
        namespace: Namespace::new("default").unwrap(),
        id: ContainerId::new("c").unwrap(),
        bundle: "/b".into(),
        rootfs: "/b/r".into(),
        config_json: "{}".to_owned(),
        oci_version: "1.0.2".to_owned(),
        annotations: BTreeMap::new(),
        devices: ContainerDevices {
            container: ContainerNumber(0),
            bundle: "/b".into(),
            root: "r".into(),
            root_read_only: false,
            binds: Vec::new(),
        },
        guest_hooks_s: 0,
        hooks: HostHooks {
            create: some(hooks.create),
            poststart: some(hooks.poststart),
            poststop: some(hooks.poststop),
        },
        created: EpochMs(1),
        owner_uid: 0,
        cgroup: None,
        created_by: None,
        relay: None,
    }
}

pub fn attached() -> Attached {
    Attached {
        rootfs: GuestRootfs::Share("0/rootfs".to_owned()),
        mounts: Vec::new(),
        hook_programs: Vec::new(),
        disks: Vec::new(),
        devices: Vec::new(),
        blocks: vec![BlockSpec {
            serial: "s".to_owned(),
            path: "/image".into(),
            read_only: false,
        }],
    }
}

pub fn status(code: u32) -> ExitStatus {
    ExitStatus {
        code,
        reason: ExitReason::Exited,
        detail: "the vm is gone".to_owned(),
        at: EpochMs(3),
    }
}

pub fn done(came: Came) -> Result<(), Fault> {
    let kind = match came {
        Came::Well => return Ok(()),
        Came::Badly => Kind::Internal,
        Came::Refused => Kind::Denied,
    };
    Err(Fault::new(kind, came.text()))
}

pub fn outcome<T>(what: &str, outcome: Result<T, Fault>) -> String {
    match outcome {
        Ok(_) => format!("{what} ok"),
        Err(why) => format!("{what} {why}"),
    }
}

fn warned(failed: &[String]) -> String {
    let failed = failed.iter().map(|what| format!(", warned: {what}"));
    failed.collect()
}

/// How hooks of a stage came home: a creation fails with the first, the others are told of.
pub fn hooked(stage: Stage, came: Came) -> Result<Warnings, Fault> {
    match (stage, done(came)) {
        (Stage::Poststart | Stage::Poststop, Err(why)) if came == Came::Badly => {
            Ok(vec![why.to_string()])
        }
        (_, done) => done.map(|()| Warnings::new()),
    }
}

/// As the model says it.
pub fn heard(answer: Answer) -> String {
    match answer {
        Answer::Settled => "settled".to_owned(),
        Answer::Started(failed) => format!("started{}", warned(&failed)),
        Answer::Done(of) => outcome("done", of),
        Answer::Exec(of) => outcome("exec", of),
        Answer::Updated(of) => outcome("updated", of),
        Answer::Retired(Ok(failed)) => format!("retired ok{}", warned(&failed)),
        Answer::Retired(Err(why)) => format!("retired {why}"),
        Answer::Ooms(Err(why)) => format!("ooms {why}"),
        Answer::Ooms(Ok(found)) => {
            let numbers: Vec<_> = found.ooms.iter().map(|oom| oom.number).collect();
            format!("ooms {numbers:?} over: {}", found.over)
        }
    }
}

pub fn refusal(denied: Denied) -> String {
    match Container::refuse(denied) {
        Answer::Done(Err(why)) | Answer::Retired(Err(why)) => why.to_string(),
        Answer::Exec(Err(why)) => why.to_string(),
        Answer::Updated(Err(why)) => why.to_string(),
        Answer::Ooms(Err(why)) => why.to_string(),
        other => panic!("a refusal says no: {other:?}"),
    }
}

pub fn said(notice: &Notice) -> String {
    match notice {
        Notice::Attached { blocks } => format!("Attached {}", blocks.len()),
        Notice::Created(_) => "Created".to_owned(),
        Notice::Failed { why } => format!("Failed {why}"),
        Notice::Started => "Started".to_owned(),
        Notice::Stopped { status } => format!("Stopped {}", status.code),
        Notice::ExitRecorded { seq } => format!("ExitRecorded {seq}"),
        Notice::Drained => "Drained".to_owned(),
        Notice::Retired => "Retired".to_owned(),
    }
}

pub fn asked(effect: &World) -> String {
    match effect {
        World::Attach { .. } => "Attach".to_owned(),
        World::MakeProcess { process, .. } => format!("MakeProcess {process}"),
        World::TellExit { process, seq, .. } => format!("TellExit {process} {seq}"),
        World::TellGuestGone { .. } => "TellGuestGone".to_owned(),
        World::CloseProcesses { .. } => "CloseProcesses".to_owned(),
        World::CloseProcess { process } => format!("CloseProcess {process}"),
        World::KillLeft { after } if after.is_zero() => "KillLeft".to_owned(),
        World::KillLeft { .. } => "KillLeft later".to_owned(),
        World::RunHooks { stage, .. } => format!("RunHooks {stage:?}"),
        World::StopHooks => "StopHooks".to_owned(),
        World::RestOoms => "RestOoms".to_owned(),
        World::Freeze { .. } => "Freeze".to_owned(),
        World::Thaw { after, .. } if after.is_zero() => "Thaw".to_owned(),
        World::Thaw { .. } => "Thaw later".to_owned(),
        World::Update { .. } => "Update".to_owned(),
        World::Forget { process } => format!("Forget {process}"),
        World::Remove { .. } => "Remove".to_owned(),
        World::Leave { .. } => "Leave".to_owned(),
    }
}

pub fn request_key(key: u8) -> RequestKey {
    RequestKey::new(format!("k{key}")).unwrap()
}
