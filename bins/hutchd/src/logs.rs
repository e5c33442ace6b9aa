//! Structured logs on standard error: text for people, JSON for programs.

use crate::config::{Log, LogFormat};
use anyhow::{Context as _, Result};
use tracing_subscriber::EnvFilter;

/// # Errors
/// The level is not a filter, or logging was set up before.
pub fn start(log: &Log) -> Result<()> {
    let filter = EnvFilter::try_new(&log.level).context("log.level")?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    let started = match log.format {
        LogFormat::Text => builder.with_ansi(false).try_init(),
        LogFormat::Json => builder.json().try_init(),
    };
    started.map_err(|why| anyhow::anyhow!("start logging: {why}"))
}
