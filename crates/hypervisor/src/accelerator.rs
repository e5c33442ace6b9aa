//! Which accelerator VMs of this host run with, and why: KVM has to prove itself.
//!
//! A `/dev/kvm` that opens is not enough. On a paravirtual KVM, as some containers and nested
//! hosts have it, QEMU aborts or hangs with it instead of falling back. So `auto` takes KVM only if
//! the device opens, the processor says that it can (`vmx` or `svm`), and a guest has answered.
//! The verdict is kept for the boot and the files that it was made with.

use crate::console;
use proc::berth::die_with_us;
use runtime_core::hypervisor::{Accelerator, MachineType};
use serde::{Deserialize, Serialize};
use std::{
    fs::{self, OpenOptions},
    io::Write,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};
use tokio::process::Command;

/// A guest under KVM reaches the end of its boot in half a second; one that has not after this
/// is not going to.
const PROBE_LIMIT: Duration = Duration::from_secs(10);

/// Kept below the state folder.
const VERDICT_FILE: &str = "accelerator.json";

/// What the configuration says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Choice {
    Auto,
    Kvm,
    Tcg,
}

/// Which, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    pub accelerator: Accelerator,
    /// For people: `hutch doctor` says it.
    pub because: String,
}

/// What a proof is made with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probe {
    pub binary: PathBuf,
    pub firmware: String,
    pub kernel: PathBuf,
    pub machine: MachineType,
    /// Of the running host.
    pub boot_id: String,
    /// The daemon's state folder.
    pub state: PathBuf,
}

/// A verdict as it is kept.
#[derive(Debug, Serialize, Deserialize)]
struct Kept {
    boot_id: String,
    binary: PathBuf,
    kernel: PathBuf,
    verdict: Verdict,
}

/// Decides. Takes as long as booting a guest, once per boot of the host.
pub async fn decide(choice: Choice, probe: &Probe) -> Verdict {
    match choice {
        Choice::Kvm => verdict(Accelerator::Kvm, "the configuration says so"),
        Choice::Tcg => verdict(Accelerator::Tcg, "the configuration says so"),
        Choice::Auto => {
            let flags = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
            if let Some(why) = unlikely(Path::new("/dev/kvm"), &flags) {
                return verdict(Accelerator::Tcg, &why);
            }
            if let Some(kept) = kept(probe) {
                return kept;
            }
            let verdict = match boots(probe).await {
                Ok(()) => verdict(Accelerator::Kvm, "a guest booted with it"),
                Err(why) => verdict(
                    Accelerator::Tcg,
                    &format!("no guest booted with kvm: {why}"),
                ),
            };
            keep(probe, &verdict);
            verdict
        }
    }
}

fn verdict(accelerator: Accelerator, because: &str) -> Verdict {
    Verdict {
        accelerator,
        because: because.to_owned(),
    }
}

/// Why KVM need not even be tried.
fn unlikely(device: &Path, cpuinfo: &str) -> Option<String> {
    let opened = OpenOptions::new().read(true).write(true).open(device);
    if let Err(error) = opened {
        return Some(format!("{} does not open: {error}", device.display()));
    }
    let flags = cpuinfo.lines().filter(|line| line.starts_with("flags"));
    let mut flags = flags.flat_map(str::split_whitespace);
    match flags.any(|flag| flag == "vmx" || flag == "svm") {
        true => None,
        false => Some(format!(
            "{} opens, but the processor has neither vmx nor svm: a paravirtual kvm runs no \
             ordinary guest",
            device.display()
        )),
    }
}

/// Boots the kernel without any root: it panics at the end of its boot and resets, and QEMU exits
/// with success. Everything else is a failure: an abort, an error, silence.
async fn boots(probe: &Probe) -> Result<(), String> {
    let console = probe.state.join("kvm-probe.log");
    let ran = run(probe, &console).await;
    let said = console::tail(&console);
    let _ = fs::remove_file(&console);
    match ran {
        // A guest that faults before its kernel runs resets too, but has no console yet.
        Ok(()) if said.is_empty() => Err("it went down without a word".to_owned()),
        Ok(()) => Ok(()),
        Err(why) => Err(why),
    }
}

async fn run(probe: &Probe, console: &Path) -> Result<(), String> {
    let mut command = Command::new(&probe.binary);
    let machine = match probe.machine {
        MachineType::Q35 => "q35",
        MachineType::Microvm => "microvm,acpi=off",
    };
    command
        .args([
            "-nodefaults",
            "-no-user-config",
            "-display",
            "none",
            "-no-reboot",
        ])
        .args([
            "-machine", machine, "-accel", "kvm", "-cpu", "host", "-m", "128M",
        ])
        .args(["-append", "console=ttyS0 quiet panic=-1 reboot=t"])
        .arg("-bios")
        .arg(&probe.firmware)
        .arg("-kernel")
        .arg(&probe.kernel)
        .arg("-serial")
        .arg(format!("file:{}", console.display()))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    // A probe is on no record and in no cgroup, so it goes when the daemon does, whose main thread this is.
    die_with_us(command.as_std_mut());
    let child = command.spawn();
    let child = child.map_err(|error| format!("start {}: {error}", probe.binary.display()))?;
    let limit = PROBE_LIMIT;
    let output = tokio::time::timeout(limit, child.wait_with_output()).await;
    let output = output.map_err(|_| format!("no answer in {} s", limit.as_secs()))?;
    let output = output.map_err(|error| format!("wait for it: {error}"))?;
    match output.status.success() {
        true => Ok(()),
        false => {
            let words = String::from_utf8_lossy(&output.stderr);
            let words = words.lines().next_back().unwrap_or_default().trim();
            Err(format!("qemu ended with {}: {words}", output.status))
        }
    }
}

fn kept(probe: &Probe) -> Option<Verdict> {
    let bytes = fs::read(probe.state.join(VERDICT_FILE)).ok()?;
    let kept: Kept = serde_json::from_slice(&bytes).ok()?;
    let same =
        kept.boot_id == probe.boot_id && kept.binary == probe.binary && kept.kernel == probe.kernel;
    same.then_some(kept.verdict)
}

/// Best effort: a verdict that is not kept is made again.
fn keep(probe: &Probe, verdict: &Verdict) {
    let kept = Kept {
        boot_id: probe.boot_id.clone(),
        binary: probe.binary.clone(),
        kernel: probe.kernel.clone(),
        verdict: verdict.clone(),
    };
    let path = probe.state.join(VERDICT_FILE);
    let half = path.with_extension("new");
    let bytes = serde_json::to_vec(&kept).expect("texts and enums always serialize");
    let written = fs::File::create(&half)
        .and_then(|mut file| file.write_all(&bytes))
        .and_then(|()| fs::rename(&half, &path));
    if let Err(error) = written {
        tracing::debug!(%error, "verdict on the accelerator not kept");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// With one of the vmms that tests have. None is written here: a program that any thread's child still holds open
    /// for writing cannot be run (ETXTBSY of execve(2)).
    fn probe(state: &Path, vmm: &str) -> Probe {
        let vmms = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vmms");
        Probe {
            binary: vmms.join(vmm),
            firmware: "qboot.rom".into(),
            kernel: "/kernel".into(),
            machine: MachineType::Q35,
            boot_id: "boot".into(),
            state: state.to_owned(),
        }
    }

    #[test]
    fn a_device_that_does_not_open_is_not_tried() {
        let why = unlikely(Path::new("/nowhere/kvm"), "flags : vmx").unwrap();

        assert!(why.starts_with("/nowhere/kvm does not open"), "{why}");
    }

    #[test]
    fn a_processor_without_the_flag_is_not_tried() {
        let folder = tempfile::tempdir().unwrap();
        let device = folder.path().join("kvm");
        fs::write(&device, "").unwrap();

        assert!(unlikely(&device, "flags\t: fpu sse2 novmx\n").is_some());
        assert_eq!(unlikely(&device, "flags\t: fpu vmx sse2\n"), None);
        assert_eq!(unlikely(&device, "flags\t: fpu svm\n"), None);
    }

    #[tokio::test]
    async fn a_guest_that_reaches_the_end_of_its_boot_proves_it() {
        let folder = tempfile::tempdir().unwrap();

        let proof = boots(&probe(folder.path(), "boots")).await;

        assert_eq!(proof, Ok(()));
    }

    #[tokio::test]
    async fn a_guest_that_resets_before_its_kernel_speaks_proves_nothing() {
        let folder = tempfile::tempdir().unwrap();

        let why = boots(&probe(folder.path(), "resets")).await;

        assert_eq!(why, Err("it went down without a word".to_owned()));
    }

    #[tokio::test]
    async fn a_vmm_that_aborts_proves_nothing_and_says_why() {
        let folder = tempfile::tempdir().unwrap();

        let why = boots(&probe(folder.path(), "aborts")).await.unwrap_err();

        assert!(why.ends_with("failed to set MSR"), "{why}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_vmm_that_says_nothing_is_given_up() {
        let folder = tempfile::tempdir().unwrap();

        let why = boots(&probe(folder.path(), "mute")).await.unwrap_err();

        assert_eq!(why, "no answer in 10 s");
    }

    #[test]
    fn a_verdict_holds_for_one_boot_and_one_kernel() {
        let folder = tempfile::tempdir().unwrap();
        let probe = probe(folder.path(), "boots");
        let said = verdict(Accelerator::Kvm, "a guest booted with it");

        keep(&probe, &said);

        assert_eq!(kept(&probe), Some(said));
        let mut other = probe.clone();
        other.boot_id = "next boot".into();
        assert_eq!(kept(&other), None);
        let mut other = probe;
        other.kernel = "/other".into();
        assert_eq!(kept(&other), None);
    }

    #[tokio::test]
    async fn what_the_configuration_says_is_not_questioned() {
        let folder = tempfile::tempdir().unwrap();
        let probe = probe(folder.path(), "aborts");

        let kvm = decide(Choice::Kvm, &probe).await;
        let tcg = decide(Choice::Tcg, &probe).await;

        assert_eq!(kvm.accelerator, Accelerator::Kvm);
        assert_eq!(tcg.accelerator, Accelerator::Tcg);
    }
}
