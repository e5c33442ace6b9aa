//! Bad input: each row is one thing that a caller may get wrong, and what it must be told.
//!
//! Every row is judged alike: the exit code is runc's, standard error is one line that names object, step and cause, and
//! the machine is as it was before.

mod bundles;
mod configuration;
mod guest;
mod sandboxes;
mod states;
mod words;

use crate::{
    bundle,
    e2e::{
        snapshot::Snapshot,
        world::{BOOT_LIMIT, Outcome, World},
    },
    wait::wait_until,
};
use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use std::{
    cell::Cell,
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

/// What runc exits with when a verb fails, but exec.
const FAILED: i32 = 1;
/// What runc exits with when exec fails.
const EXEC_FAILED: i32 = 255;
/// What runc exits with when it does not know a verb.
const UNKNOWN_VERB: i32 = 3;
/// Whoever reads an error reads a terminal's or a log's line.
const LINE_BYTES_MAX: usize = 1_500;
/// What an ending process holds is gone soon after it.
const SETTLE: Duration = Duration::from_secs(10);

/// One thing to get wrong.
struct Row {
    what: &'static str,
    command: fn(&Bench<'_, '_>) -> Result<Command>,
    code: i32,
    /// All of these are in the line.
    says: &'static [&'static str],
}

/// Where rows are tried: a daemon runs, and a root file system lies ready.
struct Bench<'a, 'b> {
    world: &'a World<'b>,
    /// A bundle that could be run.
    good: PathBuf,
    folder: PathBuf,
    made: Cell<u32>,
}

impl<'a, 'b> Bench<'a, 'b> {
    /// # Errors
    /// No daemon can be started.
    fn new(world: &'a World<'b>) -> Result<Self> {
        let good = world.shell("exec sleep 1000")?;
        super::lifecycle::succeeds(&world.verb(&["list"])?)?;
        Ok(Self {
            world,
            folder: good.with_file_name("rows"),
            good,
            made: Cell::new(0),
        })
    }

    /// A folder of this row's own.
    fn fresh(&self) -> Result<PathBuf> {
        self.made.set(self.made.get() + 1);
        let folder = self.folder.join(self.made.get().to_string());
        fs::create_dir_all(&folder).context("make a bundle")?;
        Ok(folder)
    }

    /// A bundle whose root is the good one's, after `change`.
    fn changed(&self, change: impl Fn(&mut Value)) -> Result<PathBuf> {
        let folder = self.fresh()?;
        let args = ["/bin/true".to_owned()];
        let process = bundle::Process {
            args: &args,
            terminal: false,
        };
        bundle::with_rootfs(&folder, &self.good.join("rootfs"), &process)?;
        let path = folder.join("config.json");
        let text = fs::read_to_string(&path).context("read the config")?;
        let mut config = serde_json::from_str(&text).context("read the config")?;
        change(&mut config);
        fs::write(&path, config.to_string()).context("write the config")?;
        Ok(folder)
    }

    /// `hutch create` of a changed bundle.
    fn config(&self, change: impl Fn(&mut Value)) -> Result<Command> {
        Ok(self.create(&self.changed(change)?))
    }

    /// `hutch create` of a bundle whose config.json holds these bytes.
    fn text(&self, bytes: impl AsRef<[u8]>) -> Result<Command> {
        let folder = self.fresh()?;
        fs::write(folder.join("config.json"), bytes).context("write the config")?;
        Ok(self.create(&folder))
    }

    fn create(&self, bundle: &Path) -> Command {
        let mut command = self.world.hutch(&["create", "--bundle"]);
        command.arg(bundle).arg("bad");
        command
    }

    /// `hutch list` of another state folder.
    fn elsewhere(&self, root: &Path) -> Command {
        let mut command = self.world.hutch(&["list", "--root"]);
        command.arg(root);
        command
    }

    /// `hutch` with these words, and nothing else.
    fn hutch(&self, words: &[&str]) -> Result<Command> {
        Ok(self.world.hutch(words))
    }

    /// Tries every row, and says of all that went wrong.
    fn judge(&self, rows: &[Row]) -> Result<()> {
        let mut wrong = Vec::new();
        let sandboxes = self.sandboxes()?;
        for row in rows {
            if let Err(why) = self.judge_one(row) {
                wrong.push(format!("{}: {why:#}", row.what));
            }
        }
        let now = self.sandboxes()?;
        if now != sandboxes {
            wrong.push(format!("sandboxes were {sandboxes}, and are {now}"));
        }
        match wrong.len() {
            0 => Ok(()),
            count => bail!("{count} of {} rows:\n  {}", rows.len(), wrong.join("\n  ")),
        }
    }

    fn judge_one(&self, row: &Row) -> Result<()> {
        let mut command = (row.command)(self)?;
        let before = Snapshot::take(self.world.root())?;
        let listed = self.world.verb(&["list", "--all-namespaces"])?;
        let outcome = self.world.run(&mut command, BOOT_LIMIT)?;
        check(row, &outcome)?;
        let mut leaks = Vec::new();
        let is_clean = || {
            leaks = match Snapshot::take(self.world.root()) {
                Ok(after) => after.leaks_since(&before),
                Err(why) => vec![format!("{why:#}")],
            };
            leaks.is_empty()
        };
        ensure!(wait_until(is_clean, SETTLE), "left behind: {leaks:?}");
        let now = self.world.verb(&["list", "--all-namespaces"])?;
        ensure!(now.stdout == listed.stdout, "containers are now {now:?}");
        Ok(())
    }

    /// All that is told of all sandboxes.
    fn sandboxes(&self) -> Result<String> {
        let listed = self.world.verb(&["sandbox", "list", "--format", "json"])?;
        Ok(listed.stdout)
    }
}

fn check(row: &Row, outcome: &Outcome) -> Result<()> {
    let Outcome { stdout, stderr, .. } = outcome;
    ensure!(
        outcome.code() == Some(row.code),
        "exit code is not {}: {outcome:?}",
        row.code
    );
    ensure!(stdout.is_empty(), "said on standard output: {stdout:?}");
    ensure!(
        stderr.ends_with('\n') && stderr.lines().count() == 1,
        "not one line: {stderr:?}"
    );
    ensure!(stderr.len() <= LINE_BYTES_MAX, "too long: {stderr:?}");
    for part in row.says {
        ensure!(stderr.contains(part), "{part:?} is not in {stderr:?}");
    }
    Ok(())
}

/// Everything that needs no guest to be found wrong.
pub fn bad_input_is_refused_in_one_line_and_leaves_nothing(world: &World<'_>) -> Result<()> {
    let bench = Bench::new(world)?;
    let rows: Vec<Row> = bundles::rows()
        .into_iter()
        .chain(words::rows())
        .chain(sandboxes::of_nobody())
        .chain(configuration::rows())
        .collect();
    bench.judge(&rows)
}

/// What only the guest can judge, in a sandbox that is there already; and verbs at the wrong time.
pub fn a_guest_refuses_as_clearly_as_its_host(world: &World<'_>) -> Result<()> {
    let bench = Bench::new(world)?;
    let created = world.create("house", &bench.good)?.finish(BOOT_LIMIT)?;
    super::lifecycle::succeeds(&created)?;
    bench.judge(&states::of_a_created_one())?;
    bench.judge(&sandboxes::of_a_ready_one())?;
    super::lifecycle::succeeds(&world.verb(&["start", "house"])?)?;
    bench.judge(&states::of_a_running_one())?;
    bench.judge(&sandboxes::of_a_running_one())?;
    super::lifecycle::succeeds(&world.verb(&["sandbox", "pause", "house"])?)?;
    bench.judge(&sandboxes::of_a_paused_one())?;
    super::lifecycle::succeeds(&world.verb(&["sandbox", "resume", "house"])?)?;
    bench.judge(&guest::rows())?;
    super::lifecycle::succeeds(&world.verb(&["kill", "house", "KILL"])?)?;
    let is_stopped = || {
        let state = world.verb(&["state", "house"]);
        state.is_ok_and(|state| state.stdout.contains("\"status\": \"stopped\""))
    };
    ensure!(wait_until(is_stopped, SETTLE), "it does not stop");
    let vm_is_gone = || {
        let vms = world.processes("qemu-system");
        vms.is_ok_and(|vms| vms.is_empty())
    };
    ensure!(wait_until(vm_is_gone, SETTLE), "its VM stays");
    let is_over = || {
        let status = world.verb(&["sandbox", "status", "house"]);
        status.is_ok_and(|status| status.stdout == "stopped\n")
    };
    ensure!(wait_until(is_over, SETTLE), "its sandbox does not stop");
    bench.judge(&states::of_a_stopped_one())?;
    bench.judge(&sandboxes::of_a_stopped_one())?;
    super::lifecycle::succeeds(&world.verb(&["delete", "house"])?)
}
