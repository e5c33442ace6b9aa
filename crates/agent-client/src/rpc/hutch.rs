//! The calls of hutch.agent.v1 on one link.

use super::Link;
use crate::{
    call::Call,
    convert,
    error::{Error, Malformed},
};
use protocols::asynchronous::{hutch_agent as wire, hutch_agent_ttrpc::AgentClient};
use runtime_core::{
    agent::{
        AgentDetails, ContainerStats, CreateContainer, Exec, GetPids, GetStats, GuestNews,
        GuestPid, GuestProcess, PauseContainer, RemoveContainer, RemoveEmpty, ResumeContainer,
        Signal, StartContainer, UpdateContainer, Warnings,
    },
    error::{Classify, Kind},
    ids::{ContainerNumber, EpochMs, ProcessId},
};
use std::time::Duration;
use ttrpc::context::Context;

/// An agent with our own calls.
#[derive(Clone)]
pub struct HutchCalls {
    link: Link,
    agent: AgentClient,
    places_execs: bool,
}

/// Deadlines are kept on this side; see `link`.
fn context() -> Context {
    Context::default()
}

/// Bounded; the log has them too, for whoever was not there.
fn warned(container: ContainerNumber, warnings: Vec<String>) -> Warnings {
    let warnings = convert::warnings(warnings);
    for warning in &warnings {
        tracing::warn!(%container, "not honoured in the guest: {warning}");
    }
    warnings
}

fn malformed(call: &'static str) -> impl FnOnce(Malformed) -> Error {
    move |source| Error::Malformed { call, source }
}

impl HutchCalls {
    pub fn over(link: &Link, details: &AgentDetails) -> Self {
        Self {
            link: link.clone(),
            agent: AgentClient::new(link.client()),
            places_execs: details.places_execs,
        }
    }

    /// The clock and, at the same moment, the random pool.
    pub async fn set_clock(
        &self,
        now: EpochMs,
        entropy: Vec<u8>,
        deadline: Duration,
    ) -> Result<(), Error> {
        let mut request = wire::SetClockRequest::new();
        request.sec = i64::try_from(now.0 / 1000).unwrap_or(i64::MAX);
        request.nsec = i64::try_from(now.0 % 1000).unwrap_or(0) * 1_000_000;
        request.entropy = entropy;
        let work = self.agent.set_clock(context(), &request);
        let call = self.link.call("set clock", deadline, &request, work);
        call.await.map(drop)
    }

    pub async fn create(
        &self,
        ask: CreateContainer,
        deadline: Duration,
    ) -> Result<Warnings, Error> {
        let container = ask.container;
        let request = convert::create(ask);
        let work = self.agent.create(context(), &request);
        let name = Call::CreateContainer.name();
        let created = self.link.call(name, deadline, &request, work).await?;
        Ok(warned(container, created.warnings))
    }

    pub async fn start(&self, ask: StartContainer, deadline: Duration) -> Result<(), Error> {
        let mut request = wire::StartRequest::new();
        request.container_id = ask.container.to_string();
        let work = self.agent.start(context(), &request);
        let name = Call::StartContainer.name();
        let call = self.link.call(name, deadline, &request, work);
        call.await.map(drop)
    }

    pub async fn exec(&self, ask: Exec, deadline: Duration) -> Result<Warnings, Error> {
        let call = Call::Exec.name();
        let ProcessId::Exec(id) = ask.process.clone() else {
            let what = "an exec that is the init";
            return Err(Error::Inexpressible { call, what });
        };
        // Without a word for it they are in the container's own.
        if !self.places_execs && !ask.program.is_where_execs_are() {
            let what = "an exec below its container's own cgroup";
            return Err(Error::Inexpressible { call, what });
        }
        let container = ask.container;
        let request = convert::exec(ask, &id);
        let work = self.agent.exec(context(), &request);
        let made = self.link.call(call, deadline, &request, work).await?;
        Ok(warned(container, made.warnings))
    }

    pub async fn signal(&self, ask: Signal, deadline: Duration) -> Result<(), Error> {
        let request = convert::signal(ask);
        let work = self.agent.signal(context(), &request);
        let name = Call::Signal.name();
        let call = self.link.call(name, deadline, &request, work);
        call.await.map(drop)
    }

    pub async fn remove(&self, ask: RemoveContainer, deadline: Duration) -> Result<(), Error> {
        let mut request = wire::RemoveRequest::new();
        request.container_id = ask.container.to_string();
        let work = self.agent.remove(context(), &request);
        let name = Call::RemoveContainer.name();
        match self.link.call(name, deadline, &request, work).await {
            Ok(_) => Ok(()),
            Err(error) if error.kind() == Kind::NotFound => Ok(()),
            Err(error) => Err(error),
        }
    }

    pub async fn remove_empty(&self, ask: RemoveEmpty, deadline: Duration) -> Result<bool, Error> {
        let mut request = wire::RemoveRequest::new();
        request.container_id = ask.container.to_string();
        let work = self.agent.remove_empty(context(), &request);
        let name = Call::RemoveEmpty.name();
        match self.link.call(name, deadline, &request, work).await {
            Ok(answer) => Ok(answer.removed),
            Err(error) if error.kind() == Kind::NotFound => Ok(true),
            Err(error) => Err(error),
        }
    }

    pub async fn pause(&self, ask: PauseContainer, deadline: Duration) -> Result<(), Error> {
        let name = Call::PauseContainer.name();
        self.freeze(ask.container, true, name, deadline).await
    }

    pub async fn resume(&self, ask: ResumeContainer, deadline: Duration) -> Result<(), Error> {
        let name = Call::ResumeContainer.name();
        self.freeze(ask.container, false, name, deadline).await
    }

    async fn freeze(
        &self,
        container: ContainerNumber,
        frozen: bool,
        name: &'static str,
        deadline: Duration,
    ) -> Result<(), Error> {
        let mut request = wire::FreezeRequest::new();
        request.container_id = container.to_string();
        request.frozen = frozen;
        let work = self.agent.freeze(context(), &request);
        let call = self.link.call(name, deadline, &request, work);
        call.await.map(drop)
    }

    pub async fn update(
        &self,
        ask: UpdateContainer,
        deadline: Duration,
    ) -> Result<Warnings, Error> {
        let mut request = wire::UpdateRequest::new();
        request.container_id = ask.container.to_string();
        request.resources_json = ask.resources_json;
        let work = self.agent.update(context(), &request);
        let name = Call::UpdateContainer.name();
        let updated = self.link.call(name, deadline, &request, work).await?;
        Ok(warned(ask.container, updated.warnings))
    }

    pub async fn stats(&self, ask: GetStats, deadline: Duration) -> Result<ContainerStats, Error> {
        let mut request = wire::StatsRequest::new();
        request.container_id = ask.container.to_string();
        let work = self.agent.stats(context(), &request);
        let name = Call::Stats.name();
        let answer = self.link.call(name, deadline, &request, work).await?;
        convert::stats(answer).map_err(malformed(name))
    }

    pub async fn list(&self, deadline: Duration) -> Result<Vec<GuestProcess>, Error> {
        let request = wire::ListRequest::new();
        let work = self.agent.list(context(), &request);
        let name = Call::List.name();
        let answer = self.link.call(name, deadline, &request, work).await?;
        convert::processes(answer).map_err(malformed(name))
    }

    pub async fn pids(&self, ask: GetPids, deadline: Duration) -> Result<Vec<GuestPid>, Error> {
        let mut request = wire::PidsRequest::new();
        request.container_id = ask.container.to_string();
        let work = self.agent.pids(context(), &request);
        let name = Call::Pids.name();
        let answer = self.link.call(name, deadline, &request, work).await?;
        convert::pids(answer).map_err(malformed(name))
    }

    pub async fn next_news(
        &self,
        after: u64,
        wait: Duration,
        deadline: Duration,
    ) -> Result<Vec<GuestNews>, Error> {
        let mut request = wire::NextExitsRequest::new();
        request.after = after;
        request.wait_ms = u32::try_from(wait.as_millis()).unwrap_or(u32::MAX);
        let work = self.agent.next_exits(context(), &request);
        let name = "next exits";
        let answer = self.link.call(name, deadline, &request, work).await?;
        convert::news(answer, after).map_err(malformed(name))
    }

    pub async fn ack_news(&self, up_to: u64, deadline: Duration) -> Result<(), Error> {
        let mut request = wire::AckExitsRequest::new();
        request.up_to = up_to;
        let work = self.agent.ack_exits(context(), &request);
        let call = self.link.call("ack exits", deadline, &request, work);
        call.await.map(drop)
    }
}
