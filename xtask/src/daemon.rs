//! The daemon of a state folder: who it is, and making way for a newer build of it.

use anyhow::{Context, Result, bail};
use nix::{
    sys::{
        signal::{Signal, kill},
        socket::{getsockopt, sockopt::PeerCredentials},
    },
    unistd::Pid,
};
use std::{
    fs,
    os::unix::{fs::MetadataExt, net::UnixStream},
    path::Path,
    time::Duration,
};

use crate::wait::wait_until;

/// A daemon that drains finishes what is under way first, for up to a minute; more than this is a hang.
const DRAIN_LIMIT: Duration = Duration::from_secs(75);

/// The pid of the daemon that listens in this state folder.
pub fn pid(state: &Path) -> Result<Option<Pid>> {
    let path = state.join("hutchd.sock");
    let socket = match UnixStream::connect(&path) {
        Ok(socket) => socket,
        // Never started, or dead with its socket left behind.
        Err(error)
            if matches!(
                error.kind(),
                std::io::ErrorKind::NotFound | std::io::ErrorKind::ConnectionRefused
            ) =>
        {
            return Ok(None);
        }
        Err(error) => return Err(error).with_context(|| format!("connect to {}", path.display())),
    };
    let peer = getsockopt(&socket, PeerCredentials)
        .with_context(|| format!("ask who listens on {}", path.display()))?;
    Ok(Some(Pid::from_raw(peer.pid())))
}

/// Stops a daemon that is not this build of `hutchd`; its VMs live on and the next daemon adopts them.
pub fn retire_older(state: &Path, hutchd: &Path) -> Result<()> {
    let Some(pid) = pid(state)? else {
        return Ok(());
    };
    let build = fs::metadata(hutchd).with_context(|| format!("stat {}", hutchd.display()))?;
    // It may have gone since it answered.
    let Ok(running) = fs::metadata(format!("/proc/{pid}/exe")) else {
        return Ok(());
    };
    if (running.dev(), running.ino()) == (build.dev(), build.ino()) {
        return Ok(());
    }
    eprintln!(
        "hutchd {pid} in {} is another build: stopping it",
        state.display()
    );
    stop(pid)
}

/// Asks the daemon to drain, and waits until it is gone.
pub fn stop(pid: Pid) -> Result<()> {
    kill(pid, Signal::SIGTERM).with_context(|| format!("stop hutchd {pid}"))?;
    if !wait_until(|| !is_alive(pid), DRAIN_LIMIT) {
        bail!(
            "hutchd {pid} was asked to stop and still runs after {} s",
            DRAIN_LIMIT.as_secs()
        );
    }
    Ok(())
}

/// A zombie is dead, whoever is slow to reap it.
pub fn is_alive(pid: Pid) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| {
        stat.rsplit_once(')')
            .is_some_and(|(_, rest)| !rest.trim_start().starts_with(['Z', 'X']))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scratch::Scratch;
    use std::{os::unix::net::UnixListener, process::Command};

    #[test]
    fn a_folder_without_a_daemon_has_none() {
        let scratch = Scratch::new().unwrap();

        assert_eq!(pid(scratch.path()).unwrap(), None);

        drop(UnixListener::bind(scratch.path().join("hutchd.sock")).unwrap());
        assert_eq!(pid(scratch.path()).unwrap(), None, "a socket left behind");
    }

    #[test]
    fn the_daemon_is_whoever_listens() {
        let scratch = Scratch::new().unwrap();
        let _listener = UnixListener::bind(scratch.path().join("hutchd.sock")).unwrap();

        assert_eq!(pid(scratch.path()).unwrap(), Some(Pid::this()));
    }

    #[test]
    fn a_daemon_of_this_build_is_left_alone() {
        let scratch = Scratch::new().unwrap();
        let _listener = UnixListener::bind(scratch.path().join("hutchd.sock")).unwrap();

        retire_older(scratch.path(), &std::env::current_exe().unwrap()).unwrap();
    }

    #[test]
    fn a_zombie_counts_as_gone() {
        let mut child = Command::new("sh")
            .args(["-c", "read x"])
            .stdin(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let pid = Pid::from_raw(child.id().cast_signed());
        assert!(is_alive(pid));

        stop(pid).unwrap();

        assert!(!is_alive(pid));
        child.wait().unwrap();
    }
}
