//! This program as the first process of a guest: there cgroups have controllers, and a container
//! costs what it will cost. Its words come from the kernel's command line.

use crate::{cases, run_all};
use rustix::{
    mount::{MountFlags, mount},
    system::{RebootCommand, reboot},
};
use std::{fs, process::ExitCode};

/// In the environment of a case there, which is not the first process itself.
pub const TOLD: &str = "HUTCH_ENGINE_GUEST";

/// Whether a case runs in a guest: what a host may lack must be there.
pub fn is_here() -> bool {
    std::env::var_os(TOLD).is_some()
}

pub fn first_process() -> ExitCode {
    for (kind, path) in [("proc", "/proc"), ("sysfs", "/sys"), ("devtmpfs", "/dev")] {
        fs::create_dir_all(path).unwrap();
        if let Err(errno) = mount(kind, path, kind, MountFlags::empty(), None) {
            println!("mount {kind} on {path}: {errno}");
        }
    }
    fs::create_dir_all("/mnt").unwrap();
    let measured = std::env::args().any(|word| word == "measure");
    let code = if measured {
        crate::measure::run_apart()
    } else {
        run_all(&cases::ALL)
    };
    println!(
        "guest: {}",
        if code == ExitCode::SUCCESS {
            "passed"
        } else {
            "FAILED"
        }
    );
    rustix::fs::sync();
    let _ = reboot(RebootCommand::PowerOff);
    let _ = reboot(RebootCommand::Restart);
    code
}
