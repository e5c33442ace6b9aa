//! The port on Linux: a namespace is made by a thread of its own and kept by a bind mount.
//!
//! It must not fork, for the daemon has threads; and a thread that entered a namespace must not
//! go back to a pool. So each `make` has a thread that ends with it. The mount comes last: a
//! namespace that is found at its path has its loopback up.

use crate::{
    error::{Doing, Error},
    loopback,
    nsfs::{self, Found, fail},
    port::Namespaces,
};
use nix::sched::{CloneFlags, unshare};
use runtime_core::kit::Work;
use rustix::{
    fs::{CWD, Mode, OFlags, openat, unlink},
    io::Errno,
    mount::{MountPropagationFlags, UnmountFlags, mount_bind, mount_change, unmount},
};
use std::{
    path::{Path, PathBuf},
    sync::Arc,
    thread,
};
use tokio::sync::{Mutex, oneshot};

/// Two daemons that made one namespace at the same time would leave two; more is not our doing.
const MOUNTS_MAX: usize = 8;

/// Only the thread that moved sees its namespace here; proc(5).
const OWN_NETWORK: &str = "/proc/thread-self/ns/net";

/// The namespaces of this host.
#[derive(Debug, Clone, Default)]
pub struct Host {
    /// Who comes first goes first. The kernel makes namespaces one at a time in any case.
    turn: Arc<Mutex<()>>,
}

impl Namespaces for Host {
    fn make(&self, path: PathBuf) -> Work<Result<(), Error>> {
        self.run(path, make)
    }

    fn remove(&self, path: PathBuf) -> Work<Result<(), Error>> {
        self.run(path, remove)
    }

    fn check(&self, path: PathBuf) -> Work<Result<(), Error>> {
        // A path of the caller's may lie on a file system that hangs: nobody waits behind it.
        Box::pin(async move { on_a_thread(path, nsfs::check).await })
    }
}

impl Host {
    fn run(&self, path: PathBuf, work: fn(&Path) -> Result<(), Error>) -> Work<Result<(), Error>> {
        let turn = self.turn.clone().lock_owned();
        Box::pin(async move {
            let turn = turn.await;
            // The turn ends with the thread, also if nobody waits for it any more.
            let work = move |path: &Path| {
                let _turn = turn;
                work(path)
            };
            on_a_thread(path, work).await
        })
    }
}

async fn on_a_thread(
    path: PathBuf,
    work: impl FnOnce(&Path) -> Result<(), Error> + Send + 'static,
) -> Result<(), Error> {
    let (tell, told) = oneshot::channel();
    let at = path.clone();
    let thread = thread::Builder::new().name("netns".into());
    let started = thread.spawn(move || {
        // Nobody waits for it any more when the daemon ends.
        let _ = tell.send(work(&at));
    });
    if let Err(source) = started {
        return Err(Error::Thread { path, source });
    }
    let outcome = told.await;
    outcome.unwrap_or(Err(Error::WorkPanicked { path }))
}

fn make(path: &Path) -> Result<(), Error> {
    match nsfs::look(path)? {
        Found::Network => return leave_out(path),
        Found::Other => return Err(Error::Occupied { path: path.into() }),
        Found::EmptyFile => {}
        Found::Nothing => make_file(path)?,
    }
    unshare(CloneFlags::CLONE_NEWNET).map_err(|source| Error::Unshare {
        path: path.into(),
        source: source.into(),
    })?;
    loopback::up().map_err(|source| Error::Loopback {
        path: path.into(),
        source: source.into(),
    })?;
    mount_bind(OWN_NETWORK, path).map_err(fail(Doing::Bind, path))?;
    leave_out(path)
}

/// Of recursive binds (mount_namespaces(7)): whoever binds the host's root would hold the namespace too, and its file
/// could not be removed before that is gone.
fn leave_out(path: &Path) -> Result<(), Error> {
    mount_change(path, MountPropagationFlags::UNBINDABLE).map_err(fail(Doing::SetPropagation, path))
}

fn make_file(path: &Path) -> Result<(), Error> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let made = openat(CWD, path, flags, Mode::RUSR | Mode::WUSR);
    made.map(drop).map_err(fail(Doing::MakeFile, path))
}

fn remove(path: &Path) -> Result<(), Error> {
    for _ in 0..MOUNTS_MAX {
        match nsfs::look(path)? {
            Found::Nothing => return Ok(()),
            Found::Other => return Err(Error::Occupied { path: path.into() }),
            Found::EmptyFile => {
                return unlink(path)
                    .or_else(|why| {
                        if why == Errno::NOENT {
                            Ok(())
                        } else {
                            Err(why)
                        }
                    })
                    .map_err(fail(Doing::RemoveFile, path));
            }
            Found::Network => {
                let flags = UnmountFlags::DETACH | UnmountFlags::NOFOLLOW;
                unmount(path, flags).map_err(fail(Doing::Unmount, path))?;
            }
        }
    }
    Err(Error::Stacked {
        path: path.into(),
        max: MOUNTS_MAX,
    })
}
