//! The calls of the first interface on one link, with a stock agent's habits met.

use super::{
    exits::now,
    household::{Household, Promised},
    ledger::{Ledger, Whence},
    pull::{Pull, context, exec_id},
    spec, stats,
};
use crate::{call::Call, error::Error, rpc::Link};
use protocols::asynchronous::{
    agent as wire, agent_ttrpc::AgentServiceClient, health::CheckRequest,
    health_ttrpc::HealthClient,
};
use runtime_core::{
    agent::{
        Attempt, ContainerStats, CreateContainer, CreateSandbox, Exec, GetStats, GuestNews,
        GuestProcess, GuestProcessState, PauseContainer, RemoveContainer, ResumeContainer, Signal,
        SignalTarget, StartContainer, UpdateContainer, Warnings,
    },
    error::{Classify, Kind},
    ids::{ContainerNumber, EpochMs, ProcessId},
    kit,
};
use std::time::Duration;
use tokio::sync::watch;

/// Between two kills for want of memory: a guest that tells them without end costs little.
const OOM_PAUSE: Duration = Duration::from_millis(5);

/// This agent says nothing of what it cannot honour.
const UNWARNED: Warnings = Warnings::new();

/// The virtiofs tag of the share.
const SHARE_TAG: &str = "hutch";
/// Where our own agent has it.
const HUTCH_SHARE: &str = "/run/hutch/share";

/// An agent that speaks the first interface.
#[derive(Clone)]
pub struct KataCalls {
    link: Link,
    agent: AgentServiceClient,
    household: Household,
}

impl KataCalls {
    pub fn over(link: &Link, household: &Household) -> Self {
        Self {
            link: link.clone(),
            agent: AgentServiceClient::new(link.client()),
            household: household.clone(),
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

    /// From here on everything that lives is read and waited for on this link.
    pub fn serve_household(&self) {
        let pull = Pull::over(&self.link);
        let links = self.household.linked(&pull);
        kit::detach(hear_kills(pull, links, self.household.ledger().clone()));
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

    pub async fn create(
        &self,
        ask: CreateContainer,
        deadline: Duration,
    ) -> Result<Warnings, Error> {
        let name = Call::CreateContainer.name();
        let key = (ask.container, ProcessId::Init);
        let outputs = spec::outputs_of_config(&ask.config_json, name)?;
        let promised = self.household.promise(ask.stream.as_ref(), outputs, name)?;
        let mut request = wire::CreateContainerRequest::new();
        request.container_id = ask.container.to_string();
        request.exec_id = exec_id(&key);
        let (oci, warnings) = spec::spec(&ask, name)?;
        request.OCI = Some(oci).into();
        let work = self.agent.create_container(context(), &request);
        let made = self.link.call(name, deadline, &request, work).await;
        let promised = kept(made, promised)?;
        let (state, whence) = (GuestProcessState::Created, Whence::Made);
        self.household.attend(&key, state, promised, whence);
        Ok(warnings)
    }

    pub async fn start(&self, ask: StartContainer, deadline: Duration) -> Result<(), Error> {
        let mut request = wire::StartContainerRequest::new();
        request.container_id = ask.container.to_string();
        let work = self.agent.start_container(context(), &request);
        let name = Call::StartContainer.name();
        let started = self.link.call(name, deadline, &request, work).await;
        let key = (ask.container, ProcessId::Init);
        match (started, self.household.ledger().whence(&key)) {
            // An earlier daemon may have started it; if it did not, its exit tells.
            (Err(Error::Agent { message, .. }), Some(Whence::Adopted)) => {
                tracing::info!(message, container = %key.0, "taken for started already");
            }
            (Err(error), _) => return Err(error),
            (Ok(_), _) => {}
        }
        self.household.ledger().started(&key);
        Ok(())
    }

    pub async fn exec(&self, ask: Exec, deadline: Duration) -> Result<Warnings, Error> {
        let name = Call::Exec.name();
        let key = (ask.container, ask.process);
        if key.1 == ProcessId::Init {
            let what = "an exec that is the init";
            return Err(Error::Inexpressible { call: name, what });
        }
        // Its execs are in the container's own.
        if !ask.program.is_where_execs_are() {
            let what = "an exec below its container's own cgroup";
            return Err(Error::Inexpressible { call: name, what });
        }
        let outputs = spec::outputs_of_process(&ask.program.process_json, name)?;
        let promised = self.household.promise(ask.stream.as_ref(), outputs, name)?;
        let mut request = wire::ExecProcessRequest::new();
        request.container_id = key.0.to_string();
        request.exec_id = exec_id(&key);
        request.process = Some(spec::exec_process(&ask.program.process_json, name)?).into();
        let work = self.agent.exec_process(context(), &request);
        let made = self.link.call(name, deadline, &request, work).await;
        let promised = kept(made, promised)?;
        let (state, whence) = (GuestProcessState::Running, Whence::Made);
        self.household.attend(&key, state, promised, whence);
        Ok(UNWARNED)
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
        request.exec_id = match &ask.target {
            // To this call alone an empty id is every process.
            SignalTarget::All => String::new(),
            SignalTarget::Process(process) => exec_id(&(ask.container, process.clone())),
        };
        let work = self.agent.signal_process(context(), &request);
        let name = Call::Signal.name();
        // Noted first: the exit may be told before the answer.
        let ledger = self.household.ledger();
        ledger.signaled(ask.container, &ask.target, ask.signal);
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
        self.household.ledger().removed(ask.container);
        Ok(())
    }

    /// The agent refuses what is frozen already. Of a container that an earlier daemon made it is not
    /// known whether it is: it is thawed first.
    pub async fn pause(&self, ask: PauseContainer, deadline: Duration) -> Result<(), Error> {
        let (container, ledger) = (ask.container, self.household.ledger());
        if ledger.is_frozen(container) {
            return Ok(());
        }
        match self.freeze(container, deadline).await {
            Err(Error::Agent { .. }) if self.is_adopted(container) => {
                self.thaw(container, deadline).await?;
                self.freeze(container, deadline).await?;
            }
            outcome => outcome?,
        }
        ledger.froze(container);
        Ok(())
    }

    /// The agent refuses what is not frozen.
    pub async fn resume(&self, ask: ResumeContainer, deadline: Duration) -> Result<(), Error> {
        let (container, ledger) = (ask.container, self.household.ledger());
        let adopted = self.is_adopted(container);
        if !ledger.is_frozen(container) && !adopted {
            return Ok(());
        }
        match self.thaw(container, deadline).await {
            Err(Error::Agent { message, .. }) if adopted => {
                tracing::info!(message, %container, "taken for thawed already");
            }
            outcome => outcome?,
        }
        ledger.thawed(container);
        Ok(())
    }

    fn is_adopted(&self, container: ContainerNumber) -> bool {
        let init = (container, ProcessId::Init);
        self.household.ledger().whence(&init) == Some(Whence::Adopted)
    }

    async fn freeze(&self, container: ContainerNumber, deadline: Duration) -> Result<(), Error> {
        let mut request = wire::PauseContainerRequest::new();
        request.container_id = container.to_string();
        let work = self.agent.pause_container(context(), &request);
        let name = Call::PauseContainer.name();
        let call = self.link.call(name, deadline, &request, work);
        call.await.map(drop)
    }

    async fn thaw(&self, container: ContainerNumber, deadline: Duration) -> Result<(), Error> {
        let mut request = wire::ResumeContainerRequest::new();
        request.container_id = container.to_string();
        let work = self.agent.resume_container(context(), &request);
        let name = Call::ResumeContainer.name();
        let call = self.link.call(name, deadline, &request, work);
        call.await.map(drop)
    }

    pub async fn update(
        &self,
        ask: UpdateContainer,
        deadline: Duration,
    ) -> Result<Warnings, Error> {
        let name = Call::UpdateContainer.name();
        let mut request = wire::UpdateContainerRequest::new();
        request.container_id = ask.container.to_string();
        request.resources = Some(spec::limits(&ask.resources_json, name)?).into();
        let work = self.agent.update_container(context(), &request);
        let call = self.link.call(name, deadline, &request, work);
        call.await.map(|_| UNWARNED)
    }

    pub async fn stats(&self, ask: GetStats, deadline: Duration) -> Result<ContainerStats, Error> {
        let mut request = wire::StatsContainerRequest::new();
        request.container_id = ask.container.to_string();
        let work = self.agent.stats_container(context(), &request);
        let name = Call::Stats.name();
        let answer = self.link.call(name, deadline, &request, work).await?;
        Ok(stats::stats(answer, now()))
    }

    /// What is known here. Of an exec that an earlier daemon asked for the agent says whether it is
    /// there: a signal that is none finds it.
    pub async fn list(&self) -> Result<Vec<GuestProcess>, Error> {
        let ledger = self.household.ledger();
        for key in ledger.unsettled() {
            let probe = Pull::over(&self.link).signal(key.clone(), 0);
            match probe.await {
                Ok(()) => ledger.settled(&key),
                Err(Error::Agent { .. }) => ledger.forget(&key),
                Err(error) => return Err(error),
            }
        }
        Ok(ledger.processes())
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
        let exits = self.household.ledger().next_news(after);
        let exits = tokio::time::timeout(wait, exits);
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
        self.household.ledger().acknowledged(up_to);
    }

    async fn check(&self, deadline: Duration) -> Result<(), Error> {
        let health = HealthClient::new(self.link.client());
        let request = CheckRequest::new();
        let work = health.check(context(), &request);
        let call = self.link.call("check", deadline, &request, work);
        call.await.map(drop)
    }
}

/// What was promised of a process that came to be.
fn kept<T>(made: Result<T, Error>, promised: Option<Promised>) -> Result<Option<Promised>, Error> {
    match (made, promised) {
        (Ok(_), promised) => Ok(promised),
        (Err(error), None) => Err(error),
        (Err(error), Some(promised)) => {
            promised.withdraw();
            Err(error)
        }
    }
}

/// One listener for each link: the agent answers one of those who ask. It ends with its link, and
/// with the household, lest it keep a connection open that nobody else uses.
async fn hear_kills(link: Pull, mut links: watch::Receiver<Option<Pull>>, ledger: Ledger) {
    loop {
        let told = tokio::select! {
            biased;
            _ = links.changed() => return,
            told = link.next_oom() => told,
        };
        let told = match told {
            Ok(told) => told,
            Err(Error::LinkLost { .. }) => return,
            Err(why) => {
                tracing::info!(%why, "the agent tells no kills for want of memory");
                return;
            }
        };
        let container = told.parse().ok().map(ContainerNumber);
        if !container.is_some_and(|container| ledger.oom(container, now())) {
            tracing::debug!("a kill in a container that is not known");
        }
        tokio::select! {
            biased;
            _ = links.changed() => return,
            () = async {
                tokio::time::sleep(OOM_PAUSE).await;
                ledger.room_for_ooms().await;
            } => {}
        }
    }
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
