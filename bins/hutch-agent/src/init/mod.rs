//! The first moments of PID 1: mounts, knobs, then the agent proper.
//!
//! Whatever happens here ends visibly: the guest is switched off, and why is on its console.

mod mounts;
pub mod power;

use crate::{
    cmdline::Options,
    error::{Doing, Error},
    guest::clock,
    log::{self, Level},
    serve,
};
use nix::sys::resource::{RLIM_INFINITY, Resource, setrlimit};
use std::{fs, io, panic, process::ExitCode, time::Duration};

/// Descriptors that a process may open, as container engines give them on a host.
const NOFILE: u64 = 1_048_576;

/// What differs from the kernel's own choice, and why.
/// Each ends in a newline: one of them is refused without.
const KNOBS: [(&str, &str); 3] = [
    // A kernel that went wrong must be seen to be gone, not limp on.
    ("/proc/sys/kernel/panic_on_oops", "1\n"),
    // Our own lines are few, and each matters.
    ("/proc/sys/kernel/printk_devkmsg", "on\n"),
    // As on a host of containers: programs that map much must not fail.
    ("/proc/sys/vm/max_map_count", "262144\n"),
];

/// Runs the agent as PID 1. Does not return while the guest lives.
pub fn run() -> ExitCode {
    let entered = clock::since_boot();
    panic::set_hook(Box::new(|panicked| {
        log::write(Level::Fatal, format_args!("{panicked}"));
        power::off();
    }));
    match start(entered) {
        Ok(()) => crate::note!("the sandbox ended"),
        Err(error) => log::write(Level::Fatal, format_args!("{}", error.chain())),
    }
    power::off()
}

fn start(entered: Duration) -> Result<(), Error> {
    mounts::set_up()?;
    log::to_kernel();
    let line = fs::read_to_string("/proc/cmdline").doing(|| "read /proc/cmdline".to_owned())?;
    let options = Options::parse(&line)?;
    for (path, value) in KNOBS {
        match fs::write(path, value) {
            Ok(()) => {}
            // A kernel without the knob has nothing to turn.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => crate::error!("write {value:?} to {path}: {error}"),
        }
    }
    raise_limits()?;
    serve::run(options, entered)
}

/// Containers inherit these where their config.json sets none.
fn raise_limits() -> Result<(), Error> {
    for (resource, limit) in [
        (Resource::RLIMIT_NOFILE, NOFILE),
        (Resource::RLIMIT_NPROC, RLIM_INFINITY),
    ] {
        setrlimit(resource, limit, limit).doing(|| format!("raise {resource:?}"))?;
    }
    Ok(())
}
