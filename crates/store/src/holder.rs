//! Who holds the store: a locked file beside it that names the holder.
//!
//! The lock is the truth (the kernel drops it with the process); the text in the file only says
//! whom to look for. A forked child shares the lock until it execs, so a lock whose named holder
//! is dead is waited for, with a limit.

use crate::{Error, Step};
use serde::{Deserialize, Serialize};
use std::{
    fmt,
    fs::{self, File, TryLockError},
    io::{self, Read, Seek, SeekFrom, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

/// A child between fork and exec of a killed daemon lives for milliseconds; two seconds outlast
/// it on a machine that is very busy.
const ORPHANED_LOCK_WAIT: Duration = Duration::from_secs(2);
const ORPHANED_LOCK_POLL: Duration = Duration::from_millis(5);
/// A holder file has one line; more is not ours.
const HOLDER_BYTES_MAX: u64 = 16 * 1024;

/// The process that holds a store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    pub pid: u32,
    /// Field 22 of /proc/PID/stat: with the boot id it makes the pid unambiguous.
    pub start_time: u64,
    pub boot_id: String,
    pub command: String,
}

/// The lock, held as long as this value lives.
#[derive(Debug)]
pub(crate) struct Lock {
    _file: File,
}

impl Holder {
    fn this_process() -> io::Result<Self> {
        let pid = std::process::id();
        let command = fs::read("/proc/self/cmdline")?
            .split(|byte| *byte == 0)
            .filter(|word| !word.is_empty())
            .map(String::from_utf8_lossy)
            .collect::<Vec<_>>()
            .join(" ");
        Ok(Self {
            pid,
            start_time: proc::start_time(pid)?.unwrap_or_default(),
            boot_id: proc::boot_id()?,
            command,
        })
    }

    fn is_alive(&self) -> bool {
        proc::boot_id().is_ok_and(|boot| boot == self.boot_id)
            && proc::start_time(self.pid).is_ok_and(|start| start == Some(self.start_time))
    }
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "process {} ({})", self.pid, self.command)
    }
}

impl Lock {
    /// Takes the lock of the store at `store` and names this process in it.
    ///
    /// # Errors
    /// [`Error::Held`] names who has it.
    pub(crate) fn take(store: &Path) -> Result<Self, Error> {
        let failed = |step| {
            move |source| Error::Open {
                path: store.to_owned(),
                step,
                source: Arc::new(source),
            }
        };
        let mut file = fs::OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(holder_path(store))
            .map_err(failed(Step::TakeLock))?;
        lock_when_orphaned(&file, || read_holder(&mut &file))
            .map_err(failed(Step::TakeLock))?
            .map_err(|holder| match holder {
                Some(holder) => Error::Held {
                    path: store.to_owned(),
                    holder,
                },
                None => Error::HeldByUnknown {
                    path: store.to_owned(),
                },
            })?;
        name_holder(&mut file).map_err(failed(Step::NameHolder))?;
        Ok(Self { _file: file })
    }
}

/// Waits until nobody holds `file`'s lock, which a forked child of a dead holder may for a
/// moment; leaves it unlocked. True if it came free.
pub(crate) fn came_free(file: &File) -> io::Result<bool> {
    let free = lock_when_orphaned(file, || None)?.is_ok();
    file.unlock()?;
    Ok(free)
}

/// The inner error is the living holder, if it is named.
fn lock_when_orphaned(
    file: &File,
    mut holder: impl FnMut() -> Option<Holder>,
) -> io::Result<Result<(), Option<Holder>>> {
    let limit = Instant::now() + ORPHANED_LOCK_WAIT;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(Ok(())),
            Err(TryLockError::Error(error)) => return Err(error),
            Err(TryLockError::WouldBlock) => {
                let named = holder();
                if named.as_ref().is_some_and(Holder::is_alive) || Instant::now() >= limit {
                    return Ok(Err(named));
                }
                // tidy: a lock that can be waited for has no limit for the wait
                thread::sleep(ORPHANED_LOCK_POLL);
            }
        }
    }
}

fn read_holder(file: &mut &File) -> Option<Holder> {
    let mut text = String::new();
    file.seek(SeekFrom::Start(0)).ok()?;
    file.take(HOLDER_BYTES_MAX).read_to_string(&mut text).ok()?;
    serde_json::from_str(&text).ok()
}

fn name_holder(file: &mut File) -> io::Result<()> {
    let mut line = serde_json::to_vec(&Holder::this_process()?)?;
    line.push(b'\n');
    file.set_len(0)?;
    file.seek(SeekFrom::Start(0))?;
    file.write_all(&line)
}

fn holder_path(store: &Path) -> PathBuf {
    let mut name = store.as_os_str().to_owned();
    name.push(".holder");
    PathBuf::from(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_alive_and_its_name_with_another_start_time_is_not() {
        let holder = Holder::this_process().unwrap();
        let earlier = Holder {
            start_time: holder.start_time - 1,
            ..holder.clone()
        };
        let other_boot = Holder {
            boot_id: "00000000-0000-0000-0000-000000000000".into(),
            ..holder.clone()
        };

        assert!(holder.is_alive());
        assert!(!earlier.is_alive());
        assert!(!other_boot.is_alive());
    }

    #[test]
    fn a_second_lock_is_told_who_has_the_first() {
        let folder = tempfile::tempdir().unwrap();
        let store = folder.path().join("store");
        let _first = Lock::take(&store).unwrap();

        let second = Lock::take(&store);

        match second {
            Err(Error::Held { holder, .. }) => {
                assert_eq!(holder, Holder::this_process().unwrap());
                assert!(holder.to_string().contains(&std::process::id().to_string()));
            }
            other => panic!("expected Held, got {other:?}"),
        }
    }

    #[test]
    fn a_lock_whose_named_holder_is_dead_is_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let store = folder.path().join("store");
        let lock = Lock::take(&store).unwrap();
        let dead = Holder {
            start_time: 1,
            ..Holder::this_process().unwrap()
        };
        fs::write(holder_path(&store), serde_json::to_vec(&dead).unwrap()).unwrap();

        let second = thread::scope(|scope| {
            let waiting = scope.spawn(|| Lock::take(&store));
            drop(lock);
            waiting.join().unwrap()
        });

        assert!(second.is_ok());
    }

    #[test]
    fn a_garbled_holder_file_does_not_stop_the_next_daemon() {
        let folder = tempfile::tempdir().unwrap();
        let store = folder.path().join("store");
        fs::write(holder_path(&store), b"\xff\xfe{").unwrap();

        let lock = Lock::take(&store);

        assert!(lock.is_ok());
    }
}
