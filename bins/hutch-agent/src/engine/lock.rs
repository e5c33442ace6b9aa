//! Locks of the engine.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Every change under these locks is one step, so what a panic left behind is whole.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
