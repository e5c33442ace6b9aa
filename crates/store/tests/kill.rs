//! A write is answered when it survives kill -9: tried, with a process that is killed.

// Helpers of tests are tests.
#![allow(clippy::unwrap_used)]

use runtime_core::records::Change;
use std::{
    fs::{self, File},
    io::{Read, Write},
    path::Path,
    process::{Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};
use store::{Disk, Durability, Opened, Schema};

/// Names the store that the child writes.
const WRITE: &str = "HUTCH_TEST_WRITE_STORE";
/// Names the store whose disk the child fills.
const FILL: &str = "HUTCH_TEST_FILL_STORE";
const ROUNDS: u32 = 20;
const WRITERS: usize = 4;
const SCHEMA: Schema = Schema {
    version: 1,
    upgrades: &[],
    written_by: "kill",
};

/// What one writer keeps: the same number under two keys, in one write.
fn changes(writer: usize, number: u64) -> Arc<[Change]> {
    Arc::from(["left", "right"].map(|side| Change::Put {
        key: format!("{side}/{writer}"),
        value: number.to_be_bytes().to_vec(),
    }))
}

fn read_number(bytes: &[u8]) -> u64 {
    u64::from_be_bytes(bytes.try_into().unwrap())
}

/// Not a test of its own: what the child runs. Writers count on from what they find, and say
/// each number on stderr once it is acknowledged: 8 bytes of writer and 8 of number.
#[test]
fn child_that_counts() {
    let Some(path) = std::env::var_os(WRITE) else {
        return;
    };
    let opened = store::open(Path::new(&path), &SCHEMA).unwrap();
    let disk = &opened.store;
    let count = async |writer: usize| {
        let found = disk.scan(format!("left/{writer}")).await.unwrap();
        let mut number = found.first().map_or(0, |(_, value)| read_number(value));
        loop {
            number += 1;
            // Every eighth is synced, so that both kinds are killed in the middle.
            let durability = match number % 8 {
                0 => Durability::PowerLoss,
                _ => Durability::Kill,
            };
            let write = disk.write(changes(writer, number), durability);
            write.await.unwrap();
            let mut line = (writer as u64).to_be_bytes().to_vec();
            line.extend(number.to_be_bytes());
            std::io::stderr().write_all(&line).unwrap();
        }
    };
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    runtime.unwrap().block_on(async {
        futures::join!(count(0), count(1), count(2), count(3));
    });
}

/// Starts the child and kills it `life` after its first word; the last number that each of its
/// writers said.
fn killed_after(store: &Path, life: Duration) -> [u64; WRITERS] {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child_that_counts", "--nocapture"])
        .env(WRITE, store)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut pipe = child.stderr.take().unwrap();
    let mut said = [0; WRITERS];
    let mut line = [0; 16];
    let mut death = None;
    while pipe.read_exact(&mut line).is_ok() {
        let writer = read_number(&line[..8]) as usize;
        said[writer] = read_number(&line[8..]);
        if Instant::now() >= *death.get_or_insert_with(|| Instant::now() + life) {
            // Again for each word that is still in the pipe: the child is not reaped yet.
            child.kill().unwrap();
        }
    }
    child.wait().unwrap();
    said
}

/// What each writer kept, left and right.
fn kept(opened: &Opened) -> [[u64; 2]; WRITERS] {
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    let scan = opened.store.scan(String::new());
    let rows = runtime.unwrap().block_on(scan).unwrap();
    std::array::from_fn(|writer| {
        ["left", "right"].map(|side| {
            let key = format!("{side}/{writer}");
            let row = rows.iter().find(|(found, _)| *found == key);
            row.map_or(0, |(_, value)| read_number(value))
        })
    })
}

fn random_lives() -> impl Iterator<Item = Duration> {
    let mut random = File::open("/dev/urandom").unwrap();
    (0..ROUNDS).map(move |_| {
        let mut byte = [0];
        random.read_exact(&mut byte).unwrap();
        Duration::from_micros(u64::from(byte[0]) * 300)
    })
}

#[test]
fn nothing_acknowledged_is_lost_to_a_kill_and_no_write_is_halved() {
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("store");
    let mut known = [0; WRITERS];

    for life in random_lives() {
        let said = killed_after(&store, life);

        let opened = store::open(&store, &SCHEMA).unwrap();
        assert!(opened.damaged.is_none(), "{:?}", opened.damaged);
        for (writer, [left, right]) in kept(&opened).into_iter().enumerate() {
            let acknowledged = said[writer].max(known[writer]);
            assert_eq!(left, right, "half a write of writer {writer} survived");
            assert!(
                left >= acknowledged,
                "writer {writer}: {left} of {acknowledged}"
            );
            // One more was acknowledged and not said yet, or was on its way.
            assert!(
                left <= acknowledged + 1,
                "writer {writer}: {left} from nowhere"
            );
            known[writer] = left;
        }
    }

    assert!(known.iter().all(|&number| number > 20), "{known:?}");
}

/// Not a test of its own: what a child with a small limit for its files runs. It writes until it
/// is refused, tries once more, and says how many writes were acknowledged and how it ended.
#[test]
fn child_that_fills_its_disk() {
    let Some(path) = std::env::var_os(FILL) else {
        return;
    };
    let opened = store::open(Path::new(&path), &SCHEMA).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    let runtime = runtime.unwrap();
    let write = |number: u64| {
        let value = vec![number as u8; 50_000];
        let key = format!("{number:04}");
        let changes = Arc::from([Change::Put { key, value }]);
        runtime.block_on(opened.store.write(changes, Durability::Kill))
    };
    let full = (0..1000).find_map(|number| write(number).err().map(|error| (number, error)));
    let (acknowledged, error) = full.expect("the limit is below what is written");
    let after = write(0).is_err();
    println!("\nfull {acknowledged} {after} {error}");
    // Whether sled can close over a disk that failed is not the question.
    std::process::exit(0);
}

#[test]
fn a_full_disk_refuses_every_later_write_and_loses_no_earlier_one() {
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("store");
    drop(store::open(&store, &SCHEMA).unwrap());
    // 4,000 blocks of 512 bytes; the signal that comes with the limit is ignored.
    let script = "trap '' XFSZ; ulimit -f 4000; exec \"$0\" \"$@\"";
    let out = Command::new("/bin/sh")
        .args(["-c", script])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "child_that_fills_its_disk", "--nocapture"])
        .env(FILL, &store)
        .stderr(Stdio::null())
        .output()
        .unwrap();
    let out = String::from_utf8(out.stdout).unwrap();
    let line = out.lines().find(|line| line.starts_with("full ")).unwrap();
    let words: Vec<_> = line.splitn(4, ' ').collect();
    let acknowledged: usize = words[1].parse().unwrap();
    assert!(acknowledged > 5, "{line}");
    assert_eq!(words[2], "true", "a write after the failure: {line}");
    assert!(words[3].contains(store.to_str().unwrap()), "{line}");

    let opened = store::open(&store, &SCHEMA).unwrap();

    assert!(opened.damaged.is_none(), "{:?}", opened.damaged);
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    let scan = opened.store.scan(String::new());
    let rows = runtime.unwrap().block_on(scan).unwrap();
    assert!(
        rows.len() >= acknowledged,
        "{} of {acknowledged}",
        rows.len()
    );
    let whole = |(number, (key, value)): (usize, &(String, Vec<u8>))| {
        *key == format!("{number:04}") && value.iter().all(|byte| *byte == number as u8)
    };
    assert!(rows.iter().enumerate().all(whole));
}

#[test]
fn a_kill_leaves_no_lock_behind() {
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("store");
    killed_after(&store, Duration::ZERO);
    assert!(fs::metadata(folder.path().join("store.holder")).is_ok());

    let opened = store::open(&store, &SCHEMA);

    assert!(opened.is_ok());
}
