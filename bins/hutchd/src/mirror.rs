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
    records::{self, Change, ROOMS, Records, Rows, decode, is_lost, sandbox_of},
    sandbox::SandboxRecord,
};
use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    fs::{self, OpenOptions},
    io::Write as _,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    rc::Rc,
};

/// A line for each batch of writes; the first one is all that there was when the file was begun.
const FILE: &str = "records.jsonl";
const FRESH: &str = "records.jsonl.new";
/// Hundreds of containers with their configurations, twice; a file that is larger is not ours.
const BYTES_MAX: u64 = 256 << 20;
/// Far below what a store takes in one write: a sandbox has thousands of rows at most in each of its containers.
const ROWS_AT_ONCE: usize = 1024;
/// A file is begun anew once more than this was appended, and more than it began with.
const APPENDED_MAX: u64 = 64 << 10;

/// A change as it stands in a file: without a value, the key is gone.
type Line = Vec<(String, Option<String>)>;

/// Records that are mirrored into the folders of their sandboxes.
#[derive(Clone)]
pub struct Mirrored {
    store: Rc<dyn Records>,
    /// `<root>/s`
    sandboxes: PathBuf,
    changed: Rc<RefCell<BTreeMap<SandboxUid, Vec<Change>>>>,
    files: Rc<RefCell<BTreeMap<SandboxUid, Mirror>>>,
    at_work: Rc<Cell<bool>>,
}

/// What is known of a sandbox's file. Of one that is not in the list, nothing is: it may have one of an earlier daemon, or
/// one that could not be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mirror {
    /// It is as the store was, so many bytes long when it was begun and now.
    Follows { begun: u64, length: u64 },
    /// The sandbox is being made or released: it is not adopted, and its folder may be going.
    Rests,
}

impl Mirrored {
    pub fn new(store: Rc<dyn Records>, root: &Path) -> Self {
        Self {
            store,
            sandboxes: root.join("s"),
            changed: Rc::default(),
            files: Rc::default(),
            at_work: Rc::default(),
        }
    }

    /// One at a time: what changes meanwhile is looked at once more.
    fn follow(&self, changes: Vec<(SandboxUid, Change)>) {
        for (uid, change) in changes {
            self.changed
                .borrow_mut()
                .entry(uid)
                .or_default()
                .push(change);
        }
        if self.at_work.replace(true) {
            return;
        }
        let mirror = self.clone();
        kit::detach(async move {
            while let Some((uid, changes)) = mirror.next() {
                if let Err(why) = mirror.reflect(uid, changes).await {
                    tracing::warn!(%uid, why = %format!("{why:#}"), "records of a sandbox are in the store alone");
                    mirror.files.borrow_mut().remove(&uid);
                }
            }
            mirror.at_work.set(false);
        });
    }

    fn next(&self) -> Option<(SandboxUid, Vec<Change>)> {
        self.changed.borrow_mut().pop_first()
    }

    async fn reflect(&self, uid: SandboxUid, changes: Vec<Change>) -> Result<()> {
        let known = self.files.borrow().get(&uid).copied();
        let next = match (known, fate(uid, &changes)) {
            (_, Fate::Gone) => {
                self.files.borrow_mut().remove(&uid);
                return Ok(());
            }
            (_, Fate::Rests) | (Some(Mirror::Rests), Fate::Unchanged) => Mirror::Rests,
            (Some(Mirror::Follows { begun, length }), Fate::Lives | Fate::Unchanged)
                if length - begun <= begun.max(APPENDED_MAX) =>
            {
                let (folder, line) = (self.folder(uid), line(changes)?);
                let added = line.len() as u64;
                tokio::task::spawn_blocking(move || append(&folder, &line)).await??;
                let length = length + added;
                Mirror::Follows { begun, length }
            }
            (_, Fate::Lives | Fate::Unchanged) => self.begin(uid).await?,
        };
        self.files.borrow_mut().insert(uid, next);
        Ok(())
    }

    /// The store has all that was changed by now, and perhaps more: what comes twice is the same.
    async fn begin(&self, uid: SandboxUid) -> Result<Mirror> {
        let mut rows = Rows::new();
        for room in ROOMS {
            rows.extend(self.store.scan(format!("{room}/{uid}")).await?);
        }
        let key = SandboxRecord::key(uid);
        let own = rows.iter().find(|(found, _)| *found == key);
        if !own.is_some_and(|(_, bytes)| is_up(bytes)) {
            return Ok(Mirror::Rests);
        }
        let put = |(key, value)| Change::Put { key, value };
        let (folder, line) = (self.folder(uid), line(rows.into_iter().map(put).collect())?);
        let begun = line.len() as u64;
        tokio::task::spawn_blocking(move || write(&folder, &line)).await??;
        let length = begun;
        Ok(Mirror::Follows { begun, length })
    }

    fn folder(&self, uid: SandboxUid) -> PathBuf {
        self.sandboxes.join(uid.to_string())
    }
}

impl Records for Mirrored {
    fn write(&self, changes: Vec<Change>) -> Work<()> {
        let mirrored = changes
            .iter()
            .filter_map(|change| Some((sandbox_of(key_of(change))?, change.clone())));
        let mirrored = mirrored.collect();
        let (written, mirror) = (self.store.write(changes), self.clone());
        Box::pin(async move {
            written.await;
            mirror.follow(mirrored);
        })
    }

    fn scan(&self, prefix: String) -> Work<Result<Rows, Fault>> {
        self.store.scan(prefix)
    }
}

fn key_of(change: &Change) -> &str {
    match change {
        Change::Put { key, .. } | Change::Delete { key } => key,
    }
}

/// What changes do to the sandbox itself.
enum Fate {
    Unchanged,
    Lives,
    Rests,
    Gone,
}

fn fate(uid: SandboxUid, changes: &[Change]) -> Fate {
    let key = SandboxRecord::key(uid);
    let own = changes.iter().rfind(|change| key_of(change) == key);
    match own {
        None => Fate::Unchanged,
        Some(Change::Put { value, .. }) if is_up(value) => Fate::Lives,
        Some(Change::Put { .. }) => Fate::Rests,
        Some(Change::Delete { .. }) => Fate::Gone,
    }
}

fn is_up(record: &[u8]) -> bool {
    decode::<SandboxRecord>(record).is_ok_and(|record| record.phase.is_up())
}

fn line(changes: Vec<Change>) -> Result<Vec<u8>> {
    let text = |bytes| String::from_utf8(bytes).context("a record is no text");
    let entries = changes.into_iter().map(|change| match change {
        Change::Put { key, value } => Ok((key, Some(text(value)?))),
        Change::Delete { key } => Ok((key, None)),
    });
    let entries = entries.collect::<Result<Line>>()?;
    let mut line = serde_json::to_vec(&entries)?;
    line.push(b'\n');
    Ok(line)
}

/// Whole or not at all.
fn write(folder: &Path, line: &[u8]) -> Result<()> {
    let fresh = folder.join(FRESH);
    let about = || format!("write {}", fresh.display());
    let mut file = OpenOptions::new()
        .create(true)
        .write(true)
        .truncate(true)
        .mode(0o600)
        .open(&fresh)
        .with_context(about)?;
    file.write_all(line).with_context(about)?;
    fs::rename(&fresh, folder.join(FILE)).with_context(about)
}

/// One that ends before it is whole leaves a line without its end, which is not read.
fn append(folder: &Path, line: &[u8]) -> Result<()> {
    let path = folder.join(FILE);
    let file = OpenOptions::new().append(true).open(&path);
    file.and_then(|mut file| file.write_all(line))
        .with_context(|| format!("append to {}", path.display()))
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
    let mut rows = BTreeMap::new();
    for line in bytes.split_inclusive(|&byte| byte == b'\n') {
        if line.last() != Some(&b'\n') {
            break;
        }
        for (key, value) in serde_json::from_slice::<Line>(line).with_context(about)? {
            if sandbox_of(&key) != Some(claim.uid) {
                bail!("{}: {key:?} is not of sandbox {}", about(), claim.uid);
            }
            match value {
                Some(value) => rows.insert(key, value),
                None => rows.remove(&key),
            };
        }
    }
    let put = |(key, value): (String, String)| Change::Put {
        key,
        value: value.into_bytes(),
    };
    Ok(rows.into_iter().map(put).collect())
}

/// Brings the records of these sandboxes back into a store that lacks them. What is in it already stands, so whoever is
/// interrupted begins again. One of which nothing can be read is put on record as lost: it is listed as failed, no sweep
/// takes it, and its forced deletion ends what lives in it. Those are returned.
///
/// # Errors
/// The store does not answer.
pub async fn restore(
    claims: Vec<PremisesSpec>,
    store: &dyn Records,
) -> Result<Vec<SandboxUid>, Fault> {
    let mut lost = Vec::new();
    for claim in claims {
        let (uid, key) = (claim.uid, SandboxRecord::key(claim.uid));
        let found = store.scan(key.clone()).await?;
        if found
            .iter()
            .any(|(of, bytes)| *of == key && !is_lost(bytes))
        {
            continue;
        }
        let own = key.clone();
        let changes = tokio::task::spawn_blocking(move || whole(&claim, &own));
        match changes.await.expect("to read does not panic") {
            Ok(changes) => {
                // With its own record at last, it is restored.
                let (last, rest): (Vec<_>, Vec<_>) = changes
                    .into_iter()
                    .partition(|change| key_of(change) == key);
                for some in rest.chunks(ROWS_AT_ONCE) {
                    store.write(some.to_vec()).await;
                }
                store.write(last).await;
                tracing::warn!(%uid, "sandbox taken from its own records; it is adopted");
            }
            Err(why) => {
                let why = format!("{why:#}");
                tracing::error!(%uid, why, "a sandbox of the damaged store has no records of its own; delete it by force, or restore the store");
                store.write(vec![records::lost(key, why)]).await;
                lost.push(uid);
            }
        }
    }
    Ok(lost)
}

/// Without its own record a sandbox would be nobody's.
fn whole(claim: &PremisesSpec, own: &str) -> Result<Vec<Change>> {
    let changes = read(claim)?;
    if !changes.iter().any(|change| key_of(change) == own) {
        let path = claim.folder.join(FILE);
        bail!("read {}: {own:?} is not in it", path.display());
    }
    Ok(changes)
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
    use tokio::task::LocalSet;

    #[derive(Clone, Default)]
    struct Memory(Rc<RefCell<BTreeMap<String, Vec<u8>>>>);

    impl Memory {
        /// The keys, of which nothing is kept but that they were lost.
        fn lost(&self) -> Vec<String> {
            let rows = self.0.borrow();
            assert!(rows.values().all(|bytes| is_lost(bytes)));
            rows.keys().cloned().collect()
        }
    }

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
            neighbours: None,
            cgroups_path: String::new(),
            relay: None,
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
            writers: Default::default(),
            annotations: BTreeMap::new(),
            keys: Vec::new(),
            journal: Journal::default(),
        }
    }

    fn init(uid: SandboxUid) -> String {
        format!("process/{uid}/0/init")
    }

    /// Written, and reflected where it is to be.
    async fn write(mirror: &Mirrored, changes: Vec<Change>) {
        Records::write(mirror, changes).await;
        while mirror.at_work.get() {
            tokio::task::yield_now().await;
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
                key: init(uid),
                value: b"{}".to_vec(),
            };
            let own = put(SandboxRecord::key(uid), record);
            write(&mirror, vec![own, other]).await;
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
            let unknown = restore(claims.collect(), &found).await.unwrap();

            assert_eq!(unknown, []);
            assert_eq!(*found.0.borrow(), *store.0.borrow());
            assert_eq!(found.0.borrow().len(), 4);
        };
        LocalSet::new().run_until(told).await;
    }

    #[tokio::test]
    async fn a_file_follows_change_by_change_and_is_begun_anew_before_it_is_long() {
        let root = tempfile::tempdir().unwrap();
        let record = record(root.path(), 1, Phase::Ready);
        let (uid, claim) = (record.spec.uid, record.spec.premises.clone());
        fs::create_dir_all(&claim.folder).unwrap();
        let file = claim.folder.join(FILE);
        let length = || fs::metadata(&file).unwrap().len();
        let put = |value: &str| Change::Put {
            key: init(uid),
            value: value.into(),
        };
        let told = async {
            let store = Memory::default();
            let mirror = Mirrored::new(Rc::new(store.clone()), root.path());
            let own = runtime_core::records::put(SandboxRecord::key(uid), &record);
            write(&mirror, vec![own]).await;

            let begun = length();
            write(&mirror, vec![put("one")]).await;
            let appended = length() - begun;
            assert!(appended < 64, "{appended} bytes for a row of three");
            let mut longest = 0;
            for _ in 0..APPENDED_MAX / 500 {
                write(&mirror, vec![put(&"x".repeat(1000))]).await;
                longest = longest.max(length());
            }
            assert!(longest > APPENDED_MAX, "{longest}");
            assert!(longest < begun + APPENDED_MAX + 4096, "{longest}");
            write(&mirror, vec![Change::Delete { key: init(uid) }]).await;

            let found = Memory::default();
            assert_eq!(restore(vec![claim], &found).await.unwrap(), []);
            assert_eq!(*found.0.borrow(), *store.0.borrow());
            assert_eq!(found.0.borrow().len(), 1);
        };
        LocalSet::new().run_until(told).await;
    }

    #[tokio::test]
    async fn a_line_that_was_not_written_to_its_end_is_not_read() {
        let root = tempfile::tempdir().unwrap();
        let records = [record(root.path(), 1, Phase::Ready)];
        let told = async {
            let store = written(root.path(), &records).await;
            let claim = records[0].spec.premises.clone();
            append(&claim.folder, b"[[\"process/").unwrap();
            let found = Memory::default();

            assert_eq!(restore(vec![claim.clone()], &found).await.unwrap(), []);
            assert_eq!(*found.0.borrow(), *store.0.borrow());

            append(&claim.folder, b"\n").unwrap();
            let unknown = restore(vec![claim.clone()], &Memory::default())
                .await
                .unwrap();
            assert_eq!(unknown, [claim.uid], "this one is no accident");
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
            let unknown = restore(claims.collect(), &found).await.unwrap();

            let uids = records.map(|record| record.spec.uid);
            assert_eq!(unknown, uids);
            assert_eq!(found.lost(), uids.map(SandboxRecord::key));
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

            let unknown = restore(vec![one.clone()], &found).await.unwrap();

            assert_eq!(unknown, [one.uid]);
            assert_eq!(found.lost(), [SandboxRecord::key(one.uid)]);
        };
        LocalSet::new().run_until(told).await;
    }

    #[tokio::test]
    async fn what_is_in_the_store_stands_and_what_was_lost_is_looked_for_again() {
        let root = tempfile::tempdir().unwrap();
        let records = [
            record(root.path(), 1, Phase::Ready),
            record(root.path(), 2, Phase::Ready),
        ];
        let told = async {
            let store = written(root.path(), &records).await;
            let [one, two] = records.map(|record| record.spec.premises.clone());
            let (mirror, aside) = (two.folder.join(FILE), two.folder.join("aside"));
            let both = || vec![one.clone(), two.clone()];
            fs::rename(&mirror, &aside).unwrap();
            let found = Memory::default();
            assert_eq!(restore(both(), &found).await.unwrap(), [two.uid]);
            let later = Change::Put {
                key: init(one.uid),
                value: b"later".to_vec(),
            };
            found.write(vec![later]).await;

            fs::rename(&aside, &mirror).unwrap();
            assert_eq!(restore(both(), &found).await.unwrap(), []);

            assert_eq!(found.0.borrow()[&init(one.uid)], b"later");
            store
                .0
                .borrow_mut()
                .insert(init(one.uid), b"later".to_vec());
            assert_eq!(*found.0.borrow(), *store.0.borrow());
        };
        LocalSet::new().run_until(told).await;
    }

    #[tokio::test]
    async fn a_mirror_without_the_record_of_its_own_sandbox_is_none() {
        let root = tempfile::tempdir().unwrap();
        let records = [record(root.path(), 1, Phase::Ready)];
        let told = async {
            written(root.path(), &records).await;
            let claim = records[0].spec.premises.clone();
            fs::write(claim.folder.join(FILE), "").unwrap();
            let found = Memory::default();

            let lost = restore(vec![claim.clone()], &found).await.unwrap();

            assert_eq!(lost, [claim.uid]);
            assert_eq!(found.lost(), [SandboxRecord::key(claim.uid)]);
        };
        LocalSet::new().run_until(told).await;
    }
}
