//! stop and wait: a container's end, asked for or waited for.

use super::{Place, fresh_key, kill::signal_number, relay::exit};
use crate::{
    daemon::{Daemon, soon_after},
    duration,
    output::print,
};
use anyhow::{Result, bail};
use clap::Args;
use protocols::asynchronous::hutch::StopRequest;
use std::time::Duration;

#[derive(Debug, Args)]
pub struct Stop {
    /// Asks its init to end; SIGTERM unless another is named.
    #[arg(short, long, value_name = "SIGNAL", default_value = "SIGTERM")]
    pub signal: String,
    /// Send SIGKILL after this long if it still runs.
    #[arg(short, long, value_name = "DURATION", default_value = "10s", value_parser = duration::parse, allow_hyphen_values = true)]
    pub time: Duration,
    pub id: String,
}

/// Returns when it has ended, also before.
pub fn stop(at: &Place, stop: &Stop) -> Result<u8> {
    let signal = signal_number(&stop.signal)?;
    if signal == 0 {
        bail!("signal 0 asks nobody to end");
    }
    let request = StopRequest {
        key: fresh_key(),
        namespace: at.namespace.clone(),
        container_id: stop.id.clone(),
        signal,
        patience_ms: u64::try_from(stop.time.as_millis()).unwrap_or(u64::MAX),
        ..Default::default()
    };
    let mut daemon: Daemon = at.daemon()?;
    daemon.ask(async |client| client.stop(soon_after(stop.time), &request).await)?;
    Ok(0)
}

/// Prints what its init exited with, now or later.
pub fn wait(at: &Place, id: &str) -> Result<u8> {
    let exit = exit(&mut at.daemon()?, at.process(id, ""))?;
    print(&format!("{}\n", exit.code))?;
    Ok(0)
}
