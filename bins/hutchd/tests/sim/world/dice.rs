//! All chance of a simulated world: the same seed throws the same numbers for ever, whatever
//! happens to anybody's library, so that a seed is a name.

use std::cell::Cell;

/// SplitMix64: small, and good enough to choose by.
#[derive(Debug)]
pub struct Dice(Cell<u64>);

impl Dice {
    pub fn new(seed: u64) -> Self {
        Self(Cell::new(seed))
    }

    /// Dice of their own, so that who throws how often changes nothing for others.
    pub fn fork(&self) -> Self {
        Self::new(self.throw())
    }

    pub fn throw(&self) -> u64 {
        let state = self.0.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
        self.0.set(state);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// From 0 to `bound - 1`.
    pub fn below(&self, bound: u64) -> u64 {
        self.throw() % bound
    }

    pub fn chance(&self, per_mille: u64) -> bool {
        self.below(1000) < per_mille
    }

    pub fn pick<'a, T>(&self, from: &'a [T]) -> &'a T {
        let count = u64::try_from(from.len()).expect("few");
        let chosen = usize::try_from(self.below(count)).expect("below a length");
        &from[chosen]
    }
}
