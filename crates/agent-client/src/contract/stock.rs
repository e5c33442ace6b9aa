//! A stock Kata agent, in this process, before a fake guest: with the habits that were measured.
//!
//! - `WaitProcess` consumes the process's entry, and closes its stdio with what is unread in it.
//! - A deadly signal is told by its bare number; SIGTERM to an init, which has no handler here, is
//!   SIGKILL.
//! - An output that has ended, or whose process is not known, answers with an error.
//! - A container that is paused cannot be paused, nor one that is not resumed.
//! - Create, start, exec and remove wait for each other. `GetOOMEvent` answers with the next kill.
//! - The init is named by its container's id; to `SignalProcess` an empty exec id is every process,
//!   whatever the signal (kata-containers, `src/agent/src/rpc.rs`).
//! - A `WriteStdin` without data is the end of stdin.
//! - A container without `process.Capabilities` is refused; one with a pid namespace of its own is
//!   created, and every exec in it fails. What becomes of one with a network or a time namespace of
//!   its own was not measured: such a one is refused here, so that nobody sends it.

use super::{
    pipes::{Key, Pipes, Shut},
    server::{Services, act_on, details, number, prepare, process, serving, set_clock, status},
};
use crate::{
    call::Call,
    fake::{FakeGuest, Refusal},
};
use async_trait::async_trait;
use protocols::asynchronous::{
    agent as wire,
    agent_ttrpc::{AgentService, create_agent_service},
    empty::Empty,
    health::{CheckRequest, HealthCheckResponse},
    health_ttrpc::{Health, create_health},
};
use runtime_core::{
    agent::{
        CreateContainer, Exec, ExitReason, GuestNews, GuestRootfs, Program, Signal, SignalTarget,
        UpdateContainer,
    },
    error::Kind,
    ids::{ContainerNumber, EpochMs, ProcessId},
};
use serde_json::json;
use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use ttrpc::{Code, r#async::TtrpcContext};

/// Everything that a stock agent offers and the port uses.
pub fn stock_services(guest: &FakeGuest) -> Vec<Services> {
    let agent = StockAgent {
        guest: guest.clone(),
        odd: Arc::default(),
        pipes: Arc::default(),
        one: Arc::default(),
    };
    vec![
        create_agent_service(Arc::new(agent.clone())),
        create_health(Arc::new(agent)),
    ]
}

#[derive(Clone)]
struct StockAgent {
    guest: FakeGuest,
    odd: Arc<Mutex<Odd>>,
    pipes: Arc<Pipes>,
    /// Over create, start, exec and remove.
    one: Arc<tokio::sync::Mutex<()>>,
}

#[derive(Default)]
struct Odd {
    consumed: BTreeSet<(ContainerNumber, ProcessId)>,
    /// Created with a pid namespace of their own.
    spoiled: BTreeSet<ContainerNumber>,
    paused: BTreeSet<ContainerNumber>,
    /// The last kill for want of memory that was told.
    oom_told: u64,
}

const SIGKILL: u32 = 9;
const SIGTERM: u32 = 15;

type Served<T> = ttrpc::Result<T>;

fn refuse<T>(code: Code, what: &str) -> Served<T> {
    Err(ttrpc::error::get_rpc_status(code, what))
}

/// `None`: every process.
fn named(container: &str, exec_id: &str) -> Served<Option<ProcessId>> {
    match exec_id {
        "" => Ok(None),
        id if id == container => Ok(Some(ProcessId::Init)),
        id => process(id).map(Some),
    }
}

fn key(container: &str, exec_id: &str) -> Served<Key> {
    let process = named(container, exec_id)?.unwrap_or(ProcessId::Init);
    Ok((number(container)?, process))
}

fn shut(shut: Shut) -> ttrpc::Error {
    let (code, what) = match shut {
        Shut::Eof => (Code::INTERNAL, "eof"),
        Shut::NotFound => (Code::NOT_FOUND, "no such process"),
    };
    ttrpc::error::get_rpc_status(code, what)
}

fn answered(bytes: Vec<u8>) -> wire::ReadStreamResponse {
    let mut answer = wire::ReadStreamResponse::new();
    answer.data = bytes;
    answer
}

/// How long one call is in the way of the next.
const HELD: Duration = Duration::from_millis(1);

impl StockAgent {
    /// Waits for whoever came before.
    async fn turn(&self) {
        let _held = self.one.lock().await;
        tokio::time::sleep(HELD).await;
    }

    fn ended(&self, key: &Key) -> bool {
        self.odd(|odd| odd.consumed.contains(key))
    }

    fn odd<T>(&self, act: impl FnOnce(&mut Odd) -> T) -> T {
        act(&mut self.odd.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[async_trait]
impl AgentService for StockAgent {
    async fn get_guest_details(
        &self,
        _: &TtrpcContext,
        _: wire::GuestDetailsRequest,
    ) -> Served<wire::GuestDetailsResponse> {
        Ok(details(&[]))
    }

    async fn create_sandbox(
        &self,
        _: &TtrpcContext,
        request: wire::CreateSandboxRequest,
    ) -> Served<Empty> {
        prepare(&self.guest, request)
    }

    async fn set_guest_date_time(
        &self,
        _: &TtrpcContext,
        request: wire::SetGuestDateTimeRequest,
    ) -> Served<Empty> {
        let ms = u64::try_from(request.Sec * 1000 + request.Usec / 1000);
        set_clock(&self.guest, EpochMs(ms.unwrap_or(0)), Vec::new())?;
        Ok(Empty::new())
    }

    async fn reseed_random_dev(
        &self,
        _: &TtrpcContext,
        request: wire::ReseedRandomDevRequest,
    ) -> Served<Empty> {
        let stirred = self.guest.act(|world, _| {
            if let Some(sandbox) = &mut world.sandbox {
                sandbox.entropy = request.data;
            }
            Ok(())
        });
        stirred.map_err(status)?;
        Ok(Empty::new())
    }

    async fn create_container(
        &self,
        _: &TtrpcContext,
        request: wire::CreateContainerRequest,
    ) -> Served<Empty> {
        let container = number(&request.container_id)?;
        if !request.OCI.Process.Capabilities.is_some() {
            return refuse(Code::INTERNAL, "no capabilities");
        }
        if !request.OCI.Root.Path.starts_with("/run/kata-containers/") {
            return refuse(Code::INTERNAL, "rootfs not found");
        }
        for namespace in &request.OCI.Linux.Namespaces {
            match namespace.Type.as_str() {
                "pid" => {
                    self.odd(|odd| odd.spoiled.insert(container));
                }
                "network" | "time" => return refuse(Code::INTERNAL, "no such namespace"),
                _ => {}
            }
        }
        let config = json!({ "process": { "args": request.OCI.Process.Args } });
        let ask = CreateContainer {
            container,
            config_json: config.to_string().into_bytes(),
            rootfs: GuestRootfs::Share(String::new()),
            mounts: Vec::new(),
            hook_programs: Vec::new(),
            disks: Vec::new(),
            devices: Vec::new(),
            bundle: "/bundle".into(),
            stream: None,
            hooks_limit: Duration::ZERO,
        };
        self.turn().await;
        act_on(&self.guest, Call::CreateContainer, |world, _| {
            world.create(&ask)
        })
        .await?;
        let init = (container, ProcessId::Init);
        self.pipes.made(init, &request.OCI.Process.Args);
        Ok(Empty::new())
    }

    async fn start_container(
        &self,
        _: &TtrpcContext,
        request: wire::StartContainerRequest,
    ) -> Served<Empty> {
        let container = number(&request.container_id)?;
        self.turn().await;
        let started = act_on(&self.guest, Call::StartContainer, |world, now| {
            world.start(container, now)
        });
        started.await?;
        Ok(Empty::new())
    }

    async fn exec_process(
        &self,
        _: &TtrpcContext,
        request: wire::ExecProcessRequest,
    ) -> Served<Empty> {
        let container = number(&request.container_id)?;
        if self.odd(|odd| odd.spoiled.contains(&container)) {
            return refuse(Code::INTERNAL, "failed to join pidns: EINVAL");
        }
        let ask = Exec {
            container,
            process: process(&request.exec_id)?,
            program: Program {
                process_json: json!({ "args": request.process.Args })
                    .to_string()
                    .into_bytes(),
                cgroup: String::new(),
            },
            stream: None,
        };
        self.turn().await;
        act_on(&self.guest, Call::Exec, |world, now| world.exec(&ask, now)).await?;
        let exec = (container, ask.process.clone());
        self.pipes.made(exec, &request.process.Args);
        Ok(Empty::new())
    }

    async fn signal_process(
        &self,
        _: &TtrpcContext,
        request: wire::SignalProcessRequest,
    ) -> Served<Empty> {
        let named = named(&request.container_id, &request.exec_id)?;
        let killed = named == Some(ProcessId::Init) && request.signal == SIGTERM;
        let ask = Signal {
            container: number(&request.container_id)?,
            target: named.map_or(SignalTarget::All, SignalTarget::Process),
            signal: if killed { SIGKILL } else { request.signal },
            once: None,
        };
        act_on(&self.guest, Call::Signal, |world, now| {
            world.signal(&ask, now)
        })
        .await?;
        Ok(Empty::new())
    }

    async fn wait_process(
        &self,
        _: &TtrpcContext,
        request: wire::WaitProcessRequest,
    ) -> Served<wire::WaitProcessResponse> {
        let container = number(&request.container_id)?;
        let process = named(&request.container_id, &request.exec_id)?.unwrap_or(ProcessId::Init);
        let key = (container, process);
        if self.ended(&key) {
            let what = "no such process".to_owned();
            let kind = Kind::NotFound;
            return Err(status(Refusal { kind, what }));
        }
        let mut after = 0;
        loop {
            for news in self.guest.news(after, Duration::from_secs(60)).await {
                after = news.seq();
                if let GuestNews::Exited(exit) = news
                    && (exit.container, &exit.process) == (key.0, &key.1)
                {
                    self.odd(|odd| odd.consumed.insert(key.clone()));
                    let mut answer = wire::WaitProcessResponse::new();
                    let code = match exit.status.reason {
                        ExitReason::Signaled => exit.status.code - 128,
                        _ => exit.status.code,
                    };
                    answer.status = i32::try_from(code).unwrap_or(-1);
                    self.pipes.consumed(&key);
                    return Ok(answer);
                }
            }
        }
    }

    async fn remove_container(
        &self,
        _: &TtrpcContext,
        request: wire::RemoveContainerRequest,
    ) -> Served<Empty> {
        let container = number(&request.container_id)?;
        self.turn().await;
        let removed = act_on(&self.guest, Call::RemoveContainer, |world, now| {
            world.remove(container, now);
            Ok(())
        });
        removed.await?;
        self.pipes.removed(container);
        self.odd(|odd| odd.paused.remove(&container));
        Ok(Empty::new())
    }

    async fn pause_container(
        &self,
        _: &TtrpcContext,
        request: wire::PauseContainerRequest,
    ) -> Served<Empty> {
        let container = number(&request.container_id)?;
        if self.odd(|odd| odd.paused.contains(&container)) {
            return refuse(Code::INTERNAL, "current status is: Paused");
        }
        let frozen = act_on(&self.guest, Call::PauseContainer, |world, now| {
            world.freeze(container, now)
        });
        frozen.await?;
        self.odd(|odd| odd.paused.insert(container));
        Ok(Empty::new())
    }

    async fn resume_container(
        &self,
        _: &TtrpcContext,
        request: wire::ResumeContainerRequest,
    ) -> Served<Empty> {
        let container = number(&request.container_id)?;
        if !self.odd(|odd| odd.paused.contains(&container)) {
            return refuse(Code::INTERNAL, "current status is: Running");
        }
        let thawed = act_on(&self.guest, Call::ResumeContainer, |world, now| {
            world.thaw(container, now)
        });
        thawed.await?;
        self.odd(|odd| odd.paused.remove(&container));
        Ok(Empty::new())
    }

    async fn update_container(
        &self,
        _: &TtrpcContext,
        request: wire::UpdateContainerRequest,
    ) -> Served<Empty> {
        let ask = UpdateContainer {
            container: number(&request.container_id)?,
            resources_json: json!({ "pids": { "limit": request.resources.Pids.Limit } })
                .to_string()
                .into_bytes(),
        };
        let updated = act_on(&self.guest, Call::UpdateContainer, |world, _| {
            world.update(&ask)
        });
        updated.await?;
        Ok(Empty::new())
    }

    async fn stats_container(
        &self,
        _: &TtrpcContext,
        request: wire::StatsContainerRequest,
    ) -> Served<wire::StatsContainerResponse> {
        let container = number(&request.container_id)?;
        let stats = act_on(&self.guest, Call::Stats, |world, now| {
            world.stats(container, now)
        });
        let mut pids = wire::PidsStats::new();
        let counted = stats.await?.pids;
        (pids.current, pids.limit) = (counted.current, counted.max);
        let mut cgroup = wire::CgroupStats::new();
        cgroup.pids_stats = Some(pids).into();
        let mut answer = wire::StatsContainerResponse::new();
        answer.cgroup_stats = Some(cgroup).into();
        Ok(answer)
    }

    async fn read_stdout(
        &self,
        _: &TtrpcContext,
        request: wire::ReadStreamRequest,
    ) -> Served<wire::ReadStreamResponse> {
        let key = key(&request.container_id, &request.exec_id)?;
        let max = usize::try_from(request.len).unwrap_or(usize::MAX);
        let read = self.pipes.read_stdout(&self.guest, &key, max);
        read.await.map(answered).map_err(shut)
    }

    async fn read_stderr(
        &self,
        _: &TtrpcContext,
        request: wire::ReadStreamRequest,
    ) -> Served<wire::ReadStreamResponse> {
        let key = key(&request.container_id, &request.exec_id)?;
        Err(shut(self.pipes.read_stderr(&self.guest, &key).await))
    }

    async fn write_stdin(
        &self,
        _: &TtrpcContext,
        request: wire::WriteStreamRequest,
    ) -> Served<wire::WriteStreamResponse> {
        let key = key(&request.container_id, &request.exec_id)?;
        if self.guest.is_hung() {
            std::future::pending::<()>().await;
        }
        let mut answer = wire::WriteStreamResponse::new();
        if request.data.is_empty() {
            self.pipes.close_stdin(&self.guest, &key).map_err(shut)?;
        } else {
            let written = self.pipes.write(&key, &request.data).map_err(shut)?;
            answer.len = u32::try_from(written).unwrap_or(u32::MAX);
        }
        Ok(answer)
    }

    async fn close_stdin(
        &self,
        _: &TtrpcContext,
        request: wire::CloseStdinRequest,
    ) -> Served<Empty> {
        let key = key(&request.container_id, &request.exec_id)?;
        self.pipes.close_stdin(&self.guest, &key).map_err(shut)?;
        Ok(Empty::new())
    }

    async fn get_oom_event(
        &self,
        _: &TtrpcContext,
        _: wire::GetOOMEventRequest,
    ) -> Served<wire::OOMEvent> {
        loop {
            let told = self.odd(|odd| odd.oom_told);
            for news in self.guest.news(told, Duration::from_secs(60)).await {
                self.odd(|odd| odd.oom_told = odd.oom_told.max(news.seq()));
                if let GuestNews::OomKilled(oom) = news {
                    let mut answer = wire::OOMEvent::new();
                    answer.container_id = oom.container.to_string();
                    return Ok(answer);
                }
            }
        }
    }
}

#[async_trait]
impl Health for StockAgent {
    async fn check(&self, _: &TtrpcContext, _: CheckRequest) -> Served<HealthCheckResponse> {
        serving()
    }
}
