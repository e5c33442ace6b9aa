//! Running an OCI hook on the host: the state on its stdin, exactly its own environment, a limit
//! for its time, and its last words in the error. Nothing here waits for a file system of the hook's.

use crate::{Error, proc::register};
use ::proc::{
    departure::Departed,
    errand::{self, Errand, Kept, Report},
};
use runtime_core::{error::Fault, premises};
use rustix::{
    io::Errno,
    process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open},
};
use std::{
    collections::BTreeMap,
    ffi::{CString, OsStr},
    io,
    os::{fd::OwnedFd, unix::ffi::OsStrExt},
    path::{Path, PathBuf},
    pin::pin,
    process::ExitStatus,
    thread,
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, unix::AsyncFd},
    net::unix::pipe,
    time::timeout,
};

/// For hooks that name no timeout. OCI lets them run for ever; a create that hangs for ever helps
/// nobody.
pub const HOOK_LIMIT: Duration = Duration::from_secs(600);
/// How much of a hook's stderr is kept: its last line is what people need.
const WORDS_BYTES_MAX: usize = 4096;
/// SIGKILL ends a process in milliseconds, unless the kernel has it and does not let go.
const KILLED_MAX: Duration = Duration::from_secs(2);
/// A hook may leave a process behind that keeps its stderr open; what the hook itself wrote is in
/// the pipe when it ends, and needs no longer than this to be read.
const WORDS_GRACE: Duration = Duration::from_millis(200);

/// As in config.json.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hook {
    pub path: PathBuf,
    /// With the program's own name first; empty: the path.
    pub args: Vec<String>,
    /// `NAME=value`; nothing else is in its environment.
    pub env: Vec<String>,
    pub timeout: Option<Duration>,
}

impl From<premises::Hook> for Hook {
    fn from(hook: premises::Hook) -> Self {
        Self {
            path: hook.path,
            args: hook.args,
            env: hook.env,
            timeout: hook.timeout_s.map(|s| Duration::from_secs(s.into())),
        }
    }
}

/// Runs one hook in `cwd` and waits for its end, not for its beginning: the time that a file system takes to give it its
/// folder and its program is the hook's. What it started in its process group ends with it only if its time was up, or
/// if nobody waits for it any more. It does not outlive the thread that runs it.
///
/// # Errors
/// It did not start, did not end in time (600 s where it names none), or did not end with 0.
pub async fn run(hook: &Hook, cwd: &Path, state: &[u8]) -> Result<(), Error> {
    let mut running = Running::start(hook, cwd).map_err(|source| Error::HookStart {
        path: hook.path.clone(),
        source,
    })?;
    let limit = hook.timeout.unwrap_or(HOOK_LIMIT);
    let ended = timeout(limit, running.until_end(state)).await;
    let Ok(status) = ended else {
        running.child.kill();
        // One that cannot be waited for, or is stuck in the kernel, ends when it can.
        let _ = timeout(KILLED_MAX, running.ended()).await;
        return Err(Error::HookTimedOut {
            path: hook.path.clone(),
            limit,
            words: running.words.last_line(),
        });
    };
    let status = status.map_err(|source| Error::HookWait {
        path: hook.path.clone(),
        source,
    })?;
    if let Some(kept) = running.report.kept() {
        return Err(Error::HookStart {
            path: hook.path.clone(),
            source: cause(kept, cwd),
        });
    }
    let _ = timeout(
        WORDS_GRACE,
        running.words.listen_to_end(&mut running.stderr),
    )
    .await;
    match status.success() {
        true => Ok(()),
        false => Err(Error::HookFailed {
            path: hook.path.clone(),
            status: describe(status),
            words: running.words.last_line(),
        }),
    }
}

/// As [`run`], for callers of another room.
///
/// # Errors
/// As [`run`].
pub async fn run_for(hook: &Hook, cwd: &Path, state: &[u8]) -> Result<(), Fault> {
    let run = run(hook, cwd, state).await;
    run.map_err(|error| runtime_core::error::fault(&error))
}

/// A hook under way, or on its way to its program.
struct Running {
    child: Child,
    /// Readable when it has ended. pidfd_open(2).
    pidfd: AsyncFd<OwnedFd>,
    stdin: Option<pipe::Sender>,
    /// `None`: nothing comes of it any more.
    stderr: Option<pipe::Receiver>,
    report: Report,
    words: LastWords,
}

impl Running {
    fn start(hook: &Hook, cwd: &Path) -> io::Result<Self> {
        let sent = errand::send(&errand(hook, cwd)?)?;
        let child = Child(Some(sent.child));
        let pidfd = pidfd_open(child.pid()?, PidfdFlags::empty())?;
        Ok(Self {
            pidfd: register(pidfd)?,
            child,
            stdin: Some(pipe::Sender::from_owned_fd(sent.stdin)?),
            stderr: Some(pipe::Receiver::from_owned_fd(sent.stderr)?),
            report: sent.report,
            words: LastWords::default(),
        })
    }

    /// Feeds it, and listens, for as long as it runs: what it left behind may read its stdin never.
    async fn until_end(&mut self, state: &[u8]) -> io::Result<ExitStatus> {
        let mut feeding = pin!(feed(self.stdin.take(), state));
        let mut fed = false;
        loop {
            tokio::select! {
                biased;
                status = ended(&self.pidfd, &mut self.child) => return status,
                () = self.words.listen(&mut self.stderr), if self.stderr.is_some() => {}
                () = &mut feeding, if !fed => fed = true,
            }
        }
    }

    async fn ended(&mut self) -> io::Result<ExitStatus> {
        ended(&self.pidfd, &mut self.child).await
    }
}

async fn ended(pidfd: &AsyncFd<OwnedFd>, child: &mut Child) -> io::Result<ExitStatus> {
    loop {
        let mut ready = pidfd.readable().await?;
        match child.try_wait()? {
            Some(status) => return Ok(status),
            None => ready.clear_ready(),
        }
    }
}

fn errand(hook: &Hook, cwd: &Path) -> io::Result<Errand> {
    let word = |text: &OsStr| CString::new(text.as_bytes()).map_err(io::Error::from);
    let path = hook.path.as_os_str();
    let args = match hook.args.is_empty() {
        true => vec![path],
        false => hook.args.iter().map(OsStr::new).collect(),
    };
    // The last of two with one name is the one that counts.
    let pairs = hook.env.iter().filter_map(|pair| pair.split_once('='));
    let env: BTreeMap<&str, &str> = pairs.collect();
    let env = env
        .into_iter()
        .map(|(name, value)| word(OsStr::new(&format!("{name}={value}"))));
    Ok(Errand {
        program: word(path)?,
        args: args.into_iter().map(word).collect::<Result<_, _>>()?,
        env: env.collect::<Result<_, _>>()?,
        cwd: word(cwd.as_os_str())?,
    })
}

fn cause(kept: Kept, cwd: &Path) -> io::Error {
    match kept {
        Kept::Program(why) => why,
        Kept::Folder(why) => io::Error::new(why.kind(), format!("enter {}: {why}", cwd.display())),
    }
}

/// A hook need not read its stdin: a pipe that it closed is no fault.
async fn feed(stdin: Option<pipe::Sender>, state: &[u8]) {
    if let Some(mut stdin) = stdin {
        let _ = stdin.write_all(state).await;
    }
}

/// A hook with its process group, which ends with it: a shell's children would go on without it. `None`: it was waited
/// for, and its number may be another's.
struct Child(Option<Departed>);

impl Child {
    fn pid(&self) -> io::Result<Pid> {
        let pid = self.0.as_ref().map(Departed::pid);
        let pid = pid.and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?));
        pid.ok_or_else(|| Errno::SRCH.into())
    }

    fn try_wait(&mut self) -> io::Result<Option<ExitStatus>> {
        let ended = self.0.as_ref().map_or(Ok(None), Departed::try_wait);
        // One that somebody else has waited for is nobody's either.
        if !matches!(ended, Ok(None)) {
            self.0 = None;
        }
        ended
    }

    fn kill(&self) {
        if let Ok(group) = self.pid() {
            // It was not waited for, so the group is still its own.
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        self.kill();
        if let Some(child) = self.0.take() {
            // It must be waited for, which may be long where the kernel has it. Without a thread it stays a zombie.
            let wait = move || drop(child.wait());
            let _ = thread::Builder::new().name("hook".into()).spawn(wait);
        }
    }
}

fn describe(status: ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt;
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => "no exit code".to_owned(),
    }
}

/// The end of what a hook wrote to its stderr.
#[derive(Debug, Default)]
struct LastWords(Vec<u8>);

impl LastWords {
    /// Takes what comes next; `stderr` is `None` when nothing will come any more.
    async fn listen(&mut self, stderr: &mut Option<pipe::Receiver>) {
        let mut bytes = [0; WORDS_BYTES_MAX];
        let Some(pipe) = stderr else { return };
        match pipe.read(&mut bytes).await {
            Ok(0) | Err(_) => *stderr = None,
            Ok(length) => self.keep(&bytes[..length]),
        }
    }

    async fn listen_to_end(&mut self, stderr: &mut Option<pipe::Receiver>) {
        while stderr.is_some() {
            self.listen(stderr).await;
        }
    }

    fn keep(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
        let surplus = self.0.len().saturating_sub(WORDS_BYTES_MAX);
        self.0.drain(..surplus);
    }

    fn last_line(&self) -> String {
        let text = String::from_utf8_lossy(&self.0);
        let line = text
            .lines()
            .rev()
            .map(str::trim)
            .find(|line| !line.is_empty());
        let line = line.unwrap_or("it said nothing");
        line.chars().filter(|c| !c.is_control()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use runtime_core::error::fault;
    use std::{fs, io::Read as _, os::fd::AsRawFd, time::Instant};

    fn shell(script: &str) -> Hook {
        Hook {
            path: "/bin/sh".into(),
            args: vec!["hook".into(), "-c".into(), script.into()],
            env: vec!["PATH=/usr/bin:/bin".into(), "GREETING=a=b c".into()],
            timeout: None,
        }
    }

    async fn failure(hook: &Hook) -> String {
        let error = run(hook, Path::new("/"), b"{}").await.unwrap_err();
        fault(&error).to_string()
    }

    #[tokio::test]
    async fn a_hook_gets_the_state_its_own_environment_and_its_folder() {
        let place = tempfile::tempdir().unwrap();
        let hook = shell("cat > state; env | sort > env; pwd > cwd; echo $0 > name");

        run(&hook, place.path(), b"{\"id\":\"web\"}").await.unwrap();

        let read = |name: &str| fs::read_to_string(place.path().join(name)).unwrap();
        assert_eq!(read("state"), "{\"id\":\"web\"}");
        assert_eq!(read("name"), "hook\n");
        assert_eq!(read("cwd").trim(), place.path().to_str().unwrap());
        let env = read("env");
        let given = env
            .lines()
            .filter(|line| !line.starts_with("PWD=") && !line.starts_with("_="));
        let given: Vec<_> = given.filter(|line| !line.starts_with("SHLVL=")).collect();
        assert_eq!(given, ["GREETING=a=b c", "PATH=/usr/bin:/bin"]);
    }

    #[tokio::test]
    async fn a_hook_that_does_not_read_its_stdin_is_none_the_worse() {
        let state = vec![b'x'; 1 << 20];

        run(&shell("exec true"), Path::new("/"), &state)
            .await
            .unwrap();
    }

    #[tokio::test]
    async fn a_failed_hook_is_told_with_its_last_words() {
        let talks = shell("echo first >&2; echo ' the cause ' >&2; echo >&2; exit 3");
        let chatters = shell("yes chatter | head -c 300000 >&2; echo done >&2; exit 1");

        assert_eq!(
            failure(&talks).await,
            "hook \"/bin/sh\": exit code 3: the cause"
        );
        assert_eq!(
            failure(&chatters).await,
            "hook \"/bin/sh\": exit code 1: done"
        );
        assert_eq!(
            failure(&shell("kill -9 $$")).await,
            "hook \"/bin/sh\": signal 9: it said nothing"
        );
    }

    #[tokio::test]
    async fn a_hook_that_is_not_there_is_named() {
        let hook = Hook {
            path: "/no/such/hook".into(),
            ..shell("")
        };

        let line = failure(&hook).await;

        assert!(line.starts_with("start hook \"/no/such/hook\": "), "{line}");
    }

    #[tokio::test]
    async fn a_hook_whose_time_is_up_is_killed_with_what_it_started() {
        let place = tempfile::tempdir().unwrap();
        let script = "sleep 1000 & echo $! > child; echo waiting >&2; sleep 1000";
        let hook = Hook {
            timeout: Some(Duration::from_millis(500)),
            ..shell(script)
        };

        let error = run(&hook, place.path(), b"").await.unwrap_err();

        let line = fault(&error).to_string();
        assert_eq!(line, "hook \"/bin/sh\": not over after 500 ms: waiting");
        let child = fs::read_to_string(place.path().join("child")).unwrap();
        let child = child.trim().parse().unwrap();
        let deadline = Instant::now() + Duration::from_secs(10);
        while crate::proc::identify(child).unwrap().is_some() {
            assert!(Instant::now() < deadline, "its child lives on");
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn a_process_that_a_hook_leaves_behind_does_not_hold_it_up() {
        let place = tempfile::tempdir().unwrap();
        let script = "sleep 1000 & echo $! > child; echo left >&2; exit 4";

        let begun = Instant::now();
        let error = run(&shell(script), place.path(), b"").await.unwrap_err();

        assert!(begun.elapsed() < Duration::from_secs(100));
        assert!(fault(&error).to_string().ends_with("exit code 4: left"));
        let child = fs::read_to_string(place.path().join("child")).unwrap();
        let child = crate::proc::identify(child.trim().parse().unwrap()).unwrap();
        crate::proc::kill(child.expect("it was left alive")).unwrap();
    }

    #[tokio::test]
    async fn a_hook_that_leaves_its_input_unread_to_another_is_over_when_it_ends() {
        let place = tempfile::tempdir().unwrap();
        let state = vec![b'x'; 1 << 20];
        // A shell's child in the background has its stdin from elsewhere, unless it is told.
        let script = "exec 3<&0; sleep 1000 <&3 & echo $! > child; exit 0";

        let outcome = run(&shell(script), place.path(), &state).await;

        let child = fs::read_to_string(place.path().join("child")).unwrap();
        let child = crate::proc::identify(child.trim().parse().unwrap()).unwrap();
        crate::proc::kill(child.expect("it was left alive")).unwrap();
        outcome.unwrap();
    }

    #[tokio::test]
    async fn a_folder_that_is_not_there_is_told_from_a_program_that_is_not() {
        let error = run(&shell("exit 0"), Path::new("/none/such"), b"").await;

        let line = fault(&error.unwrap_err()).to_string();
        let said = "start hook \"/bin/sh\": enter /none/such: No such file";
        assert!(line.starts_with(said), "{line}");
    }

    /// Whoever opens this file is made to wait for as long as the lease is held (45 s at most), as by a file system that
    /// does not answer. fcntl(2), "Leases".
    #[allow(unsafe_code)]
    fn lease(file: &fs::File, kind: libc::c_int) {
        // SAFETY: the calls take numbers; whoever breaks the lease has this process told by SIGIO, which it is not to end of.
        let taken = unsafe {
            libc::signal(libc::SIGIO, libc::SIG_IGN);
            libc::fcntl(file.as_raw_fd(), libc::F_SETLEASE, kind)
        };
        assert_eq!(taken, 0, "{}", io::Error::last_os_error());
    }

    #[tokio::test]
    async fn a_hook_whose_program_does_not_come_ends_at_its_limit_and_holds_up_nobody() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("hook");
        // By somebody else: what we write, a child of another test may have open for a moment.
        let copy = std::process::Command::new("cp")
            .args([Path::new("/bin/true"), &path])
            .status();
        assert!(copy.unwrap().success());
        let file = fs::File::open(&path).unwrap();
        lease(&file, libc::F_WRLCK);
        let patient = Hook { path, ..shell("") };
        let hook = Hook {
            timeout: Some(Duration::from_millis(300)),
            ..patient.clone()
        };

        let begun = Instant::now();
        let (mut others, ours) = io::pipe().unwrap();
        let mut running = Running::start(&hook, place.path()).unwrap();
        drop(ours);
        // Ends when nobody has the other end any more: a child on its way holds nothing of ours.
        others.read_to_end(&mut Vec::new()).unwrap();
        running.child.kill();
        let killed = running.ended().await.unwrap();
        let error = run(&hook, place.path(), b"").await.unwrap_err();

        assert!(
            begun.elapsed() < Duration::from_secs(30),
            "it was waited for"
        );
        assert_eq!(describe(killed), "signal 9");
        assert!(matches!(error, Error::HookTimedOut { .. }), "{error}");
        lease(&file, libc::F_UNLCK);
        run(&patient, place.path(), b"").await.unwrap();
    }
}
