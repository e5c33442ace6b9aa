//! `cargo xtask bench`: what Hutch costs, measured on the real product, beside its goals.
//!
//! A group measures what belongs together in one run, so that its ratios hold on a busy machine
//! too: what is compared is interleaved, values are medians, and where it says so processor time
//! stands in for wall time. To add one: write it in a file of its own and list it in `GROUPS`.

mod bare;
mod boot;
mod console;
mod crowd;
mod exec;
mod guest;
mod memory;
mod meter;
mod report;
mod runc;
mod scene;
mod stdio;
mod waterfall;

use crate::{
    assets, build::Examples, command, counts::Counts, e2e, e2e::world::Fixtures, scratch::Scratch,
    workspace::Workspace,
};
use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use report::{Measure, Report};
use scene::Scene;
use serde_json::Value;
use std::{fs, path::PathBuf, process::Command};

#[derive(Args)]
pub struct Arguments {
    /// Only groups whose name contains this
    #[arg(value_name = "FILTER", default_value = "")]
    filter: String,
    /// How often each thing is done, beside runc sixty times at least; the value is the median
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..))]
    runs: u16,
    /// Also write everything, samples included, as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// What is measured together.
struct Group {
    name: &'static str,
    measure: fn(&Scene<'_>) -> Result<Vec<Measure>>,
}

const GROUPS: &[Group] = &[
    Group {
        name: "boot",
        measure: boot::measure,
    },
    Group {
        name: "exec",
        measure: exec::measure,
    },
    Group {
        name: "runc",
        measure: runc::measure,
    },
    Group {
        name: "stdio",
        measure: stdio::measure,
    },
    Group {
        name: "guest",
        measure: guest::measure,
    },
    Group {
        name: "memory",
        measure: memory::measure,
    },
    Group {
        name: "crowd",
        measure: crowd::measure,
    },
];

pub fn run(workspace: &Workspace, arguments: &Arguments) -> Result<()> {
    let chosen: Vec<&Group> = GROUPS
        .iter()
        .filter(|group| group.name.contains(&arguments.filter))
        .collect();
    if chosen.is_empty() {
        let names: Vec<&str> = GROUPS.iter().map(|group| group.name).collect();
        bail!(
            "no group is called {:?}; there are {}",
            arguments.filter,
            names.join(", ")
        );
    }
    let fixtures = Fixtures {
        assets: assets::ensure(workspace)?,
        // Nothing here needs them.
        examples: Examples::of(workspace),
    };
    let _alone = e2e::stand_apart()?;
    let report = e2e::visit(&fixtures, |world| {
        let scene = Scene {
            workspace,
            world,
            runs: usize::from(arguments.runs),
        };
        let environment = scene.environment()?;
        let mut measures = Vec::new();
        for group in chosen {
            eprintln!("measuring {}", group.name);
            measures.extend((group.measure)(&scene)?);
        }
        Ok(Report::new(environment, measures))
    })?;
    print!("{}", report.table());
    if let Some(path) = &arguments.json {
        report.write(path)?;
    }
    Ok(())
}

/// The cheapest group, once, as a user runs it: that the bench works is a test, how fast Hutch is on this machine is none.
pub fn works(_: &Workspace) -> Result<Counts> {
    let scratch = Scratch::new()?;
    let path = scratch.path().join("bench.json");
    let mut bench = Command::new(std::env::current_exe().context("find xtask")?);
    bench
        .args(["bench", "exec", "--runs", "1", "--json"])
        .arg(&path);
    let table = command::read(&mut bench)?;
    let text = fs::read_to_string(&path).context("read what the bench wrote")?;
    let report: Value = serde_json::from_str(&text).context("the bench wrote no JSON")?;
    let measures = report["measures"]
        .as_array()
        .context("there are no measures")?;
    ensure!(report["environment"]["accelerator"].is_string(), "{text}");
    ensure!(!measures.is_empty(), "{text}");
    for measure in measures {
        let name = measure["name"].as_str().context("a measure has no name")?;
        let value = measure["value"]
            .as_f64()
            .context("a measure has no value")?;
        ensure!(
            value > 0.0 && table.contains(name),
            "{name}: {value}; {table}"
        );
    }
    Ok(Counts::PASSED)
}
