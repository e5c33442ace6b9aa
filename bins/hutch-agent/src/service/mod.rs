//! The calls of the host: each is checked, done by the agent, and answered.

mod convert;
mod health;
mod hutch;
mod kata;
mod status;

use crate::{agent::Agent, cmdline::Features, error::Error};
use protocols::asynchronous::{
    agent_ttrpc::create_agent_service, health_ttrpc::create_health, hutch_agent_ttrpc::create_agent,
};
use std::{collections::HashMap, future::Future, sync::Arc};
use ttrpc::r#async::Service;

/// What this agent is, as `hutch-agent` reports it.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
/// The second service on the same link.
pub const FEATURE: &str = "hutch.agent.v1";
/// Of that service, what its first versions did not know: an exec has a cgroup below its container's own.
pub const PLACES_EXECS: &str = "hutch.places-execs";

/// Every service that is offered, by its name.
pub fn all(agent: &Arc<Agent>) -> Vec<HashMap<String, Service>> {
    let mut services = vec![
        create_health(Arc::new(health::Health)),
        create_agent_service(Arc::new(kata::Kata(agent.clone()))),
    ];
    match agent.features() {
        Features::All => services.push(create_agent(Arc::new(hutch::Hutch(agent.clone())))),
        Features::Stock => {}
    }
    services
}

/// Runs a call to its end, even if its host goes away meanwhile: what has begun in the world
/// is finished or taken back.
async fn whole<T: Send + 'static>(
    call: impl Future<Output = Result<T, Error>> + Send + 'static,
) -> Result<T, Error> {
    match tokio::spawn(call).await {
        Ok(done) => done,
        Err(panicked) => std::panic::resume_unwind(panicked.into_panic()),
    }
}
