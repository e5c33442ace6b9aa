//! Serving: the socket, its peers, and how the daemon ends.
//!
//! `SIGTERM` and `SIGINT` drain: no new creation begins, those in progress finish (bounded), and
//! the process ends. VMs, their containers and their relays go on; the next daemon adopts them.

use crate::api::Api;
use anyhow::{Context as _, Result, bail};
use nix::sys::{
    socket::{AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, listen as hear, socket},
    stat::{Mode, fchmod},
};
use protocols::{
    asynchronous::hutch_ttrpc::create_runtime,
    revision::{SIGN, Sign, Speaker},
};
use runtime_core::host::Drain;
use std::{
    convert::Infallible,
    fs, io,
    os::{
        fd::AsRawFd,
        unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt},
    },
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use tokio::{
    net::{UnixListener, UnixStream, unix::SocketAddr},
    signal::unix::{SignalKind, signal},
    sync::Notify,
};
use ttrpc::asynchronous::{Server, transport::Listener};

/// A creation takes seconds under emulation; a daemon that is told to stop waits no longer than
/// systemd's default patience (TimeoutStopSec=90) leaves room for.
const DRAIN_MAX: Duration = Duration::from_secs(60);

/// Requests of one piece of work (create, start, state, …) come closer together than this; what the
/// daemon holds of its start and of the last work goes back after it.
const QUIET: Duration = Duration::from_secs(5);

/// Whoever waits to be let in still waits when accept(2) has failed (for want of descriptors or memory, mostly), so that
/// it fails again at once. Somebody has given some back after this, or will have after the next.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Where the daemon of a root listens.
pub fn socket_path(root: &Path) -> PathBuf {
    root.join("hutchd.sock")
}

/// Makes the root folder, or checks the one that is there.
///
/// # Errors
/// It cannot be made, or another user could write to it.
pub fn prepare_root(root: &Path) -> Result<()> {
    if !root.is_absolute() {
        bail!("--root {}: not an absolute path", root.display());
    }
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true).mode(0o700);
    builder
        .create(root)
        .with_context(|| format!("make state folder {}", root.display()))?;
    let about = || format!("state folder {}", root.display());
    let found = fs::metadata(root).with_context(about)?;
    if found.uid() != nix::unistd::geteuid().as_raw() {
        bail!("{}: it belongs to user {}", about(), found.uid());
    }
    if found.mode() & 0o022 != 0 {
        fs::set_permissions(root, fs::Permissions::from_mode(0o700)).with_context(about)?;
    }
    Ok(())
}

/// The store's lock is held by now, so whoever left a socket here is gone.
fn listen(root: &Path) -> Result<UnixListener> {
    let path = socket_path(root);
    match fs::remove_file(&path) {
        Ok(()) => {}
        Err(why) if why.kind() == io::ErrorKind::NotFound => {}
        Err(why) => return Err(why).with_context(|| format!("remove {}", path.display())),
    }
    if let Err(why) = put_up_sign(root) {
        tracing::warn!(%why, "callers have to ask for the version of this daemon");
    }
    listen_alone(&path).with_context(|| format!("listen on {}", path.display()))
}

/// Says who will listen, so that callers need not ask. Where that cannot be said they do.
fn put_up_sign(root: &Path) -> io::Result<()> {
    let pid = std::process::id();
    let gone = || io::Error::other("/proc does not show this process");
    let sign = Sign {
        pid,
        start_time: proc::start_time(pid)?.ok_or_else(gone)?,
        speaker: Speaker::of(env!("CARGO_PKG_VERSION")),
    };
    let (path, fresh) = (root.join(SIGN), root.join(format!(".{SIGN}")));
    fs::write(&fresh, sign.to_string())?;
    fs::rename(&fresh, &path)
}

/// The file of a socket has the mode that the socket had when it was bound (`unix_bind` of the kernel), so it is never
/// another's, and no thread beside us makes a file with a umask that is meant for this one.
fn listen_alone(path: &Path) -> io::Result<UnixListener> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let ours = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    fchmod(&ours, Mode::S_IRUSR | Mode::S_IWUSR)?;
    bind(ours.as_raw_fd(), &UnixAddr::new(path)?)?;
    hear(&ours, Backlog::MAXCONN)?;
    UnixListener::from_std(ours.into())
}

/// Only root and the daemon's own user are let in, whatever the socket's mode became.
fn is_welcome(peer: &UnixStream) -> bool {
    match peer.peer_cred() {
        Ok(cred) => cred.uid() == 0 || cred.uid() == nix::unistd::geteuid().as_raw(),
        Err(why) => {
            tracing::warn!(%why, "peer without credentials refused");
            false
        }
    }
}

/// Those who may speak to us; each stirs whoever waits for quiet.
fn peers(listener: UnixListener, stir: Arc<Notify>) -> Listener {
    let accepted = futures::stream::unfold((listener, stir), |(listener, stir)| async move {
        let peer = next_peer(|| listener.accept()).await;
        stir.notify_one();
        Some((Ok(peer), (listener, stir)))
    });
    Listener::new(accepted)
}

/// The next one who is let in, however many others come before, and whatever keeps them from being let in for a while.
async fn next_peer<F>(mut accept: impl FnMut() -> F) -> UnixStream
where
    F: Future<Output = io::Result<(UnixStream, SocketAddr)>>,
{
    let mut failing = false;
    loop {
        match accept().await {
            Ok((peer, _)) if is_welcome(&peer) => return peer,
            Ok((peer, _)) => {
                let uid = peer.peer_cred().map(|cred| cred.uid()).ok();
                tracing::warn!(uid, "peer refused: only root may speak to hutchd");
            }
            Err(why) => {
                // Said once: it may be so for hours.
                if !std::mem::replace(&mut failing, true) {
                    tracing::error!(%why, "nobody is let in until this is over");
                }
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Gives memory back once after each time that something was done; sets no timer while nothing is.
async fn give_back_when_quiet(stirred: Arc<Notify>) -> Infallible {
    loop {
        while tokio::time::timeout(QUIET, stirred.notified())
            .await
            .is_ok()
        {}
        proc::memory::give_back();
        stirred.notified().await;
    }
}

/// Serves until a signal comes, then drains.
///
/// # Errors
/// The socket cannot be made, or the server does not start.
pub async fn serve(root: &Path, api: Api) -> Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("watch SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("watch SIGINT")?;
    let host = api.host.clone();
    let listener = listen(root)?;
    let stir = Arc::new(Notify::new());
    let mut server = Server::new()
        .add_listener(peers(listener, stir.clone()))
        .register_service(create_runtime(Arc::new(api)));
    server.start().await.context("start server")?;
    tracing::info!(root = %root.display(), pid = std::process::id(), "serving");
    notify(&[sd_notify::NotifyState::Ready]);

    tokio::select! {
        biased;
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
        never = give_back_when_quiet(stir) => match never {},
    }
    notify(&[sd_notify::NotifyState::Stopping]);
    tracing::info!("draining; vms keep running");
    if tokio::time::timeout(DRAIN_MAX, host.send(Drain))
        .await
        .is_err()
    {
        tracing::warn!("creations in progress are left to the next daemon");
    }
    server.stop_listen().await;
    // It may never have been put up, and nobody believes it of the next one.
    let _ = fs::remove_file(root.join(SIGN));
    let path = socket_path(root);
    fs::remove_file(&path).with_context(|| format!("remove {}", path.display()))
}

/// Without systemd there is nobody to tell.
fn notify(state: &[sd_notify::NotifyState<'_>]) {
    if let Err(why) = sd_notify::notify(state) {
        tracing::warn!(%why, "systemd was not told");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().mode() & 0o7777
    }

    #[test]
    fn a_state_folder_is_made_for_its_owner_and_one_that_others_write_to_is_closed() {
        let place = tempfile::tempdir().unwrap();
        let root = place.path().join("state/of/hutch");

        prepare_root(&root).unwrap();
        assert_eq!(mode(&root), 0o700);
        fs::set_permissions(&root, fs::Permissions::from_mode(0o770)).unwrap();
        prepare_root(&root).unwrap();

        assert_eq!(mode(&root), 0o700);
        let relative = prepare_root(Path::new("state")).unwrap_err();
        assert!(relative.to_string().contains("not an absolute path"));
    }

    #[tokio::test]
    async fn the_socket_of_the_interface_is_its_owners_alone_and_one_of_before_is_no_obstacle() {
        let root = tempfile::tempdir().unwrap();
        fs::write(socket_path(root.path()), "left by a daemon that died").unwrap();

        let _listener = listen(root.path()).unwrap();

        assert_eq!(mode(&socket_path(root.path())), 0o600);
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_to_be_let_in_is_let_in_when_there_are_descriptors_again() {
        let place = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(place.path().join("socket")).unwrap();
        let _waits = UnixStream::connect(place.path().join("socket"))
            .await
            .unwrap();
        let begun = tokio::time::Instant::now();
        let mut failures = 0;

        next_peer(|| {
            failures += 1;
            let fails = failures <= 3;
            let listener = &listener;
            async move {
                match fails {
                    true => Err(io::Error::from_raw_os_error(libc::EMFILE)),
                    false => listener.accept().await,
                }
            }
        })
        .await;

        assert_eq!(failures, 4);
        assert_eq!(
            begun.elapsed(),
            3 * ACCEPT_PAUSE,
            "it does not spin meanwhile"
        );
    }

    #[tokio::test]
    async fn beside_the_socket_it_says_who_listens_there() {
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join(SIGN), "left by a daemon that died").unwrap();

        let _listener = listen(root.path()).unwrap();

        let text = fs::read_to_string(root.path().join(SIGN)).unwrap();
        let sign: Sign = text.parse().unwrap();
        let pid = std::process::id();
        assert_eq!(sign.pid, pid);
        assert_eq!(Some(sign.start_time), proc::start_time(pid).unwrap());
        assert!(sign.speaker.understands(&Speaker::of("1")));
    }
}
