//! The daemon's memory with sandboxes by the thousand, which no bench machine has room for: they are simulated.
//!
//! What is measured is the example program `crowd` of bins/hutchd: hutchd's own rooms and store
//! over fakes. Its memory holds the fakes too, and lacks the sockets of real sandboxes.

use super::{
    memory::{DAEMON_KIB, SANDBOX_KIB},
    meter,
    report::{Measure, Unit},
    scene::Scene,
};
use crate::{build, e2e::world::BOOT_LIMIT, scratch::Scratch};
use anyhow::{Context, Result};
use nix::unistd::Pid;
use std::{
    io::{BufRead, BufReader},
    path::Path,
    process::{Command, Stdio},
    sync::mpsc,
};

const CROWDS: [u32; 3] = [0, 10, 1000];

pub fn measure(scene: &Scene<'_>) -> Result<Vec<Measure>> {
    let crowd = build::crowd(scene.workspace)?;
    let bundle = scene.world.bundle(&["/bin/sleep", "100000"])?;
    let mut measures = Vec::new();
    for count in CROWDS {
        let mut sizes = Vec::new();
        for _ in 0..scene.runs {
            sizes.push(pss_with(&crowd, count, &bundle)?);
        }
        let name = format!("crowd/daemon {count}");
        let about = "PSS of hutchd's rooms and store over fakes (simulated sandboxes)";
        let goal = DAEMON_KIB + SANDBOX_KIB * f64::from(count);
        measures.push(Measure::new(&name, Unit::Kibibytes, sizes, about).at_most(goal));
    }
    let (least, most) = (measures[0].value, measures[CROWDS.len() - 1].value);
    let each = (most - least) / f64::from(CROWDS[CROWDS.len() - 1]);
    let about = "what each of the most adds";
    measures
        .push(Measure::new("crowd/each", Unit::Kibibytes, vec![each], about).at_most(SANDBOX_KIB));
    Ok(measures)
}

fn pss_with(crowd: &Path, count: u32, bundle: &Path) -> Result<f64> {
    let scratch = Scratch::new()?;
    let mut child = Command::new(crowd)
        .arg(count.to_string())
        .args([scratch.path(), bundle])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .context("start crowd")?;
    let stdout = child.stdout.take().context("stdout was asked for")?;
    let (tell, told) = mpsc::channel();
    std::thread::spawn(move || {
        let said = BufReader::new(stdout).lines().next();
        // Whoever gave up waiting is not missed.
        let _ = tell.send(said.is_some_and(|line| line.is_ok_and(|line| line == "ready")));
    });
    let is_ready = told.recv_timeout(BOOT_LIMIT).unwrap_or(false);
    let size = match is_ready {
        true => meter::pss_kib(Pid::from_raw(child.id().cast_signed())),
        false => Err(anyhow::anyhow!("a crowd of {count} did not come together")),
    };
    // Nothing of it is outside of its own memory and the scratch folder.
    child.kill().context("end crowd")?;
    child.wait().context("wait for crowd")?;
    size
}
