//! What a bench found, as a table for people and as JSON for programs.
//!
//! The JSON is one object: `schema` (1), `environment` and `measures`. A measure has `name`
//! (group/what), `unit`, `value` (the median of `samples`), `goal` (null, or `at_most` with
//! `met`), `samples` in the order in which they were taken, and `about`.

use anyhow::{Context, Result};
use serde::Serialize;
use std::{fmt::Write as _, fs, path::Path};

/// Goes up when a reader of older files would misread newer ones.
const SCHEMA: u32 = 1;

#[derive(Debug, Serialize)]
pub struct Report {
    schema: u32,
    environment: Environment,
    measures: Vec<Measure>,
}

/// Where the figures come from.
#[derive(Debug, Clone, Serialize)]
pub struct Environment {
    /// What ran the guests.
    pub accelerator: String,
    pub cpus: usize,
    /// Of the host.
    pub kernel: String,
    /// Of this tree; `-dirty` when it holds more than that.
    pub commit: String,
    /// Load average of the last minute when the bench began: what else ran.
    pub load: String,
}

#[derive(Debug, Clone, Serialize)]
pub struct Measure {
    pub name: String,
    pub unit: Unit,
    pub value: f64,
    pub goal: Option<Goal>,
    pub samples: Vec<f64>,
    pub about: &'static str,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum Unit {
    #[serde(rename = "ms")]
    Milliseconds,
    /// Processor time, user and system.
    #[serde(rename = "cpu-s")]
    CpuSeconds,
    #[serde(rename = "x")]
    Ratio,
    #[serde(rename = "MB/s")]
    MegabytesPerSecond,
    #[serde(rename = "KiB")]
    Kibibytes,
    #[serde(rename = "count")]
    Count,
}

impl Unit {
    fn name(self) -> &'static str {
        match self {
            Self::Milliseconds => "ms",
            Self::CpuSeconds => "cpu-s",
            Self::Ratio => "x",
            Self::MegabytesPerSecond => "MB/s",
            Self::Kibibytes => "KiB",
            Self::Count => "",
        }
    }

    fn decimals(self) -> usize {
        match self {
            Self::CpuSeconds | Self::Ratio => 3,
            Self::Milliseconds | Self::MegabytesPerSecond => 1,
            Self::Kibibytes | Self::Count => 0,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Goal {
    pub at_most: f64,
    pub met: bool,
}

impl Measure {
    /// The median of what was measured; of nothing there is none.
    pub fn new(name: &str, unit: Unit, samples: Vec<f64>, about: &'static str) -> Self {
        Self {
            name: name.to_owned(),
            unit,
            value: median(&samples),
            goal: None,
            samples,
            about,
        }
    }

    /// Of what was measured in the same run, so that what slowed one down slowed the other too.
    pub fn ratios(name: &str, measured: &[f64], yardstick: &[f64]) -> Self {
        let pairs = measured.iter().zip(yardstick);
        let ratios = pairs
            .map(|(measured, yardstick)| measured / yardstick)
            .collect();
        Self::new(name, Unit::Ratio, ratios, "run by run")
    }

    pub fn at_most(mut self, limit: f64) -> Self {
        self.goal = Some(Goal {
            at_most: limit,
            met: self.value <= limit,
        });
        self
    }
}

/// Between the two in the middle where the number is even.
pub fn median(samples: &[f64]) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => f64::NAN,
        count if count % 2 == 0 => f64::midpoint(sorted[middle - 1], sorted[middle]),
        _ => sorted[middle],
    }
}

impl Report {
    pub fn new(environment: Environment, measures: Vec<Measure>) -> Self {
        Self {
            schema: SCHEMA,
            environment,
            measures,
        }
    }

    /// One line to a measure, in the order in which they were made.
    pub fn table(&self) -> String {
        let Environment {
            accelerator,
            cpus,
            kernel,
            commit,
            load,
        } = &self.environment;
        let mut text =
            format!("{accelerator}, {cpus} cpus, linux {kernel}, commit {commit}, load {load}\n\n");
        let width = self.measures.iter().map(|measure| measure.name.len()).max();
        let width = width.unwrap_or_default();
        for measure in &self.measures {
            let decimals = measure.unit.decimals();
            let goal = measure.goal.map_or_else(String::new, |goal| {
                let verdict = if goal.met { "met" } else { "MISSED" };
                format!("≤ {:.decimals$} {verdict}", goal.at_most)
            });
            // Writing to a string cannot fail.
            let _ = writeln!(
                text,
                "{:width$}  {:>10.decimals$} {:5}  {goal:18}  {} (n={}, {})",
                measure.name,
                measure.value,
                measure.unit.name(),
                measure.about,
                measure.samples.len(),
                spread(&measure.samples, decimals),
            );
        }
        text
    }

    pub fn json(&self) -> String {
        serde_json::to_string_pretty(self).expect("a report is strings and finite numbers")
    }

    pub fn write(&self, path: &Path) -> Result<()> {
        fs::write(path, self.json()).with_context(|| format!("write {}", path.display()))
    }
}

fn spread(samples: &[f64], decimals: usize) -> String {
    let least = samples.iter().copied().fold(f64::INFINITY, f64::min);
    let most = samples.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    format!("{least:.decimals$} to {most:.decimals$}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        let environment = Environment {
            accelerator: "tcg".into(),
            cpus: 2,
            kernel: "6.1".into(),
            commit: "abc".into(),
            load: "0.50".into(),
        };
        let measures = vec![
            Measure::new("boot/ready", Unit::Ratio, vec![1.2, 1.0, 1.1], "to ready").at_most(1.10),
            Measure::new("memory/relay", Unit::Kibibytes, vec![2000.0], "resident").at_most(1536.0),
            Measure::new("exec/true", Unit::Milliseconds, vec![4.0, 2.0], "an exec"),
        ];
        Report::new(environment, measures)
    }

    #[test]
    fn the_value_is_the_median_and_the_goal_is_judged_by_it() {
        let Report { measures, .. } = report();

        assert_eq!(measures[0].value, 1.1);
        assert!(measures[0].goal.unwrap().met);
        assert!(!measures[1].goal.unwrap().met);
        assert_eq!(measures[2].value, 3.0);
        assert!(median(&[]).is_nan());
        let ratio = Measure::ratios("r", &[2.0, 9.0, 4.0], &[1.0, 3.0, 4.0]);
        assert_eq!(ratio.samples, [2.0, 3.0, 1.0]);
    }

    #[test]
    fn the_table_names_what_was_missed() {
        let table = report().table();

        let lines: Vec<&str> = table.lines().collect();
        assert_eq!(lines[0], "tcg, 2 cpus, linux 6.1, commit abc, load 0.50");
        assert!(lines[2].contains("1.100 x      ≤ 1.100 met"), "{table}");
        assert!(lines[3].contains("≤ 1536 MISSED"), "{table}");
        assert!(lines[4].ends_with("an exec (n=2, 2.0 to 4.0)"), "{table}");
    }

    #[test]
    fn the_json_has_the_documented_fields() {
        let value: serde_json::Value = serde_json::from_str(&report().json()).unwrap();

        assert_eq!(value["schema"], 1);
        assert_eq!(value["environment"]["accelerator"], "tcg");
        let measure = &value["measures"][0];
        assert_eq!(measure["name"], "boot/ready");
        assert_eq!(measure["unit"], "x");
        assert_eq!(measure["goal"]["at_most"], 1.10);
        assert_eq!(measure["goal"]["met"], true);
        assert_eq!(measure["samples"].as_array().unwrap().len(), 3);
        assert!(value["measures"][2]["goal"].is_null());
    }
}
