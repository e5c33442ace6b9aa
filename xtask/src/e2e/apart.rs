//! The harness's own place: namespaces in which it sees only what is its own, and the parent of all orphans below it.

use super::process;
use anyhow::{Context, Result, bail};
use nix::{
    errno::Errno,
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
    sys::{
        prctl::set_child_subreaper,
        signal::{Signal, kill},
        wait::{Id, WaitPidFlag, waitid, waitpid},
    },
    unistd::{Pid, geteuid, getsid},
};
use std::time::Duration;

/// How soon we look again while only children that somebody else waits for are dead.
const OWNED_PERIOD: Duration = Duration::from_millis(10);

/// Moves this thread, and with it what it starts, into mount and network namespaces of its own, and makes the process the
/// one that orphans come to. Must come before other threads.
pub fn enter() -> Result<()> {
    if !geteuid().is_root() {
        bail!("e2e starts virtual machines and namespaces: run it as root");
    }
    unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET)
        .context("enter own mount and network namespaces")?;
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(None::<&str>, "/", None::<&str>, private, None::<&str>)
        .context("keep mounts from the host's namespace")?;
    set_child_subreaper(true).context("become the parent of orphans")?;
    std::thread::spawn(reap_orphans);
    Ok(())
}

/// Reaps what was orphaned to us, as an init does; a dead daemon that nobody reaps would look alive to its relays.
///
/// Children that we started ourselves are in our session and are waited for by whoever started them.
fn reap_orphans() {
    loop {
        let any = waitid(Id::All, WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT);
        let pid = match any {
            Ok(status) => status.pid(),
            Err(Errno::EINTR) => continue,
            // No children now; there will be.
            Err(_) => None,
        };
        if pid.is_some_and(is_ours) || pid.is_none() {
            reap_all_orphans();
            std::thread::park_timeout(OWNED_PERIOD);
        } else if let Some(pid) = pid {
            let _ = waitpid(pid, Some(WaitPidFlag::WNOHANG));
        }
    }
}

fn reap_all_orphans() {
    for process in process::all().unwrap_or_default() {
        let is_child = process.parent == Pid::this().as_raw();
        if is_child && process.is_dead && !is_ours(process.pid()) {
            let _ = waitpid(process.pid(), Some(WaitPidFlag::WNOHANG));
        }
    }
}

fn is_ours(pid: Pid) -> bool {
    getsid(Some(pid)) == getsid(None)
}

/// Ends everything below us. What dies gives its children to us, so it takes as many rounds as they are deep.
pub fn kill_descendants() -> Result<()> {
    loop {
        let all = process::all()?;
        let living: Vec<Pid> = process::descendants(&all, Pid::this())
            .into_iter()
            .filter(|process| !process.is_dead)
            .map(process::Process::pid)
            .collect();
        if living.is_empty() {
            return Ok(());
        }
        for pid in living {
            match kill(pid, Signal::SIGKILL) {
                Ok(()) | Err(Errno::ESRCH) => {}
                Err(error) => return Err(error).with_context(|| format!("kill {pid}")),
            }
        }
        std::thread::park_timeout(OWNED_PERIOD);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{daemon::is_alive, scratch::Scratch, wait::wait_until};
    use std::{
        fs,
        path::Path,
        process::{Command, Stdio},
    };

    const LIMIT: Duration = Duration::from_secs(20);

    fn is_mounted(place: &Path, table: &str) -> bool {
        let place = place.to_str().unwrap();
        fs::read_to_string(table).unwrap().contains(place)
    }

    /// A daemon's way: a session of its own, and a parent that ends.
    fn orphan(note: &Path) -> Pid {
        let script = format!(
            "setsid sh -c 'echo $$ >{0}.new; mv {0}.new {0}; exec sleep 0.2' &",
            note.display()
        );
        let status = Command::new("sh")
            .args(["-c", &script])
            .stdin(Stdio::null())
            .status();
        assert!(status.unwrap().success());
        assert!(wait_until(|| note.exists(), LIMIT));
        Pid::from_raw(fs::read_to_string(note).unwrap().trim().parse().unwrap())
    }

    /// All in one thread, since what is entered cannot be left.
    #[test]
    fn mounts_and_links_stay_with_us_and_orphans_come_to_us() {
        if !geteuid().is_root() {
            return;
        }
        let scratch = Scratch::new().unwrap();
        let place = scratch.path().join("m");
        fs::create_dir(&place).unwrap();
        let apart = std::thread::spawn({
            let (place, note) = (place.clone(), scratch.path().join("orphan"));
            move || {
                enter().unwrap();
                let none = None::<&str>;
                mount(Some("none"), &place, Some("tmpfs"), MsFlags::empty(), none).unwrap();
                assert!(is_mounted(&place, "/proc/thread-self/mountinfo"));
                assert!(!is_mounted(&place, "/proc/self/mountinfo"), "the host's");
                let links = fs::read_to_string("/proc/thread-self/net/dev").unwrap();
                assert_eq!(links.lines().count(), 3, "two titles and lo: {links}");
                orphan(&note)
            }
        });

        let orphan = apart.join().unwrap();

        assert!(wait_until(|| !is_alive(orphan), LIMIT));
        let is_reaped = || !fs::exists(format!("/proc/{orphan}")).unwrap();
        assert!(wait_until(is_reaped, LIMIT), "a zombie stayed");
    }
}
