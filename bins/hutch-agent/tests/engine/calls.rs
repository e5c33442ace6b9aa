//! This program as one that makes system calls by their numbers, in a container.

use std::process::ExitCode;

/// In the environment of the program: numbers, with commas between them.
pub const ASKED: &str = "HUTCH_ENGINE_CALLS";

/// Prints for each of the calls what the kernel, or a filter, says to it.
pub fn print() -> ExitCode {
    let numbers = std::env::var(ASKED).unwrap_or_default();
    for number in numbers.split(',') {
        match number.parse().map(call) {
            Ok(Ok(())) => println!("{number}: done"),
            Ok(Err(error)) => println!("{number}: {}", error.raw_os_error().unwrap_or(0)),
            Err(_) => println!("{number}: no number"),
        }
    }
    ExitCode::SUCCESS
}

/// With nothing but zeroes, which no call takes for memory that it may write.
#[allow(unsafe_code)]
fn call(number: libc::c_long) -> std::io::Result<()> {
    // SAFETY: a call without addresses writes nowhere, and what it does to this process is its end.
    match unsafe { libc::syscall(number, 0, 0, 0, 0, 0, 0) } {
        -1 => Err(std::io::Error::last_os_error()),
        _ => Ok(()),
    }
}
