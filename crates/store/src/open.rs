//! Opening a store: lock, engine, version, upgrade; and moving a damaged one aside.
//!
//! A store comes into being under another name and is renamed when its version record is in it,
//! so a store without one is damaged, not young. One that takes the place of a damaged one is marked
//! as incomplete until its owner says that it is not ([`Incomplete`]). Blocks: call it before the runtime runs, or
//! from `spawn_blocking`.

use crate::{
    Error, Schema, SledStore, Step, disk,
    driver::Engine,
    head::{ENGINE, GROUP_KEY, Head, HeadFile},
    holder::{self, Lock},
    incomplete::Incomplete,
    schema::{VERSION_KEY, VersionRecord},
};
use runtime_core::records::Change;
use std::{
    any::Any,
    fmt,
    fs::{self, DirBuilder, File},
    io,
    os::unix::fs::DirBuilderExt,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::Arc,
};

/// Records are small and few; sled's default of 1 GiB would let the daemon grow with its history.
const CACHE_BYTES: u64 = 4 * 1024 * 1024;
/// How often sled's own flusher syncs the file to disk: the window that a loss of power has for
/// writes that did not ask for more.
const BACKGROUND_SYNC_MS: u64 = 500;
/// A folder that collects more damaged stores than this has a disk that needs a person.
const DAMAGED_KEPT_MAX: u32 = 1000;

/// A store that is open.
#[derive(Debug)]
pub struct Opened {
    pub store: SledStore,
    /// What was moved aside before this (then empty) store was made.
    pub damaged: Option<Damaged>,
    /// What a damaged store held, moved aside now or by an earlier opening, was not all restored yet; `None`: nothing
    /// is missing.
    pub incomplete: Option<Incomplete>,
    /// The version that the records had, if steps were run.
    pub upgraded_from: Option<u32>,
}

/// A damaged store: where it is kept now, and what is wrong with it.
#[derive(Debug, Clone)]
pub struct Damaged {
    pub moved_to: PathBuf,
    pub damage: Damage,
}

#[derive(Debug, Clone)]
pub enum Damage {
    Engine(Arc<sled::Error>),
    EnginePanicked { message: String },
    VersionMissing,
    VersionUnreadable,
    KeyUnreadable,
    WritesLost { acknowledged: u64, kept: u64 },
    NotAFolder,
}

/// A store that was read in full.
struct Loaded {
    db: sled::Db,
    groups: u64,
    version: VersionRecord,
}

/// Why a store could not be read.
enum Unloadable {
    /// It is moved aside.
    Damaged(Damage),
    /// It is left alone.
    Refused(Error),
}

/// Opens the store at `path`, or makes one there.
///
/// # Errors
/// A store that is held, newer, foreign, or on a disk that fails is left as it is.
pub fn open(path: &Path, schema: &Schema) -> Result<Opened, Error> {
    if let Some(parent) = path.parent() {
        make_folder(parent).map_err(failed(path, Step::MakeFolder))?;
    }
    let lock = Lock::take(path)?;
    let boot_id = proc::boot_id().map_err(failed(path, Step::ReadBootId))?;
    let mut damaged = None;
    if path.symlink_metadata().is_ok() {
        match load(path, &boot_id) {
            Ok(loaded) => return finish(path, schema, loaded, lock, boot_id, None),
            Err(Unloadable::Refused(error)) => return Err(error),
            Err(Unloadable::Damaged(damage)) => damaged = Some(move_aside(path, damage)?),
        }
    }
    create(path, schema)?;
    let loaded = load(path, &boot_id).map_err(|unloadable| match unloadable {
        Unloadable::Refused(error) => error,
        Unloadable::Damaged(damage) => Error::FreshUnreadable {
            path: path.to_owned(),
            damage: damage.to_string(),
        },
    })?;
    finish(path, schema, loaded, lock, boot_id, damaged)
}

fn finish(
    path: &Path,
    schema: &Schema,
    loaded: Loaded,
    lock: Lock,
    boot_id: String,
    damaged: Option<Damaged>,
) -> Result<Opened, Error> {
    let found = loaded.version.version;
    if found > schema.version {
        return Err(Error::Newer {
            path: path.to_owned(),
            found,
            written_by: loaded.version.written_by,
            known: schema.version,
        });
    }
    let head = HeadFile::open(path, boot_id).map_err(failed(path, Step::NoteHead))?;
    let mut engine = Engine::new(path, loaded.db, loaded.groups, head, lock)
        .map_err(failed(path, Step::OpenEngine))?;
    upgrade(path, schema, found, &mut engine)?;
    let incomplete = Incomplete::found(path).map_err(failed(path, Step::ReadMark))?;
    Ok(Opened {
        store: SledStore::start(engine)?,
        damaged,
        incomplete,
        upgraded_from: (found < schema.version).then_some(found),
    })
}

fn upgrade(path: &Path, schema: &Schema, found: u32, engine: &mut Engine) -> Result<(), Error> {
    for from in found..schema.version {
        let step = schema.step_from(from).ok_or_else(|| Error::NoUpgrade {
            path: path.to_owned(),
            from,
        })?;
        let records = engine.scan("")?;
        let mut changes = (step.run)(&records).map_err(|source| Error::Upgrade {
            path: path.to_owned(),
            name: step.name,
            from,
            source: Arc::new(source),
        })?;
        changes.iter().try_for_each(disk::check_change)?;
        changes.push(Change::Put {
            key: VERSION_KEY.to_owned(),
            value: schema.record(from + 1).encode(),
        });
        engine.commit_synced(&changes)?;
        tracing::info!(from, to = from + 1, step = step.name, "store upgraded");
    }
    Ok(())
}

/// Reads a whole store once: what is damaged shows itself now and not in the middle of a request.
fn load(path: &Path, boot_id: &str) -> Result<Loaded, Unloadable> {
    if !path.symlink_metadata().is_ok_and(|meta| meta.is_dir()) {
        return Err(Unloadable::Damaged(Damage::NotAFolder));
    }
    let head = Head::read(path);
    if let Some(head) = head.as_ref().filter(|head| head.engine != ENGINE) {
        return Err(Unloadable::Refused(Error::ForeignEngine {
            path: path.to_owned(),
            found: head.engine.clone(),
            known: ENGINE,
        }));
    }
    wait_for_engine_lock(path).map_err(Unloadable::Refused)?;
    // sled asserts its way through a log that it cannot read.
    let loaded = catch_unwind(AssertUnwindSafe(|| read(path))).map_err(|panic| {
        Unloadable::Damaged(Damage::EnginePanicked {
            message: panic_message(panic.as_ref()),
        })
    })??;
    match head.filter(|head| head.boot_id == boot_id) {
        Some(head) if head.acknowledged > loaded.groups => {
            Err(Unloadable::Damaged(Damage::WritesLost {
                acknowledged: head.acknowledged,
                kept: loaded.groups,
            }))
        }
        Some(_) | None => Ok(loaded),
    }
}

fn read(path: &Path) -> Result<Loaded, Unloadable> {
    let failed = |error| unloadable(path, error);
    let db = engine_config(path).open().map_err(failed)?;
    let mut groups = None;
    let mut version = None;
    for pair in db.iter() {
        let (key, bytes) = pair.map_err(failed)?;
        match std::str::from_utf8(&key) {
            Err(_) => return Err(Unloadable::Damaged(Damage::KeyUnreadable)),
            Ok(GROUP_KEY) => groups = <[u8; 8]>::try_from(bytes.as_ref()).ok(),
            Ok(VERSION_KEY) => version = Some(bytes),
            Ok(_) => {}
        }
    }
    let version = version.ok_or(Unloadable::Damaged(Damage::VersionMissing))?;
    match (VersionRecord::decode(&version), groups) {
        (Some(version), Some(groups)) => Ok(Loaded {
            db,
            groups: u64::from_be_bytes(groups),
            version,
        }),
        (None, _) | (_, None) => Err(Unloadable::Damaged(Damage::VersionUnreadable)),
    }
}

fn unloadable(path: &Path, error: sled::Error) -> Unloadable {
    match is_damage(&error) {
        true => Unloadable::Damaged(Damage::Engine(Arc::new(error))),
        false => Unloadable::Refused(Error::Engine {
            path: path.to_owned(),
            step: Step::OpenEngine,
            source: Arc::new(error),
        }),
    }
}

/// Damage is what another try, another user or more space would not cure.
fn is_damage(error: &sled::Error) -> bool {
    match error {
        sled::Error::Corruption { .. }
        | sled::Error::CollectionNotFound(_)
        | sled::Error::ReportableBug(_)
        | sled::Error::Unsupported(_) => true,
        sled::Error::Io(error) => matches!(
            error.kind(),
            io::ErrorKind::UnexpectedEof
                | io::ErrorKind::InvalidData
                | io::ErrorKind::InvalidInput
                | io::ErrorKind::NotFound
                | io::ErrorKind::AlreadyExists
                | io::ErrorKind::NotADirectory
                | io::ErrorKind::IsADirectory
        ),
    }
}

/// The daemon's own lock is taken, so whoever has sled's is a forked child of a dead daemon (it
/// passes) or a program that is no daemon.
fn wait_for_engine_lock(path: &Path) -> Result<(), Error> {
    match File::open(path.join("db")) {
        // What is not there or is no file is for the engine to judge.
        Err(_) => Ok(()),
        Ok(file) => match holder::came_free(&file).map_err(failed(path, Step::TakeLock))? {
            true => Ok(()),
            false => Err(Error::HeldByUnknown {
                path: path.to_owned(),
            }),
        },
    }
}

/// Makes an empty store under another name and gives it its own when it is whole.
fn create(path: &Path, schema: &Schema) -> Result<(), Error> {
    let young = with_suffix(path, ".new");
    match fs::remove_dir_all(&young) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed(path, Step::MakeFolder)(error)),
    }
    make_folder(&young).map_err(failed(path, Step::MakeFolder))?;
    let version = schema.record(schema.version).encode();
    let written = || -> sled::Result<()> {
        let db = engine_config(&young).open()?;
        let mut batch = sled::Batch::default();
        batch.insert(VERSION_KEY, version);
        batch.insert(GROUP_KEY, &0_u64.to_be_bytes());
        db.apply_batch(batch)?;
        db.flush()?;
        Ok(())
    };
    written().map_err(|source| Error::Engine {
        path: path.to_owned(),
        step: Step::WriteVersion,
        source: Arc::new(source),
    })?;
    let settle = || -> io::Result<()> {
        File::open(young.join("db"))?.sync_data()?;
        File::open(&young)?.sync_all()?;
        fs::rename(&young, path)?;
        if let Some(parent) = path.parent() {
            File::open(parent)?.sync_all()?;
        }
        Ok(())
    };
    settle().map_err(failed(path, Step::WriteVersion))
}

fn move_aside(path: &Path, damage: Damage) -> Result<Damaged, Error> {
    let moved_to = (1..=DAMAGED_KEPT_MAX)
        .map(|n| with_suffix(path, &format!(".damaged-{n}")))
        .find(|candidate| candidate.symlink_metadata().is_err())
        .ok_or_else(|| failed(path, Step::MoveAside)(io::ErrorKind::AlreadyExists.into()))?;
    // Whoever finds a store that is not damaged any more must know what it is.
    Incomplete::begin(path, &moved_to).map_err(failed(path, Step::MarkIncomplete))?;
    fs::rename(path, &moved_to).map_err(failed(path, Step::MoveAside))?;
    tracing::error!(store = %path.display(), kept = %moved_to.display(), %damage, "store is damaged");
    Ok(Damaged { moved_to, damage })
}

fn engine_config(path: &Path) -> sled::Config {
    sled::Config::new()
        .path(path)
        .cache_capacity(CACHE_BYTES)
        .flush_every_ms(Some(BACKGROUND_SYNC_MS))
}

fn make_folder(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

fn failed(path: &Path, step: Step) -> impl FnOnce(io::Error) -> Error + '_ {
    move |source| Error::Open {
        path: path.to_owned(),
        step,
        source: Arc::new(source),
    }
}

pub(crate) fn panic_message(panic: &(dyn Any + Send)) -> String {
    panic
        .downcast_ref::<String>()
        .cloned()
        .or_else(|| panic.downcast_ref::<&str>().map(|&text| text.to_owned()))
        .unwrap_or_else(|| "no message".to_owned())
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Engine(error) => write!(f, "engine: {error}"),
            Self::EnginePanicked { message } => write!(f, "engine panicked: {message}"),
            Self::VersionMissing => f.write_str("version record is missing"),
            Self::VersionUnreadable => f.write_str("version record is unreadable"),
            Self::KeyUnreadable => f.write_str("a key is not text"),
            Self::WritesLost { acknowledged, kept } => write!(
                f,
                "{acknowledged} groups of writes were acknowledged, {kept} are there"
            ),
            Self::NotAFolder => f.write_str("not a folder"),
        }
    }
}
