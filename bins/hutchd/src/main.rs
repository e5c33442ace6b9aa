//! hutchd: the daemon. This file reads arguments; everything else is in its own module.

use anyhow::Result;
use clap::{Parser, Subcommand};
use hutchd::{
    config::{self, Config},
    profile::Profiles,
    start::{self, StartedBy},
};
use std::{env, path::PathBuf, process::ExitCode};

/// Looks after every virtual machine of a host.
#[derive(Debug, Parser)]
#[command(name = "hutchd", version)]
struct Cli {
    /// State folder: sockets, store and sandboxes. Short, since socket paths end at 107 bytes.
    #[arg(long, value_name = "DIR", default_value = "/run/hutch")]
    root: PathBuf,
    /// Configuration file, else what HUTCH_CONFIG names; drop-ins are read from config.d beside it.
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Leave the session and the cgroup of the caller. For commands that start a daemon.
    #[arg(long, hide = true)]
    apart: bool,
    #[command(subcommand)]
    verb: Option<Verb>,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Look at the configuration.
    #[command(subcommand)]
    Config(ConfigVerb),
}

#[derive(Debug, Subcommand)]
enum ConfigVerb {
    /// Say whether it is right, and whether what it names is there.
    Check,
    /// Print it whole: defaults, file and drop-ins together.
    Show,
}

fn run(cli: &Cli) -> Result<()> {
    let named = cli.config.clone();
    let named = named.or_else(|| env::var_os(config::FILE_ENV).map(PathBuf::from));
    let config = Config::load(named.as_deref())?;
    let started_by = match cli.apart {
        true => StartedBy::Command,
        false => StartedBy::Supervisor,
    };
    match cli.verb {
        Some(Verb::Config(ConfigVerb::Show)) => print!("{}", config.show()?),
        Some(Verb::Config(ConfigVerb::Check)) => {
            config.check_assets()?;
            Profiles::of(&config)?;
            println!("configuration is right");
        }
        None => start::serve(&cli.root, &config, started_by)?,
    }
    Ok(())
}

fn main() -> ExitCode {
    match run(&Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("hutchd: {why:#}");
            ExitCode::FAILURE
        }
    }
}
