//! hutch: the command line. OCI runtime verbs with runc's flags and meanings, and sandbox verbs.
//!
//! It is a client of hutchd and holds no state; errors are one line on standard error (and in the
//! file of `--log`), and exit codes are runc's.

use hutch::{args::Cli, run};
use std::process::ExitCode;

fn main() -> ExitCode {
    match <Cli as clap::Parser>::try_parse() {
        Ok(cli) => run::run(cli),
        Err(why) => run::not_understood(&why),
    }
}
