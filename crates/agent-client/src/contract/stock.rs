//! A stock Kata agent, in this process, before a fake guest: with the habits that were measured.
//!
//! - `WaitProcess` consumes the process's entry.
//! - The init is named by its container's id; to `SignalProcess` an empty exec id is every process.
//! - A container without `process.Capabilities` is refused; one with a pid namespace of its own is
//!   created, and every exec in it fails.

use super::server::{
    Services, act_on, details, number, prepare, process, serving, set_clock, status,
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
    agent::{CreateContainer, Exec, GuestNews, GuestRootfs, Signal, SignalTarget},
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
}

#[derive(Default)]
struct Odd {
    consumed: BTreeSet<(ContainerNumber, ProcessId)>,
    /// Created with a pid namespace of their own.
    spoiled: BTreeSet<ContainerNumber>,
}

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

impl StockAgent {
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
        if request.OCI.Linux.Namespaces.iter().any(|n| n.Type == "pid") {
            self.odd(|odd| odd.spoiled.insert(container));
        }
        let config = json!({ "process": { "args": request.OCI.Process.Args } });
        let ask = CreateContainer {
            container,
            config_json: config.to_string().into_bytes(),
            rootfs: GuestRootfs::Share(String::new()),
            mounts: Vec::new(),
            hook_programs: Vec::new(),
            bundle: "/bundle".into(),
            stream: None,
        };
        act_on(&self.guest, Call::CreateContainer, |world, _| {
            world.create(&ask)
        })
        .await?;
        Ok(Empty::new())
    }

    async fn start_container(
        &self,
        _: &TtrpcContext,
        request: wire::StartContainerRequest,
    ) -> Served<Empty> {
        let container = number(&request.container_id)?;
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
            process_json: json!({ "args": request.process.Args })
                .to_string()
                .into_bytes(),
            stream: None,
        };
        act_on(&self.guest, Call::Exec, |world, now| world.exec(&ask, now)).await?;
        Ok(Empty::new())
    }

    async fn signal_process(
        &self,
        _: &TtrpcContext,
        request: wire::SignalProcessRequest,
    ) -> Served<Empty> {
        let named = named(&request.container_id, &request.exec_id)?;
        let ask = Signal {
            container: number(&request.container_id)?,
            target: named.map_or(SignalTarget::All, SignalTarget::Process),
            signal: request.signal,
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
        if self.odd(|odd| odd.consumed.contains(&key)) {
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
                    answer.status = i32::try_from(exit.status.code).unwrap_or(-1);
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
        let removed = act_on(&self.guest, Call::RemoveContainer, |world, now| {
            world.remove(container, now);
            Ok(())
        });
        removed.await?;
        Ok(Empty::new())
    }
}

#[async_trait]
impl Health for StockAgent {
    async fn check(&self, _: &TtrpcContext, _: CheckRequest) -> Served<HealthCheckResponse> {
        serving()
    }
}
