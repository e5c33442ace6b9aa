//! Which signals were delivered, by the keys under which the host sent them: a host that was
//! restarted sends again what it does not know to have arrived.
//!
//! Pure; it delivers nothing.

use std::collections::VecDeque;

/// A host asks again within the seconds that its restart takes; so many signals may come meanwhile.
const KEPT_MAX: usize = 256;
/// A host's keys are UUIDs. A longer one is not kept, and so delivered each time.
const KEY_BYTES_MAX: usize = 128;

/// Keys, oldest first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Delivered(VecDeque<String>);

impl Delivered {
    /// Whether a signal under this key is still to be delivered; the second one is not.
    pub fn is_new(&mut self, key: &str) -> bool {
        if self.0.iter().any(|known| known == key) {
            return false;
        }
        if key.len() <= KEY_BYTES_MAX {
            if self.0.len() == KEPT_MAX {
                self.0.pop_front();
            }
            self.0.push_back(key.to_owned());
        }
        true
    }

    /// It could not be delivered, so that it may come again.
    pub fn undone(&mut self, key: &str) {
        self.0.retain(|known| known != key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_new_once() {
        let mut delivered = Delivered::default();

        assert!(delivered.is_new("a"));
        assert!(!delivered.is_new("a"));
        assert!(delivered.is_new("b"));
    }

    #[test]
    fn a_signal_that_failed_may_come_again() {
        let mut delivered = Delivered::default();
        delivered.is_new("a");

        delivered.undone("a");

        assert!(delivered.is_new("a"));
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let mut delivered = Delivered::default();
        for n in 0..=KEPT_MAX {
            delivered.is_new(&n.to_string());
        }
        delivered.is_new(&"k".repeat(KEY_BYTES_MAX + 1));

        assert_eq!(delivered.0.len(), KEPT_MAX);
        assert!(delivered.is_new("0"), "the oldest was forgotten");
        assert!(!delivered.is_new(&KEPT_MAX.to_string()));
    }
}
