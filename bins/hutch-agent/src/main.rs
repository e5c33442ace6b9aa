//! The program: does nothing but hand over to the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    if std::process::id() != 1 {
        eprintln!("hutch-agent: is the first process of a guest, and does nothing elsewhere");
        return ExitCode::from(2);
    }
    hutch_agent::init::run()
}
