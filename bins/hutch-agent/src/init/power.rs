//! The end of the guest.

use nix::sys::reboot::{RebootMode, reboot};
use std::path::Path;

/// Switches the guest off. A machine without ACPI cannot be switched off, only reset; the host
/// starts it so that a reset ends it.
pub fn off() -> ! {
    let mode = if Path::new("/sys/firmware/acpi").exists() {
        RebootMode::RB_POWER_OFF
    } else {
        RebootMode::RB_AUTOBOOT
    };
    nix::unistd::sync();
    let refused = reboot(mode);
    // Only without the capability; then the end of PID 1 makes the kernel panic and reset.
    eprintln!("hutch-agent: power off: {refused:?}");
    std::process::exit(1)
}
