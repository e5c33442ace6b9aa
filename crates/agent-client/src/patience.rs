//! How long a guest may stay away: a budget of silence that its console renews.

use runtime_core::{
    error::{Fault, Kind},
    hypervisor::Accelerator,
    ids::OpId,
};
use std::time::Duration;

/// Without a word on the console. A boot takes 0.2 s with KVM and 1.5 s under emulation, with this
/// times six: twenty of either.
const BUDGET: Duration = Duration::from_secs(5);
/// A guest that talks for so many budgets and never answers loops, or has no agent.
pub const BUDGETS_MAX: u32 = 6;

/// Runs from the opening, or from the loss of a link, to the next one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Patience {
    op: OpId,
    accelerator: Accelerator,
    /// `None`: not looked yet.
    console_bytes: Option<u64>,
    budgets: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The guest stirred: it gets one more budget.
    GoOn,
    GiveUp,
}

impl Patience {
    /// `op` names it; its first budget begins now.
    pub fn begin(op: OpId, accelerator: Accelerator) -> Self {
        Self {
            op,
            accelerator,
            console_bytes: None,
            budgets: 1,
        }
    }

    pub fn op(&self) -> OpId {
        self.op
    }

    /// What one budget lasts.
    pub fn budget(&self) -> Duration {
        BUDGET * self.accelerator.patience()
    }

    /// What the console had said when patience began: by a guest that booted long ago, much.
    pub fn noted(&mut self, console_bytes: u64) {
        self.console_bytes = self.console_bytes.or(Some(console_bytes));
    }

    /// A budget has passed, and the console has said so much. It may have said less than before:
    /// whoever bounds it cuts it.
    pub fn spent(&mut self, console_bytes: u64) -> Verdict {
        if self.console_bytes == Some(console_bytes) || self.budgets == BUDGETS_MAX {
            return Verdict::GiveUp;
        }
        self.console_bytes = Some(console_bytes);
        self.budgets += 1;
        Verdict::GoOn
    }

    /// What the guest is given up with. `last` is why the last dial failed.
    pub fn fault(&self, last: Option<&Fault>) -> Fault {
        let seconds = (self.budget() * self.budgets).as_secs();
        let how = self.accelerator.name();
        let what = format!("no answer from agent in {seconds} s ({how})");
        match last {
            // Silence says nothing that the line does not.
            Some(last) if last.kind() != Kind::Timeout => {
                Fault::new(Kind::Timeout, last.to_string()).during(what)
            }
            Some(_) | None => Fault::new(Kind::Timeout, what),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_silent_guest_has_one_budget() {
        let mut patience = Patience::begin(OpId(1), Accelerator::Tcg);
        patience.noted(7000);

        assert_eq!(patience.spent(7000), Verdict::GiveUp);
        assert_eq!(
            patience.fault(None).to_string(),
            "no answer from agent in 30 s (tcg)"
        );
    }

    #[test]
    fn a_guest_that_talks_is_given_more_but_not_for_ever() {
        let mut patience = Patience::begin(OpId(1), Accelerator::Kvm);

        let verdicts: Vec<Verdict> = (1..=6).map(|n| patience.spent(n * 100)).collect();

        assert_eq!(verdicts[..5], [Verdict::GoOn; 5]);
        assert_eq!(verdicts[5], Verdict::GiveUp);
        assert!(patience.fault(None).to_string().contains("30 s (kvm)"));
    }

    #[test]
    fn a_note_that_comes_after_a_look_changes_nothing() {
        let mut patience = Patience::begin(OpId(1), Accelerator::Kvm);
        patience.spent(100);
        let before = patience.clone();

        patience.noted(50);

        assert_eq!(patience, before);
    }

    #[test]
    fn a_console_that_was_cut_has_stirred() {
        let mut patience = Patience::begin(OpId(1), Accelerator::Kvm);
        patience.spent(1000);

        assert_eq!(patience.spent(10), Verdict::GoOn);
        assert_eq!(patience.spent(10), Verdict::GiveUp);
    }

    #[test]
    fn the_cause_is_told_unless_it_is_silence_too() {
        let patience = Patience::begin(OpId(1), Accelerator::Kvm);
        let refused = Fault::new(Kind::Unavailable, "connect to s: refused");
        let silent = Fault::new(Kind::Timeout, "no answer from s");

        let told = patience.fault(Some(&refused));
        let plain = patience.fault(Some(&silent));

        assert_eq!(told.kind(), Kind::Timeout);
        assert_eq!(
            told.to_string(),
            "no answer from agent in 5 s (kvm): connect to s: refused"
        );
        assert_eq!(plain.to_string(), "no answer from agent in 5 s (kvm)");
    }
}
