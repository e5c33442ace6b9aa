//! The daemon's client: finds hutchd, starts one where none runs, and asks again after a restart.
//!
//! A daemon may be killed at any moment. Whoever was waiting for it starts the next one (systemd
//! may be faster) and sends the request again under the same key: the same key, the same answer.
//!
//! All is done on the caller's own thread, and a command has no other: a signal is for whoever stands for a process, and a
//! thread that does not hear it for it is enough to lose it, or to die of it.

use anyhow::{Context as _, Result, bail};
use hutch_relay::{HostProcess, Place, Visit};
use nix::fcntl::{Flock, FlockArg};
use protocols::{
    asynchronous::{hutch::VersionRequest, hutch_ttrpc::RuntimeClient},
    revision::{SIGN, Sign, Speaker},
};
use std::{
    env,
    fs::{self, File, OpenOptions},
    os::unix::{
        fs::{DirBuilderExt, OpenOptionsExt},
        process::ExitStatusExt as _,
    },
    path::{Path, PathBuf},
    pin::pin,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};
use tokio::{
    net::UnixStream,
    runtime::{self, Runtime},
    select,
    time::{sleep, timeout},
};
use ttrpc::{Code, asynchronous::Client, context::Context};

/// A daemon opens its store and its socket in well under a second; an adopting one may be busy.
const START_MAX: Duration = Duration::from_secs(60);
/// How often a daemon that was just started is tried: nothing announces that its socket exists.
const TRY_EVERY: Duration = Duration::from_millis(5);
/// How long a request is sent again after its answer was lost: a daemon is started anew within
/// seconds, and one that dies at every attempt will not be better after this.
const RESEND_MAX: Duration = Duration::from_secs(120);
/// Between two attempts: doubled each time, so that a daemon that asks for patience gets it.
const PAUSE_FIRST: Duration = Duration::from_millis(10);
const PAUSE_MAX: Duration = Duration::from_millis(500);
/// Who answers a greeting does so at once; a daemon that starts is busy reading its store.
const GREETING_MAX: Duration = Duration::from_secs(10);
/// An answer that takes longer than this makes one wonder whether there is anybody.
const LATE: Duration = Duration::from_secs(10);
/// The longest answer: a guest that boots under emulation on a busy host.
const ANSWER_MAX: Duration = Duration::from_secs(600);
/// A unix socket path ends at 107 bytes; the longest below a root is `s/<16 digits>/control.sock`.
const ROOT_BYTES_MAX: usize = 107 - "/s/0123456789abcdef/virtiofs.sock".len();

/// Speaks to the daemon of one root.
pub struct Daemon {
    root: PathBuf,
    runtime: Runtime,
    peer: Peer,
    /// Where this process is for a while.
    visit: Option<Visit>,
}

/// A connection whose other end is known.
struct Peer {
    client: RuntimeClient,
    version: String,
}

/// The deadline of one request.
pub fn within(limit: Duration) -> Context {
    ttrpc::context::with_duration(limit)
}

/// The deadline for an answer that is given as soon as the daemon can.
pub fn soon() -> Context {
    within(ANSWER_MAX)
}

/// The deadline for an answer that is given soon after that long.
pub fn soon_after(patience: Duration) -> Context {
    within(patience.saturating_add(ANSWER_MAX))
}

pub fn socket_path(root: &Path) -> PathBuf {
    root.join("hutchd.sock")
}

impl Daemon {
    /// Connects to the daemon of `root`, and starts one if none answers.
    ///
    /// # Errors
    /// None runs and none can be started; or it is of another version.
    pub fn connect(root: &Path) -> Result<Self> {
        let root = std::path::absolute(root).context("--root")?;
        if root.as_os_str().len() > ROOT_BYTES_MAX {
            bail!(
                "--root {}: longer than {ROOT_BYTES_MAX} bytes, so that its sockets could not be reached",
                root.display()
            );
        }
        let runtime = runtime()?;
        let peer = reach(&runtime, &root)?;
        Ok(Self {
            root,
            runtime,
            peer,
            visit: None,
        })
    }

    /// Connects to a daemon that runs already.
    ///
    /// # Errors
    /// It is of another version, with which this one cannot speak.
    pub fn running(root: &Path) -> Result<Option<Self>> {
        let root = std::path::absolute(root).context("--root")?;
        let runtime = runtime()?;
        let peer = dial(&runtime, &root)?;
        Ok(peer.map(|peer| Self {
            root,
            runtime,
            peer,
            visit: None,
        }))
    }

    /// The daemon's version.
    pub fn version(&self) -> &str {
        &self.peer.version
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Sends a request, and sends it again when the daemon ended before it answered: the key in it
    /// makes it the same request.
    ///
    /// # Errors
    /// The daemon's own refusal, as it says it; or there was no answer in time.
    pub fn ask<T>(
        &mut self,
        request: impl AsyncFn(&RuntimeClient) -> ttrpc::Result<T>,
    ) -> Result<T> {
        self.ask_within(RESEND_MAX, request)
    }

    fn ask_within<T>(
        &mut self,
        limit: Duration,
        request: impl AsyncFn(&RuntimeClient) -> ttrpc::Result<T>,
    ) -> Result<T> {
        let mut lost: Option<Instant> = None;
        let mut pause = PAUSE_FIRST;
        loop {
            let asked = answered(&self.peer.client, request(&self.peer.client));
            let Some(answer) = self.runtime.block_on(asked) else {
                bail!(
                    "hutchd of {} takes requests and has answered nothing for {} s",
                    self.root.display(),
                    (LATE + GREETING_MAX).as_secs()
                );
            };
            let why = match answer {
                Ok(answer) => return Ok(answer),
                Err(ttrpc::Error::RpcStatus(status)) if status.code() != Code::UNAVAILABLE => {
                    return Err(refused(&status).into());
                }
                Err(why) => why,
            };
            let since = *lost.get_or_insert_with(Instant::now);
            if since.elapsed() >= limit {
                let (root, seconds) = (self.root.display(), limit.as_secs());
                let said = match &why {
                    ttrpc::Error::RpcStatus(status) => status.message().to_owned(),
                    other => other.to_string(),
                };
                bail!("no answer from hutchd of {root} in {seconds} s of asking again: {said}");
            }
            // tidy: a daemon that is being restarted, or asks for patience, tells nobody when it is over
            std::thread::sleep(pause);
            pause = (pause * 2).min(PAUSE_MAX);
            if !matches!(why, ttrpc::Error::RpcStatus(_)) {
                self.reach_again()?;
            }
        }
    }

    /// A daemon that is started lives where its first caller is at home. What is asked is worth more than where it is asked
    /// from: a place that is gone, with its VM, is no reason not to ask.
    fn reach_again(&mut self) -> Result<()> {
        if let Some(visit) = &self.visit {
            let _ = visit.leave();
        }
        self.peer = reach(&self.runtime, &self.root)?;
        if let Some(visit) = &self.visit {
            let _ = visit.again();
        }
        Ok(())
    }

    /// This process goes to a place, and is there until it [comes home](Self::come_home).
    ///
    /// # Errors
    /// Names the first that does not take it; it is in the rest.
    pub fn visit(&mut self, place: &Place) -> Result<()> {
        let (visit, outcome) = place.visit();
        self.visit = Some(visit);
        Ok(outcome?)
    }

    /// # Errors
    /// Names what does not take it.
    pub fn come_home(&mut self) -> Result<()> {
        match self.visit.take() {
            Some(visit) => Ok(visit.leave()?),
            None => Ok(()),
        }
    }
}

/// What the daemon says. An answer may take long, and one that lives greets meanwhile. `None`: it does not.
async fn answered<T>(
    client: &RuntimeClient,
    asked: impl Future<Output = ttrpc::Result<T>>,
) -> Option<ttrpc::Result<T>> {
    let mut asked = pin!(asked);
    if let Ok(answer) = timeout(LATE, &mut asked).await {
        return Some(answer);
    }
    let greeting = greeting(&Speaker::of(env!("CARGO_PKG_VERSION")));
    let greeted = client.version(soon(), &greeting);
    select! {
        biased;
        answer = &mut asked => return Some(answer),
        // Whatever it says of who we are, it speaks; a connection that breaks breaks the request too.
        _ = greeted => {}
        () = sleep(GREETING_MAX) => return None,
    }
    Some(asked.await)
}

/// The daemon said no.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct Refused {
    pub code: Code,
    pub message: String,
}

/// The daemon said that what was asked for is not there.
pub fn is_not_found(why: &anyhow::Error) -> bool {
    let refused = why.downcast_ref::<Refused>();
    refused.is_some_and(|refused| refused.code == Code::NOT_FOUND)
}

fn refused(status: &ttrpc::Status) -> Refused {
    Refused {
        code: status.code(),
        message: status.message().to_owned(),
    }
}

/// It has no thread: what is under way goes on while somebody waits for an answer.
fn runtime() -> Result<Runtime> {
    let mut runtime = runtime::Builder::new_current_thread();
    runtime.enable_all().build().context("start runtime")
}

fn reach(runtime: &Runtime, root: &Path) -> Result<Peer> {
    match dial(runtime, root)? {
        Some(peer) => Ok(peer),
        None => start(runtime, root),
    }
}

/// Connects, and learns who answers. `None`: nobody does.
fn dial(runtime: &Runtime, root: &Path) -> Result<Option<Peer>> {
    let socket = socket_path(root);
    if !socket.exists() {
        return Ok(None);
    }
    let connected = runtime.block_on(async {
        let socket = UnixStream::connect(&socket).await.ok()?;
        let listener = socket.peer_cred().ok().and_then(|cred| cred.pid());
        let client = RuntimeClient::new(Client::new(socket.into()));
        Some((client, listener))
    });
    let Some((client, listener)) = connected else {
        return Ok(None);
    };
    let ours = Speaker::of(env!("CARGO_PKG_VERSION"));
    let theirs = match sign_of(root, listener) {
        Some(theirs) => theirs,
        None => match greet(runtime, &client, &ours)? {
            Some(theirs) => theirs,
            None => return Ok(None),
        },
    };
    if !ours.understands(&theirs) {
        bail!("{}", ours.cannot_speak_with(&theirs));
    }
    let version = theirs.version;
    Ok(Some(Peer { client, version }))
}

/// What whoever listens has written beside its socket. `None`: it has not, and another one may have; it is to be asked.
fn sign_of(root: &Path, listener: Option<i32>) -> Option<Speaker> {
    let text = fs::read_to_string(root.join(SIGN)).ok()?;
    let sign: Sign = text.parse().ok()?;
    let is_theirs = listener.and_then(|pid| u32::try_from(pid).ok()) == Some(sign.pid);
    let known = HostProcess::of(sign.pid).ok().flatten()?;
    (is_theirs && known.start_time == sign.start_time).then_some(sign.speaker)
}

fn greeting(ours: &Speaker) -> VersionRequest {
    VersionRequest {
        version: ours.version.clone(),
        revision: ours.revision,
        oldest_revision: ours.oldest,
        ..Default::default()
    }
}

/// Says who we are, and hears who answers. `None`: nobody does.
fn greet(runtime: &Runtime, client: &RuntimeClient, ours: &Speaker) -> Result<Option<Speaker>> {
    match runtime.block_on(client.version(within(GREETING_MAX), &greeting(ours))) {
        Ok(answer) => Ok(Some(Speaker {
            version: answer.version,
            revision: answer.revision,
            oldest: answer.oldest_revision,
        })),
        Err(ttrpc::Error::RpcStatus(status)) if status.code() == Code::UNIMPLEMENTED => {
            Err(refused(&status).into())
        }
        Err(_) => Ok(None),
    }
}

/// Starts a daemon under a lock, so that of many callers one does.
fn start(runtime: &Runtime, root: &Path) -> Result<Peer> {
    let lock = root.with_extension("start.lock");
    if let Some(folder) = lock.parent() {
        fs::create_dir_all(folder).with_context(|| format!("make {}", folder.display()))?;
    }
    let file = OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(&lock)
        .with_context(|| format!("open {}", lock.display()))?;
    let held = Flock::lock(file, FlockArg::LockExclusive)
        .map_err(|(_, why)| why)
        .with_context(|| format!("lock {}", lock.display()))?;
    // Another caller may have been faster.
    if let Some(peer) = dial(runtime, root)? {
        return Ok(peer);
    }
    let peer = start_until_it_answers(runtime, root);
    drop(held);
    peer
}

/// One that is killed while it starts is followed by the next, within the limit.
fn start_until_it_answers(runtime: &Runtime, root: &Path) -> Result<Peer> {
    let begun = Instant::now();
    let (mut child, log) = spawn(root)?;
    while begun.elapsed() < START_MAX {
        if let Some(peer) = dial(runtime, root)? {
            return Ok(peer);
        }
        if let Some(status) = child.try_wait().context("watch hutchd")? {
            if status.signal().is_none() {
                let text = fs::read_to_string(&log).unwrap_or_default();
                let last = text.lines().last().unwrap_or("it said nothing");
                bail!("hutchd did not start ({status}): {last}");
            }
            (child, _) = spawn(root)?;
        }
        // tidy: a socket that comes to be tells nobody; its level is looked at, within a limit
        std::thread::sleep(TRY_EVERY);
    }
    bail!(
        "hutchd did not answer in {} s; see {}",
        START_MAX.as_secs(),
        log.display()
    )
}

fn program() -> PathBuf {
    let beside = env::current_exe()
        .ok()
        .map(|me| me.with_file_name("hutchd"));
    beside
        .filter(|path| path.is_file())
        .unwrap_or_else(|| "hutchd".into())
}

fn spawn(root: &Path) -> Result<(Child, PathBuf)> {
    // As the daemon would: it leaves one that is there as open as it is.
    let mut folder = fs::DirBuilder::new();
    let made = folder.recursive(true).mode(0o700).create(root);
    made.with_context(|| format!("make state folder {}", root.display()))?;
    let log = root.join("hutchd.log");
    let file = File::options()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(&log)
        .with_context(|| format!("open {}", log.display()))?;
    let program = program();
    let mut command = Command::new(&program);
    // Its own session and cgroup: neither a ctrl-C here nor the end of our cgroup is for it.
    command.arg("--apart").arg("--root").arg(root);
    command.current_dir("/");
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(file);
    let child = command
        .spawn()
        .with_context(|| format!("start {}", program.display()))?;
    Ok((child, log))
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocols::{
        asynchronous::hutch,
        blocking::{
            hutch::{StartRequest, StartResponse, VersionRequest, VersionResponse},
            hutch_ttrpc::{Runtime, create_runtime},
        },
        revision,
    };
    use std::{
        os::unix::net::UnixListener,
        sync::{
            Arc, Mutex,
            atomic::{AtomicU32, Ordering},
        },
    };
    use ttrpc::{Server, TtrpcContext};

    /// Speaks so many revisions, and asks for patience so often.
    struct Impatient {
        revision: u32,
        busy: AtomicU32,
        keys: Arc<Mutex<Vec<String>>>,
        greeted: Arc<AtomicU32>,
    }

    impl Runtime for Impatient {
        fn version(&self, _: &TtrpcContext, _: VersionRequest) -> ttrpc::Result<VersionResponse> {
            self.greeted.fetch_add(1, Ordering::SeqCst);
            Ok(VersionResponse {
                version: "9.9.9".to_owned(),
                revision: self.revision,
                oldest_revision: self.revision,
                ..Default::default()
            })
        }

        fn start(&self, _: &TtrpcContext, request: StartRequest) -> ttrpc::Result<StartResponse> {
            self.keys.lock().unwrap().push(request.key);
            let left = self.busy.load(Ordering::SeqCst);
            self.busy.store(left.saturating_sub(1), Ordering::SeqCst);
            match left {
                0 => Ok(StartResponse::default()),
                _ => Err(ttrpc::Error::RpcStatus(ttrpc::get_status(
                    Code::UNAVAILABLE,
                    "its room is being rebuilt",
                ))),
            }
        }
    }

    struct House {
        root: tempfile::TempDir,
        keys: Arc<Mutex<Vec<String>>>,
        greeted: Arc<AtomicU32>,
        server: Server,
    }

    fn daemon(revision: u32, busy: u32) -> House {
        let root = tempfile::tempdir().unwrap();
        let keys = Arc::new(Mutex::new(Vec::new()));
        let greeted = Arc::new(AtomicU32::new(0));
        let service = Impatient {
            revision,
            busy: AtomicU32::new(busy),
            keys: keys.clone(),
            greeted: greeted.clone(),
        };
        let mut server = Server::new()
            .bind(&format!("unix://{}", socket_path(root.path()).display()))
            .unwrap()
            .register_service(create_runtime(Arc::new(service)));
        server.start().unwrap();
        House {
            root,
            keys,
            greeted,
            server,
        }
    }

    /// This very process plays the daemon.
    fn sign(revision: u32) -> Sign {
        let myself = HostProcess::myself().unwrap().unwrap();
        Sign {
            pid: myself.pid,
            start_time: myself.start_time,
            speaker: Speaker {
                version: "9.9.9".to_owned(),
                revision,
                oldest: revision,
            },
        }
    }

    #[test]
    fn a_daemon_that_says_who_it_is_beside_its_socket_is_not_asked() {
        let house = daemon(revision::REVISION, 0);
        let path = house.root.path().join(SIGN);
        fs::write(&path, sign(revision::REVISION).to_string()).unwrap();
        ask(&house, RESEND_MAX).unwrap();
        assert_eq!(house.greeted.load(Ordering::SeqCst), 0);

        fs::write(&path, sign(revision::REVISION + 1).to_string()).unwrap();
        let why = ask(&house, RESEND_MAX).map(drop).unwrap_err().to_string();
        house.server.shutdown();

        assert!(why.contains("hutchd 9.9.9"), "{why}");
        assert_eq!(
            house.keys.lock().unwrap().len(),
            1,
            "nothing more was asked"
        );
    }

    #[test]
    fn what_another_daemon_said_of_itself_is_not_believed_of_this_one() {
        let house = daemon(revision::REVISION, 0);
        let (newer, parent) = (sign(revision::REVISION + 1), nix::unistd::getppid());
        let parent = HostProcess::of(u32::try_from(parent.as_raw()).unwrap());
        let parent = parent.unwrap().unwrap();
        let of_another = Sign {
            pid: parent.pid,
            start_time: parent.start_time,
            ..newer.clone()
        };
        let of_one_before = Sign {
            start_time: newer.start_time - 1,
            ..newer
        };
        let (another, before) = (of_another.to_string(), of_one_before.to_string());
        for said in [another.as_str(), before.as_str(), "", "no sign"] {
            fs::write(house.root.path().join(SIGN), said).unwrap();
            ask(&house, RESEND_MAX).unwrap();
        }
        house.server.shutdown();

        assert_eq!(house.greeted.load(Ordering::SeqCst), 4);
    }

    fn ask(house: &House, limit: Duration) -> Result<hutch::StartResponse> {
        let request = hutch::StartRequest {
            key: "k".to_owned(),
            ..Default::default()
        };
        let mut daemon = Daemon::connect(house.root.path())?;
        daemon.ask_within(limit, async |client| client.start(soon(), &request).await)
    }

    #[test]
    fn a_daemon_of_another_interface_is_refused_with_both_versions_and_what_to_do() {
        let house = daemon(revision::REVISION + 1, 0);

        let why = ask(&house, RESEND_MAX).map(drop).unwrap_err().to_string();
        house.server.shutdown();

        assert!(
            why.contains(&format!(
                "hutchd 9.9.9 (interface {})",
                revision::REVISION + 1
            )),
            "{why}"
        );
        let ours = format!(
            "hutch {} (interface {})",
            env!("CARGO_PKG_VERSION"),
            revision::REVISION
        );
        assert!(why.contains(&ours), "{why}");
        assert!(why.contains("restart hutchd"), "{why}");
        assert!(house.keys.lock().unwrap().is_empty(), "nothing was asked");
    }

    #[test]
    fn a_daemon_that_asks_for_patience_is_asked_again_under_the_same_key() {
        let house = daemon(revision::REVISION, 3);

        let answer = ask(&house, RESEND_MAX);
        house.server.shutdown();

        answer.unwrap();
        assert_eq!(*house.keys.lock().unwrap(), ["k"; 4]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_daemon_that_takes_requests_and_says_nothing_is_given_up() {
        let root = tempfile::tempdir().unwrap();
        // Connections are made by the kernel, and nobody ever reads.
        let path = socket_path(root.path());
        let _mute = UnixListener::bind(&path).unwrap();
        let socket = UnixStream::connect(&path).await.unwrap();
        let client = RuntimeClient::new(Client::new(socket.into()));
        let (request, begun) = (hutch::StartRequest::default(), tokio::time::Instant::now());

        let answer = answered(&client, client.start(soon(), &request)).await;

        assert!(answer.is_none());
        assert_eq!(begun.elapsed(), LATE + GREETING_MAX);
    }

    #[test]
    fn asking_again_ends_by_its_deadline_and_says_what_was_heard() {
        let house = daemon(revision::REVISION, u32::MAX);

        let why = ask(&house, Duration::ZERO).map(drop).unwrap_err();
        house.server.shutdown();

        let text = why.to_string();
        assert!(text.contains("no answer from hutchd of"), "{text}");
        assert!(text.ends_with("its room is being rebuilt"), "{text}");
    }
}
