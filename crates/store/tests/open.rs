//! Opening stores that are held, old, new or damaged.

// Helpers of tests are tests.
#![allow(clippy::unwrap_used)]

use runtime_core::{
    error::{Kind, fault},
    records::{Change, Rows},
};
use std::{
    fs,
    future::Future,
    io::{self, BufRead, BufReader, Write},
    os::unix::fs::{FileExt, PermissionsExt},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
};
use store::{Damage, Disk, Durability, Error, Opened, Schema, SledStore, Upgrade, UpgradeRefused};
use tempfile::TempDir;

/// Names the store that a child of these tests is to hold.
const HOLD: &str = "HUTCH_TEST_HOLD_STORE";

const V1: Schema = Schema {
    version: 1,
    upgrades: &[],
    written_by: "hutchd 0.0.1",
};

/// The lamps of version 1 were rated in watts; version 2 rates them in lumens; version 3 keeps
/// them under another key.
const V3: Schema = Schema {
    version: 3,
    upgrades: &[
        Upgrade {
            from: 2,
            name: "move lamps",
            run: move_lamps,
        },
        Upgrade {
            from: 1,
            name: "rate lamps in lumens",
            run: rate_in_lumens,
        },
    ],
    written_by: "hutchd 0.0.3",
};

fn rate_in_lumens(old: &Rows) -> Result<Vec<Change>, UpgradeRefused> {
    let rate = |(key, watts): &(String, Vec<u8>)| {
        let watts = String::from_utf8_lossy(watts).parse::<u32>();
        let watts = watts.map_err(|source| UpgradeRefused {
            key: key.clone(),
            source: source.into(),
        })?;
        Ok(put(key, &(watts * 15).to_string()))
    };
    old.iter().map(rate).collect()
}

fn move_lamps(old: &Rows) -> Result<Vec<Change>, UpgradeRefused> {
    let moved = old.iter().flat_map(|(key, value)| {
        let from = Change::Delete { key: key.clone() };
        let to = Change::Put {
            key: key.replace("lamp/", "light/"),
            value: value.clone(),
        };
        [from, to]
    });
    Ok(moved.collect())
}

struct Place {
    folder: TempDir,
}

impl Place {
    fn new() -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn open(&self, schema: &Schema) -> Result<Opened, Error> {
        store::open(&self.path("store"), schema)
    }

    fn names(&self) -> Vec<String> {
        let names = fs::read_dir(self.folder.path()).unwrap();
        let mut names: Vec<_> = names
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }
}

fn put(key: &str, value: &str) -> Change {
    Change::Put {
        key: key.into(),
        value: value.into(),
    }
}

fn wait<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap()
        .block_on(work)
}

fn write(store: &SledStore, changes: &[Change]) {
    wait(store.write(Arc::from(changes), Durability::Kill)).unwrap();
}

fn rows(store: &SledStore) -> Vec<(String, String)> {
    let rows = wait(store.scan(String::new())).unwrap();
    rows.into_iter()
        .map(|(key, value)| (key, String::from_utf8(value).unwrap()))
        .collect()
}

/// Writes a store as the first release did: records in sled's default tree, the version record
/// as JSON under `\0version`, the number of the last group of writes as eight big-endian bytes
/// under `\0group`. It stays as that release was: this is what hosts have on disk.
fn write_as_version_1(store: &Path, records: &[(&str, &str)]) {
    fs::create_dir(store).unwrap();
    let db = sled::Config::new().path(store).open().unwrap();
    db.insert(b"\0version", r#"{"version":1,"written_by":"hutchd 0.0.1"}"#)
        .unwrap();
    db.insert(b"\0group", &7_u64.to_be_bytes()).unwrap();
    for (key, value) in records {
        db.insert(key, *value).unwrap();
    }
    db.flush().unwrap();
}

#[test]
fn a_store_written_by_an_older_version_is_upgraded_step_by_step() {
    let place = Place::new();
    write_as_version_1(
        &place.path("store"),
        &[("lamp/desk", "60"), ("lamp/hall", "40")],
    );

    let opened = place.open(&V3).unwrap();

    assert_eq!(opened.upgraded_from, Some(1));
    assert!(opened.damaged.is_none());
    let upgraded = [("light/desk", "900"), ("light/hall", "600")];
    let upgraded = upgraded.map(|(key, value)| (key.to_owned(), value.to_owned()));
    assert_eq!(rows(&opened.store), upgraded);
    drop(opened);
    let again = place.open(&V3).unwrap();
    assert_eq!(again.upgraded_from, None);
    assert_eq!(rows(&again.store), upgraded);
}

#[test]
fn a_store_of_a_newer_version_is_refused_by_name_and_left_alone() {
    let place = Place::new();
    write(&place.open(&V3).unwrap().store, &[put("light/desk", "900")]);

    let error = place.open(&V1).unwrap_err();

    let expected = format!(
        "open store {}: its records have version 3 (written by hutchd 0.0.3), \
         this program knows versions up to 1; use a newer hutchd",
        place.path("store").display()
    );
    assert_eq!(error.to_string(), expected);
    assert_eq!(fault(&error).kind(), Kind::Unsupported);
    assert_eq!(place.names(), ["store", "store.holder"]);
    assert_eq!(rows(&place.open(&V3).unwrap().store).len(), 1);
}

#[test]
fn a_store_too_old_for_any_step_is_refused_and_left_alone() {
    const V2_WITHOUT_STEPS: Schema = Schema { version: 2, ..V1 };
    let place = Place::new();
    write_as_version_1(&place.path("store"), &[("lamp/desk", "60")]);

    let error = place.open(&V2_WITHOUT_STEPS).unwrap_err();

    assert!(matches!(error, Error::NoUpgrade { from: 1, .. }), "{error}");
    assert_eq!(rows(&place.open(&V1).unwrap().store).len(), 1);
}

#[test]
fn an_upgrade_that_cannot_read_a_record_names_it_and_changes_nothing() {
    let place = Place::new();
    write_as_version_1(
        &place.path("store"),
        &[("lamp/desk", "60"), ("lamp/hall", "dim")],
    );

    let error = place.open(&V3).unwrap_err();

    let line = fault(&error).to_string();
    let expected = "upgrade \"rate lamps in lumens\" from version 1: record \"lamp/hall\": \
                    invalid digit found in string";
    assert!(line.ends_with(expected), "{line}");
    let untouched = place.open(&V1).unwrap();
    assert_eq!(rows(&untouched.store)[0].1, "60");
}

/// Not a test of its own: what a child of the next tests runs. It opens the store that the
/// environment names, says so, and waits for its end.
#[test]
fn child_that_holds_a_store() {
    let Some(store) = std::env::var_os(HOLD) else {
        return;
    };
    let opened = store::open(Path::new(&store), &V1).unwrap();
    write(&opened.store, &[put("from", "child")]);
    println!("\nholding");
    io::stdout().flush().unwrap();
    // Ends with the pipe: by a kill, or with the test that started this.
    io::stdin().lines().for_each(drop);
}

struct HolderProcess(Child);

impl HolderProcess {
    fn start(store: &Path) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child_that_holds_a_store", "--nocapture"])
            .env(HOLD, store)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        let mut lines = out.lines().map(Result::unwrap);
        assert!(lines.any(|line| line == "holding"), "child holds nothing");
        Self(child)
    }
}

impl Drop for HolderProcess {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

#[test]
fn a_second_daemon_is_told_who_holds_the_store() {
    let place = Place::new();
    let child = HolderProcess::start(&place.path("store"));

    let error = place.open(&V1).unwrap_err();

    let pid = child.0.id();
    let line = error.to_string();
    assert!(line.contains(&format!("held by process {pid} (")), "{line}");
    assert!(line.contains("child_that_holds_a_store"), "{line}");
    assert!(matches!(error, Error::Held { holder, .. } if holder.pid == pid));
}

#[test]
fn a_killed_holder_is_no_holder() {
    let place = Place::new();
    drop(HolderProcess::start(&place.path("store")));

    let opened = place.open(&V1).unwrap();

    assert!(opened.damaged.is_none());
    let kept = [("from".to_owned(), "child".to_owned())];
    assert_eq!(rows(&opened.store), kept);
}

#[test]
fn a_program_that_has_only_the_engine_s_lock_is_noticed() {
    let place = Place::new();
    drop(place.open(&V1).unwrap());
    let file = fs::File::open(place.path("store/db")).unwrap();
    file.lock().unwrap();

    let error = place.open(&V1).unwrap_err();

    assert!(matches!(error, Error::HeldByUnknown { .. }), "{error}");
    assert_eq!(place.names(), ["store", "store.holder"]);
}

/// Writes 100 records, closes the store, lets `harm` at it, and opens it again.
fn opened_after(harm: impl FnOnce(&Path)) -> (Place, Opened) {
    let place = Place::new();
    let opened = place.open(&V1).unwrap();
    for n in 0..100 {
        write(&opened.store, &[put(&format!("k{n:03}"), &"v".repeat(200))]);
    }
    drop(opened);
    harm(&place.path("store"));
    let opened = place.open(&V1).unwrap();
    (place, opened)
}

#[test]
fn a_damaged_store_is_kept_aside_and_a_fresh_one_opened() {
    let (place, opened) = opened_after(|store| {
        let file = fs::OpenOptions::new().write(true).open(store.join("db"));
        file.unwrap().set_len(0).unwrap();
    });

    let damaged = opened.damaged.expect("an emptied store is damaged");
    assert_eq!(damaged.moved_to, place.path("store.damaged-1"));
    assert!(damaged.moved_to.join("db").exists());
    assert!(rows(&opened.store).is_empty());
    write(&opened.store, &[put("new", "life")]);
    drop(opened.store);
    let again = place.open(&V1).unwrap();
    assert!(again.damaged.is_none());
    assert_eq!(rows(&again.store).len(), 1);
}

#[test]
fn a_store_in_the_place_of_a_damaged_one_is_incomplete_until_it_is_said_to_be_whole() {
    let (place, opened) = opened_after(|store| {
        let file = fs::OpenOptions::new().write(true).open(store.join("db"));
        file.unwrap().set_len(0).unwrap();
    });
    let kept = [place.path("store.damaged-1")];
    assert_eq!(opened.incomplete.unwrap().kept(), kept);
    write(&opened.store, &[put("half", "of it")]);
    drop(opened.store);

    let again = place.open(&V1).unwrap();

    assert!(again.damaged.is_none());
    let incomplete = again.incomplete.expect("nobody said that it is whole");
    assert_eq!(incomplete.kept(), kept);
    incomplete.is_over().unwrap();
    drop(again.store);
    let whole = place.open(&V1).unwrap();
    assert!(whole.incomplete.is_none());
    assert_eq!(rows(&whole.store).len(), 1);
}

#[test]
fn a_daemon_that_dies_before_there_is_a_new_store_leaves_an_incomplete_one() {
    let (place, opened) = opened_after(|store| {
        let file = fs::OpenOptions::new().write(true).open(store.join("db"));
        file.unwrap().set_len(0).unwrap();
    });
    drop(opened);
    // As it is between the two renames.
    fs::remove_dir_all(place.path("store")).unwrap();

    let opened = place.open(&V1).unwrap();

    assert!(opened.damaged.is_none());
    assert!(opened.incomplete.is_some());
}

#[test]
fn a_second_damaged_store_does_not_take_the_place_of_the_first() {
    let (place, opened) = opened_after(|store| {
        fs::create_dir(store.with_extension("damaged-1")).unwrap();
        fs::remove_dir_all(store).unwrap();
        fs::write(store, "not a folder").unwrap();
    });

    let damaged = opened.damaged.expect("a file is no store");
    assert!(matches!(damaged.damage, Damage::NotAFolder));
    assert_eq!(damaged.moved_to, place.path("store.damaged-2"));
    let kept = fs::read_to_string(&damaged.moved_to).unwrap();
    assert_eq!(kept, "not a folder");
}

#[test]
fn an_unreadable_version_record_is_damage() {
    for (record, damage) in [(None, "missing"), (Some("{\"version\":"), "unreadable")] {
        let (_place, opened) = opened_after(|store| {
            let db = sled::Config::new().path(store).open().unwrap();
            match record {
                None => drop(db.remove(b"\0version").unwrap()),
                Some(text) => drop(db.insert(b"\0version", text).unwrap()),
            }
        });

        let damaged = opened.damaged.expect("damage is seen").damage.to_string();
        assert!(damaged.contains(damage), "{damaged}");
    }
}

#[test]
fn a_store_that_forgot_an_acknowledged_write_is_damaged() {
    let (_place, opened) = opened_after(|store| {
        let db = sled::Config::new().path(store).open().unwrap();
        db.insert(b"\0group", &99_u64.to_be_bytes()).unwrap();
        db.remove("k099").unwrap();
    });

    let damaged = opened.damaged.expect("a lost write is seen").damage;
    let lost = Damage::WritesLost {
        acknowledged: 100,
        kept: 99,
    };
    assert_eq!(damaged.to_string(), lost.to_string());
}

/// Wherever its files are harmed, a store opens with everything that was acknowledged, or is
/// kept aside: never with a part of it, and never by taking the process down.
#[test]
fn no_harm_to_any_file_loses_a_record_in_silence() {
    const PLACES: usize = 40;
    /// sled sets 512 KiB aside for a log of some tens: most of the harm is to be where it is.
    const WRITTEN_BYTES: u64 = 60_000;
    let (mut kept_aside, mut unharmed) = (0, 0);
    for n in 0..PLACES {
        let (_place, opened) = opened_after(|store| {
            let mut files: Vec<_> = fs::read_dir(store).unwrap().map(Result::unwrap).collect();
            files.retain(|file| file.metadata().unwrap().is_file() && file.file_name() != "head");
            files.sort_by_key(fs::DirEntry::file_name);
            let path = files[n % files.len()].path();
            let length = fs::metadata(&path).unwrap().len().min(WRITTEN_BYTES);
            let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
            let at = length * n as u64 / PLACES as u64;
            file.write_all_at(&[0xa5; 64], at).unwrap();
        });

        let found = rows(&opened.store).len();
        match opened.damaged {
            Some(damaged) => {
                assert!(damaged.moved_to.join("db").exists(), "place {n}");
                assert_eq!(found, 0, "place {n}");
                kept_aside += 1;
            }
            None => {
                assert_eq!(found, 100, "place {n}");
                unharmed += 1;
            }
        }
    }
    assert!(kept_aside > 0, "none of {unharmed} harms was noticed");
}

#[test]
fn more_writes_than_the_line_holds_wait_outside_and_do_not_keep_a_store_open() {
    const WRITES: usize = 12_000;
    let place = Place::new();
    let opened = place.open(&V1).unwrap();
    let ask = |n: usize| {
        let changes = Arc::from([put(&format!("k{n:05}"), "v")]);
        opened.store.write(changes, Durability::Kill)
    };
    let waiting: Vec<_> = (0..WRITES).map(ask).collect();

    drop(opened);

    let answers = waiting.into_iter().map(wait);
    let written = answers.filter(Result::is_ok).count();
    assert!((10_000..=WRITES).contains(&written), "{written}");
    let again = place.open(&V1).unwrap();
    assert_eq!(rows(&again.store).len(), written);
    let ask = |n: usize| {
        let changes = Arc::from([put(&format!("k{n:05}"), "v")]);
        again.store.write(changes, Durability::Kill)
    };
    let all = futures::future::join_all((0..WRITES).map(ask));
    assert!(wait(all).iter().all(Result::is_ok));
    assert_eq!(rows(&again.store).len(), WRITES);
}

#[test]
fn a_store_that_was_never_finished_is_begun_again() {
    let place = Place::new();
    fs::create_dir(place.path("store.new")).unwrap();
    fs::write(place.path("store.new/conf"), "half").unwrap();

    let opened = place.open(&V1).unwrap();

    assert!(opened.damaged.is_none());
    assert!(opened.incomplete.is_none());
    assert_eq!(place.names(), ["store", "store.holder"]);
}

#[test]
fn nobody_but_its_owner_may_look_into_a_store() {
    let place = Place::new();
    let _opened = place.open(&V1).unwrap();

    for name in ["store", "store.holder"] {
        let mode = fs::metadata(place.path(name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0, "{name}");
    }
}

#[test]
fn a_store_of_another_engine_is_refused_and_left_alone() {
    let place = Place::new();
    drop(place.open(&V1).unwrap());
    let head = "redb-9 boot 00000000000000000001\n";
    fs::write(place.path("store/head"), head).unwrap();

    let error = place.open(&V1).unwrap_err();

    assert!(error.to_string().contains("\"redb-9\""), "{error}");
    assert_eq!(place.names(), ["store", "store.holder"]);
}
