//! What the room needs of the world: network namespaces with a name in the file system.

use crate::error::Error;
use runtime_core::kit::Work;
use std::path::PathBuf;

/// Operations on one path happen one after another, in the order in which they were begun, also
/// when nobody waits for the first any more: so what a room that panicked had begun is over
/// before its successor's next step. One port serves all rooms of a daemon.
pub trait Namespaces {
    /// A network namespace at `path`, with loopback up. One that is there already is kept as it
    /// is. The folder must be there; at `path` there may be what an earlier `make` that was cut
    /// short left, and nothing else.
    fn make(&self, path: PathBuf) -> Work<Result<(), Error>>;

    /// No namespace and no file at `path`: done or already so. Who is inside stays inside. What
    /// `make` cannot have left there is not touched and is an error.
    fn remove(&self, path: PathBuf) -> Work<Result<(), Error>>;

    /// Is there a network namespace at `path`? Links are followed: a caller names its own.
    fn check(&self, path: PathBuf) -> Work<Result<(), Error>>;
}
