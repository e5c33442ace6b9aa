//! What the agent room's machine hears, asks for, tells and refuses.

use crate::call::Call;
use runtime_core::{
    agent::{AgentDetails, GuestNews, LinkSpec},
    error::{Fault, Kind},
    ids::OpId,
    kit::Waiter,
};
use std::time::Duration;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    // Commands.
    Open {
        waiter: Waiter,
        link: LinkSpec,
    },
    /// Leave the agent alone; it is not to be missed.
    Close,
    /// A call of another room; what it carries stays with the actor.
    Call {
        waiter: Waiter,
        call: Call,
    },
    /// This news and all before it are on the sandbox's record.
    NewsRecorded {
        seq: u64,
    },

    // Completions.
    Looked {
        op: OpId,
        console_bytes: u64,
    },
    Dialed {
        op: OpId,
        outcome: Result<AgentDetails, Fault>,
    },
    Polled {
        op: OpId,
        outcome: Result<Vec<GuestNews>, Fault>,
    },
    Called {
        op: OpId,
        outcome: Result<(), Fault>,
    },

    // Timers, and what happens by itself.
    RetryDue {
        op: OpId,
    },
    PatienceDue {
        op: OpId,
    },
    PatienceLooked {
        op: OpId,
        console_bytes: u64,
    },
    /// What the console had said when patience began.
    PatienceNoted {
        op: OpId,
        console_bytes: u64,
    },
    HungUp {
        op: OpId,
    },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum World {
    /// How much has the console said? Answered by [`Event::Looked`].
    Look {
        op: OpId,
    },
    Dial {
        op: OpId,
        link: LinkSpec,
        deadline: Duration,
    },
    Wait {
        op: OpId,
        delay: Duration,
    },
    /// Look at the console when this has passed.
    Patience {
        op: OpId,
        delay: Duration,
    },
    PatienceLook {
        op: OpId,
    },
    PatienceNote {
        op: OpId,
    },
    /// Say when the link that stands now is down.
    Watch {
        op: OpId,
    },
    Poll {
        op: OpId,
        after: u64,
        wait: Duration,
        deadline: Duration,
    },
    Ack {
        up_to: u64,
        deadline: Duration,
    },
    /// The call whose command this event answers.
    Perform {
        op: OpId,
        deadline: Duration,
    },
    HangUp,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    News(GuestNews),
    Lost { why: Fault },
}

/// For every command: who the agent is that did it.
pub type Answer = Result<AgentDetails, Fault>;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    #[error("{call}: the link to the agent was never opened")]
    Closed { call: Call },
    #[error("{call}: the link to the agent is down and being opened again")]
    Down { call: Call },
    #[error("{call}: the agent was given up: {why}")]
    Lost { call: Call, why: Fault },
    #[error("{call}: {max} calls to this agent are under way already")]
    Busy { call: Call, max: usize },
    #[error("open link: the agent was given up: {why}")]
    GivenUp { why: Fault },
    #[error("open link: {max} rooms wait for it already")]
    Crowded { max: usize },
    #[error("open link: it leads to another guest")]
    OtherGuest,
}

impl From<Denied> for Fault {
    fn from(denied: Denied) -> Self {
        let kind = match &denied {
            Denied::Closed { .. }
            | Denied::Lost { .. }
            | Denied::GivenUp { .. }
            | Denied::OtherGuest => Kind::Denied,
            Denied::Down { .. } => Kind::Unavailable,
            Denied::Busy { .. } | Denied::Crowded { .. } => Kind::Exhausted,
        };
        Fault::new(kind, denied.to_string())
    }
}
