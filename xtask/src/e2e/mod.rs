//! `cargo xtask e2e`: stories with real binaries, real QEMU and a real guest; each ends with the search for what it left.
//!
//! A story is a function. It gets a world with an empty state folder and says what went wrong, or nothing. To add one: write
//! it in `stories/` and list it in `stories::ALL`.

mod apart;
pub mod cgroups;
mod engine;
mod podman;
pub mod process;
pub mod side_by_side;
mod snapshot;
mod stories;
pub mod terminal;
mod tmpfs;
pub mod world;

use crate::{assets, build, counts::Counts, daemon, test, wait::wait_until, workspace::Workspace};
use anyhow::{Context, Result, bail};
use nix::{
    mount::{MntFlags, umount2},
    sys::{prctl::set_child_subreaper, signal::Signal},
    unistd::geteuid,
};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use snapshot::Snapshot;
use std::{
    fs,
    fs::File,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    time::Duration,
};
use stories::Story;
use world::{Fixtures, World};

/// What a dying VM holds goes soon after it; what is there after this time stays for ever.
const SETTLE: Duration = Duration::from_secs(10);
/// How much of a log is shown with a failure.
const TAIL_LINES: usize = 30;
/// How much of what was left behind is shown: a whole sandbox is hundreds of lines, and says no more.
const LEAKS_SHOWN: usize = 20;

/// Runs every story.
pub fn all(workspace: &Workspace) -> Result<Counts> {
    run(workspace, "")
}

/// Runs the stories whose name contains `filter`.
pub fn run(workspace: &Workspace, filter: &str) -> Result<Counts> {
    let chosen: Vec<&Story> = stories::ALL
        .iter()
        .filter(|story| story.name.contains(filter))
        .collect();
    if chosen.is_empty() {
        bail!("no story's name contains {filter:?}");
    }
    assets::ensure_for_stories(workspace)?;
    build::examples(workspace)?;
    let _alone = above_all(side_by_side::clear_interrupted)?;
    Ok(side_by_side::tell(&chosen))
}

/// Alone on this machine for as long as the answer is held, above processes that each stand apart.
pub fn above_all(clear: fn() -> Result<()>) -> Result<File> {
    if !geteuid().is_root() {
        bail!("e2e starts virtual machines and namespaces: run it as root");
    }
    let alone = alone()?;
    // Whoever started a story may die before what the story started.
    set_child_subreaper(true).context("become the parent of orphans")?;
    leave_nothing_on_signals(clear)?;
    Ok(alone)
}

/// In a process of its own: apart from everybody else, in this cgroup, with a world and the search for what is left in it.
pub fn tell_apart(
    workspace: &Workspace,
    cgroup: &str,
    name: &str,
    tell: impl FnOnce(&World<'_>) -> Result<()>,
) -> Result<()> {
    let stage = Stage::of(workspace);
    apart::enter()?;
    cgroups::enter(cgroup)?;
    leave_nothing_on_signals(|| Ok(()))?;
    stage.tell(name, tell)
}

/// Tests that need a guest, or what stands beside one, and that no daemon drives: of the agent, of what speaks to it, and
/// the contracts that real drivers keep as their fakes do.
pub fn guest_tests(workspace: &Workspace) -> Result<Counts> {
    let assets = assets::ensure_for_stories(workspace)?;
    let tests = |name: &str| {
        let mut cargo = workspace.cargo();
        cargo
            .args(["test", "--workspace", "--all-features", "--locked"])
            .args(["--no-fail-fast", "--test", name])
            // Each boots a machine; two at a time is what two cores carry.
            .args(["--", "--test-threads=2"])
            .env("HUTCH_GUEST_TESTS", "1")
            .env("HUTCH_GUEST_KERNEL", assets.folder.join("vmlinux"))
            .env("HUTCH_GUEST_INITRD", assets.folder.join("initrd.img"))
            .env("HUTCH_GUEST_VIRTIOFSD", assets.folder.join("virtiofsd"))
            .env(
                "HUTCH_GUEST_VSOCK_BACKEND",
                assets.folder.join("vhost-device-vsock"),
            );
        test::cargo_tests(&mut cargo)
    };
    Ok(tests("guest")? + tests("contract")? + engine::in_guest(workspace, &assets)?)
}

/// Alone on this machine for as long as the answer is held, in namespaces of our own, and leaving nothing when interrupted.
pub fn stand_apart() -> Result<File> {
    let alone = alone()?;
    apart::enter()?;
    leave_nothing_on_signals(|| Ok(()))?;
    Ok(alone)
}

/// Does something in a fresh world whose state is in memory, and clears it away.
pub fn visit<T>(fixtures: &Fixtures, work: impl FnOnce(&World<'_>) -> Result<T>) -> Result<T> {
    let world = World::in_memory(fixtures)?;
    let before = Snapshot::take(world.root())?;
    let outcome = work(&world);
    let stopped = stop_daemon(world.root());
    clear(&before, world.root())?;
    stopped?;
    outcome
}

/// Two harnesses at once would make each other's boots slow.
fn alone() -> Result<File> {
    let path = std::env::temp_dir().join("hutch-e2e.lock");
    let file = File::create(&path).with_context(|| format!("create {}", path.display()))?;
    if file.try_lock().is_err() {
        eprintln!("another e2e is running on this machine: waiting for it");
        file.lock()
            .with_context(|| format!("lock {}", path.display()))?;
    }
    Ok(file)
}

/// Where stories are told.
struct Stage {
    fixtures: Fixtures,
    /// Gets a folder per failed story.
    evidence: PathBuf,
    settle: Duration,
}

impl Stage {
    fn of(workspace: &Workspace) -> Self {
        Self {
            fixtures: Fixtures::of(workspace),
            evidence: workspace.target().join("e2e"),
            settle: SETTLE,
        }
    }

    /// One story, from an empty folder to the proof that nothing is left.
    fn tell(&self, name: &str, tell: impl FnOnce(&World<'_>) -> Result<()>) -> Result<()> {
        let world = World::new(&self.fixtures)?;
        let before = Snapshot::take(world.root())?;
        let told = catch_unwind(AssertUnwindSafe(|| tell(&world)))
            .unwrap_or_else(|_| bail!("the story panicked"));
        let stopped = stop_daemon(world.root());
        let leaks = settle(world.root(), &before, self.settle)?;
        let mut faults: Vec<String> = [told, stopped]
            .into_iter()
            .filter_map(|outcome| Some(format!("{:#}", outcome.err()?)))
            .collect();
        faults.extend(shown(&leaks));
        if !faults.is_empty() {
            let evidence = self.evidence.join(name);
            keep_evidence(&world, &evidence)?;
            fs::write(evidence.join("leaks"), leaks.join("\n")).context("keep what was left")?;
        }
        clear(&before, world.root())?;
        if faults.is_empty() {
            return Ok(());
        }
        bail!("{}", faults.join("\n  "))
    }
}

fn shown(leaks: &[String]) -> Vec<String> {
    let first = leaks.iter().take(LEAKS_SHOWN);
    let mut lines: Vec<String> = first.map(|leak| format!("left behind: {leak}")).collect();
    if leaks.len() > LEAKS_SHOWN {
        lines.push(format!("and {} more", leaks.len() - LEAKS_SHOWN));
    }
    lines
}

fn stop_daemon(root: &Path) -> Result<()> {
    match daemon::pid(root)? {
        Some(pid) => daemon::stop(pid),
        None => Ok(()),
    }
}

/// What is left once everything had the time to go.
fn settle(root: &Path, before: &Snapshot, limit: Duration) -> Result<Vec<String>> {
    let mut leaks = Vec::new();
    let mut failure = None;
    wait_until(
        || match Snapshot::take(root) {
            Ok(after) => {
                leaks = after.leaks_since(before);
                leaks.is_empty()
            }
            Err(error) => {
                failure = Some(error);
                true
            }
        },
        limit,
    );
    failure.map_or(Ok(leaks), Err)
}

/// Removes what a story left, so that the next one is not blamed for it.
fn clear(before: &Snapshot, root: &Path) -> Result<()> {
    apart::kill_descendants()?;
    let after = Snapshot::take(root)?;
    for place in after.mounts_since(before) {
        umount2(place, MntFlags::MNT_DETACH).with_context(|| format!("unmount {place}"))?;
    }
    for cgroup in after.cgroups_since(before) {
        // One that somebody else made meanwhile may be in use, and is none of our business.
        let _ = fs::remove_dir(cgroup);
    }
    Ok(())
}

/// Copies the logs of a failed story to where they outlive it, and shows the ends of them.
fn keep_evidence(world: &World<'_>, folder: &Path) -> Result<()> {
    let doing = || format!("keep evidence in {}", folder.display());
    if folder.exists() {
        fs::remove_dir_all(folder).with_context(doing)?;
    }
    fs::create_dir_all(folder).with_context(doing)?;
    let mut waiting = vec![world.root().to_owned()];
    while let Some(from) = waiting.pop() {
        for entry in fs::read_dir(&from).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                waiting.push(path);
            } else if path.extension().is_some_and(|kind| kind == "log") {
                let own = path.strip_prefix(world.root()).unwrap_or(&path);
                let to = folder.join(own);
                fs::create_dir_all(to.parent().unwrap_or(folder)).with_context(doing)?;
                fs::copy(&path, &to).with_context(doing)?;
                show_tail(&to);
            }
        }
    }
    Ok(())
}

fn show_tail(log: &Path) {
    let bytes = fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().collect();
    eprintln!("  {}:", log.display());
    for line in &lines[lines.len().saturating_sub(TAIL_LINES)..] {
        eprintln!("    {line}");
    }
}

/// Daemons and VMs are in sessions of their own: a ctrl-C that ends us would leave them. `clear` is for what is left then.
fn leave_nothing_on_signals(clear: fn() -> Result<()>) -> Result<()> {
    let mut signals = signal_hook::iterator::Signals::new([SIGHUP, SIGINT, SIGTERM])
        .context("watch for signals")?;
    std::thread::spawn(move || {
        if let Some(number) = signals.forever().next() {
            let name = Signal::try_from(number).map_or("a signal", Signal::as_str);
            eprintln!("{name}: ending everything that was started");
            for outcome in [apart::kill_descendants(), clear()] {
                if let Err(error) = outcome {
                    eprintln!("error: {error:#}");
                }
            }
            std::process::exit(128 + number);
        }
    });
    Ok(())
}

/// Runs a test again in a process of its own, for what concerns a whole process: true, but in that process.
#[cfg(test)]
fn in_own_process(test: &str) -> bool {
    const ALONE: &str = "HUTCH_XTASK_TEST_ALONE";
    if std::env::var_os(ALONE).is_some() {
        return false;
    }
    let output = std::process::Command::new(std::env::current_exe().expect("we run"))
        .args(["--exact", test, "--nocapture"])
        .env(ALONE, "1")
        .output()
        .expect("we are a program");
    assert!(output.status.success(), "{output:?}");
    assert!(
        String::from_utf8_lossy(&output.stdout).contains("1 passed"),
        "{test}: {output:?}"
    );
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        build::{Binaries, Examples},
        scratch::Scratch,
    };
    use anyhow::ensure;
    use nix::mount::{MsFlags, mount};
    use std::process::{Command, Stdio};

    fn nothing_built() -> Fixtures {
        let nowhere = PathBuf::from("/nowhere");
        Fixtures {
            assets: assets::Assets {
                folder: nowhere.clone(),
                binaries: Binaries {
                    hutch: nowhere.clone(),
                    hutchd: nowhere.clone(),
                    relay: nowhere.clone(),
                    agent: nowhere.clone(),
                },
            },
            examples: Examples {
                vsock_contract: nowhere.clone(),
                vsock_stream: nowhere.clone(),
                hear: nowhere.clone(),
                page_in: nowhere,
            },
        }
    }

    /// Leaves one of everything, and says that all is well.
    fn leak(world: &World<'_>) -> Result<()> {
        let root = world.root();
        fs::create_dir_all(root.join("m"))?;
        fs::write(root.join("hutchd.log"), "what the daemon said")?;
        fs::write(root.join("record"), "")?;
        let none = None::<&str>;
        mount(
            Some("none"),
            &root.join("m"),
            Some("tmpfs"),
            MsFlags::empty(),
            none,
        )?;
        fs::create_dir(leaked_cgroup())?;
        let status = Command::new("setsid")
            .args(["--fork", "sleep", "4711"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .status()?;
        ensure!(status.success());
        // Until it runs its program, it is another's copy, or has no words at all.
        ensure!(wait_until(runs_what_is_left, SETTLE), "`sleep` never ran");
        Ok(())
    }

    fn runs_what_is_left() -> bool {
        let all = process::all().unwrap();
        process::descendants(&all, nix::unistd::Pid::this())
            .iter()
            .any(|process| process.command == "sleep 4711")
    }

    fn leaked_cgroup() -> PathBuf {
        let hierarchy = [
            "/sys/fs/cgroup/cgroup.procs",
            "/sys/fs/cgroup/unified/cgroup.procs",
        ]
        .into_iter()
        .find(|file| Path::new(file).exists())
        .unwrap();
        let name = format!("hutch-xtask-leak-{}", std::process::id());
        Path::new(hierarchy).with_file_name(name)
    }

    #[test]
    fn a_story_that_leaves_one_of_everything_fails_by_name_and_is_cleared_away() {
        if !geteuid().is_root() {
            return;
        }
        const NAME: &str =
            "e2e::tests::a_story_that_leaves_one_of_everything_fails_by_name_and_is_cleared_away";
        if in_own_process(NAME) {
            return;
        }
        apart::enter().unwrap();
        let scratch = Scratch::new().unwrap();
        let stage = Stage {
            fixtures: nothing_built(),
            evidence: scratch.path().to_owned(),
            settle: Duration::from_millis(50),
        };

        let text = stage.tell("leaky", leak).unwrap_err().to_string();

        for expected in [
            "process ",
            "sleep 4711",
            "mount tmpfs on ",
            "file record",
            "cgroup ",
        ] {
            assert!(text.contains(expected), "{expected:?} is not in: {text}");
        }
        assert!(!text.contains(" on /proc"), "a mount of before: {text}");
        let log = fs::read_to_string(scratch.path().join("leaky/hutchd.log")).unwrap();
        assert_eq!(log, "what the daemon said");
        assert!(!leaked_cgroup().exists());
        let mounts = fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
        assert!(!mounts.contains("/r/m "), "{mounts}");
        let all = process::all().unwrap();
        let left = process::descendants(&all, nix::unistd::Pid::this());
        assert!(left.iter().all(|process| process.is_dead), "{left:?}");
    }

    #[test]
    fn what_goes_by_itself_is_no_leak_and_what_stays_is() {
        let scratch = Scratch::new().unwrap();
        let root = scratch.path().join("r");
        fs::create_dir(&root).unwrap();
        let before = Snapshot::take(&root).unwrap();
        fs::write(root.join("going"), "").unwrap();
        let going = root.join("going");
        std::thread::spawn(move || {
            std::thread::park_timeout(Duration::from_millis(100));
            fs::remove_file(going).unwrap();
        });

        let leaks: Vec<String> = settle(&root, &before, SETTLE)
            .unwrap()
            .into_iter()
            .filter(|leak| leak.starts_with("file"))
            .collect();

        assert!(leaks.is_empty(), "{leaks:?}");
    }

    #[test]
    fn every_story_has_a_name_of_its_own() {
        let mut names: Vec<&str> = stories::ALL.iter().map(|story| story.name).collect();
        names.sort_unstable();
        let count = names.len();
        names.dedup();

        assert_eq!(names.len(), count);
    }
}
