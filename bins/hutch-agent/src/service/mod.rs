//! The calls of the host: each is checked, done by the agent, and answered.

mod health;
mod kata;
mod status;

use crate::agent::Agent;
use protocols::asynchronous::{agent_ttrpc::create_agent_service, health_ttrpc::create_health};
use std::{collections::HashMap, sync::Arc};
use ttrpc::r#async::Service;

/// What this agent is, as `hutch-agent` reports it.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
/// The second service on the same link.
pub const FEATURE: &str = "hutch.agent.v1";

/// Every service, by its name.
pub fn all(agent: &Arc<Agent>) -> [HashMap<String, Service>; 2] {
    [
        create_health(Arc::new(health::Health)),
        create_agent_service(Arc::new(kata::Kata(agent.clone()))),
    ]
}
