//! Wall-clock time, given by the wiring: machines never read it.

use crate::ids::EpochMs;

pub trait Clock {
    fn now(&self) -> EpochMs;
}
