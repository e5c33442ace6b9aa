//! How long each step of a start took, for `hutch sandbox inspect` and the bench.

use super::messages::PhaseTook;
use tokio::time::Instant;

/// Steps in their order; the last one is still running.
#[derive(Debug, Default)]
pub struct Ladder {
    steps: Vec<PhaseTook>,
    running: Option<(&'static str, Instant)>,
}

impl Ladder {
    /// The step before it has ended, and this one begins.
    pub fn begin(&mut self, name: &'static str) {
        self.end();
        self.running = Some((name, Instant::now()));
    }

    pub fn end(&mut self) {
        if let Some((name, since)) = self.running.take() {
            let took = since.elapsed();
            self.steps.push(PhaseTook { name, took });
        }
    }

    pub fn steps(&self) -> Vec<PhaseTook> {
        self.steps.clone()
    }
}
