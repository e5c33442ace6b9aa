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
        let up_to = match self.told.first() {
            Some(first_open) => *self.recorded.range(..first_open).next_back()?,
            None => *self.recorded.last()?,
        };
        self.recorded.retain(|seq| *seq > up_to);
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
    fn the_last_number_that_there_is_counts_too() {
        let mut exits = Exits::default();
        exits.told(u64::MAX);

        assert_eq!(exits.recorded(u64::MAX), Some(u64::MAX));
    }

    #[test]
    fn numbering_may_begin_anywhere_after_a_restart() {
        let mut exits = Exits::default();
        exits.told(41);

        assert_eq!(exits.recorded(41), Some(41));
    }
}
