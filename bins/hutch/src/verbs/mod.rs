//! The verbs. Each returns the exit code, or the error that becomes one.

pub mod console;
pub mod doctor;
pub mod events;
pub mod exec;
pub mod features;
pub mod freeze;
pub mod kill;
pub mod lifecycle;
pub mod look;
pub mod pages;
pub mod ps;
pub mod relay;
pub mod sandbox;
pub mod spec;
pub mod stats;
pub mod stop;
pub mod top;
pub mod update;

use crate::{daemon::Daemon, log::Log};
use anyhow::{Result, anyhow};
use protocols::asynchronous::hutch::ProcessRef;
use std::{path::PathBuf, rc::Rc, time::Instant};

/// Which daemon, whose ids, and where to say what is no output.
#[derive(Clone)]
pub struct Place {
    pub root: PathBuf,
    pub namespace: String,
    pub log: Rc<Log>,
}

impl Place {
    /// # Errors
    /// No daemon runs, and none can be started.
    pub fn daemon(&self) -> Result<Daemon> {
        let begun = Instant::now();
        let daemon = Daemon::connect(&self.root)?;
        let (version, root) = (daemon.version(), daemon.root().display());
        let took = begun.elapsed().as_millis();
        self.log.debug(&format!(
            "reached hutchd {version} of {root} after {took} ms"
        ));
        Ok(daemon)
    }

    pub fn process(&self, container: &str, exec: &str) -> ProcessRef {
        ProcessRef {
            namespace: self.namespace.clone(),
            container_id: container.to_owned(),
            exec_id: exec.to_owned(),
            ..Default::default()
        }
    }
}

/// What the daemon said of a question that a verb asks on its way, without the question's own name: whoever asked for
/// the verb hears of that.
fn unnamed(why: anyhow::Error, (asked, id): (&str, &str)) -> anyhow::Error {
    let text = format!("{why:#}");
    let named = format!("{asked} {id:?}: ");
    anyhow!("{}", text.strip_prefix(&named).unwrap_or(&text))
}

/// A fresh idempotency key.
pub fn fresh_key() -> String {
    uuid::Uuid::new_v4().to_string()
}
