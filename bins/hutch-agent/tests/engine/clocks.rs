//! This program as one that asks what time it is, in a container.

use std::{mem::MaybeUninit, process::ExitCode};

/// In the environment of the program.
pub const ASKED: &str = "HUTCH_ENGINE_CLOCKS";

/// How a clock is read.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    /// As every program does: by the page that the kernel maps into it, if that knows the clock.
    Library,
    Kernel,
}

/// Prints the seconds of the clocks that a time namespace has, read as the environment says.
pub fn print() -> ExitCode {
    let way = match std::env::var(ASKED).as_deref() {
        Ok("kernel") => Way::Kernel,
        _ => Way::Library,
    };
    for clock in [libc::CLOCK_MONOTONIC, libc::CLOCK_BOOTTIME] {
        match seconds(clock, way) {
            Ok(seconds) => println!("{seconds}"),
            Err(error) => println!("{error}"),
        }
    }
    ExitCode::SUCCESS
}

#[allow(unsafe_code)]
fn seconds(clock: libc::clockid_t, way: Way) -> std::io::Result<i64> {
    let mut time = MaybeUninit::<libc::timespec>::zeroed();
    // SAFETY: both write a timespec to where they are told, and there is place for one.
    let failed = unsafe {
        match way {
            Way::Library => libc::clock_gettime(clock, time.as_mut_ptr()) != 0,
            Way::Kernel => libc::syscall(libc::SYS_clock_gettime, clock, time.as_mut_ptr()) != 0,
        }
    };
    if failed {
        return Err(std::io::Error::last_os_error());
    }
    // SAFETY: all zero is a timespec, and the call has filled it.
    Ok(unsafe { time.assume_init() }.tv_sec)
}
