//! doctor: looks at this host and says what to do about what it finds.
//!
//! It changes nothing and starts no daemon. Each check looks at one thing.

use super::Place;
use crate::{
    args,
    daemon::{Daemon, soon},
    output::{print, print_json, table},
};
use anyhow::Result;
use nix::sys::statvfs::statvfs;
use protocols::asynchronous::hutch::{
    DoctorRequest, DoctorResponse, ListSandboxesRequest, StoreFigures,
};
use serde_json::json;
use std::{
    collections::BTreeSet,
    env,
    fs::{self, File},
    path::Path,
};

/// A sandbox's folder holds sockets and bounded logs; below this even they do not fit.
const SPACE_MIN_MIB: u64 = 64;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Good,
    /// It works, less well.
    Warning,
    Bad,
}

impl Verdict {
    fn name(self) -> &'static str {
        match self {
            Self::Good => "ok",
            Self::Warning => "warning",
            Self::Bad => "bad",
        }
    }
}

#[derive(Debug)]
struct Finding {
    check: &'static str,
    verdict: Verdict,
    text: String,
    /// Empty where there is nothing to do.
    advice: String,
}

fn finding(
    check: &'static str,
    verdict: Verdict,
    text: impl Into<String>,
    advice: &str,
) -> Finding {
    Finding {
        check,
        verdict,
        text: text.into(),
        advice: advice.to_owned(),
    }
}

fn user() -> Finding {
    match nix::unistd::geteuid().is_root() {
        true => finding("user", Verdict::Good, "root", ""),
        false => finding("user", Verdict::Bad, "not root", "run hutch as root"),
    }
}

fn acceleration(answer: Option<&DoctorResponse>) -> Finding {
    if let Some(answer) = answer {
        let text = format!("{}: {}", answer.accelerator, answer.accelerator_reason);
        return match answer.accelerator.as_str() {
            "kvm" => finding("acceleration", Verdict::Good, text, ""),
            _ => finding(
                "acceleration",
                Verdict::Warning,
                text,
                "guests are emulated, some ten times slower; enable hardware virtualisation",
            ),
        };
    }
    let opened = File::options().read(true).write(true).open("/dev/kvm");
    let flags = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let capable = flags
        .split_whitespace()
        .any(|flag| flag == "vmx" || flag == "svm");
    match (opened, capable) {
        (Ok(_), true) => finding(
            "acceleration",
            Verdict::Good,
            "/dev/kvm opens and the processor has vmx or svm",
            "",
        ),
        (Ok(_), false) => finding(
            "acceleration",
            Verdict::Warning,
            "/dev/kvm opens, but the processor has no vmx or svm: such a KVM boots no ordinary guest",
            "guests are emulated; enable hardware virtualisation",
        ),
        (Err(why), _) => finding(
            "acceleration",
            Verdict::Warning,
            format!("/dev/kvm: {why}"),
            "guests are emulated; load the kvm module",
        ),
    }
}

fn vsock() -> Finding {
    match File::options()
        .read(true)
        .write(true)
        .open("/dev/vhost-vsock")
    {
        Ok(_) => finding("vsock", Verdict::Good, "/dev/vhost-vsock opens", ""),
        Err(_) => finding(
            "vsock",
            Verdict::Good,
            "no /dev/vhost-vsock; virtio-serial is used",
            "",
        ),
    }
}

fn cgroups() -> Finding {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let has = |kind: &str| {
        mounts
            .lines()
            .any(|line| line.contains(&format!(" - {kind} ")))
    };
    match (has("cgroup"), has("cgroup2")) {
        (true, true) => finding("cgroups", Verdict::Good, "hybrid", ""),
        (true, false) => finding("cgroups", Verdict::Good, "v1", ""),
        (false, true) => finding("cgroups", Verdict::Good, "v2", ""),
        (false, false) => finding(
            "cgroups",
            Verdict::Bad,
            "no cgroup file system is mounted",
            "mount cgroup2 on /sys/fs/cgroup",
        ),
    }
}

fn program(check: &'static str, name: &str, package: &str) -> Finding {
    let path = env::var_os("PATH").unwrap_or_default();
    let found = env::split_paths(&path)
        .map(|folder| folder.join(name))
        .find(|path| path.is_file());
    match found {
        Some(path) => finding(check, Verdict::Good, path.display().to_string(), ""),
        None => finding(
            check,
            Verdict::Bad,
            format!("{name} is not in PATH"),
            &format!("apt-get install {package}"),
        ),
    }
}

fn kernel() -> Finding {
    let release =
        nix::sys::utsname::uname().map(|name| name.release().to_string_lossy().into_owned());
    let release = release.unwrap_or_else(|why| why.to_string());
    let mut parts = release
        .split(['.', '-'])
        .map(|part| part.parse::<u32>().unwrap_or(0));
    let version = (parts.next().unwrap_or(0), parts.next().unwrap_or(0));
    // pidfds came with 5.3, mount_setattr with 5.12.
    match version >= (5, 12) {
        true => finding("kernel", Verdict::Good, release, ""),
        false => finding(
            "kernel",
            Verdict::Bad,
            release,
            "Linux 5.12 or newer is needed",
        ),
    }
}

fn space(root: &Path) -> Finding {
    let existing = root
        .ancestors()
        .find(|path| path.exists())
        .unwrap_or(Path::new("/"));
    match statvfs(existing) {
        Ok(found) => {
            let mib = found.blocks_available() * found.fragment_size() / (1024 * 1024);
            let text = format!("{mib} MiB free at {}", existing.display());
            match mib >= SPACE_MIN_MIB {
                true => finding("space", Verdict::Good, text, ""),
                false => finding(
                    "space",
                    Verdict::Bad,
                    text,
                    "make room, or choose another --root",
                ),
            }
        }
        Err(why) => finding(
            "space",
            Verdict::Bad,
            format!("{}: {why}", existing.display()),
            "choose another --root",
        ),
    }
}

fn store(answer: Option<&DoctorResponse>) -> Finding {
    match answer {
        None => finding(
            "daemon",
            Verdict::Good,
            "not running; the first command starts it",
            "",
        ),
        Some(answer) if answer.damaged_stores.is_empty() => finding(
            "daemon",
            Verdict::Good,
            format!(
                "running, {} sandboxes; {}",
                answer.sandboxes,
                figures(&answer.store)
            ),
            "",
        ),
        Some(answer) => finding(
            "daemon",
            Verdict::Warning,
            format!(
                "a damaged store was moved aside: {}",
                answer.damaged_stores.join(", ")
            ),
            "look for sandboxes that live without a record, then remove it",
        ),
    }
}

fn figures(store: &StoreFigures) -> String {
    let StoreFigures {
        writes,
        changes,
        bytes,
        flushes,
        busy_micros,
        ..
    } = store;
    format!(
        "store: {writes} writes, {changes} changes, {bytes} bytes, {flushes} flushes, {busy_micros} microseconds"
    )
}

/// Folders of sandboxes that no daemon knows: the next daemon that starts sweeps them.
fn stale(root: &Path, known: Option<&BTreeSet<String>>) -> Finding {
    let folders = fs::read_dir(root.join("s")).into_iter().flatten().flatten();
    let names: BTreeSet<String> = folders
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    match known {
        None if names.is_empty() => finding("state", Verdict::Good, "nothing is left behind", ""),
        None => finding(
            "state",
            Verdict::Warning,
            format!("{} sandboxes without a daemon", names.len()),
            "any command starts the daemon that adopts or sweeps them",
        ),
        Some(known) => {
            let strange: Vec<&str> = names.difference(known).map(String::as_str).collect();
            match strange.is_empty() {
                true => finding("state", Verdict::Good, "nothing is left behind", ""),
                false => finding(
                    "state",
                    Verdict::Warning,
                    format!("no sandbox has the folders {}", strange.join(", ")),
                    "restart hutchd; it sweeps what no record knows",
                ),
            }
        }
    }
}

fn ask(root: &Path) -> Option<(DoctorResponse, BTreeSet<String>)> {
    let mut daemon = Daemon::running(root).ok()??;
    let answer = daemon
        .ask(async |client| client.doctor(soon(), &DoctorRequest::default()).await)
        .ok()?;
    let request = ListSandboxesRequest::default();
    let sandboxes = daemon
        .ask(async |client| client.list_sandboxes(soon(), &request).await)
        .ok()?;
    let uids = sandboxes.sandboxes.into_iter().map(|info| info.uid);
    Some((answer, uids.collect()))
}

/// Exits with 1 when something is bad.
pub fn doctor(at: &Place, doctor: &args::Doctor) -> Result<u8> {
    let asked = ask(&at.root);
    let answer = asked.as_ref().map(|(answer, _)| answer);
    let findings = [
        user(),
        acceleration(answer),
        vsock(),
        cgroups(),
        kernel(),
        program("qemu", "qemu-system-x86_64", "qemu-system-x86"),
        space(&at.root),
        store(answer),
        stale(&at.root, asked.as_ref().map(|(_, known)| known)),
    ];
    if doctor.json {
        let entry = |found: &Finding| json!({"check": found.check, "verdict": found.verdict.name(), "text": found.text, "advice": found.advice});
        print_json(&findings.iter().map(entry).collect::<Vec<_>>())?;
    } else {
        let row = |found: &Finding| {
            vec![
                found.check.to_owned(),
                found.verdict.name().to_owned(),
                found.text.clone(),
                found.advice.clone(),
            ]
        };
        let rows: Vec<_> = findings.iter().map(row).collect();
        print(&table(&["CHECK", "VERDICT", "FOUND", "ADVICE"], &rows))?;
    }
    let bad = findings.iter().any(|found| found.verdict == Verdict::Bad);
    Ok(u8::from(bad))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_that_no_sandbox_has_is_named() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("s/0123456789abcdef")).unwrap();
        let known = BTreeSet::from(["fedcba9876543210".to_owned()]);

        let found = stale(root.path(), Some(&known));

        assert_eq!(found.verdict, Verdict::Warning);
        assert!(found.text.contains("0123456789abcdef"), "{}", found.text);
    }

    #[test]
    fn a_folder_that_a_sandbox_has_is_in_order() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("s/0123456789abcdef")).unwrap();
        let known = BTreeSet::from(["0123456789abcdef".to_owned()]);

        assert_eq!(stale(root.path(), Some(&known)).verdict, Verdict::Good);
    }

    #[test]
    fn a_program_that_is_missing_comes_with_its_package() {
        let found = program("qemu", "no-such-program-anywhere", "some-package");

        assert_eq!(found.verdict, Verdict::Bad);
        assert_eq!(found.advice, "apt-get install some-package");
    }
}
