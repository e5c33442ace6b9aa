//! An agent that speaks hutch.agent.v1 over ttrpc, in this process, before a fake guest: what the
//! real port is tried on where there is no VM.

use crate::{
    call::Call,
    channel::Connection,
    convert::{HUTCH_FEATURE, PLACES_EXECS_FEATURE},
    fake::{FakeGuest, Refusal, Trouble, World},
};
use async_trait::async_trait;
use protocols::asynchronous::{
    agent as first,
    agent_ttrpc::{AgentService, create_agent_service},
    empty::Empty,
    health::{CheckRequest, HealthCheckResponse, health_check_response::ServingStatus},
    health_ttrpc::{Health, create_health},
    hutch_agent as wire,
    hutch_agent_ttrpc::{Agent, create_agent},
};
use runtime_core::{
    agent::{
        Attempt, CreateContainer, CreateSandbox, Exec, ExitReason, GuestExit, GuestNews, GuestOom,
        GuestProcessState, GuestRootfs, Once, Program, Signal, SignalTarget, UpdateContainer,
        Warnings,
    },
    error::Kind,
    ids::{ContainerNumber, EpochMs, ExecId, ProcessId, RequestKey},
};
use std::{future::Future, io, sync::Arc, time::Duration};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep},
};
use ttrpc::{
    Code,
    r#async::{Server, TtrpcContext, transport::Listener},
};

/// Connections on their way to a server.
pub type Door = mpsc::UnboundedSender<io::Result<Connection>>;

/// Serves `services` to every connection that comes through the door. Runs until the server is
/// dropped.
pub async fn serve(services: Vec<Services>) -> (Server, Door) {
    let (door, mut arrivals) = mpsc::unbounded_channel();
    let arrivals = futures::stream::poll_fn(move |cx| arrivals.poll_recv(cx));
    let mut server = Server::new().add_listener(Listener::new(arrivals));
    for service in services {
        server = server.register_service(service);
    }
    server.start().await.expect("the server has a listener");
    (server, door)
}

pub type Services = std::collections::HashMap<String, ttrpc::r#async::Service>;

/// Everything that hutch-agent offers and the port uses.
pub fn hutch_services(guest: &FakeGuest) -> Vec<Services> {
    announcing(guest, &[HUTCH_FEATURE, PLACES_EXECS_FEATURE])
}

/// As an earlier version of it did.
pub fn first_services(guest: &FakeGuest) -> Vec<Services> {
    announcing(guest, &[HUTCH_FEATURE])
}

fn announcing(guest: &FakeGuest, features: &'static [&'static str]) -> Vec<Services> {
    let agent = HutchAgent(guest.clone(), features);
    vec![
        create_agent(Arc::new(agent.clone())),
        create_agent_service(Arc::new(agent.clone())),
        create_health(Arc::new(agent)),
    ]
}

#[derive(Clone)]
struct HutchAgent(FakeGuest, &'static [&'static str]);

type Served<T> = ttrpc::Result<T>;

pub(super) fn status(refusal: Refusal) -> ttrpc::Error {
    let code = match refusal.kind {
        Kind::NotFound => Code::NOT_FOUND,
        Kind::AlreadyExists => Code::ALREADY_EXISTS,
        Kind::Invalid => Code::INVALID_ARGUMENT,
        Kind::Denied => Code::FAILED_PRECONDITION,
        Kind::Unavailable => Code::UNAVAILABLE,
        Kind::Timeout => Code::DEADLINE_EXCEEDED,
        Kind::Exhausted => Code::RESOURCE_EXHAUSTED,
        Kind::Aborted => Code::ABORTED,
        Kind::Unsupported => Code::UNIMPLEMENTED,
        Kind::Internal => Code::INTERNAL,
    };
    ttrpc::error::get_rpc_status(code, refusal.what)
}

fn invalid(what: &str) -> ttrpc::Error {
    ttrpc::error::get_rpc_status(Code::INVALID_ARGUMENT, what)
}

fn not_found() -> ttrpc::Error {
    ttrpc::error::get_rpc_status(Code::NOT_FOUND, "container not found")
}

pub(super) fn number(id: &str) -> Served<ContainerNumber> {
    let number = id.parse().map_err(|_| invalid("container id"))?;
    Ok(ContainerNumber(number))
}

pub(super) fn process(exec_id: &str) -> Served<ProcessId> {
    match exec_id {
        "" => Ok(ProcessId::Init),
        id => ExecId::new(id)
            .map(ProcessId::Exec)
            .map_err(|_| invalid("exec id")),
    }
}

impl HutchAgent {
    async fn act<T>(
        &self,
        call: Call,
        act: impl FnOnce(&mut World, Instant) -> Result<T, Refusal>,
    ) -> Served<T> {
        act_on(&self.0, call, act).await
    }
}

/// A call on the fake guest, with its troubles as far as a server can have them.
pub(super) async fn act_on<T>(
    guest: &FakeGuest,
    call: Call,
    act: impl FnOnce(&mut World, Instant) -> Result<T, Refusal>,
) -> Served<T> {
    match guest.take_trouble(call) {
        None => {}
        Some(Trouble::Refused(kind)) => {
            let what = "trouble\nin two lines".to_owned();
            return Err(status(Refusal { kind, what }));
        }
        Some(Trouble::Slow(longer)) => sleep(longer).await,
        Some(Trouble::Lost | Trouble::CutBefore | Trouble::CutAfter) => {
            std::future::pending::<()>().await;
        }
    }
    guest.act(act).map_err(status)
}

fn made(outcome: Served<Warnings>) -> Served<wire::ProcessCreated> {
    let mut answer = wire::ProcessCreated::new();
    answer.warnings = outcome?;
    Ok(answer)
}

fn done<T: Default>(outcome: Served<()>) -> Served<T> {
    outcome.map(|()| T::default())
}

#[async_trait]
impl Agent for HutchAgent {
    async fn create(
        &self,
        _: &TtrpcContext,
        request: wire::CreateRequest,
    ) -> Served<wire::ProcessCreated> {
        let rootfs = request.rootfs.into_option();
        if rootfs.is_none_or(|rootfs| rootfs.source.is_none()) {
            return Err(invalid("no rootfs"));
        }
        let ask = CreateContainer {
            container: number(&request.container_id)?,
            config_json: request.config_json,
            rootfs: GuestRootfs::Share(String::new()),
            mounts: Vec::new(),
            hook_programs: Vec::new(),
            disks: Vec::new(),
            devices: Vec::new(),
            bundle: "/bundle".into(),
            stream: None,
            hooks_limit: Duration::ZERO,
        };
        let created = self.act(Call::CreateContainer, |world, _| world.create(&ask));
        made(created.await)
    }

    async fn start(
        &self,
        _: &TtrpcContext,
        request: wire::StartRequest,
    ) -> Served<wire::StartResponse> {
        let container = number(&request.container_id)?;
        done(
            self.act(Call::StartContainer, |world, now| {
                world.start(container, now)
            })
            .await,
        )
    }

    async fn exec(
        &self,
        _: &TtrpcContext,
        request: wire::ExecRequest,
    ) -> Served<wire::ProcessCreated> {
        let ask = Exec {
            container: number(&request.container_id)?,
            process: process(&request.exec_id)?,
            program: Program {
                process_json: request.process_json,
                cgroup: request.cgroup,
            },
            stream: None,
        };
        made(
            self.act(Call::Exec, |world, now| world.exec(&ask, now))
                .await,
        )
    }

    async fn signal(
        &self,
        _: &TtrpcContext,
        request: wire::SignalRequest,
    ) -> Served<wire::SignalResponse> {
        let ask = Signal {
            container: number(&request.container_id)?,
            target: match request.all {
                true => SignalTarget::All,
                false => SignalTarget::Process(process(&request.exec_id)?),
            },
            signal: request.signal,
            once: match request.key.as_str() {
                "" => None,
                key => Some(Once {
                    key: RequestKey::new(key).map_err(|_| invalid("key"))?,
                    attempt: Attempt::First,
                }),
            },
        };
        done(
            self.act(Call::Signal, |world, now| world.signal(&ask, now))
                .await,
        )
    }

    async fn remove(
        &self,
        _: &TtrpcContext,
        request: wire::RemoveRequest,
    ) -> Served<wire::RemoveResponse> {
        let container = number(&request.container_id)?;
        let known = self.0.knows(container);
        let removed = self.act(Call::RemoveContainer, |world, now| {
            world.remove(container, now);
            Ok(())
        });
        removed.await?;
        match known {
            true => Ok(wire::RemoveResponse::new()),
            false => Err(not_found()),
        }
    }

    async fn remove_empty(
        &self,
        _: &TtrpcContext,
        request: wire::RemoveRequest,
    ) -> Served<wire::RemoveEmptyResponse> {
        let container = number(&request.container_id)?;
        if !self.0.knows(container) {
            return Err(not_found());
        }
        let removed = self.act(Call::RemoveEmpty, |world, now| {
            Ok(world.remove_empty(container, now))
        });
        let mut answer = wire::RemoveEmptyResponse::new();
        answer.removed = removed.await?;
        Ok(answer)
    }

    async fn list(&self, _: &TtrpcContext, _: wire::ListRequest) -> Served<wire::ListResponse> {
        let list = self.act(Call::List, |world, _| Ok(world.list())).await?;
        let mut answer = wire::ListResponse::new();
        for process in list {
            let id = process.container.to_string();
            let known = answer
                .containers
                .last()
                .is_some_and(|c| c.container_id == id);
            if !known {
                let mut status = wire::ContainerStatus::new();
                status.container_id = id;
                answer.containers.push(status);
            }
            let mut status = wire::ProcessStatus::new();
            if let ProcessId::Exec(id) = process.process {
                status.exec_id = id.into();
            }
            status.state = match process.state {
                GuestProcessState::Making => wire::ProcessState::PROCESS_STATE_MAKING,
                GuestProcessState::Created => wire::ProcessState::PROCESS_STATE_CREATED,
                GuestProcessState::Running => wire::ProcessState::PROCESS_STATE_RUNNING,
                GuestProcessState::Exited => wire::ProcessState::PROCESS_STATE_EXITED,
            }
            .into();
            let container = answer.containers.last_mut();
            container
                .expect("one was just pushed")
                .processes
                .push(status);
        }
        Ok(answer)
    }

    async fn next_exits(
        &self,
        _: &TtrpcContext,
        request: wire::NextExitsRequest,
    ) -> Served<wire::NextExitsResponse> {
        let wait = Duration::from_millis(request.wait_ms.into());
        let mut answer = wire::NextExitsResponse::new();
        for news in self.0.news(request.after, wait).await {
            match news {
                GuestNews::Exited(exit) => answer.exits.push(self::exit(exit)),
                GuestNews::OomKilled(oom) => answer.ooms.push(self::oom(&oom)),
            }
        }
        Ok(answer)
    }

    async fn ack_exits(
        &self,
        _: &TtrpcContext,
        request: wire::AckExitsRequest,
    ) -> Served<wire::AckExitsResponse> {
        let acknowledged = self.0.act(|world, _| {
            world.acknowledge(request.up_to);
            Ok(())
        });
        done(acknowledged.map_err(status))
    }

    async fn pids(
        &self,
        _: &TtrpcContext,
        request: wire::PidsRequest,
    ) -> Served<wire::PidsResponse> {
        let container = number(&request.container_id)?;
        let pids = self
            .act(Call::Pids, |world, _| world.pids(container))
            .await?;
        let mut answer = wire::PidsResponse::new();
        for pid in pids {
            let mut entry = wire::PidEntry::new();
            entry.pid = pid.pid;
            entry.command = pid.command;
            answer.pids.push(entry);
        }
        Ok(answer)
    }

    async fn freeze(
        &self,
        _: &TtrpcContext,
        request: wire::FreezeRequest,
    ) -> Served<wire::FreezeResponse> {
        let container = number(&request.container_id)?;
        let done = match request.frozen {
            true => {
                let freeze = |world: &mut World, now| world.freeze(container, now);
                self.act(Call::PauseContainer, freeze).await
            }
            false => {
                let thaw = |world: &mut World, now| world.thaw(container, now);
                self.act(Call::ResumeContainer, thaw).await
            }
        };
        done.map(|()| wire::FreezeResponse::new())
    }

    async fn update(
        &self,
        _: &TtrpcContext,
        request: wire::UpdateRequest,
    ) -> Served<wire::UpdateResponse> {
        let ask = UpdateContainer {
            container: number(&request.container_id)?,
            resources_json: request.resources_json,
        };
        let updated = self.act(Call::UpdateContainer, |world, _| world.update(&ask));
        let mut answer = wire::UpdateResponse::new();
        answer.warnings = updated.await?;
        Ok(answer)
    }

    async fn stats(
        &self,
        _: &TtrpcContext,
        request: wire::StatsRequest,
    ) -> Served<wire::StatsResponse> {
        let container = number(&request.container_id)?;
        let stats = self
            .act(Call::Stats, |world, now| world.stats(container, now))
            .await?;
        let mut answer = wire::StatsResponse::new();
        for (file, count) in [
            ("pids.current", stats.pids.current),
            ("pids.max", stats.pids.max),
        ] {
            answer.files.insert(file.to_owned(), count.to_string());
        }
        answer.at_ms = stats.at.0;
        Ok(answer)
    }

    async fn set_clock(
        &self,
        _: &TtrpcContext,
        request: wire::SetClockRequest,
    ) -> Served<wire::SetClockResponse> {
        let ms = request.sec * 1000 + request.nsec / 1_000_000;
        let now = EpochMs(u64::try_from(ms).map_err(|_| invalid("clock"))?);
        set_clock(&self.0, now, request.entropy)?;
        Ok(wire::SetClockResponse::new())
    }
}

/// The clock and the random pool arrive after the rest of the sandbox.
pub(super) fn set_clock(guest: &FakeGuest, now: EpochMs, entropy: Vec<u8>) -> Served<()> {
    let set = guest.act(|world, at| {
        world.set_clock(now, at);
        if let Some(mut ask) = world.sandbox.clone() {
            ask.now = Some(now);
            ask.entropy = entropy;
            world.prepare(ask, at);
        }
        Ok(())
    });
    set.map_err(status)
}

pub(super) fn prepare(guest: &FakeGuest, request: first::CreateSandboxRequest) -> Served<Empty> {
    let ask = CreateSandbox {
        sandbox: request.sandbox_id,
        hostname: request.hostname,
        share: request
            .storages
            .iter()
            .any(|s| s.fstype == "virtiofs" && s.source == "hutch"),
        now: None,
        entropy: Vec::new(),
    };
    let prepared = guest.act(|world, now| {
        world.prepare(ask, now);
        Ok(())
    });
    done(prepared.map_err(status))
}

fn oom(oom: &GuestOom) -> wire::Oom {
    let mut message = wire::Oom::new();
    message.seq = oom.seq;
    message.container_id = oom.container.to_string();
    message.at_ms = oom.at.0;
    message
}

fn exit(exit: GuestExit) -> wire::Exit {
    let mut message = wire::Exit::new();
    message.seq = exit.seq;
    message.container_id = exit.container.to_string();
    if let ProcessId::Exec(id) = exit.process {
        message.exec_id = id.into();
    }
    message.code = exit.status.code;
    message.reason = match exit.status.reason {
        ExitReason::Signaled => wire::ExitReason::EXIT_REASON_SIGNALED,
        ExitReason::Oom => wire::ExitReason::EXIT_REASON_OOM,
        ExitReason::Exited | ExitReason::VmLost | ExitReason::AgentLost => {
            wire::ExitReason::EXIT_REASON_EXITED
        }
    }
    .into();
    message.at_ms = exit.status.at.0;
    message
}

pub(super) fn details(features: &[&str]) -> first::GuestDetailsResponse {
    let mut details = first::AgentDetails::new();
    details.version = "0.0.0-contract".to_owned();
    details.extra_features = features.iter().map(ToString::to_string).collect();
    let mut answer = first::GuestDetailsResponse::new();
    answer.agent_details = Some(details).into();
    answer
}

#[async_trait]
impl AgentService for HutchAgent {
    async fn get_guest_details(
        &self,
        _: &TtrpcContext,
        _: first::GuestDetailsRequest,
    ) -> Served<first::GuestDetailsResponse> {
        Ok(details(self.1))
    }

    async fn create_sandbox(
        &self,
        _: &TtrpcContext,
        request: first::CreateSandboxRequest,
    ) -> Served<Empty> {
        prepare(&self.0, request)
    }
}

#[async_trait]
impl Health for HutchAgent {
    async fn check(&self, _: &TtrpcContext, _: CheckRequest) -> Served<HealthCheckResponse> {
        serving()
    }
}

pub(super) fn serving() -> Served<HealthCheckResponse> {
    let mut answer = HealthCheckResponse::new();
    answer.status = ServingStatus::SERVING.into();
    Ok(answer)
}

/// Lets every connection that `accept` yields through the door; ends with the server.
pub async fn usher<F>(accept: impl Fn() -> F, door: Door)
where
    F: Future<Output = Option<Connection>>,
{
    loop {
        if let Some(connection) = accept().await
            && door.send(Ok(connection)).is_err()
        {
            return;
        }
    }
}
