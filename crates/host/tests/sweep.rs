//! What only a real host can show of the sweeper: lost folders, strays, daemons side by side, and
//! claims that are not to be believed.

// Helpers of tests are tests.
#![allow(clippy::unwrap_used)]

use host::{HostPremises, Swept, cgroup::CgroupPath};
use runtime_core::{
    ids::SandboxUid,
    premises::{Cgroup, Premises, PremisesSpec},
};
use std::{
    collections::BTreeSet,
    fs,
    io::Read,
    os::unix::fs::symlink,
    process::{Child, Command, Stdio},
};
use tempfile::TempDir;

struct Daemon {
    place: TempDir,
    premises: HostPremises,
}

/// A process in a cgroup, ended with the test.
struct Member(Child);

impl Drop for Member {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Daemon {
    fn new() -> Self {
        let place = tempfile::tempdir().unwrap();
        let premises = HostPremises::new(place.path().to_owned()).unwrap();
        Self { place, premises }
    }

    async fn sandbox(&self) -> PremisesSpec {
        let mut random = [0; 8];
        let mut file = fs::File::open("/dev/urandom").unwrap();
        file.read_exact(&mut random).unwrap();
        let uid = SandboxUid::from_random(u64::from_le_bytes(random));
        let spec = PremisesSpec {
            uid,
            folder: self.place.path().join("s").join(uid.to_string()),
            vmm: Cgroup(format!("/hutch/{uid}/vmm")),
            helpers: Cgroup(format!("/hutch/{uid}/helpers")),
            lodged: BTreeSet::new(),
        };
        self.premises.prepare(spec.clone()).await.unwrap();
        spec
    }

    fn run_in(&self, cgroup: &Cgroup) -> Member {
        let path = CgroupPath::try_from(cgroup).unwrap();
        let mut script = String::new();
        for file in self.premises.hierarchies().procs_files(&path) {
            script += &format!("echo $$ > '{}' || exit 1; ", file.display());
        }
        let mut child = Command::new("/bin/sh")
            .args(["-c", &format!("{script} echo joined; exec sleep 1000")])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = [0; 7];
        let out = child.stdout.as_mut().unwrap();
        out.read_exact(&mut line).expect("it joins");
        Member(child)
    }

    fn exists(&self, cgroup: &Cgroup) -> bool {
        let path = CgroupPath::try_from(cgroup).unwrap();
        self.premises.hierarchies().exists(&path)
    }

    async fn sweep(&self, known: &[&PremisesSpec]) -> Vec<Swept> {
        let known: BTreeSet<_> = known.iter().map(|spec| spec.uid).collect();
        self.premises.sweep(known).await.unwrap()
    }
}

fn is_alive(member: &Member) -> bool {
    host::proc::identify(member.0.id()).unwrap().is_some()
}

#[tokio::test]
async fn a_vmm_whose_folder_was_deleted_by_hand_is_found_by_its_mark() {
    let daemon = Daemon::new();
    let spec = daemon.sandbox().await;
    let vmm = daemon.run_in(&spec.vmm);
    fs::remove_dir_all(daemon.place.path().join("s")).unwrap();

    let report = daemon.sweep(&[]).await;

    assert!(!is_alive(&vmm));
    assert!(!daemon.exists(&spec.vmm) && !daemon.exists(&spec.helpers));
    assert_eq!(report.len(), 1);
    assert_eq!(report[0].name, spec.uid.to_string());
    assert_eq!(report[0].cleared.killed, BTreeSet::from([vmm.0.id()]));
}

#[tokio::test]
async fn the_sandboxes_of_another_daemon_are_left_alone() {
    let (daemon, other) = (Daemon::new(), Daemon::new());
    let spec = other.sandbox().await;
    let vmm = other.run_in(&spec.vmm);

    let report = daemon.sweep(&[]).await;

    assert_eq!(report, []);
    assert!(is_alive(&vmm));
    assert_eq!(other.sweep(&[&spec]).await, []);
    assert!(is_alive(&vmm));
    other.sweep(&[]).await;
    assert!(!is_alive(&vmm));
    assert!(!other.exists(&spec.vmm));
}

#[tokio::test]
async fn a_known_sandbox_whose_folder_is_gone_keeps_its_processes() {
    let daemon = Daemon::new();
    let spec = daemon.sandbox().await;
    let vmm = daemon.run_in(&spec.vmm);
    fs::remove_dir_all(&spec.folder).unwrap();

    let report = daemon.sweep(&[&spec]).await;

    assert_eq!(report, []);
    assert!(is_alive(&vmm));
    daemon.premises.clear(spec).await.unwrap();
    assert!(!is_alive(&vmm));
}

#[tokio::test]
async fn strays_among_the_folders_are_removed_and_what_they_point_to_is_not() {
    let daemon = Daemon::new();
    let precious = daemon.place.path().join("precious");
    fs::create_dir_all(&precious).unwrap();
    fs::write(precious.join("file"), "data").unwrap();
    let folders = daemon.place.path().join("s");
    fs::create_dir_all(folders.join("not a uid/below")).unwrap();
    fs::write(folders.join("0123456789abcdef"), "a file").unwrap();
    symlink(&precious, folders.join("link")).unwrap();
    rustix::mount::mount_bind(&precious, folders.join("not a uid/below")).unwrap();

    let report = daemon.sweep(&[]).await;

    let names: Vec<_> = report.iter().map(|swept| swept.name.as_str()).collect();
    assert_eq!(names, ["0123456789abcdef", "link", "not a uid"]);
    assert!(
        report.iter().all(|swept| swept.fault.is_none()),
        "{report:?}"
    );
    assert_eq!(fs::read_dir(&folders).unwrap().count(), 0);
    assert_eq!(fs::read(precious.join("file")).unwrap(), b"data");
}

#[tokio::test]
async fn a_claim_on_a_known_sandbox_s_cgroup_is_reported_and_not_believed() {
    let daemon = Daemon::new();
    let (known, thief) = (daemon.sandbox().await, daemon.sandbox().await);
    let vmm = daemon.run_in(&known.vmm);
    let claim = thief.folder.join("premises.json");
    let text = fs::read_to_string(&claim).unwrap();
    let stolen = text.replace(&thief.vmm.0, &format!("/hutch/{}", known.uid));
    fs::write(&claim, stolen).unwrap();

    let report = daemon.sweep(&[&known]).await;

    assert!(is_alive(&vmm));
    let fault = report[0].fault.as_ref().expect("it is told");
    assert!(
        fault.to_string().contains("which a known sandbox has"),
        "{fault}"
    );
    fs::write(&claim, text).unwrap();
    daemon.premises.clear(thief).await.unwrap();
    daemon.premises.clear(known).await.unwrap();
}

#[tokio::test]
async fn an_eviction_does_not_believe_a_claim_on_another_s_cgroup_and_says_so() {
    let daemon = Daemon::new();
    let (known, thief) = (daemon.sandbox().await, daemon.sandbox().await);
    let vmm = daemon.run_in(&known.vmm);
    let claim = thief.folder.join("premises.json");
    let text = fs::read_to_string(&claim).unwrap();
    fs::write(&claim, text.replace(&thief.vmm.0, &known.vmm.0)).unwrap();
    let others = BTreeSet::from([known.uid]);

    let evicted = daemon.premises.evict(thief.uid, others).await;

    assert!(is_alive(&vmm));
    let fault = evicted.unwrap_err().to_string();
    assert!(fault.contains("which a known sandbox has"), "{fault}");
    fs::write(&claim, text).unwrap();
    daemon.premises.clear(thief).await.unwrap();
    daemon.premises.clear(known).await.unwrap();
}

#[tokio::test]
async fn an_eviction_takes_the_cgroup_of_one_whose_folder_is_gone() {
    let daemon = Daemon::new();
    let spec = daemon.sandbox().await;
    let vmm = daemon.run_in(&spec.vmm);
    fs::remove_dir_all(&spec.folder).unwrap();

    let evicted = daemon.premises.evict(spec.uid, BTreeSet::new());
    let evicted = evicted.await;

    evicted.unwrap();
    assert!(!is_alive(&vmm));
    assert!(!daemon.exists(&spec.vmm));
}

#[tokio::test]
async fn a_garbled_claim_falls_back_to_the_sandbox_s_own_cgroups() {
    let daemon = Daemon::new();
    let spec = daemon.sandbox().await;
    let vmm = daemon.run_in(&spec.vmm);
    fs::write(spec.folder.join("premises.json"), "{\"uid\":").unwrap();

    let report = daemon.sweep(&[]).await;

    assert!(!is_alive(&vmm));
    assert_eq!(report[0].fault, None);
    assert!(!daemon.exists(&spec.vmm));
    assert!(!spec.folder.exists());
}
