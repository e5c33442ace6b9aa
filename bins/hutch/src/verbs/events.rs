//! events: what a container uses, as often as asked for, and its kills for want of memory, as runc prints them.

use super::{Place, stats};
use crate::{
    daemon::{Daemon, Refused, soon},
    duration,
    output::print_line,
};
use anyhow::{Result, bail};
use clap::Args;
use protocols::asynchronous::hutch::{NextOomsRequest, NextOomsResponse, StateRequest};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// The daemon waits no longer for a kill.
const WAIT_MAX: Duration = Duration::from_secs(30);

#[derive(Debug, Args)]
pub struct Events {
    /// Between two statistics.
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = duration::parse, allow_hyphen_values = true)]
    pub interval: Duration,
    /// Print the statistics once, and end.
    #[arg(long)]
    pub stats: bool,
    pub id: String,
}

pub fn events(at: &Place, events: &Events) -> Result<u8> {
    duration::check_interval(events.interval)?;
    let mut daemon = at.daemon()?;
    let id = full_id(at, &mut daemon, &events.id)?;
    if events.stats {
        print_line(told("stats", &id, &stats::of(at, &mut daemon, &id)?))?;
        return Ok(0);
    }
    let mut after = 0;
    let mut due = Instant::now() + events.interval;
    loop {
        let wait = due.saturating_duration_since(Instant::now()).min(WAIT_MAX);
        let answer = next_ooms(at, &mut daemon, &id, after, wait)?;
        for oom in &answer.ooms {
            after = after.max(oom.number);
            print_line(json!({"type": "oom", "id": id}))?;
        }
        if answer.over {
            return Ok(0);
        }
        if Instant::now() < due {
            continue;
        }
        match stats::of(at, &mut daemon, &id) {
            Ok(data) => print_line(told("stats", &id, &data))?,
            // It stopped meanwhile, which the next answer says.
            Err(why) if why.is::<Refused>() => {}
            Err(why) => return Err(why),
        }
        due = Instant::now() + events.interval;
    }
}

fn told(kind: &str, id: &str, data: &Value) -> Value {
    json!({"type": kind, "id": id, "data": data})
}

/// Of a container that lives.
fn full_id(at: &Place, daemon: &mut Daemon, id: &str) -> Result<String> {
    let request = StateRequest {
        namespace: at.namespace.clone(),
        container_id: id.to_owned(),
        ..Default::default()
    };
    let state = daemon.ask(async |client| client.state(soon(), &request).await);
    let state = state.map_err(|why| super::unnamed(why, ("state of container", id)))?;
    match state.status.as_str() {
        // runc's words.
        "stopped" => bail!("container with id {} is not running", state.container_id),
        _ => Ok(state.container_id),
    }
}

fn next_ooms(
    at: &Place,
    daemon: &mut Daemon,
    id: &str,
    after: u64,
    wait: Duration,
) -> Result<NextOomsResponse> {
    let request = NextOomsRequest {
        namespace: at.namespace.clone(),
        container_id: id.to_owned(),
        after,
        wait_ms: u32::try_from(wait.as_millis()).unwrap_or(u32::MAX),
        ..Default::default()
    };
    match daemon.ask(async |client| client.next_ooms(soon(), &request).await) {
        // Deleted meanwhile: nothing more will come.
        Err(why) if stats::is_gone(&why) => Ok(NextOomsResponse {
            over: true,
            ..Default::default()
        }),
        answer => answer,
    }
}
