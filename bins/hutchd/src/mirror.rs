//! The records of a sandbox that lives, kept beside it as well: where the store was damaged, the next
//! daemon takes them from there and adopts the sandbox as it would after any restart.
//!
//! A mirror follows the store by milliseconds and is never waited for. It is read only when there is
//! no store to ask; what it may have missed, the rooms find out when they adopt: the guest tells how
//! far a process came, and tells every exit again that was not confirmed.

use anyhow::{Context as _, Result, bail};
use runtime_core::{
    error::Fault,
    ids::SandboxUid,
    kit::{self, Work},
    premises::PremisesSpec,
    records::{Change, Records, Rows, decode},
    sandbox::SandboxRecord,
};
use std::{
    cell::{Cell, RefCell},
    collections::BTreeSet,
    fs::{self, OpenOptions},
    io::Write as _,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    rc::Rc,
};

const FILE: &str = "records.json";
const FRESH: &str = "records.json.new";
/// Hundreds of containers with their configurations; a file that is larger is not ours.
const BYTES_MAX: u64 = 64 << 20;
/// What the rooms of a sandbox keep: each key is one of these and the uid.
const ROOMS: [&str; 6] = [
    "sandbox",
    "container",
    "process",
    "hypervisor",
    "devices",
    "network",
];

/// Records that are mirrored into the folders of their sandboxes.
#[derive(Clone)]
pub struct Mirrored {
    store: Rc<dyn Records>,
    /// `<root>/s`
    sandboxes: PathBuf,
    changed: Rc<RefCell<BTreeSet<SandboxUid>>>,
    at_work: Rc<Cell<bool>>,
}

impl Mirrored {
    pub fn new(store: Rc<dyn Records>, root: &Path) -> Self {
        Self {
            store,
            sandboxes: root.join("s"),
            changed: Rc::default(),
            at_work: Rc::default(),
        }
    }

    /// One at a time: what changes meanwhile is looked at once more.
    fn follow(&self, uids: BTreeSet<SandboxUid>) {
        self.changed.borrow_mut().extend(uids);
        if self.at_work.replace(true) {
            return;
        }
        let mirror = self.clone();
        kit::detach(async move {
            while let Some(uid) = mirror.next() {
                if let Err(why) = mirror.reflect(uid).await {
                    tracing::warn!(%uid, why = %format!("{why:#}"), "records of a sandbox are in the store alone");
                }
            }
            mirror.at_work.set(false);
        });
    }

    fn next(&self) -> Option<SandboxUid> {
        self.changed.borrow_mut().pop_first()
    }

    async fn reflect(&self, uid: SandboxUid) -> Result<()> {
        let mut rows = Rows::new();
        for room in ROOMS {
            rows.extend(self.store.scan(format!("{room}/{uid}")).await?);
        }
        let folder = self.sandboxes.join(uid.to_string());
        if !lives(&rows, uid) {
            return Ok(());
        }
        tokio::task::spawn_blocking(move || write(&folder, &rows)).await?
    }
}

impl Records for Mirrored {
    fn write(&self, changes: Vec<Change>) -> Work<()> {
        let keys = changes.iter().map(|change| match change {
            Change::Put { key, .. } | Change::Delete { key } => key,
        });
        let uids = keys.filter_map(|key| uid_of(key)).collect();
        let (written, mirror) = (self.store.write(changes), self.clone());
        Box::pin(async move {
            written.await;
            mirror.follow(uids);
        })
    }

    fn scan(&self, prefix: String) -> Work<Result<Rows, Fault>> {
        self.store.scan(prefix)
    }
}

/// The sandbox that a key belongs to.
fn uid_of(key: &str) -> Option<SandboxUid> {
    let (room, rest) = key.split_once('/')?;
    let uid = rest.split('/').next()?;
    ROOMS.contains(&room).then(|| uid.parse().ok())?
}

/// One that is being made or released is not adopted, and its folder may be going.
fn lives(rows: &Rows, uid: SandboxUid) -> bool {
    let key = SandboxRecord::key(uid);
    let own = rows.iter().find(|(found, _)| *found == key);
    let record = own.and_then(|(_, bytes)| decode::<SandboxRecord>(bytes).ok());
    record.is_some_and(|record| record.phase.is_up())
}

/// Whole or not at all.
fn write(folder: &Path, rows: &Rows) -> Result<()> {
    let texts = rows.iter().map(|(key, bytes)| {
        let text = std::str::from_utf8(bytes).context("a record is no text")?;
        Ok((key, text))
    });
    let texts = texts.collect::<Result<Vec<_>>>()?;
    let fresh = folder.join(FRESH);
    let about = || format!("write {}", fresh.display());
    let mut file = OpenOptions::new()
        .create(true)
        .write(true)
        .truncate(true)
        .mode(0o600)
        .open(&fresh)
        .with_context(about)?;
    file.write_all(&serde_json::to_vec(&texts)?)
        .with_context(about)?;
    fs::rename(&fresh, folder.join(FILE)).with_context(about)
}

fn read(claim: &PremisesSpec) -> Result<Vec<Change>> {
    let path = claim.folder.join(FILE);
    let about = || format!("read {}", path.display());
    let length = fs::metadata(&path).with_context(about)?.len();
    if length > BYTES_MAX {
        bail!(
            "{}: {length} bytes; at most {BYTES_MAX} are possible",
            about()
        );
    }
    let bytes = fs::read(&path).with_context(about)?;
    let rows: Vec<(String, String)> = serde_json::from_slice(&bytes).with_context(about)?;
    if let Some((key, _)) = rows.iter().find(|(key, _)| uid_of(key) != Some(claim.uid)) {
        bail!("{}: {key:?} is not of sandbox {}", about(), claim.uid);
    }
    let put = |(key, value): (String, String)| Change::Put {
        key,
        value: value.into_bytes(),
    };
    Ok(rows.into_iter().map(put).collect())
}

/// Brings the records of these sandboxes back into an empty store; those of which there are none.
pub async fn restore(claims: Vec<PremisesSpec>, store: &dyn Records) -> Vec<SandboxUid> {
    let mut unknown = Vec::new();
    for claim in claims {
        match read(&claim) {
            Ok(changes) => {
                store.write(changes).await;
                tracing::warn!(uid = %claim.uid, "sandbox taken from its own records; it is adopted");
            }
            Err(why) => {
                tracing::error!(uid = %claim.uid, why = %format!("{why:#}"), "a sandbox of the damaged store has no records of its own; restore the store, or end it by hand");
                unknown.push(claim.uid);
            }
        }
    }
    unknown
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        architect::{Grounds, plan},
        bundle,
        config::{ChannelChoice, Config},
        profile::Profiles,
    };
    use runtime_core::{
        hypervisor::Accelerator,
        ids::{ContainerId, EpochMs, Namespace},
        records::put,
        sandbox::{Ended, Journal, Phase},
    };
    use std::collections::BTreeMap;
    use tokio::task::LocalSet;

    #[derive(Clone, Default)]
    struct Memory(Rc<RefCell<BTreeMap<String, Vec<u8>>>>);

    impl Records for Memory {
        fn write(&self, changes: Vec<Change>) -> Work<()> {
            for change in changes {
                match change {
                    Change::Put { key, value } => self.0.borrow_mut().insert(key, value),
                    Change::Delete { key } => self.0.borrow_mut().remove(&key),
                };
            }
            Box::pin(async {})
        }

        fn scan(&self, prefix: String) -> Work<Result<Rows, Fault>> {
            let rows = self.0.borrow().clone().into_iter();
            let rows = rows.filter(|(key, _)| key.starts_with(&prefix)).collect();
            Box::pin(async move { Ok(rows) })
        }
    }

    const CONFIG: &str = r#"{
        "ociVersion": "1.0.2",
        "process": {"user": {"uid": 0, "gid": 0}, "args": ["/bin/true"], "cwd": "/"},
        "root": {"path": "rootfs"},
        "linux": {}
    }"#;

    fn record(root: &Path, random: u64, phase: Phase) -> SandboxRecord {
        let wish = bundle::wish(bundle::Request {
            namespace: Namespace::new("default").unwrap(),
            id: ContainerId::new("web").unwrap(),
            bundle: "/",
            config_json: CONFIG.as_bytes(),
            join: None,
            neighbour: None,
            cgroups_path: String::new(),
            uid: SandboxUid::from_random(random),
            created: EpochMs(1),
        });
        let mut config = Config::default();
        config.guest.channel = ChannelChoice::Serial;
        let grounds = Grounds {
            root: root.to_owned(),
            profiles: Profiles::of(&config).unwrap(),
            config,
            accelerator: Accelerator::Tcg,
        };
        SandboxRecord {
            boot_id: "boot".to_owned(),
            spec: {
                let wish = wish.unwrap();
                plan(&grounds, &wish.home(), Some(&wish.spec)).into()
            },
            phase,
            vm: None,
            containers_numbered: 1,
            first_of_vm: 0,
            annotations: BTreeMap::new(),
            keys: Vec::new(),
            journal: Journal::default(),
        }
    }

    /// A store in which these sandboxes were written, each with a row of another room.
    async fn written(root: &Path, records: &[SandboxRecord]) -> Memory {
        let store = Memory::default();
        let mirror = Mirrored::new(Rc::new(store.clone()), root);
        for record in records {
            let uid = record.spec.uid;
            fs::create_dir_all(&record.spec.premises.folder).unwrap();
            let other = Change::Put {
                key: format!("process/{uid}/0/init"),
                value: b"{}".to_vec(),
            };
            let own = put(SandboxRecord::key(uid), record);
            mirror.write(vec![own, other]).await;
        }
        while mirror.at_work.get() {
            tokio::task::yield_now().await;
        }
        store
    }

    #[tokio::test]
    async fn what_lives_is_found_again_without_its_store() {
        let root = tempfile::tempdir().unwrap();
        let records = [
            record(root.path(), 1, Phase::Ready),
            record(root.path(), 2, Phase::Ready),
        ];
        let told = async {
            let store = written(root.path(), &records).await;
            let found = Memory::default();

            let claims = records.iter().map(|record| record.spec.premises.clone());
            let unknown = restore(claims.collect(), &found).await;

            assert_eq!(unknown, []);
            assert_eq!(*found.0.borrow(), *store.0.borrow());
            assert_eq!(found.0.borrow().len(), 4);
        };
        LocalSet::new().run_until(told).await;
    }

    #[tokio::test]
    async fn what_is_being_made_or_released_is_not_mirrored() {
        let root = tempfile::tempdir().unwrap();
        let records = [
            record(root.path(), 1, Phase::Creating),
            record(root.path(), 2, Phase::Stopping(Ended::Asked)),
        ];
        let told = async {
            written(root.path(), &records).await;
            let found = Memory::default();

            let claims = records.iter().map(|record| record.spec.premises.clone());
            let unknown = restore(claims.collect(), &found).await;

            assert_eq!(unknown, records.map(|record| record.spec.uid));
            assert!(found.0.borrow().is_empty());
        };
        LocalSet::new().run_until(told).await;
    }

    #[tokio::test]
    async fn a_mirror_with_a_row_of_another_sandbox_is_not_believed() {
        let root = tempfile::tempdir().unwrap();
        let records = [
            record(root.path(), 1, Phase::Ready),
            record(root.path(), 2, Phase::Ready),
        ];
        let told = async {
            written(root.path(), &records).await;
            let [one, two] = records.map(|record| record.spec.premises.clone());
            fs::copy(two.folder.join(FILE), one.folder.join(FILE)).unwrap();
            let found = Memory::default();

            let unknown = restore(vec![one.clone()], &found).await;

            assert_eq!(unknown, [one.uid]);
            assert!(found.0.borrow().is_empty());
        };
        LocalSet::new().run_until(told).await;
    }
}
