//! How a step of the set-up fails: what was being done, to what, and the kernel's number.

use crate::engine::plan::Failure;
use rustix::io::Errno;

pub type Outcome<T> = Result<T, Failure>;

/// Says what was being done when a system call failed.
pub trait Doing<T> {
    /// # Errors
    /// The failure, with its step.
    fn doing(self, step: impl FnOnce() -> String) -> Outcome<T>;
}

impl<T> Doing<T> for Result<T, Errno> {
    fn doing(self, step: impl FnOnce() -> String) -> Outcome<T> {
        self.map_err(|errno| Failure::Step {
            step: step(),
            errno: errno.raw_os_error(),
        })
    }
}

/// A descriptor that the plan counts on.
pub fn expected<T>(fd: Option<T>, what: &str) -> Outcome<T> {
    fd.ok_or_else(|| Failure::Invalid {
        what: "receive the plan".to_owned(),
        why: format!("no descriptor of {what} came with it"),
    })
}
