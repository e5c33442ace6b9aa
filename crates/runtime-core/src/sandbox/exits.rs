//! Which exits the guest may forget: those up to which every one is on record.

use std::collections::BTreeSet;

/// The numbers of exits that the guest told and that are not on record yet.
#[derive(Debug, Default)]
pub struct Exits {
    told: BTreeSet<u64>,
    recorded: BTreeSet<u64>,
}

impl Exits {
    pub fn told(&mut self, seq: u64) {
        if !self.recorded.contains(&seq) {
            self.told.insert(seq);
        }
    }

    /// The number up to which the guest may forget, when it has grown.
    pub fn recorded(&mut self, seq: u64) -> Option<u64> {
        self.told.remove(&seq);
        self.recorded.insert(seq);
        let first_open = self.told.first().copied().unwrap_or(u64::MAX);
        let up_to = *self.recorded.range(..first_open).next_back()?;
        self.recorded = self.recorded.split_off(&(up_to + 1));
        Some(up_to)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_guest_forgets_nothing_that_is_not_on_record() {
        let mut exits = Exits::default();
        for seq in 1..=3 {
            exits.told(seq);
        }

        assert_eq!(exits.recorded(2), None);
        assert_eq!(exits.recorded(1), Some(2));
        assert_eq!(exits.recorded(3), Some(3));
    }

    #[test]
    fn numbering_may_begin_anywhere_after_a_restart() {
        let mut exits = Exits::default();
        exits.told(41);

        assert_eq!(exits.recorded(41), Some(41));
    }
}
