//! `cargo xtask sim`: the daemon's simulation, told with many seeds or with one.
//!
//! The simulation is a test of the daemon (`bins/hutchd/tests/sim`); this only asks for it.

use crate::{counts::Counts, test, workspace::Workspace};
use anyhow::Result;
use clap::Args;
use std::process::Command;

/// What `cargo xtask test` tells: a few minutes of chance each time.
const SEEDS: u64 = 1000;

#[derive(Args)]
pub struct Arguments {
    /// How many seeds are told, from 1
    #[arg(long, default_value_t = SEEDS)]
    seeds: u64,
    /// Tell this seed alone, and say where its event log is
    #[arg(long)]
    seed: Option<u64>,
    /// Print the event log of the seed, with what every room applied
    #[arg(long, requires = "seed")]
    trace: bool,
}

pub fn run(workspace: &Workspace, arguments: &Arguments) -> Result<Counts> {
    let mut cargo = simulation(workspace);
    cargo.env("HUTCH_SIM_SEEDS", arguments.seeds.to_string());
    if let Some(seed) = arguments.seed {
        cargo.env("HUTCH_SIM_SEED", seed.to_string());
    }
    if arguments.trace {
        cargo.env("HUTCH_SIM_TRACE", "1");
    }
    test::cargo_tests(&mut cargo)
}

/// The step of `cargo xtask test`.
pub fn all(workspace: &Workspace) -> Result<Counts> {
    let mut cargo = simulation(workspace);
    cargo.env("HUTCH_SIM_SEEDS", SEEDS.to_string());
    test::cargo_tests(&mut cargo)
}

/// Built as the other tests are, so that it is built once.
fn simulation(workspace: &Workspace) -> Command {
    let mut cargo = workspace.cargo();
    cargo
        .args(["test", "--workspace", "--all-features", "--locked"])
        .args([
            "--test",
            "sim",
            "--",
            "--nocapture",
            "no_seed_breaks_a_promise",
        ]);
    cargo
}
