//! hutch: the command line. OCI runtime verbs with runc's flags and meanings, and sandbox verbs.
//!
//! It is a client of hutchd and holds no state; errors are one line on standard error (and in the
//! file of `--log`), and exit codes are runc's.

use hutch::{args::Cli, run};
use std::process::ExitCode;

fn main() -> ExitCode {
    // A relay or a daemon that we leave behind must not hold our caller's locks and pipes for as long as it lives: it gets
    // what is given to it on purpose, from here on.
    proc::berth::close_the_rest_on_exec();
    match <Cli as clap::Parser>::try_parse() {
        Ok(cli) => run::run(cli),
        Err(why) => run::not_understood(&why),
    }
}
