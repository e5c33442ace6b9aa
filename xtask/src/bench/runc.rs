//! Verb by verb beside runc, on the same bundle and in turns: what a caller waits for when a sandbox runs already.
//!
//! runc starts a process on this host, Hutch one in a guest that may be emulated; the goal is to be no slower all the same.
//! The first exec in a container reads its program from the host; those after it find it in the guest's memory.
//! Both have their state in memory, as each has by default, below /run; root file systems are on disk.

use super::{
    report::{Measure, Unit},
    scene::Scene,
};
use crate::{bundle, e2e::world::SOON, wait::wait_until};
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Instant,
};

/// At least so many lives, however few runs are asked for: from one to the next the time of one and the same verb varies by half,
/// and a life takes a third of a second on both sides together.
const LIVES_MIN: usize = 60;
const BED: &str = "bed";
const ID: &str = "one";
/// What is timed of each life, in its order.
const VERBS: [(&str, &[&str]); 7] = [
    ("start", &["start", ID]),
    ("first exec", &["exec", ID, "/bin/true"]),
    ("exec", &["exec", ID, "/bin/true"]),
    ("state", &["state", ID]),
    ("list", &["list"]),
    ("kill", &["kill", ID, "KILL"]),
    ("delete", &["delete", ID]),
];

/// Of one life, milliseconds by verb.
type Times = BTreeMap<&'static str, f64>;

struct Pair<'a> {
    scene: &'a Scene<'a>,
    runc_root: PathBuf,
}

#[derive(Clone, Copy)]
enum Runtime {
    Runc,
    Hutch,
}

pub fn measure(scene: &Scene<'_>) -> Result<Vec<Measure>> {
    scene.reside(BED)?;
    let pair = Pair {
        scene,
        runc_root: scene.world.root().with_file_name("runc"),
    };
    let warm = scene.world.bundle(&["/bin/sleep", "100000"])?;
    // As an image is that was unpacked a while ago.
    bundle::settle(&warm.join("rootfs/bin/busybox"))?;
    // The first fills caches on both sides, and translates code in the guest.
    pair.live(Runtime::Runc, &warm)?;
    pair.live(Runtime::Hutch, &warm)?;
    let (mut theirs, mut ours, mut cold) = (Vec::new(), Vec::new(), [Vec::new(), Vec::new()]);
    for _ in 0..scene.runs.max(LIVES_MIN) {
        theirs.push(pair.live(Runtime::Runc, &warm)?);
        ours.push(pair.live(Runtime::Hutch, &warm)?);
        // A root file system that no guest has read a page of.
        let fresh = scene.world.bundle(&["/bin/sleep", "100000"])?;
        for (times, runtime) in cold.iter_mut().zip([Runtime::Runc, Runtime::Hutch]) {
            times.push(up(&pair.live(runtime, &fresh)?));
        }
    }
    scene.timed(&["delete", "--force", BED])?;
    let mut measures = Vec::new();
    let verbs = VERBS.map(|(verb, _)| verb);
    for verb in ["create"].into_iter().chain(verbs) {
        let of = |times: &[Times]| times.iter().map(|times| times[verb]).collect::<Vec<_>>();
        measures.extend(compared(verb, &of(&theirs), &of(&ours), goal(verb)));
    }
    let all = |times: &[Times]| times.iter().map(up).collect::<Vec<_>>();
    measures.extend(compared(
        "create and start",
        &all(&theirs),
        &all(&ours),
        Some(1.0),
    ));
    measures.extend(compared("create and start, cold", &cold[0], &cold[1], None));
    Ok(measures)
}

/// Of runc's time. A creation and its start have one together, and a first exec has none.
fn goal(verb: &str) -> Option<f64> {
    (!["create", "start", "first exec"].contains(&verb)).then_some(1.0)
}

/// Until the program runs.
fn up(times: &Times) -> f64 {
    times["create"] + times["start"]
}

fn compared(what: &str, theirs: &[f64], ours: &[f64], goal: Option<f64>) -> Vec<Measure> {
    let ms = Unit::Milliseconds;
    let ratio = Measure::ratios(&format!("runc/{what}, ratio"), ours, theirs);
    vec![
        Measure::new(
            &format!("runc/{what} of runc"),
            ms,
            theirs.to_vec(),
            "a process of this host",
        ),
        Measure::new(
            &format!("runc/{what}"),
            ms,
            ours.to_vec(),
            "in a sandbox that runs",
        ),
        match goal {
            Some(goal) => ratio.at_most(goal),
            None => ratio,
        },
    ]
}

impl Pair<'_> {
    fn command(&self, runtime: Runtime, words: &[&str]) -> Command {
        match runtime {
            Runtime::Hutch => self.scene.world.hutch(words),
            Runtime::Runc => {
                let mut runc = Command::new("runc");
                runc.arg("--root").arg(&self.runc_root).args(words);
                runc
            }
        }
    }

    fn live(&self, runtime: Runtime, bundle: &Path) -> Result<Times> {
        let mut create = self.command(runtime, &["create", "--bundle"]);
        create.arg(bundle);
        if let Runtime::Hutch = runtime {
            create.args(["--sandbox", BED]);
        }
        create.arg(ID);
        let mut times = Times::from([("create", timed(&mut create)?)]);
        for (verb, words) in VERBS {
            if verb == "delete" {
                ensure!(
                    wait_until(|| self.is_stopped(runtime), SOON),
                    "it does not stop"
                );
            }
            times.insert(verb, timed(&mut self.command(runtime, words))?);
        }
        Ok(times)
    }

    fn is_stopped(&self, runtime: Runtime) -> bool {
        let output = self.command(runtime, &["state", ID]).output();
        let state = output
            .ok()
            .and_then(|output| serde_json::from_slice::<Value>(&output.stdout).ok());
        state.is_some_and(|state| state["status"] == "stopped")
    }
}

fn timed(command: &mut Command) -> Result<f64> {
    command.stdin(Stdio::null()).stdout(Stdio::null());
    let line = crate::command::line(command);
    let began = Instant::now();
    let status = command
        .status()
        .with_context(|| format!("start `{line}`"))?;
    let took = began.elapsed().as_secs_f64() * 1000.0;
    ensure!(status.success(), "`{line}` ended with {status}");
    Ok(took)
}
