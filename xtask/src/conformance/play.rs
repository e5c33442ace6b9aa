//! Plays a case with one of the runtimes, and keeps what each step showed.

use super::{
    case::{Case, Step},
    console::Console,
    facts::{BED, Seen},
    place::Place,
};
use crate::{
    e2e::{
        terminal::Terminal,
        world::{BOOT_LIMIT, Running, SOON, World},
    },
    wait::wait_until,
};
use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use std::{
    collections::BTreeSet,
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

/// A step that takes longer hangs; a boot is the longest.
const STEP_LIMIT: Duration = Duration::from_secs(60);
/// A terminal's size, which programs may ask for.
const ROWS: u16 = 24;
const COLUMNS: u16 = 80;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Runtime {
    Runc,
    Hutch,
}

pub struct Player<'a> {
    world: &'a World<'a>,
    place: Place,
}

impl<'a> Player<'a> {
    pub fn new(world: &'a World<'a>) -> Result<Self> {
        let place = Place::new()?;
        Ok(Self { world, place })
    }

    /// Starts the sandbox that most containers are further ones of, unless it runs.
    pub fn make_bed(&self) -> Result<()> {
        if self
            .status(Runtime::Hutch, BED)
            .is_some_and(|status| status == "running")
        {
            return Ok(());
        }
        self.world.verb(&["delete", "--force", BED])?;
        let bundle = self.world.bundle(&["/bin/sleep", "100000"])?;
        let created = self.world.create(BED, &bundle)?.finish(BOOT_LIMIT)?;
        let started = self.world.verb(&["start", BED])?;
        for outcome in [created, started] {
            ensure!(
                outcome.code() == Some(0),
                "no sandbox to play in: {outcome:?}"
            );
        }
        Ok(())
    }

    pub fn clear_bed(&self) -> Result<()> {
        let deleted = self.world.verb(&["delete", "--force", BED])?;
        ensure!(deleted.code() == Some(0), "the sandbox stays: {deleted:?}");
        Ok(())
    }

    /// Every step's outcome, in order.
    pub fn play(&self, runtime: Runtime, case: &Case) -> Result<Vec<Seen>> {
        self.place.lay_out(case)?;
        let kept = self.place.beside("kept");
        if kept.exists() {
            fs::remove_dir_all(&kept).context("clear what was kept")?;
        }
        fs::create_dir(&kept).context("make room for what is kept")?;
        let mut console = None;
        let mut seen = Vec::new();
        for (number, step) in case.steps.iter().enumerate() {
            let files = [
                kept.join(format!("{number}.out")),
                kept.join(format!("{number}.err")),
            ];
            let mut shown = match step {
                Step::Verb { words, input } => self.verb(runtime, case, words, input, &files)?,
                Step::Terminal { words } => self.on_terminal(runtime, words)?,
                Step::Host(script) => self.host(script, &files)?,
                Step::Wait { status, id } => self.wait(runtime, status, id)?,
                Step::Until(script) => self.until(script)?,
                Step::Console => {
                    console = Some(Console::listen(&self.place.folder().join("console.sock"))?);
                    Seen::default()
                }
            };
            shown.line = step.line();
            seen.push(shown);
        }
        self.clear(runtime, case)?;
        // What stands for a container prints until its end.
        for (number, seen) in seen.iter_mut().enumerate() {
            let read = |kind| fs::read(kept.join(format!("{number}.{kind}"))).ok();
            if let (Some(out), Some(err)) = (read("out"), read("err")) {
                seen.stdout = String::from_utf8_lossy(&out).into_owned();
                seen.stderr = String::from_utf8_lossy(&err).into_owned();
            }
        }
        if let Some(console) = console {
            let at = case.steps.iter().position(|step| *step == Step::Console);
            seen[at.expect("one of them made it")].stdout = console.shown()?;
        }
        Ok(seen)
    }

    fn command(&self, runtime: Runtime) -> Command {
        let mut command = match runtime {
            Runtime::Hutch => self.world.hutch(&[]),
            Runtime::Runc => {
                let mut runc = Command::new("runc");
                runc.arg("--root").arg(self.place.beside("runc"));
                runc
            }
        };
        command.current_dir(self.place.bundle());
        command
    }

    fn verb(
        &self,
        runtime: Runtime,
        case: &Case,
        words: &[String],
        input: &str,
        files: &[PathBuf; 2],
    ) -> Result<Seen> {
        let mut command = self.command(runtime);
        for word in words {
            command.arg(self.place.words(word));
            let makes = ["create", "run"].contains(&word.as_str());
            if makes && runtime == Runtime::Hutch && !case.is_alone {
                command.args(["--sandbox", BED]);
            }
        }
        let stdin = match input {
            "" => Stdio::null(),
            text => {
                let path = self.place.beside("input");
                fs::write(&path, text).context("write input")?;
                File::open(&path).context("open input")?.into()
            }
        };
        ended(&mut command, stdin, files)
    }

    fn host(&self, script: &str, files: &[PathBuf; 2]) -> Result<Seen> {
        let mut shell = self.shell(script);
        ended(&mut shell, Stdio::null(), files)
    }

    fn shell(&self, script: &str) -> Command {
        let mut shell = Command::new("sh");
        shell.args(["-c", &self.place.words(script)]);
        shell.current_dir(self.place.bundle());
        shell
    }

    fn until(&self, script: &str) -> Result<Seen> {
        let holds = || {
            let mut shell = self.shell(script);
            let status = shell.stdout(Stdio::null()).stderr(Stdio::null()).status();
            status.is_ok_and(|status| status.success())
        };
        Ok(level(wait_until(holds, SOON)))
    }

    fn wait(&self, runtime: Runtime, wanted: &str, id: &str) -> Result<Seen> {
        let holds = || {
            self.status(runtime, id)
                .is_some_and(|status| status == wanted)
        };
        Ok(level(wait_until(holds, SOON)))
    }

    fn status(&self, runtime: Runtime, id: &str) -> Option<String> {
        let mut command = self.command(runtime);
        if !self.place.bundle().exists() {
            command.current_dir("/");
        }
        let output = command
            .args(["state", id])
            .stdin(Stdio::null())
            .output()
            .ok()?;
        let state: Value = serde_json::from_slice(&output.stdout).ok()?;
        Some(state["status"].as_str()?.to_owned())
    }

    fn on_terminal(&self, runtime: Runtime, words: &[String]) -> Result<Seen> {
        let mut command = self.command(runtime);
        for word in words {
            command.arg(self.place.words(word));
        }
        let (terminal, running) = Terminal::run(&command, ROWS, COLUMNS)?;
        let (stdout, code) = terminal.end(STEP_LIMIT)?;
        // The shell on it waits for a line.
        terminal.enter("\n")?;
        running.finish(SOON)?;
        Ok(Seen {
            code: Some(code),
            stdout,
            ..Seen::default()
        })
    }

    /// Takes away the containers that the case named, and looks whether they are gone.
    fn clear(&self, runtime: Runtime, case: &Case) -> Result<()> {
        let named: BTreeSet<&str> = case
            .steps
            .iter()
            .flat_map(|step| match step {
                Step::Verb { words, .. } => words.as_slice(),
                _ => &[],
            })
            .map(String::as_str)
            .filter(|word| ["one", "two", "three"].contains(word))
            .collect();
        for id in named {
            let output = self.plain(runtime, &["delete", "--force", id])?;
            ensure!(output.0, "{id} stays: {}", output.1);
        }
        let left = self.plain(runtime, &["list", "--quiet"])?.1;
        let left: Vec<&str> = left.lines().filter(|id| *id != BED).collect();
        ensure!(left.is_empty(), "left behind: {}", left.join(", "));
        // The bed has one; others end when they have said everything.
        let relays = || {
            self.world
                .processes("hutch-relay")
                .map_or(0, |relays| relays.len())
        };
        if runtime == Runtime::Hutch && !wait_until(|| relays() <= 1, SOON) {
            bail!("{} relays stay", relays() - 1);
        }
        Ok(())
    }

    fn plain(&self, runtime: Runtime, words: &[&str]) -> Result<(bool, String)> {
        let mut command = self.command(runtime);
        let output = command.args(words).stdin(Stdio::null()).output();
        let output = output.with_context(|| format!("start {runtime:?}"))?;
        let said = [output.stdout, output.stderr].concat();
        Ok((
            output.status.success(),
            String::from_utf8_lossy(&said).into_owned(),
        ))
    }

    /// runc's records, which its containers take along.
    pub fn runc_root(&self) -> PathBuf {
        self.place.beside("runc")
    }
}

fn level(holds: bool) -> Seen {
    Seen {
        code: Some(if holds { 0 } else { 1 }),
        ..Seen::default()
    }
}

/// Runs it to its end; what it prints is read when whoever it leaves behind has ended too.
fn ended(command: &mut Command, stdin: Stdio, files: &[PathBuf; 2]) -> Result<Seen> {
    let file = |path: &Path| File::create(path).context("make a file for output");
    let ends = [stdin, file(&files[0])?.into(), file(&files[1])?.into()];
    let outcome = Running::start_on(command, ends)?.finish(STEP_LIMIT);
    Ok(match outcome {
        Ok(outcome) => Seen {
            code: outcome.code(),
            ..Seen::default()
        },
        // It hangs, which is what it shows.
        Err(why) => {
            let kept = fs::read_to_string(&files[1]).unwrap_or_default();
            fs::write(&files[1], format!("{kept}{why:#}\n")).context("keep why")?;
            Seen::default()
        }
    })
}
