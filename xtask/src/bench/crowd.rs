//! The daemon's memory with sandboxes by the thousand, which no bench machine has room for: they are simulated.
//!
//! What is measured is the example program `crowd` of bins/hutchd: hutchd's own rooms and store
//! over fakes. Its memory holds the fakes too, and lacks the conversations with real sandboxes.

use super::{
    memory::{DAEMON_KIB, SANDBOX_KIB},
    meter,
    report::{Measure, Unit},
    scene::Scene,
};
use crate::{build, e2e::world::BOOT_LIMIT, scratch::Scratch};
use anyhow::{Context, Result, ensure};
use nix::unistd::Pid;
use serde_json::Value;
use std::{
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
    sync::mpsc,
    time::Instant,
};

const CROWDS: [u32; 3] = [0, 10, 1000];
/// A list is asked for often, by programs too.
const LIST_MS: f64 = 20.0;

pub fn measure(scene: &Scene<'_>) -> Result<Vec<Measure>> {
    let crowd = build::crowd(scene.workspace)?;
    let bundle = scene.world.bundle(&["/bin/sleep", "100000"])?;
    let mut measures = Vec::new();
    for count in CROWDS {
        let mut sizes = Vec::new();
        for _ in 0..scene.runs {
            sizes.push(Crowd::of(count, &crowd, &bundle)?.pss_kib()?);
        }
        let name = format!("crowd/daemon {count}");
        let about = "PSS of hutchd's rooms and store over fakes (simulated sandboxes)";
        let goal = DAEMON_KIB + SANDBOX_KIB * f64::from(count);
        measures.push(Measure::new(&name, Unit::Kibibytes, sizes, about).at_most(goal));
    }
    let many = CROWDS[CROWDS.len() - 1];
    let gathered = Crowd::of(many, &crowd, &bundle)?;
    let lists = (0..scene.runs).map(|_| list(scene, &gathered, many));
    let lists = lists.collect::<Result<Vec<f64>>>()?;
    let about = "`hutch list` of all of them, to its exit";
    let name = format!("crowd/list {many}");
    measures.push(Measure::new(&name, Unit::Milliseconds, lists, about).at_most(LIST_MS));
    let (least, most) = (measures[0].value, measures[CROWDS.len() - 1].value);
    let each = (most - least) / f64::from(CROWDS[CROWDS.len() - 1]);
    let about = "what each of the most adds";
    measures
        .push(Measure::new("crowd/each", Unit::Kibibytes, vec![each], about).at_most(SANDBOX_KIB));
    Ok(measures)
}

/// A crowd that has come together, until it is dropped.
struct Crowd {
    child: Child,
    root: Scratch,
}

impl Crowd {
    fn of(count: u32, program: &Path, bundle: &Path) -> Result<Self> {
        let root = Scratch::new()?;
        let mut child = Command::new(program)
            .arg(count.to_string())
            .args([root.path(), bundle])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("start crowd")?;
        let stdout = child.stdout.take().context("stdout was asked for")?;
        let crowd = Self { child, root };
        let (tell, told) = mpsc::channel();
        std::thread::spawn(move || {
            let said = BufReader::new(stdout).lines().next();
            // Whoever gave up waiting is not missed.
            let _ = tell.send(said.is_some_and(|line| line.is_ok_and(|line| line == "ready")));
        });
        ensure!(
            told.recv_timeout(BOOT_LIMIT).unwrap_or(false),
            "a crowd of {count} did not come together"
        );
        Ok(crowd)
    }

    fn pss_kib(&self) -> Result<f64> {
        meter::pss_kib(Pid::from_raw(self.child.id().cast_signed()))
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        // Nothing of it is outside of its own memory and the scratch folder.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// How long `hutch list` takes with so many, milliseconds.
fn list(scene: &Scene<'_>, crowd: &Crowd, count: u32) -> Result<f64> {
    let began = Instant::now();
    let output = Command::new(&scene.world.fixtures().assets.binaries.hutch)
        .arg("--root")
        .arg(crowd.root.path())
        .args(["list", "--format", "json"])
        .stdin(Stdio::null())
        .output()
        .context("start hutch")?;
    let took = began.elapsed().as_secs_f64() * 1000.0;
    let listed: Vec<Value> =
        serde_json::from_slice(&output.stdout).context("hutch list gave no JSON")?;
    ensure!(
        listed.len() == count as usize,
        "{} were listed",
        listed.len()
    );
    Ok(took)
}
