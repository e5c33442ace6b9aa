//! Builds, tests and measures everything: `cargo xtask --help`.
//!
//! Depends on no C library: it is what installs them.

mod assets;
mod bench;
mod build;
mod bundle;
mod cache;
mod command;
mod conformance;
mod counts;
mod daemon;
mod dependencies;
mod e2e;
mod fuzz;
mod image;
mod kernel;
mod programs;
mod run;
mod scratch;
mod setup;
mod sim;
mod test;
mod tidy;
mod wait;
mod workspace;

use anyhow::Result;
use cache::Cache;
use clap::{Parser, Subcommand};
use counts::Counts;
use std::process::ExitCode;
use workspace::Workspace;

/// Builds, tests and measures Hutch.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Run a command in a container in a fresh VM; does all the set-up and building first
    ///
    /// Installs packages, builds kernel, image and programs into the cache (~/.cache/hutch, or HUTCH_CACHE), builds the
    /// binaries, starts a daemon if none runs. Exits with the command's code. Example:
    ///
    ///   cargo xtask run -- /bin/sh -c 'echo hello from $(uname -r); exit 7'
    Run(run::Arguments),
    /// Run everything that must hold: format, clippy, tidy, all tests, e2e; ends with `N passed, N failed`
    Test(test::Arguments),
    /// Run stories with real QEMU and a real guest, and look for what each leaves behind (needs root)
    E2e {
        /// Only stories whose name contains this
        #[arg(value_name = "FILTER", default_value = "")]
        filter: String,
    },
    /// Tell one story, as `e2e` asks for it
    #[command(hide = true)]
    E2eStory(e2e::side_by_side::Arguments),
    /// Play cases with Debian's runc and with Hutch, on the same bundles, and compare what both show (needs root)
    ///
    /// A difference is a failure unless docs/conformance.md names it with its reason. Without FILTER and --all, the
    /// quick ones are played.
    Conformance(conformance::Arguments),
    /// Run the tests of the agent and of its container engine inside guests that no daemon drives
    GuestTests,
    /// Run the daemon on a simulated host: stories and faults by seed, under virtual time, checked after every effect
    ///
    /// A failed seed says where its event log is; `--seed S --trace` tells it again, byte for byte. Exits with 1 if a
    /// seed failed.
    Sim(sim::Arguments),
    /// Run the fuzz targets, a minute each (needs a nightly toolchain; builds cargo-fuzz into the cache)
    Fuzz(fuzz::Arguments),
    /// Measure start, execs, streams and memory of the real product, beside their goals (needs root)
    ///
    /// Prints a table, and with --json writes one object: `schema`, `environment` (accelerator, cpus, kernel, commit, load)
    /// and `measures`, each with `name`, `unit`, `value` (the median), `goal` (null, or `at_most` and `met`), `samples` and
    /// `about`. Groups, which FILTER chooses from:
    ///
    ///   boot    cold start beside a bare QEMU, the waterfall of its steps, writes of the store
    ///   exec    an exec and a further container in a running sandbox
    ///   runc    each verb beside runc's, on the same bundle
    ///   stdio   bytes a second each way, with checksums
    ///   guest   containers and execs inside the guest, beside one fork and exec there
    ///   memory  daemon, relay, QEMU and virtiofsd, with up to ten sandboxes
    ///   crowd   the daemon with a thousand simulated sandboxes, and a list of them
    ///
    /// A ratio is taken run by run. Nothing passes or fails by time: a goal is met or missed.
    #[command(verbatim_doc_comment)]
    Bench(bench::Arguments),
    /// Install the Debian packages that are missing (as root), or print the command that does
    Setup,
    /// Build the guest kernel from Debian's linux-source and guest/kernel.fragment, into the cache; prints its path
    GuestKernel,
    /// Build the binaries and the initramfs around the agent, into the cache; prints its path
    GuestImage,
    /// Build a program of others that guests need beside them on the host, into the cache; prints its path
    Program { name: programs::Name },
    /// Check what compiler and clippy do not: sizes, module heads, names, who touches what, sleeps, places, promised tests
    Tidy,
    /// Build all binaries (release, static) and print their paths
    Build,
}

fn main() -> ExitCode {
    match perform(Arguments::parse().verb) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn perform(verb: Verb) -> Result<ExitCode> {
    let workspace = Workspace::find();
    match verb {
        Verb::Run(arguments) => return run::run(&workspace, &arguments),
        Verb::Test(arguments) => return test::run(&workspace, &arguments),
        Verb::E2e { filter } => return Ok(told(e2e::run(&workspace, &filter)?)),
        Verb::E2eStory(arguments) => {
            return e2e::side_by_side::tell_here(&workspace, &arguments);
        }
        Verb::Conformance(arguments) => return conformance::run(&workspace, &arguments),
        Verb::GuestTests => return Ok(told(e2e::guest_tests(&workspace)?)),
        Verb::Sim(arguments) => {
            let counts = sim::run(&workspace, &arguments)?;
            return Ok(ExitCode::from(u8::from(counts.failed > 0)));
        }
        Verb::Fuzz(arguments) => fuzz::run(&workspace, &arguments)?,
        Verb::Bench(arguments) => bench::run(&workspace, &arguments)?,
        Verb::Setup => setup::ensure(setup::ALL)?,
        Verb::GuestKernel => {
            let kernel = kernel::ensure(&workspace, &Cache::open()?)?;
            println!("{}", kernel.vmlinux().display());
        }
        Verb::GuestImage => {
            setup::ensure(&[setup::PROGRAMS])?;
            let built = build::all(&workspace)?;
            println!(
                "{}",
                image::ensure(&Cache::open()?, &built.agent)?.display()
            );
        }
        Verb::Program { name } => {
            let path = programs::ensure(&workspace, &Cache::open()?, name.program())?;
            println!("{}", path.display());
        }
        Verb::Tidy => {
            if !tidy::run(&workspace)? {
                return Ok(ExitCode::FAILURE);
            }
        }
        Verb::Build => {
            setup::ensure(&[setup::PROGRAMS])?;
            let built = build::all(&workspace)?;
            for path in [built.hutch, built.hutchd, built.relay, built.agent] {
                println!("{}", path.display());
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn told(counts: Counts) -> ExitCode {
    println!("{counts}");
    ExitCode::from(u8::from(counts.failed > 0))
}
