//! Looks at paths that callers name, beside the daemon's own thread.
//!
//! Such a path may lie on a file system that does not answer (NFS without its server, FUSE without its daemon), and then
//! the thread that looks hangs in the kernel, for ever perhaps. The daemon has one thread for everybody: it waits for a
//! look no longer than a bound, and leaves the thread that hangs alone.

use runtime_core::{
    container::ContainerSpec,
    error::{Fault, Kind},
    host::RootKind,
};
use std::{path::Path, sync::Arc, time::Duration};
use tokio::{sync::Semaphore, task::spawn_blocking, time::timeout};

/// A disk that has to spin up, or a server that is asked again, answers in seconds; a caller waits for longer than this
/// for no good reason.
const LOOK_MAX: Duration = Duration::from_secs(10);
/// Half of the threads that tokio has for what blocks: however many looks hang, the others serve the rest of the daemon.
const LOOKS_MAX: usize = 256;

/// Whoever looks; clones share the bound.
#[derive(Debug, Clone)]
pub struct Lookout {
    permits: Arc<Semaphore>,
    limit: Duration,
}

impl Default for Lookout {
    /// As many looks at once as the daemon can afford, each for 10 s at most.
    fn default() -> Self {
        Self::new(LOOKS_MAX, LOOK_MAX)
    }
}

impl Lookout {
    fn new(looks_max: usize, limit: Duration) -> Self {
        Self {
            permits: Arc::new(Semaphore::new(looks_max)),
            limit,
        }
    }

    /// What `look` finds, which may hang; `what` says what is looked at.
    ///
    /// # Errors
    /// `Timeout`: it does not answer. `Exhausted`: too many others do not.
    pub async fn look<T: Send + 'static>(
        &self,
        what: &str,
        look: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Fault> {
        let permit = self.permits.clone().try_acquire_owned().map_err(|_| {
            let why = "too many looks at other paths have no answer yet; does a file system hang?";
            Fault::new(Kind::Exhausted, why).during(format!("look at {what}"))
        })?;
        let looking = spawn_blocking(move || {
            // It goes when the look is over, not when nobody waits for it any more.
            let _permit = permit;
            look()
        });
        match timeout(self.limit, looking).await {
            Ok(Ok(found)) => Ok(found),
            Ok(Err(panicked)) => std::panic::resume_unwind(panicked.into_panic()),
            Err(_) => {
                let why = format!(
                    "no answer in {} s; does its file system hang?",
                    self.limit.as_secs()
                );
                Err(Fault::new(Kind::Timeout, why).during(format!("look at {what}")))
            }
        }
    }

    /// What the root of a container is. One that is not there is a directory's: the devices room will say that it is
    /// missing.
    ///
    /// # Errors
    /// As [`Lookout::look`].
    pub async fn root(&self, spec: &ContainerSpec) -> Result<RootKind, Fault> {
        let rootfs = spec.rootfs.clone();
        let what = format!("root.path {}", rootfs.display());
        self.look(&what, move || root_kind(&rootfs)).await
    }
}

fn root_kind(path: &Path) -> RootKind {
    match path.metadata() {
        Ok(found) if !found.is_dir() => RootKind::Image,
        Ok(_) | Err(_) => RootKind::Directory,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{fs, sync::mpsc};

    #[test]
    fn a_file_or_a_device_is_an_image_and_all_else_a_directory() {
        let place = tempfile::tempdir().unwrap();
        let image = place.path().join("image");
        fs::write(&image, "").unwrap();

        assert_eq!(root_kind(&image), RootKind::Image);
        assert_eq!(root_kind(Path::new("/dev/null")), RootKind::Image);
        assert_eq!(root_kind(place.path()), RootKind::Directory);
        assert_eq!(root_kind(&place.path().join("none")), RootKind::Directory);
    }

    #[tokio::test]
    async fn a_look_that_hangs_is_not_waited_for_and_counts_until_it_is_over() {
        let lookout = Lookout::new(1, Duration::ZERO);
        let (answer, hangs) = mpsc::channel::<()>();

        let hung = lookout
            .look("root.path /nfs/web", move || hangs.recv().is_err())
            .await;
        let next = lookout.look("root.path /web", || ()).await;

        let hung = hung.unwrap_err();
        assert_eq!(hung.kind(), Kind::Timeout);
        let said = "look at root.path /nfs/web: no answer in 0 s";
        assert!(hung.to_string().starts_with(said), "{hung}");
        let next = next.unwrap_err();
        assert_eq!(next.kind(), Kind::Exhausted);
        let said = "look at root.path /web: too many looks";
        assert!(next.to_string().starts_with(said), "{next}");

        drop(answer);
        let free = lookout.permits.acquire().await;
        assert!(free.is_ok(), "its place is another's when it is over");
    }

    #[tokio::test]
    async fn the_thread_of_the_daemon_goes_on_while_a_look_hangs() {
        let lookout = Lookout::new(2, LOOK_MAX);
        let (answer, hangs) = mpsc::channel::<u8>();

        let slow = lookout.look("root.path /nfs/web", move || hangs.recv().unwrap());
        // One thread has both of these: the second runs only because the first does not hold it up.
        let (slow, quick) = tokio::join!(slow, async {
            let quick = lookout.look("root.path /web", || 1).await;
            answer.send(2).unwrap();
            quick
        });

        assert_eq!((slow.unwrap(), quick.unwrap()), (2, 1));
    }
}
