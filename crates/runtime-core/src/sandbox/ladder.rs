//! How long each step of a start took, for `hutch sandbox inspect` and the bench.

use super::messages::PhaseTook;
use tokio::time::Instant;

/// Steps in their order, from the wish to the first container's running program. What comes
/// later is no part of the start, so a sandbox that lives long keeps no more than this.
#[derive(Debug)]
pub struct Ladder {
    steps: Vec<PhaseTook>,
    place: Place,
}

#[derive(Debug)]
enum Place {
    On { name: &'static str, since: Instant },
    Top,
}

impl Ladder {
    pub fn start(name: &'static str) -> Self {
        let since = Instant::now();
        Self {
            steps: Vec::new(),
            place: Place::On { name, since },
        }
    }

    /// Of a sandbox whose start is over, or was another daemon's.
    pub fn over() -> Self {
        Self {
            steps: Vec::new(),
            place: Place::Top,
        }
    }

    /// The step before it has ended, and this one begins. A step that was taken before is a later
    /// container's.
    pub fn begin(&mut self, name: &'static str) {
        if !self.knows(name) && self.took() {
            let since = Instant::now();
            self.place = Place::On { name, since };
        }
    }

    pub fn finish(&mut self) {
        if self.took() {
            self.place = Place::Top;
            self.steps.shrink_to_fit();
        }
    }

    fn knows(&self, step: &str) -> bool {
        let current = matches!(self.place, Place::On { name, .. } if name == step);
        current || self.steps.iter().any(|taken| taken.name == step)
    }

    /// Notes the step that ends now; says whether there was one.
    fn took(&mut self) -> bool {
        let Place::On { name, since } = self.place else {
            return false;
        };
        let took = since.elapsed();
        self.steps.push(PhaseTook { name, took });
        true
    }

    pub fn steps(&self) -> Vec<PhaseTook> {
        self.steps.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use tokio::time::advance;

    #[tokio::test(start_paused = true)]
    async fn each_step_lasts_until_the_next_and_what_follows_the_start_is_not_counted() {
        let mut ladder = Ladder::start("record");
        advance(Duration::from_millis(2)).await;
        ladder.begin("vmm");
        advance(Duration::from_millis(3)).await;
        ladder.begin("record");
        ladder.finish();
        advance(Duration::from_secs(1)).await;
        ladder.begin("vmm");
        ladder.finish();

        let steps: Vec<_> = ladder
            .steps()
            .into_iter()
            .map(|step| (step.name, step.took.as_millis()))
            .collect();

        assert_eq!(steps, [("record", 2), ("vmm", 3)]);
    }

    #[test]
    fn an_adopted_sandbox_has_no_steps() {
        let mut ladder = Ladder::over();

        ladder.begin("attach");

        assert!(ladder.steps().is_empty());
    }
}
