//! The daemon's client: finds hutchd, starts one where none runs, and asks again after a restart.
//!
//! A daemon may be killed at any moment. Whoever was waiting for it starts the next one (systemd
//! may be faster) and sends the request again under the same key: the same key, the same answer.

use anyhow::{Context as _, Result, bail};
use nix::fcntl::{Flock, FlockArg};
use protocols::blocking::{hutch::VersionRequest, hutch_ttrpc::RuntimeClient};
use std::{
    env,
    fs::{self, File, OpenOptions},
    os::unix::{fs::OpenOptionsExt, process::CommandExt},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};
use ttrpc::{Code, context::Context};

/// A daemon opens its store and its socket in well under a second; an adopting one may be busy.
const START_MAX: Duration = Duration::from_secs(60);
/// How often a daemon that was just started is tried: nothing announces that its socket exists.
const TRY_EVERY: Duration = Duration::from_millis(5);
/// How often a request is sent again to a new daemon.
const RESENDS_MAX: u32 = 5;
/// The longest answer: a guest that boots under emulation on a busy host.
const ANSWER_MAX: Duration = Duration::from_secs(600);
/// A unix socket path ends at 107 bytes; the longest below a root is `s/<16 digits>/control.sock`.
const ROOT_BYTES_MAX: usize = 107 - "/s/0123456789abcdef/virtiofs.sock".len();

/// Speaks to the daemon of one root.
pub struct Daemon {
    root: PathBuf,
    client: RuntimeClient,
}

/// The deadline of one request.
pub fn within(limit: Duration) -> Context {
    ttrpc::context::with_duration(limit)
}

/// The deadline for an answer that is given as soon as the daemon can.
pub fn soon() -> Context {
    within(ANSWER_MAX)
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
        let client = match dial(&root) {
            Some(client) => client,
            None => start(&root)?,
        };
        Ok(Self { root, client })
    }

    /// Connects to a daemon that runs already.
    pub fn running(root: &Path) -> Option<Self> {
        let root = std::path::absolute(root).ok()?;
        let client = dial(&root)?;
        Some(Self { root, client })
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Sends a request, and sends it again when the daemon ended before it answered.
    ///
    /// # Errors
    /// The daemon's own refusal, as it says it; or no daemon could be reached.
    pub fn ask<T>(&mut self, request: impl Fn(&RuntimeClient) -> ttrpc::Result<T>) -> Result<T> {
        for _ in 0..RESENDS_MAX {
            match request(&self.client) {
                Ok(answer) => return Ok(answer),
                Err(ttrpc::Error::RpcStatus(status)) if status.code() != Code::UNAVAILABLE => {
                    return Err(Refused {
                        code: status.code(),
                        message: status.message().to_owned(),
                    }
                    .into());
                }
                Err(_) => {
                    self.client = match dial(&self.root) {
                        Some(client) => client,
                        None => start(&self.root)?,
                    };
                }
            }
        }
        bail!(
            "hutchd of {} ended {RESENDS_MAX} times before it answered",
            self.root.display()
        )
    }
}

/// The daemon said no.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct Refused {
    pub code: Code,
    pub message: String,
}

fn dial(root: &Path) -> Option<RuntimeClient> {
    let socket = socket_path(root);
    if !socket.exists() {
        return None;
    }
    let client = ttrpc::Client::connect(&format!("unix://{}", socket.display())).ok()?;
    let client = RuntimeClient::new(client);
    let hello = client.version(within(Duration::from_secs(10)), &VersionRequest::default());
    hello.ok().map(|_| client)
}

/// Starts a daemon under a lock, so that of many callers one does.
fn start(root: &Path) -> Result<RuntimeClient> {
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
    if let Some(client) = dial(root) {
        return Ok(client);
    }
    let (mut child, log) = spawn(root)?;
    let client = wait_for(root, &mut child, &log);
    drop(held);
    client
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
    fs::create_dir_all(root).with_context(|| format!("make state folder {}", root.display()))?;
    let log = root.join("hutchd.log");
    let file = File::options()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(&log)
        .with_context(|| format!("open {}", log.display()))?;
    let program = program();
    let mut command = Command::new(&program);
    command.arg("--root").arg(root).current_dir("/");
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(file);
    // Its own session: a ctrl-C at this terminal is not for it.
    detach(&mut command);
    let child = command
        .spawn()
        .with_context(|| format!("start {}", program.display()))?;
    Ok((child, log))
}

#[allow(unsafe_code)]
fn detach(command: &mut Command) {
    // SAFETY: setsid is async-signal-safe and touches no memory of this process.
    unsafe {
        command.pre_exec(|| {
            nix::unistd::setsid()?;
            Ok(())
        });
    }
}

fn wait_for(root: &Path, child: &mut Child, log: &Path) -> Result<RuntimeClient> {
    let begun = Instant::now();
    while begun.elapsed() < START_MAX {
        if let Some(client) = dial(root) {
            return Ok(client);
        }
        if let Some(status) = child.try_wait().context("watch hutchd")? {
            let text = fs::read_to_string(log).unwrap_or_default();
            let last = text.lines().last().unwrap_or("it said nothing");
            bail!("hutchd did not start ({status}): {last}");
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
