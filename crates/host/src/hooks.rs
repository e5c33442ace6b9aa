//! Running an OCI hook on the host: the state on its stdin, exactly its own environment, a limit
//! for its time, and its last words in the error.

use crate::Error;
use ::proc::berth::die_with_us;
use runtime_core::{error::Fault, premises};
use rustix::process::{Pid, Signal, kill_process_group};
use std::{
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    process::{Child, ChildStderr, ChildStdin, Command},
    time::timeout,
};

/// For hooks that name no timeout. OCI lets them run for ever; a create that hangs for ever helps
/// nobody.
pub const HOOK_LIMIT: Duration = Duration::from_secs(600);
/// How much of a hook's stderr is kept: its last line is what people need.
const WORDS_BYTES_MAX: usize = 4096;
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

/// Runs one hook in `cwd` and waits for its end. What it started in its process group ends with
/// it only if its time was up, or if nobody waits for it any more. It does not outlive the thread that
/// runs it.
///
/// # Errors
/// It did not start, did not end in time, or did not end with 0.
pub async fn run(hook: &Hook, cwd: &Path, state: &[u8]) -> Result<(), Error> {
    let mut child = start(hook, cwd)?;
    let mut group = Group::of(&child);
    let limit = hook.timeout.unwrap_or(HOOK_LIMIT);
    let mut words = LastWords::default();
    let stdin = child.stdin.take();
    let mut stderr = child.stderr.take();
    let ended = timeout(limit, async {
        let (status, ()) = tokio::join!(
            listen_until_end(&mut child, &mut stderr, &mut words),
            feed(stdin, state)
        );
        status
    })
    .await;
    let Ok(status) = ended else {
        drop(group);
        // Of a killed child that cannot be waited for there is nothing to say.
        let _ = child.wait().await;
        return Err(Error::HookTimedOut {
            path: hook.path.clone(),
            limit,
            words: words.last_line(),
        });
    };
    group.is_over();
    let status = status.map_err(|source| Error::HookWait {
        path: hook.path.clone(),
        source,
    })?;
    let _ = timeout(WORDS_GRACE, words.listen_to_end(&mut stderr)).await;
    match status.success() {
        true => Ok(()),
        false => Err(Error::HookFailed {
            path: hook.path.clone(),
            status: describe(status),
            words: words.last_line(),
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

fn start(hook: &Hook, cwd: &Path) -> Result<Child, Error> {
    let mut command = Command::new(&hook.path);
    if let Some((name, args)) = hook.args.split_first() {
        command.arg0(name).args(args);
    }
    let env = hook.env.iter().filter_map(|pair| pair.split_once('='));
    command
        .env_clear()
        .envs(env)
        .current_dir(cwd)
        .process_group(0)
        .kill_on_drop(true)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    die_with_us(command.as_std_mut());
    command.spawn().map_err(|source| Error::HookStart {
        path: hook.path.clone(),
        source,
    })
}

/// A hook need not read its stdin: a pipe that it closed is no fault.
async fn feed(stdin: Option<ChildStdin>, state: &[u8]) {
    if let Some(mut stdin) = stdin {
        let _ = stdin.write_all(state).await;
    }
}

async fn listen_until_end(
    child: &mut Child,
    stderr: &mut Option<ChildStderr>,
    words: &mut LastWords,
) -> std::io::Result<ExitStatus> {
    loop {
        tokio::select! {
            biased;
            status = child.wait() => return status,
            () = words.listen(stderr), if stderr.is_some() => {}
        }
    }
}

/// The process group of a hook, which ends with it: a shell's children would go on without it.
struct Group(Option<Pid>);

impl Group {
    fn of(child: &Child) -> Self {
        let pid = child.id().and_then(|pid| i32::try_from(pid).ok());
        Self(pid.and_then(Pid::from_raw))
    }

    /// It was waited for: its number may be another's from now on.
    fn is_over(&mut self) {
        self.0 = None;
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(group) = self.0 {
            // The child was not waited for, so the group is still its own.
            let _ = kill_process_group(group, Signal::KILL);
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
    async fn listen(&mut self, stderr: &mut Option<ChildStderr>) {
        let mut bytes = [0; WORDS_BYTES_MAX];
        let Some(pipe) = stderr else { return };
        match pipe.read(&mut bytes).await {
            Ok(0) | Err(_) => *stderr = None,
            Ok(length) => self.keep(&bytes[..length]),
        }
    }

    async fn listen_to_end(&mut self, stderr: &mut Option<ChildStderr>) {
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
    use std::{fs, time::Instant};

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
}
