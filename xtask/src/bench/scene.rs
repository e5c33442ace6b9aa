//! What every group of benches is given: a world with a running daemon, and questions to it.

use super::report::{Environment, Measure, Unit};
use crate::{command, e2e::world::World, workspace::Workspace};
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::{
    fs,
    process::{Command, Stdio},
    time::Instant,
};

pub struct Scene<'a> {
    pub workspace: &'a Workspace,
    pub world: &'a World<'a>,
    pub runs: usize,
}

impl Scene<'_> {
    /// Starts the daemon, if none runs, and asks where we are.
    pub fn environment(&self) -> Result<Environment> {
        let started = self.world.verb(&["list"])?;
        ensure!(
            started.code() == Some(0),
            "hutchd does not start: {started:?}"
        );
        let acceleration = self.finding("acceleration")?;
        let accelerator = acceleration.split(':').next().unwrap_or_default();
        let dirty = !self.git(&["status", "--porcelain"])?.is_empty();
        let commit = self.git(&["rev-parse", "--short", "HEAD"])?;
        let load = fs::read_to_string("/proc/loadavg").context("read the load")?;
        Ok(Environment {
            accelerator: accelerator.to_owned(),
            cpus: std::thread::available_parallelism()?.get(),
            kernel: command::read(Command::new("uname").arg("-r"))?
                .trim()
                .to_owned(),
            commit: format!("{commit}{}", if dirty { "-dirty" } else { "" }),
            load: load.split(' ').next().unwrap_or_default().to_owned(),
        })
    }

    fn git(&self, words: &[&str]) -> Result<String> {
        let mut git = Command::new("git");
        git.current_dir(self.workspace.root()).args(words);
        Ok(command::read(&mut git)?.trim().to_owned())
    }

    /// The text of one finding of `hutch doctor`.
    fn finding(&self, check: &str) -> Result<String> {
        // It exits with 1 where the host lacks something, which is not our business here.
        let doctor = self.world.verb(&["doctor", "--json"])?;
        let findings: Value = serde_json::from_str(&doctor.stdout)
            .with_context(|| format!("hutch doctor printed {:?}", doctor.stdout))?;
        let findings = findings.as_array().context("hutch doctor gave no list")?;
        let found = findings.iter().find(|found| found["check"] == check);
        let text = found.and_then(|found| found["text"].as_str());
        Ok(text
            .with_context(|| format!("hutch doctor does not tell of {check}"))?
            .to_owned())
    }

    /// How long a `hutch` of these words takes, in milliseconds; one that fails is an error.
    pub fn timed(&self, words: &[&str]) -> Result<f64> {
        let mut hutch = self.world.hutch(words);
        hutch.stdin(Stdio::null()).stdout(Stdio::null());
        let began = Instant::now();
        let status = hutch.status().context("start hutch")?;
        let took = began.elapsed().as_secs_f64() * 1000.0;
        ensure!(
            status.success(),
            "hutch {} ended with {status}",
            words.join(" ")
        );
        Ok(took)
    }

    /// Starts a container that stays, in a sandbox of its own.
    pub fn reside(&self, id: &str) -> Result<()> {
        let bundle = self.world.bundle(&["/bin/sleep", "100000"])?;
        self.timed(&["create", "--bundle", &bundle.to_string_lossy(), id])?;
        self.timed(&["start", id])?;
        Ok(())
    }

    /// What the daemon's store did until now.
    pub fn store_figures(&self) -> Result<StoreFigures> {
        StoreFigures::of(&self.finding("daemon")?)
    }
}

/// Figures of the store, since the daemon began or between two looks.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StoreFigures {
    pub writes: f64,
    pub flushes: f64,
    pub bytes: f64,
    pub micros: f64,
}

impl StoreFigures {
    /// From `… 12 writes, 3 flushes …`.
    fn of(text: &str) -> Result<Self> {
        let words: Vec<&str> = text
            .split([' ', ','])
            .filter(|word| !word.is_empty())
            .collect();
        let before = |name: &str| -> Result<f64> {
            let at = words.iter().position(|word| *word == name);
            let number = at.and_then(|at| words.get(at.checked_sub(1)?)?.parse().ok());
            number.with_context(|| format!("no number of {name} in {text:?}"))
        };
        Ok(Self {
            writes: before("writes")?,
            flushes: before("flushes")?,
            bytes: before("bytes")?,
            micros: before("microseconds")?,
        })
    }

    pub fn since(&self, before: &Self) -> Self {
        Self {
            writes: self.writes - before.writes,
            flushes: self.flushes - before.flushes,
            bytes: self.bytes - before.bytes,
            micros: self.micros - before.micros,
        }
    }

    pub fn measures(samples: &[Self]) -> Vec<Measure> {
        let each = |pick: fn(&Self) -> f64| samples.iter().map(pick).collect::<Vec<_>>();
        vec![
            Measure::new(
                "store/writes",
                Unit::Count,
                each(|f| f.writes),
                "of one life: run to delete",
            ),
            Measure::new(
                "store/flushes",
                Unit::Count,
                each(|f| f.flushes),
                "of one life",
            ),
            Measure::new(
                "store/size",
                Unit::Kibibytes,
                each(|f| f.bytes / 1024.0),
                "written in one life",
            ),
            Measure::new(
                "store/busy",
                Unit::Milliseconds,
                each(|f| f.micros / 1000.0),
                "making them durable",
            ),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stores_figures_are_read_off_what_doctor_says() {
        let text = "running, 1 sandboxes; store: 12 writes, 15 changes, 4096 bytes, 11 flushes, 900 microseconds";

        let figures = StoreFigures::of(text).unwrap();

        assert_eq!((figures.writes, figures.flushes), (12.0, 11.0));
        assert_eq!(figures.since(&figures).micros, 0.0);
        assert!(StoreFigures::of("running").is_err());
    }
}
