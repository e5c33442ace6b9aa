//! The ports of this room, at the cut of typed calls: what simulation replaces, and what a real
//! link implements. No decision is taken behind them but how a call travels.

use runtime_core::{
    agent::{
        Adopt, AgentDetails, ContainerStats, CreateContainer, CreateSandbox, Exec, GetPids,
        GetStats, GuestNews, GuestPid, GuestProcess, LinkSpec, ListProcesses, PauseContainer,
        RemoveContainer, RemoveEmpty, ResumeContainer, SetClock, Signal, StartContainer,
        UpdateContainer, Warnings,
    },
    error::Fault,
    kit::Work,
};
use std::time::Duration;

/// What a call yields.
pub type Answer<T> = Work<Result<T, Fault>>;

/// The agent of one guest. It has at most one link; a call without one, and a call whose link
/// breaks, fails with `Unavailable`. Every call ends by its deadline, with `Timeout`; it may have
/// been carried out all the same.
pub trait AgentPort {
    /// One attempt to reach the agent and to learn who it is. It replaces the link that there
    /// was. A link that stands has proven that it brings exits.
    fn dial(&self, link: LinkSpec, deadline: Duration) -> Answer<AgentDetails>;

    /// Answers when the link that stands now is down; at once without one.
    fn hung_up(&self) -> Work<()>;

    /// Drops the link; calls in flight fail at once.
    fn hang_up(&self);

    fn create_sandbox(&self, ask: CreateSandbox, deadline: Duration) -> Answer<()>;

    /// A process that an earlier daemon made, before or after the link to its guest stands.
    fn adopt(&self, ask: Adopt);

    /// Of a guest that stood still.
    fn set_clock(&self, ask: SetClock, deadline: Duration) -> Answer<()>;
    fn create_container(&self, ask: CreateContainer, deadline: Duration) -> Answer<Warnings>;
    fn start_container(&self, ask: StartContainer, deadline: Duration) -> Answer<()>;
    fn exec(&self, ask: Exec, deadline: Duration) -> Answer<Warnings>;
    fn signal(&self, ask: Signal, deadline: Duration) -> Answer<()>;

    /// A container that the guest does not know is already removed.
    fn remove_container(&self, ask: RemoveContainer, deadline: Duration) -> Answer<()>;

    /// Removes it if nothing lives in it and nothing is being made in it; whether it is removed, or was already. A
    /// stock agent cannot tell, and removes none.
    fn remove_empty(&self, ask: RemoveEmpty, deadline: Duration) -> Answer<bool>;

    /// Answers when every process of the container is frozen.
    fn pause_container(&self, ask: PauseContainer, deadline: Duration) -> Answer<()>;
    fn resume_container(&self, ask: ResumeContainer, deadline: Duration) -> Answer<()>;
    /// All of the limits, or none.
    fn update_container(&self, ask: UpdateContainer, deadline: Duration) -> Answer<Warnings>;
    fn stats(&self, ask: GetStats, deadline: Duration) -> Answer<ContainerStats>;
    fn list(&self, ask: ListProcesses, deadline: Duration) -> Answer<Vec<GuestProcess>>;
    fn pids(&self, ask: GetPids, deadline: Duration) -> Answer<Vec<GuestPid>>;

    /// News numbered above `after`, oldest first, without gaps; waits up to `wait` for the first.
    fn next_news(&self, after: u64, wait: Duration, deadline: Duration) -> Answer<Vec<GuestNews>>;

    /// The guest may forget all news up to this number.
    fn ack_news(&self, up_to: u64, deadline: Duration) -> Answer<()>;
}

/// Signs of life of a guest that is not yet on the link.
pub trait Signs {
    /// How much its console has said. Only whether it changes matters: whoever bounds the console
    /// may shorten it.
    fn console_bytes(&self) -> Work<u64>;
}
