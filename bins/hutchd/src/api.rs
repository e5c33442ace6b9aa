//! hutch.v1 over ttrpc: parses requests, asks the rooms, and turns answers into messages.
//!
//! It decides nothing. Every error says which verb on which object failed, once.

use crate::{
    bundle,
    convert::{
        container_info, exit_info, listed_info, ps_entry, sandbox_info, store_figures,
        stream_address,
    },
    lookout::Lookout,
    pods,
    profile::Profiles,
    size,
    status::status,
};
use actix::prelude::*;
use async_trait::async_trait;
use protocols::asynchronous::{
    hutch::{
        AnnotateSandboxRequest, AttachRequest, AttachResponse, ContainerInfo, CreateRequest,
        CreateResponse, CreateSandboxRequest, CreateSandboxResponse, DeleteRequest, DeleteResponse,
        DeleteSandboxRequest, DoctorRequest, DoctorResponse, ExecRequest, ExecResponse,
        ExitedRequest, ExitedResponse, InspectSandboxRequest, InspectSandboxResponse, KillRequest,
        KillResponse, ListRequest, ListResponse, ListSandboxesRequest, ListSandboxesResponse,
        NextOomsRequest, NextOomsResponse, NextSandboxEventsRequest, NextSandboxEventsResponse,
        PauseRequest, PauseResponse, ProcessRef, PsRequest, PsResponse, ResumeRequest,
        ResumeResponse, SandboxRequest, SandboxResponse, SandboxStatsRequest, SandboxStatsResponse,
        StartRequest, StartResponse, StateRequest, StatsRequest, StatsResponse, StopRequest,
        StopResponse, StopSandboxRequest, UpdateRequest, UpdateResponse, VersionRequest,
        VersionResponse, WaitRequest, WaitResponse,
    },
    hutch_ttrpc::Runtime,
};
use protocols::revision::Speaker;
use runtime_core::{
    agent::{Program, Warnings},
    container::{Exec, Force, ProcessCommand, Start},
    error::{Fault, Kind},
    host::{CreateContainer, Delete, Find, HostActor, List, Located},
    ids::{
        ContainerId, EpochMs, ExecId, HostProcess, Namespace, ProcessId, RequestKey, SandboxUid,
    },
    premises::Cgroup,
    process::AttachRelay,
    sandbox::{
        ExecIn, GetPidsOf, GetSandbox, ProcessIn, StartIn, Verb, ViewContainer, ViewProcess, WaitIn,
    },
};
use std::{sync::Arc, time::SystemTime};
use ttrpc::asynchronous::TtrpcContext;

/// Facts that do not change while the daemon runs.
#[derive(Debug)]
pub struct Facts {
    pub root: String,
    pub accelerator: &'static str,
    pub accelerator_reason: String,
    pub damaged_stores: Vec<String>,
    /// The configuration's `containers.sigterm_kills`.
    pub sigterm_kills: bool,
}

/// What the store did until now.
pub type StoreGauge = Arc<dyn Fn() -> store::Figures + Send + Sync>;

/// The files by which a process joins a caller's cgroup.
pub type Lodging = Arc<dyn Fn(&Cgroup) -> Vec<String> + Send + Sync>;

#[derive(Clone)]
pub struct Api {
    pub host: Addr<HostActor>,
    pub facts: Arc<Facts>,
    pub store: StoreGauge,
    pub lodging: Lodging,
    pub profiles: Arc<Profiles>,
    pub lookout: Lookout,
}

type Answer<T> = ttrpc::Result<T>;

pub fn now() -> EpochMs {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let since = since.expect("the host's clock is after 1970");
    EpochMs(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

pub(crate) fn parsed<T, E: std::fmt::Display>(parsed: Result<T, E>) -> Result<T, Fault> {
    parsed.map_err(|why| Fault::invalid(why.to_string()))
}

pub(crate) fn asked<T>(answer: Result<T, MailboxError>) -> Result<T, Fault> {
    let gone = "its room is being rebuilt; ask again";
    answer.map_err(|_| Fault::new(Kind::Unavailable, gone))
}

pub(crate) fn key_of(key: &str) -> Result<Option<RequestKey>, Fault> {
    match key {
        "" => Ok(None),
        key => Ok(Some(parsed(RequestKey::new(key))?)),
    }
}

/// A process of this host that a caller may name; pid 0 names nobody.
fn somebody(pid: u32, start_time: u64) -> Option<HostProcess> {
    (pid != 0).then_some(HostProcess { pid, start_time })
}

/// A process that a caller named.
pub(crate) struct Target {
    pub located: Located,
    pub process: ProcessId,
}

impl Api {
    pub(crate) async fn find(&self, namespace: &str, id: &str) -> Result<Located, Fault> {
        let find = Find {
            namespace: parsed(Namespace::new(namespace))?,
            id: parsed(ContainerId::sought(id))?,
        };
        asked(self.host.send(find).await)?
    }

    pub(crate) async fn target(&self, process: &ProcessRef) -> Result<Target, Fault> {
        let located = self.find(&process.namespace, &process.container_id).await?;
        let process = match process.exec_id.as_str() {
            "" => ProcessId::Init,
            exec => ProcessId::Exec(parsed(ExecId::new(exec))?),
        };
        Ok(Target { located, process })
    }

    pub(crate) async fn command(
        &self,
        located: Located,
        command: ProcessCommand,
    ) -> Result<(), Fault> {
        let command = ProcessIn {
            container: located.place.number,
            command,
        };
        asked(located.sandbox.send(command).await)?
    }

    async fn create_container(&self, request: CreateRequest) -> Result<CreateResponse, Fault> {
        let key = key_of(&request.key)?;
        let joined = match request.sandbox_id.as_str() {
            "" => pods::joined(&request.config_json),
            named => Some(named.to_owned()),
        };
        let neighbours = match &joined {
            Some(id) => self.neighbours(&request, id).await?,
            None => None,
        };
        let mut wish = bundle::wish(bundle::Request {
            namespace: parsed(Namespace::new(request.namespace))?,
            id: parsed(ContainerId::new(request.container_id))?,
            bundle: &request.bundle,
            config_json: &request.config_json,
            join: joined,
            neighbours,
            cgroups_path: request.cgroups_path,
            relay: somebody(request.relay_pid, request.relay_start_time),
            uid: SandboxUid::from_random(uuid::Uuid::new_v4().as_u64_pair().0),
            created: now(),
        })?;
        let asks = &wish.spec.annotations;
        match (&wish.join, size::in_vain(asks).as_slice()) {
            (None, _) => drop(self.profiles.choose(asks)?),
            (Some(_), []) => {}
            (Some(sandbox), keys) => {
                let container = &wish.spec.id;
                tracing::warn!(%container, sandbox, ?keys, "annotations are for the creation of a sandbox, ignored");
            }
        }
        if wish.join.is_none() {
            wish.root = self.lookout.root(&wish.spec).await?;
        }
        let wish = Box::new(wish);
        let created = asked(self.host.send(CreateContainer { key, wish }).await)??;
        Ok(CreateResponse {
            sandbox_uid: created.place.uid.to_string(),
            stream: Some(stream_address(&created.init.lease.host)).into(),
            warnings: created.init.warnings,
            ..Default::default()
        })
    }

    async fn exec_process(&self, request: &ExecRequest) -> Result<ExecResponse, Fault> {
        bundle::check_process_json(&request.process_json)?;
        bundle::check_cgroup_below(&request.cgroup)?;
        let process = request.process.get_or_default();
        let located = self.find(&process.namespace, &process.container_id).await?;
        let exec = ExecIn {
            container: located.place.number,
            exec: Exec {
                key: key_of(&request.key)?,
                exec: parsed(ExecId::new(process.exec_id.as_str()))?,
                program: Program {
                    process_json: request.process_json.clone(),
                    cgroup: request.cgroup.clone(),
                },
                relay: somebody(request.relay_pid, request.relay_start_time),
            },
        };
        let made = asked(located.sandbox.send(exec).await)??;
        Ok(ExecResponse {
            stream: Some(stream_address(&made.lease.host)).into(),
            warnings: made.warnings,
            ..Default::default()
        })
    }

    async fn delete_container(&self, request: &DeleteRequest) -> Result<Warnings, Fault> {
        let force = match request.force {
            true => Force::Yes,
            false => Force::No,
        };
        let delete = Delete {
            key: key_of(&request.key)?,
            namespace: parsed(Namespace::new(request.namespace.as_str()))?,
            id: parsed(ContainerId::sought(&request.container_id))?,
            force,
            at: now(),
        };
        asked(self.host.send(delete).await)?
    }

    async fn start_container(&self, request: &StartRequest) -> Result<Warnings, Fault> {
        let key = key_of(&request.key)?;
        let located = self.find(&request.namespace, &request.container_id).await?;
        let start = StartIn {
            container: located.place.number,
            start: Start { key },
        };
        asked(located.sandbox.send(start).await)?
    }

    async fn info(&self, located: Located) -> Result<ContainerInfo, Fault> {
        let number = located.place.number;
        let view = asked(located.sandbox.send(ViewContainer(number)).await)??;
        Ok(container_info(located.place.uid, &view))
    }

    async fn wait_exit(&self, request: &WaitRequest) -> Result<WaitResponse, Fault> {
        let target = self.target(request.process.get_or_default()).await?;
        let wait = WaitIn {
            container: target.located.place.number,
            process: target.process,
        };
        let exit = asked(target.located.sandbox.send(wait).await)??;
        Ok(WaitResponse {
            exit: Some(exit_info(&exit)).into(),
            ..Default::default()
        })
    }

    /// After a restart a relay attaches again to a process that has exited: it needs no watch.
    async fn attach_relay(&self, request: &AttachRequest) -> Result<AttachResponse, Fault> {
        let target = self.target(request.process.get_or_default()).await?;
        let relay = AttachRelay {
            relay: HostProcess {
                pid: request.relay_pid,
                start_time: request.relay_start_time,
            },
        };
        let view = ViewProcess {
            container: target.located.place.number,
            process: target.process.clone(),
        };
        let (number, sandbox) = (target.located.place.number, target.located.sandbox.clone());
        asked(sandbox.send(view).await)??;
        self.command(
            target.located,
            ProcessCommand::AttachRelay(target.process, relay),
        )
        .await?;
        let container = asked(sandbox.send(ViewContainer(number)).await)??;
        let vm = asked(sandbox.send(GetSandbox).await)?.vm;
        Ok(AttachResponse {
            cgroup_procs: match &container.spec.cgroup {
                Some(cgroup) => (self.lodging)(cgroup),
                None => Vec::new(),
            },
            netns: vm.map_or_else(String::new, |vm| netns_of(vm.vmm)),
            ..Default::default()
        })
    }
}

/// The sandbox's network namespace is the one that its VMM is in.
pub(crate) fn netns_of(vmm: HostProcess) -> String {
    format!("/proc/{}/ns/net", vmm.pid)
}

fn on(verb: &str, id: &str) -> String {
    // An id of any length may come; one line is enough to know it by.
    let shown: String = id.chars().take(128).collect();
    format!("{verb} {shown:?}")
}

fn named<T>(outcome: Result<T, Fault>, verb: &str, id: &str) -> Answer<T> {
    outcome.map_err(|why| status(why.during(on(verb, id))))
}

fn obeyed(outcome: Result<Warnings, Fault>, verb: &str, id: &str) -> Answer<SandboxResponse> {
    Ok(SandboxResponse {
        warnings: named(outcome, verb, id)?,
        ..Default::default()
    })
}

#[async_trait]
impl Runtime for Api {
    async fn version(&self, _: &TtrpcContext, request: VersionRequest) -> Answer<VersionResponse> {
        let ours = Speaker::of(env!("CARGO_PKG_VERSION"));
        let theirs = Speaker {
            version: request.version,
            revision: request.revision,
            oldest: request.oldest_revision,
        };
        if !ours.understands(&theirs) {
            let why = theirs.cannot_speak_with(&ours);
            return Err(status(Fault::new(Kind::Unsupported, why)));
        }
        Ok(VersionResponse {
            version: ours.version,
            revision: ours.revision,
            oldest_revision: ours.oldest,
            pid: std::process::id(),
            root: self.facts.root.clone(),
            ..Default::default()
        })
    }

    async fn create(&self, _: &TtrpcContext, request: CreateRequest) -> Answer<CreateResponse> {
        let what = on("create container", &request.container_id);
        let created = self.create_container(request).await;
        created.map_err(|why| status(why.during(what)))
    }

    async fn start(&self, _: &TtrpcContext, request: StartRequest) -> Answer<StartResponse> {
        let outcome = self.start_container(&request).await;
        let warnings = named(outcome, "start container", &request.container_id)?;
        Ok(StartResponse {
            warnings,
            ..Default::default()
        })
    }

    async fn exec(&self, _: &TtrpcContext, request: ExecRequest) -> Answer<ExecResponse> {
        let what = on("exec in container", &request.process.container_id);
        let outcome = self.exec_process(&request).await;
        outcome.map_err(|why| status(why.during(what)))
    }

    async fn kill(&self, _: &TtrpcContext, request: KillRequest) -> Answer<KillResponse> {
        let outcome = self.kill_process(&request).await;
        named(outcome, "kill container", &request.process.container_id)?;
        Ok(KillResponse::default())
    }

    async fn stop(&self, _: &TtrpcContext, request: StopRequest) -> Answer<StopResponse> {
        let what = on("stop container", &request.container_id);
        let outcome = self.stop_container(&request).await;
        outcome.map_err(|why| status(why.during(what)))
    }

    async fn delete(&self, _: &TtrpcContext, request: DeleteRequest) -> Answer<DeleteResponse> {
        let outcome = self.delete_container(&request).await;
        let warnings = named(outcome, "delete container", &request.container_id)?;
        Ok(DeleteResponse {
            warnings,
            ..Default::default()
        })
    }

    async fn state(&self, _: &TtrpcContext, request: StateRequest) -> Answer<ContainerInfo> {
        let outcome = match self.find(&request.namespace, &request.container_id).await {
            Ok(located) => self.info(located).await,
            Err(why) => Err(why),
        };
        let what = on("state of container", &request.container_id);
        outcome.map_err(|why| status(why.during(what)))
    }

    async fn list(&self, _: &TtrpcContext, request: ListRequest) -> Answer<ListResponse> {
        let namespace = match request.namespace.as_str() {
            "" => None,
            namespace => Some(parsed(Namespace::new(namespace)).map_err(status)?),
        };
        let listed = asked(self.host.send(List { namespace }).await).map_err(status)?;
        let infos = listed.iter().map(listed_info);
        Ok(ListResponse {
            containers: infos.collect(),
            ..Default::default()
        })
    }

    async fn ps(&self, _: &TtrpcContext, request: PsRequest) -> Answer<PsResponse> {
        let outcome = match self.find(&request.namespace, &request.container_id).await {
            Ok(located) => {
                let pids = GetPidsOf(located.place.number);
                asked(located.sandbox.send(pids).await).and_then(|pids| pids)
            }
            Err(why) => Err(why),
        };
        let what = on("list processes of container", &request.container_id);
        let pids = outcome.map_err(|why| status(why.during(what)))?;
        Ok(PsResponse {
            processes: pids.iter().map(ps_entry).collect(),
            ..Default::default()
        })
    }

    async fn pause(&self, _: &TtrpcContext, request: PauseRequest) -> Answer<PauseResponse> {
        let outcome = self.pause_container(&request).await;
        named(outcome, "pause container", &request.container_id)?;
        Ok(PauseResponse::default())
    }

    async fn resume(&self, _: &TtrpcContext, request: ResumeRequest) -> Answer<ResumeResponse> {
        let outcome = self.resume_container(&request).await;
        named(outcome, "resume container", &request.container_id)?;
        Ok(ResumeResponse::default())
    }

    async fn update(&self, _: &TtrpcContext, request: UpdateRequest) -> Answer<UpdateResponse> {
        let what = on("update container", &request.container_id);
        let outcome = self.update_container(&request).await;
        outcome.map_err(|why| status(why.during(what)))
    }

    async fn stats(&self, _: &TtrpcContext, request: StatsRequest) -> Answer<StatsResponse> {
        let what = on("statistics of container", &request.container_id);
        let outcome = self.container_stats(&request).await;
        outcome.map_err(|why| status(why.during(what)))
    }

    async fn next_ooms(
        &self,
        _: &TtrpcContext,
        request: NextOomsRequest,
    ) -> Answer<NextOomsResponse> {
        let what = on("events of container", &request.container_id);
        let outcome = self.container_ooms(&request).await;
        outcome.map_err(|why| status(why.during(what)))
    }

    async fn wait(&self, _: &TtrpcContext, request: WaitRequest) -> Answer<WaitResponse> {
        let what = on("wait for container", &request.process.container_id);
        let outcome = self.wait_exit(&request).await;
        outcome.map_err(|why| status(why.during(what)))
    }

    async fn attach(&self, _: &TtrpcContext, request: AttachRequest) -> Answer<AttachResponse> {
        let outcome = self.attach_relay(&request).await;
        let what = on("attach relay to container", &request.process.container_id);
        outcome.map_err(|why| status(why.during(what)))
    }

    async fn exited(&self, _: &TtrpcContext, request: ExitedRequest) -> Answer<ExitedResponse> {
        let process = request.process.get_or_default();
        let outcome = self.relay_done(process).await;
        named(outcome, "exit of container", &process.container_id)?;
        Ok(ExitedResponse::default())
    }

    async fn list_sandboxes(
        &self,
        _: &TtrpcContext,
        request: ListSandboxesRequest,
    ) -> Answer<ListSandboxesResponse> {
        self.listed(&request.namespace).await.map_err(status)
    }

    async fn inspect_sandbox(
        &self,
        _: &TtrpcContext,
        request: InspectSandboxRequest,
    ) -> Answer<InspectSandboxResponse> {
        let what = on("inspect sandbox", &request.sandbox);
        let viewed = self.view_sandbox(&request.namespace, &request.sandbox);
        let (view, names) = viewed.await.map_err(|why| status(why.during(what)))?;
        Ok(InspectSandboxResponse {
            sandbox: Some(sandbox_info(&view, &names)).into(),
            ..Default::default()
        })
    }

    async fn create_sandbox(
        &self,
        _: &TtrpcContext,
        request: CreateSandboxRequest,
    ) -> Answer<CreateSandboxResponse> {
        let what = on("create sandbox", &request.sandbox_id);
        let created = self.create_empty(request).await;
        created.map_err(|why| status(why.during(what)))
    }

    async fn start_sandbox(
        &self,
        _: &TtrpcContext,
        request: SandboxRequest,
    ) -> Answer<SandboxResponse> {
        let outcome = self.order(&request, Verb::Start).await;
        obeyed(outcome, "start sandbox", &request.sandbox)
    }

    async fn stop_sandbox(
        &self,
        _: &TtrpcContext,
        request: StopSandboxRequest,
    ) -> Answer<SandboxResponse> {
        let outcome = self.stop(&request).await;
        obeyed(outcome, "stop sandbox", &request.sandbox)
    }

    async fn delete_sandbox(
        &self,
        _: &TtrpcContext,
        request: DeleteSandboxRequest,
    ) -> Answer<SandboxResponse> {
        let outcome = self.delete_whole(&request).await;
        obeyed(outcome, "delete sandbox", &request.sandbox)
    }

    async fn pause_sandbox(
        &self,
        _: &TtrpcContext,
        request: SandboxRequest,
    ) -> Answer<SandboxResponse> {
        let outcome = self.order(&request, Verb::Pause).await;
        obeyed(outcome, "pause sandbox", &request.sandbox)
    }

    async fn resume_sandbox(
        &self,
        _: &TtrpcContext,
        request: SandboxRequest,
    ) -> Answer<SandboxResponse> {
        let outcome = self.order(&request, Verb::Resume).await;
        obeyed(outcome, "resume sandbox", &request.sandbox)
    }

    async fn annotate_sandbox(
        &self,
        _: &TtrpcContext,
        request: AnnotateSandboxRequest,
    ) -> Answer<SandboxResponse> {
        let sandbox = request.sandbox.clone();
        let outcome = self.annotate(request).await;
        obeyed(outcome, "annotate sandbox", &sandbox)
    }

    async fn sandbox_stats(
        &self,
        _: &TtrpcContext,
        request: SandboxStatsRequest,
    ) -> Answer<SandboxStatsResponse> {
        let what = on("stats of sandbox", &request.sandbox);
        let outcome = self.stats_of_sandbox(&request).await;
        outcome.map_err(|why| status(why.during(what)))
    }

    async fn next_sandbox_events(
        &self,
        _: &TtrpcContext,
        request: NextSandboxEventsRequest,
    ) -> Answer<NextSandboxEventsResponse> {
        let what = on("watch sandbox", &request.sandbox);
        let outcome = self.next_events(&request).await;
        outcome.map_err(|why| status(why.during(what)))
    }

    async fn doctor(&self, _: &TtrpcContext, _: DoctorRequest) -> Answer<DoctorResponse> {
        let sandboxes = self.sandboxes("").await.map_err(status)?;
        Ok(DoctorResponse {
            sandboxes: u32::try_from(sandboxes.len()).unwrap_or(u32::MAX),
            damaged_stores: self.facts.damaged_stores.clone(),
            accelerator: self.facts.accelerator.to_owned(),
            accelerator_reason: self.facts.accelerator_reason.clone(),
            store: Some(store_figures((self.store)())).into(),
            ..Default::default()
        })
    }
}
