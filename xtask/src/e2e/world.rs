//! The world of one story: its own state folder, real binaries, and what it takes to drive and to hurt them.

use super::{
    process::{self, Process},
    tmpfs::Tmpfs,
};
use crate::{
    assets::{self, Assets},
    build::Examples,
    bundle, command, daemon,
    scratch::Scratch,
    wait::wait_until,
    workspace::Workspace,
};
use anyhow::{Context, Result, anyhow, bail, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use std::{
    cell::{Cell, OnceCell},
    fs::{self, File},
    io::Read,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex, PoisonError},
    thread::JoinHandle,
    time::Duration,
};

/// A guest boots in two seconds, and in many more on an emulating machine that others load too.
pub const BOOT_LIMIT: Duration = Duration::from_secs(120);
/// For what takes milliseconds on a quiet machine.
pub const SOON: Duration = Duration::from_secs(30);

/// What is built once for all stories.
pub struct Fixtures {
    pub assets: Assets,
    pub examples: Examples,
}

impl Fixtures {
    /// Where they are once they are built.
    pub fn of(workspace: &Workspace) -> Self {
        Self {
            assets: Assets::of(workspace),
            examples: Examples::of(workspace),
        }
    }
}

/// More than a pipe holds, and than a call of a stock agent takes.
const EXEC_BYTES: usize = 100_000;
/// A pipe holds as much.
const READ_BYTES: usize = 64 * 1024;

pub struct World<'a> {
    fixtures: &'a Fixtures,
    /// Where the state is, if that is in memory; goes before the folder that it is mounted in.
    _memory: Option<Tmpfs>,
    scratch: Scratch,
    root: PathBuf,
    /// Of this world's daemon, where it is not the usual one.
    configuration: OnceCell<PathBuf>,
    bundles: Cell<u32>,
}

/// What a command printed and how it ended.
#[derive(Debug)]
pub struct Outcome {
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
}

impl Outcome {
    pub fn code(&self) -> Option<i32> {
        self.status.code()
    }
}

impl<'a> World<'a> {
    pub fn new(fixtures: &'a Fixtures) -> Result<Self> {
        let scratch = Scratch::new()?;
        Ok(Self {
            fixtures,
            _memory: None,
            root: scratch.path().join("r"),
            scratch,
            configuration: OnceCell::new(),
            bundles: Cell::new(0),
        })
    }

    /// With its state in memory, as below /run: what is durable there needs no disk.
    pub fn in_memory(fixtures: &'a Fixtures) -> Result<Self> {
        let world = Self::new(fixtures)?;
        let memory = Tmpfs::mount(world.scratch.path().join("run"))?;
        Ok(Self {
            root: memory.path().join("r"),
            _memory: Some(memory),
            ..world
        })
    }

    /// The state folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// A folder of the story's own.
    pub fn scratch(&self) -> &Path {
        self.scratch.path()
    }

    pub fn fixtures(&self) -> &Fixtures {
        self.fixtures
    }

    /// Configures this world's daemon, which no command may have started yet.
    pub fn configure(&self, text: &str) -> Result<()> {
        let path = self.scratch.path().join("config.toml");
        fs::write(&path, text).context("write a configuration")?;
        let path = self.configuration.set(path);
        path.map_err(|_| anyhow!("a world is configured once"))
    }

    /// The command line on this world's daemon.
    pub fn hutch(&self, words: &[&str]) -> Command {
        let mut command = self.program(&self.fixtures.assets.binaries.hutch);
        command.arg("--root").arg(&self.root).args(words);
        command
    }

    /// The daemon's own program.
    pub fn hutchd(&self, words: &[&str]) -> Command {
        let mut command = self.program(&self.fixtures.assets.binaries.hutchd);
        command.args(words);
        command
    }

    fn program(&self, binary: &Path) -> Command {
        let mut command = Command::new(binary);
        command.env(assets::VARIABLE, &self.fixtures.assets.folder);
        if let Some(configuration) = self.configuration.get() {
            command.env("HUTCH_CONFIG", configuration);
        }
        command
    }

    /// `hutch run --bundle … ID` of this shell script in a busybox container.
    pub fn hutch_run(&self, id: &str, script: &str) -> Result<Command> {
        let bundle = self.shell(script)?;
        let mut command = self.hutch(&["run", "--bundle"]);
        command.arg(bundle).arg(id);
        Ok(command)
    }

    /// A busybox bundle that runs this shell script.
    pub fn shell(&self, script: &str) -> Result<PathBuf> {
        self.bundle(&["/bin/sh", "-c", script])
    }

    /// A busybox bundle that runs this.
    pub fn bundle(&self, words: &[&str]) -> Result<PathBuf> {
        self.bundles.set(self.bundles.get() + 1);
        let folder = self.scratch.path().join(format!("b{}", self.bundles.get()));
        let args: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
        let process = bundle::Process {
            args: &args,
            terminal: false,
        };
        bundle::busybox(&folder, &process)?;
        Ok(folder)
    }

    /// Runs a command to its end.
    pub fn run(&self, command: &mut Command, limit: Duration) -> Result<Outcome> {
        Running::start(command)?.finish(limit)
    }

    pub fn start(&self, command: &mut Command) -> Result<Running> {
        Running::start(command)
    }

    /// A verb that boots nothing.
    pub fn verb(&self, words: &[&str]) -> Result<Outcome> {
        self.run(&mut self.hutch(words), BOOT_LIMIT)
    }

    /// `hutch create`; what stands for the container keeps its output after the command ended.
    pub fn create(&self, id: &str, bundle: &Path) -> Result<Running> {
        let mut command = self.hutch(&["create", "--bundle"]);
        command.arg(bundle).arg(id);
        self.start_on_files(&mut command)
    }

    /// A verb with this bundle and id to its end, which leaves somebody behind who stands for the container.
    pub fn detached(&self, words: &[&str], bundle: &Path, id: &str) -> Result<Outcome> {
        let mut command = self.hutch(words);
        command.arg("--bundle").arg(bundle).arg(id);
        self.start_on_files(&mut command)?.finish(BOOT_LIMIT)
    }

    /// Execs one after the other, each with much output, a line of errors and a code of its own: nothing of it is lost.
    pub fn execs_lose_nothing(&self, id: &str, times: usize) -> Result<()> {
        for time in 1..=times {
            let script = format!(
                "head -c {EXEC_BYTES} /dev/zero | tr '\\0' x; echo {time} >&2; exit {time}"
            );
            let exec = self.verb(&["exec", id, "/bin/sh", "-c", &script])?;
            let code = i32::try_from(time).context("too many times")?;
            ensure!(exec.code() == Some(code), "{time}: {:?}", exec.status);
            ensure!(
                exec.stdout == "x".repeat(EXEC_BYTES) && exec.stderr == format!("{time}\n"),
                "{time}: {} bytes came of {EXEC_BYTES}, and {:?}",
                exec.stdout.len(),
                exec.stderr
            );
        }
        Ok(())
    }

    /// Starts what leaves somebody behind who keeps its output.
    pub fn start_on_files(&self, command: &mut Command) -> Result<Running> {
        Running::start_on_files(command, self.scratch.path())
    }

    /// The pid of this world's daemon.
    pub fn daemon(&self) -> Result<Pid> {
        daemon::pid(&self.root)?
            .with_context(|| format!("no hutchd listens in {}", self.root.display()))
    }

    /// Processes of this program that belong to this world: below us, and with the state folder in their words.
    pub fn processes(&self, program: &str) -> Result<Vec<Process>> {
        let root = self.root.to_string_lossy().into_owned();
        let all = process::all()?;
        Ok(process::descendants(&all, Pid::this())
            .into_iter()
            .filter(|process| !process.is_dead && process.command.contains(&root))
            .filter(|process| {
                process
                    .program()
                    .is_some_and(|name| name.starts_with(program))
            })
            .cloned()
            .collect())
    }

    pub fn signal(&self, pid: Pid, signal: Signal) -> Result<()> {
        kill(pid, signal).with_context(|| format!("send {signal} to {pid}"))
    }

    /// kill -9, and wait until it is dead.
    pub fn kill(&self, pid: Pid) -> Result<()> {
        self.signal(pid, Signal::SIGKILL)?;
        if !wait_until(|| !daemon::is_alive(pid), SOON) {
            bail!("process {pid} survived SIGKILL");
        }
        Ok(())
    }
}

/// A command that runs beside the story; it is ended when it is dropped.
pub struct Running {
    line: String,
    child: Child,
    stdout: Output,
    stderr: Output,
}

impl Running {
    pub fn start(command: &mut Command) -> Result<Self> {
        let line = command::line(command);
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("start `{line}`"))?;
        let stdout = child.stdout.take().expect("stdout was asked for");
        let stderr = child.stderr.take().expect("stderr was asked for");
        Ok(Self {
            line,
            child,
            stdout: Output::of_pipe(stdout),
            stderr: Output::of_pipe(stderr),
        })
    }

    /// On ends that somebody else reads and writes.
    pub fn start_on(command: &mut Command, [stdin, stdout, stderr]: [Stdio; 3]) -> Result<Self> {
        let line = command::line(command);
        let child = command
            .stdin(stdin)
            .stdout(stdout)
            .stderr(stderr)
            .spawn()
            .with_context(|| format!("start `{line}`"))?;
        Ok(Self {
            line,
            child,
            stdout: Output::Elsewhere,
            stderr: Output::Elsewhere,
        })
    }

    fn start_on_files(command: &mut Command, folder: &Path) -> Result<Self> {
        let file = |name: &str| -> Result<(PathBuf, File)> {
            let path = (0u32..)
                .map(|number| folder.join(format!("{name}{number}")))
                .find(|path| !path.exists())
                .expect("numbers do not end");
            let file = File::create_new(&path).context("create a file for output")?;
            Ok((path, file))
        };
        let (stdout, stdout_file) = file("stdout")?;
        let (stderr, stderr_file) = file("stderr")?;
        let ends = [Stdio::null(), stdout_file.into(), stderr_file.into()];
        let mut running = Self::start_on(command, ends)?;
        running.stdout = Output::File(stdout);
        running.stderr = Output::File(stderr);
        Ok(running)
    }

    pub fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().cast_signed())
    }

    /// What it printed until now.
    pub fn stdout(&self) -> String {
        self.stdout.text()
    }

    /// Its standard input, to write to; dropping it is end of input.
    pub fn stdin(&mut self) -> Option<std::process::ChildStdin> {
        self.child.stdin.take()
    }

    /// Waits until it has printed `expected`.
    pub fn wait_for_output(&self, expected: &str, limit: Duration) -> Result<()> {
        self.wait_for(&self.stdout, expected, limit)
    }

    /// Waits until it has said `expected` on its standard error.
    pub fn wait_for_errors(&self, expected: &str, limit: Duration) -> Result<()> {
        self.wait_for(&self.stderr, expected, limit)
    }

    fn wait_for(&self, output: &Output, expected: &str, limit: Duration) -> Result<()> {
        if wait_until(|| output.text().contains(expected), limit) {
            return Ok(());
        }
        bail!(
            "`{}` did not print {expected:?} in {} s; {}",
            self.line,
            limit.as_secs(),
            self.so_far()
        );
    }

    /// Waits for its end; its input ends now.
    pub fn finish(mut self, limit: Duration) -> Result<Outcome> {
        drop(self.child.stdin.take());
        let mut status = None;
        let child = &mut self.child;
        let ended = wait_until(
            || {
                status = child.try_wait().ok().flatten();
                status.is_some()
            },
            limit,
        );
        let Some(status) = status.filter(|_| ended) else {
            bail!(
                "`{}` did not end in {} s; {}",
                self.line,
                limit.as_secs(),
                self.so_far()
            );
        };
        // Whoever it left running may not hold its streams open for long.
        let outputs = [&self.stdout, &self.stderr];
        if !wait_until(|| outputs.iter().all(|output| output.is_over()), SOON) {
            bail!("`{}` ended, and somebody holds its output open", self.line);
        }
        Ok(Outcome {
            status,
            stdout: self.stdout.text(),
            stderr: self.stderr.text(),
        })
    }

    fn so_far(&self) -> String {
        format!(
            "stdout: {:?}, stderr: {:?}",
            self.stdout.text(),
            self.stderr.text()
        )
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Both fail if it ended already, which is what is wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Where a command's output goes.
enum Output {
    Pipe {
        bytes: Arc<Mutex<Vec<u8>>>,
        reader: JoinHandle<()>,
    },
    File(PathBuf),
    Elsewhere,
}

impl Output {
    fn of_pipe(mut stream: impl Read + Send + 'static) -> Self {
        let bytes = Arc::<Mutex<Vec<u8>>>::default();
        let into = Arc::clone(&bytes);
        let reader = std::thread::spawn(move || {
            let mut buffer = vec![0; READ_BYTES];
            while let Ok(count @ 1..) = stream.read(&mut buffer) {
                into.lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .extend_from_slice(&buffer[..count]);
            }
        });
        Self::Pipe { bytes, reader }
    }

    fn text(&self) -> String {
        match self {
            Self::Pipe { bytes, .. } => {
                let bytes = bytes.lock().unwrap_or_else(PoisonError::into_inner);
                String::from_utf8_lossy(&bytes).into_owned()
            }
            Self::File(path) => {
                String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned()
            }
            Self::Elsewhere => String::new(),
        }
    }

    /// Whether nobody can write to it any more; that is asked of a pipe alone.
    fn is_over(&self) -> bool {
        match self {
            Self::Pipe { reader, .. } => reader.is_finished(),
            Self::File(_) | Self::Elsewhere => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Running {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        Running::start(&mut command).unwrap()
    }

    #[test]
    fn output_and_code_of_a_command_are_kept_apart() {
        let outcome = shell("echo out; echo err >&2; exit 7")
            .finish(SOON)
            .unwrap();

        assert_eq!(outcome.code(), Some(7));
        assert_eq!(outcome.stdout, "out\n");
        assert_eq!(outcome.stderr, "err\n");
    }

    #[test]
    fn a_command_that_does_not_end_is_named_with_what_it_said() {
        let running = shell("echo here; read line; read line");
        running.wait_for_output("here\n", SOON).unwrap();
        let pid = running.pid();

        let error = running
            .wait_for_output("there", Duration::from_millis(20))
            .unwrap_err()
            .to_string();

        assert!(error.contains("did not print \"there\""), "{error}");
        assert!(error.contains("here"), "{error}");
        drop(running);
        assert!(!daemon::is_alive(pid), "a story that fails leaves nobody");
    }

    #[test]
    fn end_of_input_reaches_the_command() {
        let outcome = shell("cat; echo done").finish(SOON).unwrap();

        assert_eq!(outcome.stdout, "done\n");
    }
}
