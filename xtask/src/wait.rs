//! Waiting for something to become true, with a limit.

use std::time::{Duration, Instant};

/// Short against what is waited for (processes, boots), long against what a look costs.
const LOOK_PERIOD: Duration = Duration::from_millis(10);

/// Looks at a level until it holds or `limit` is over; says whether it holds. An edge could be missed between two looks.
pub fn wait_until(mut level: impl FnMut() -> bool, limit: Duration) -> bool {
    let started = Instant::now();
    loop {
        if level() {
            return true;
        }
        if started.elapsed() >= limit {
            return false;
        }
        std::thread::park_timeout(LOOK_PERIOD);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_that_comes_to_hold_ends_the_wait() {
        let mut looks = 0;

        let held = wait_until(
            || {
                looks += 1;
                looks == 3
            },
            Duration::from_secs(60),
        );

        assert!(held);
        assert_eq!(looks, 3);
    }

    #[test]
    fn a_level_that_never_holds_is_given_up_after_the_limit() {
        let started = Instant::now();

        assert!(!wait_until(|| false, Duration::from_millis(30)));

        assert!(started.elapsed() >= Duration::from_millis(30));
    }
}
