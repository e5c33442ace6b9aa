//! The calls of the first interface on one link, with a stock agent's habits met.

use super::{
    ledger::{Ledger, ProcessKey},
    spec, stats,
};
use crate::{
    call::Call,
    convert,
    error::{Error, Malformed},
    rpc::Link,
};
use protocols::asynchronous::{
    agent as wire, agent_ttrpc::AgentServiceClient, health::CheckRequest,
    health_ttrpc::HealthClient,
};
use runtime_core::{
    agent::{
        Attempt, ContainerStats, CreateContainer, CreateSandbox, Exec, ExitReason, ExitStatus,
        GetStats, GuestNews, GuestProcess, GuestProcessState, PauseContainer, RemoveContainer,
        ResumeContainer, Signal, SignalTarget, StartContainer, UpdateContainer,
    },
    error::{Classify, Kind},
    ids::{EpochMs, ProcessId},
    kit,
};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use ttrpc::context::Context;

/// A wait has no deadline of its own: it ends with its link.
const WAIT_MAX: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// Exit code of a process whose end nobody saw.
const CODE_LOST: u32 = 255;

/// The virtiofs tag of the share.
const SHARE_TAG: &str = "hutch";
/// Where our own agent has it.
const HUTCH_SHARE: &str = "/run/hutch/share";

/// An agent that speaks the first interface.
#[derive(Clone)]
pub struct KataCalls {
    link: Link,
    agent: AgentServiceClient,
    ledger: Ledger,
}

/// Deadlines are kept on this side; see `rpc::link`.
fn context() -> Context {
    Context::default()
}

/// A stock agent's name for a process. Its own empty exec id means the init to some calls and
/// every process to others, so it is never used for the init.
fn exec_id(key: &ProcessKey) -> String {
    match &key.1 {
        ProcessId::Init => key.0.to_string(),
        ProcessId::Exec(id) => id.to_string(),
    }
}

impl KataCalls {
    pub fn over(link: &Link, ledger: &Ledger) -> Self {
        Self {
            link: link.clone(),
            agent: AgentServiceClient::new(link.client()),
            ledger: ledger.clone(),
        }
    }

    /// Who the agent is.
    pub async fn details(&self, deadline: Duration) -> Result<wire::GuestDetailsResponse, Error> {
        let request = wire::GuestDetailsRequest::new();
        let work = self.agent.get_guest_details(context(), &request);
        let call = self
            .link
            .call("get guest details", deadline, &request, work);
        call.await
    }

    /// Waits on this link for everything whose exit is still to come.
    pub fn wait_for_all(&self) {
        for key in self.ledger.awaited() {
            self.wait_for(key);
        }
    }

    /// `share` says where the guest mounts it.
    pub async fn create_sandbox(
        &self,
        ask: &CreateSandbox,
        share: Share,
        deadline: Duration,
    ) -> Result<(), Error> {
        let mut request = wire::CreateSandboxRequest::new();
        request.hostname.clone_from(&ask.hostname);
        request.sandbox_id.clone_from(&ask.sandbox);
        if ask.share {
            let mut storage = wire::Storage::new();
            storage.driver = "virtio-fs".to_owned();
            storage.source = SHARE_TAG.to_owned();
            storage.fstype = "virtiofs".to_owned();
            storage.mount_point = share.mount_point().to_owned();
            request.storages.push(storage);
        }
        let work = self.agent.create_sandbox(context(), &request);
        let name = Call::CreateSandbox.name();
        let call = self.link.call(name, deadline, &request, work);
        call.await.map(drop)
    }

    pub async fn set_clock(&self, now: EpochMs, deadline: Duration) -> Result<(), Error> {
        let mut request = wire::SetGuestDateTimeRequest::new();
        request.Sec = i64::try_from(now.0 / 1000).unwrap_or(i64::MAX);
        request.Usec = i64::try_from(now.0 % 1000).unwrap_or(0) * 1000;
        let work = self.agent.set_guest_date_time(context(), &request);
        let call = self.link.call("set clock", deadline, &request, work);
        call.await.map(drop)
    }

    pub async fn reseed(&self, entropy: Vec<u8>, deadline: Duration) -> Result<(), Error> {
        let mut request = wire::ReseedRandomDevRequest::new();
        request.data = entropy;
        let work = self.agent.reseed_random_dev(context(), &request);
        let call = self
            .link
            .call("stir the random pool", deadline, &request, work);
        call.await.map(drop)
    }

    pub async fn create(&self, ask: CreateContainer, deadline: Duration) -> Result<(), Error> {
        let name = Call::CreateContainer.name();
        refuse_stream(ask.stream.is_some(), name)?;
        let key = (ask.container, ProcessId::Init);
        let mut request = wire::CreateContainerRequest::new();
        request.container_id = ask.container.to_string();
        request.exec_id = exec_id(&key);
        request.OCI = Some(spec::spec(&ask, name)?).into();
        let work = self.agent.create_container(context(), &request);
        self.link.call(name, deadline, &request, work).await?;
        self.created(key, GuestProcessState::Created);
        Ok(())
    }

    pub async fn start(&self, ask: StartContainer, deadline: Duration) -> Result<(), Error> {
        let mut request = wire::StartContainerRequest::new();
        request.container_id = ask.container.to_string();
        let work = self.agent.start_container(context(), &request);
        let name = Call::StartContainer.name();
        self.link.call(name, deadline, &request, work).await?;
        self.ledger.started(&(ask.container, ProcessId::Init));
        Ok(())
    }

    pub async fn exec(&self, ask: Exec, deadline: Duration) -> Result<(), Error> {
        let name = Call::Exec.name();
        refuse_stream(ask.stream.is_some(), name)?;
        let key = (ask.container, ask.process);
        if key.1 == ProcessId::Init {
            let what = "an exec that is the init";
            return Err(Error::Inexpressible { call: name, what });
        }
        let mut request = wire::ExecProcessRequest::new();
        request.container_id = key.0.to_string();
        request.exec_id = exec_id(&key);
        request.process = Some(spec::exec_process(&ask.process_json, name)?).into();
        let work = self.agent.exec_process(context(), &request);
        self.link.call(name, deadline, &request, work).await?;
        self.created(key, GuestProcessState::Running);
        Ok(())
    }

    /// This agent keeps no keys: what may have arrived is not sent again.
    pub async fn signal(&self, ask: Signal, deadline: Duration) -> Result<(), Error> {
        if let Some(once) = &ask.once
            && once.attempt == Attempt::Repeated
        {
            return Err(Error::MaybeDelivered { signal: ask.signal });
        }
        let mut request = wire::SignalProcessRequest::new();
        request.container_id = ask.container.to_string();
        request.signal = ask.signal;
        request.exec_id = match ask.target {
            // To this call alone an empty id is every process.
            SignalTarget::All => String::new(),
            SignalTarget::Process(process) => exec_id(&(ask.container, process)),
        };
        let work = self.agent.signal_process(context(), &request);
        let name = Call::Signal.name();
        let call = self.link.call(name, deadline, &request, work);
        call.await.map(drop)
    }

    pub async fn remove(&self, ask: RemoveContainer, deadline: Duration) -> Result<(), Error> {
        let mut request = wire::RemoveContainerRequest::new();
        request.container_id = ask.container.to_string();
        let work = self.agent.remove_container(context(), &request);
        let name = Call::RemoveContainer.name();
        match self.link.call(name, deadline, &request, work).await {
            Ok(_) => {}
            Err(error) if error.kind() == Kind::NotFound => {}
            Err(error) => return Err(error),
        }
        self.ledger.removed(ask.container);
        Ok(())
    }

    pub async fn pause(&self, ask: PauseContainer, deadline: Duration) -> Result<(), Error> {
        let mut request = wire::PauseContainerRequest::new();
        request.container_id = ask.container.to_string();
        let work = self.agent.pause_container(context(), &request);
        let name = Call::PauseContainer.name();
        let call = self.link.call(name, deadline, &request, work);
        call.await.map(drop)
    }

    pub async fn resume(&self, ask: ResumeContainer, deadline: Duration) -> Result<(), Error> {
        let mut request = wire::ResumeContainerRequest::new();
        request.container_id = ask.container.to_string();
        let work = self.agent.resume_container(context(), &request);
        let name = Call::ResumeContainer.name();
        let call = self.link.call(name, deadline, &request, work);
        call.await.map(drop)
    }

    pub async fn update(&self, ask: UpdateContainer, deadline: Duration) -> Result<(), Error> {
        let name = Call::UpdateContainer.name();
        let mut request = wire::UpdateContainerRequest::new();
        request.container_id = ask.container.to_string();
        request.resources = Some(spec::limits(&ask.resources_json, name)?).into();
        let work = self.agent.update_container(context(), &request);
        let call = self.link.call(name, deadline, &request, work);
        call.await.map(drop)
    }

    pub async fn stats(&self, ask: GetStats, deadline: Duration) -> Result<ContainerStats, Error> {
        let mut request = wire::StatsContainerRequest::new();
        request.container_id = ask.container.to_string();
        let work = self.agent.stats_container(context(), &request);
        let name = Call::Stats.name();
        let answer = self.link.call(name, deadline, &request, work).await?;
        Ok(stats::stats(answer, now()))
    }

    pub fn list(&self) -> Vec<GuestProcess> {
        self.ledger.processes()
    }

    /// Exits from the ledger. When none came in time the agent is asked whether it lives: nothing
    /// else would tell that it does not.
    pub async fn next_news(
        &self,
        after: u64,
        wait: Duration,
        deadline: Duration,
    ) -> Result<Vec<GuestNews>, Error> {
        let call = "next exits";
        let exits = tokio::time::timeout(wait, self.ledger.next_news(after));
        let exits = tokio::select! {
            biased;
            exits = exits => exits,
            () = self.link.hung_up() => return Err(Error::LinkLost { call }),
        };
        match exits {
            Ok(exits) => Ok(exits),
            Err(_) => {
                self.check(deadline.saturating_sub(wait)).await?;
                Ok(Vec::new())
            }
        }
    }

    pub fn ack_news(&self, up_to: u64) {
        self.ledger.acknowledged(up_to);
    }

    async fn check(&self, deadline: Duration) -> Result<(), Error> {
        let health = HealthClient::new(self.link.client());
        let request = CheckRequest::new();
        let work = health.check(context(), &request);
        let call = self.link.call("check", deadline, &request, work);
        call.await.map(drop)
    }

    fn created(&self, key: ProcessKey, state: GuestProcessState) {
        if self.ledger.created(&key, state) {
            self.wait_for(key);
        }
    }

    /// Beside everything else, until the process or the link ends.
    fn wait_for(&self, key: ProcessKey) {
        let this = self.clone();
        kit::detach(async move {
            if let Some(status) = this.wait(&key).await {
                this.ledger.exited(&key, status);
            }
        });
    }

    /// `None`: the link ended; the next one waits again.
    async fn wait(&self, key: &ProcessKey) -> Option<ExitStatus> {
        let mut request = wire::WaitProcessRequest::new();
        request.container_id = key.0.to_string();
        request.exec_id = exec_id(key);
        let work = self.agent.wait_process(context(), &request);
        match self.link.call("wait", WAIT_MAX, &request, work).await {
            Ok(answer) => Some(judge(answer.status)),
            Err(Error::LinkLost { .. }) => None,
            // The entry was consumed by a wait whose answer never arrived.
            Err(error) => Some(lost(&error.to_string())),
        }
    }
}

fn judge(status: i32) -> ExitStatus {
    let code = u32::try_from(status).ok();
    let code = code.ok_or(Malformed::Range {
        field: "exit code",
        value: status.into(),
        min: 0,
        max: 255,
    });
    match code.and_then(convert::code) {
        Ok(code) => ExitStatus {
            code,
            // A signal is told only by its code.
            reason: match code > 128 {
                true => ExitReason::Signaled,
                false => ExitReason::Exited,
            },
            detail: String::new(),
            at: now(),
        },
        Err(malformed) => lost(&malformed.to_string()),
    }
}

fn lost(why: &str) -> ExitStatus {
    ExitStatus {
        code: CODE_LOST,
        reason: ExitReason::AgentLost,
        detail: format!("its exit status was lost: {why}"),
        at: now(),
    }
}

/// The answer bears no time, and arrives when the process ends.
fn now() -> EpochMs {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    EpochMs(since.map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(0)))
}

/// Where a guest mounts the share.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Share {
    Hutch,
    Stock,
}

impl Share {
    fn mount_point(self) -> &'static str {
        match self {
            Self::Hutch => HUTCH_SHARE,
            Self::Stock => spec::SHARE,
        }
    }
}

/// A stock agent has no streams; its ReadStdout and WriteStdin calls are another port's business.
fn refuse_stream(asked: bool, call: &'static str) -> Result<(), Error> {
    match asked {
        true => Err(Error::Inexpressible {
            call,
            what: "a stdio stream of its own",
        }),
        false => Ok(()),
    }
}
