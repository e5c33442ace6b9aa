//! What every disk promises, the real one and the fake alike: the fakes do not lie.

// Helpers of tests are tests.
#![allow(clippy::unwrap_used)]

use runtime_core::records::{Change, Rows};
use std::{cell::RefCell, future::Future, rc::Rc, sync::Arc};
use store::{Disk, Durability, Error, Schema, SledStore, fake::FakeDisk};
use tempfile::TempDir;
use tokio::{runtime::Builder, task::LocalSet};

const SCHEMA: Schema = Schema {
    version: 1,
    upgrades: &[],
    written_by: "contract",
};

/// A disk, and a way to end its process in good order and open it again.
trait House {
    fn disk(&self) -> Rc<dyn Disk>;
    fn reopen(&self);
}

struct RealHouse {
    folder: TempDir,
    store: RefCell<Option<Rc<SledStore>>>,
}

impl RealHouse {
    fn new() -> Self {
        let house = Self {
            folder: tempfile::tempdir().unwrap(),
            store: RefCell::default(),
        };
        house.reopen();
        house
    }
}

impl House for RealHouse {
    fn disk(&self) -> Rc<dyn Disk> {
        self.store.borrow().clone().unwrap()
    }

    fn reopen(&self) {
        self.store.take();
        let opened = store::open(&self.folder.path().join("store"), &SCHEMA).unwrap();
        assert!(opened.damaged.is_none());
        self.store.replace(Some(Rc::new(opened.store)));
    }
}

struct FakeHouse(RefCell<FakeDisk>);

impl House for FakeHouse {
    fn disk(&self) -> Rc<dyn Disk> {
        Rc::new(self.0.borrow().clone())
    }

    fn reopen(&self) {
        let disk = self.0.borrow().clone();
        disk.crash(disk.writes_unacknowledged());
        self.0.replace(disk.reopen());
    }
}

fn run<F: Future<Output = ()>>(paused: bool, test: impl FnOnce() -> F) {
    let runtime = Builder::new_current_thread()
        .enable_all()
        .start_paused(paused)
        .build()
        .unwrap();
    LocalSet::new().block_on(&runtime, async { test().await });
}

macro_rules! contract {
    ($($name:ident)*) => {
        mod real {
            $(#[test]
            fn $name() {
                super::run(false, || async {
                    super::$name(&super::RealHouse::new()).await;
                });
            })*
        }
        mod fake {
            $(#[test]
            fn $name() {
                super::run(true, || async {
                    super::$name(&super::FakeHouse(Default::default())).await;
                });
            })*
        }
    };
}

contract! {
    what_is_written_is_read
    a_prefix_selects_and_the_order_is_that_of_the_keys
    a_deleted_key_is_gone_and_deleting_it_again_is_already_so
    the_last_write_of_a_key_wins_within_a_batch_and_across_them
    a_scan_sees_every_write_asked_for_before_it_and_none_after
    an_answered_write_is_there_after_reopening
    the_keys_of_the_store_itself_are_not_seen
    writes_that_meet_share_a_flush_and_are_counted_exactly
    one_precious_write_syncs_the_flush_it_shares
    a_write_without_changes_waits_for_those_before_it
    a_refused_write_changes_nothing_and_harms_nobody
    a_write_nobody_waits_for_is_written
    a_large_value_is_kept_whole
}

fn put(key: &str, value: &str) -> Change {
    Change::Put {
        key: key.into(),
        value: value.into(),
    }
}

fn delete(key: &str) -> Change {
    Change::Delete { key: key.into() }
}

async fn write(disk: &Rc<dyn Disk>, changes: &[Change]) {
    disk.write(Arc::from(changes), Durability::Kill)
        .await
        .unwrap();
}

async fn scan(disk: &Rc<dyn Disk>, prefix: &str) -> Vec<(String, String)> {
    let rows: Rows = disk.scan(prefix.into()).await.unwrap();
    rows.into_iter()
        .map(|(key, value)| (key, String::from_utf8(value).unwrap()))
        .collect()
}

fn rows(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs
        .iter()
        .map(|(key, value)| (key.to_string(), value.to_string()))
        .collect()
}

async fn what_is_written_is_read(house: &dyn House) {
    let disk = house.disk();

    write(&disk, &[put("a", "1"), put("b", "")]).await;

    assert_eq!(scan(&disk, "").await, rows(&[("a", "1"), ("b", "")]));
}

async fn a_prefix_selects_and_the_order_is_that_of_the_keys(house: &dyn House) {
    let disk = house.disk();

    write(&disk, &[put("s/2", "x"), put("t/1", "x"), put("s/10", "x")]).await;
    write(&disk, &[put("s/", "x"), put("s", "x"), put("s0", "x")]).await;

    let found = scan(&disk, "s/").await;
    let found: Vec<_> = found.into_iter().map(|(key, _)| key).collect();
    assert_eq!(found, ["s/", "s/10", "s/2"]);
    assert!(scan(&disk, "u").await.is_empty());
    assert_eq!(scan(&disk, "").await.len(), 6);
}

async fn a_deleted_key_is_gone_and_deleting_it_again_is_already_so(house: &dyn House) {
    let disk = house.disk();
    write(&disk, &[put("a", "1"), put("b", "2")]).await;

    write(&disk, &[delete("a")]).await;
    write(&disk, &[delete("a"), delete("never")]).await;

    assert_eq!(scan(&disk, "").await, rows(&[("b", "2")]));
}

async fn the_last_write_of_a_key_wins_within_a_batch_and_across_them(house: &dyn House) {
    let disk = house.disk();

    let twice = Arc::from([put("a", "1"), put("a", "2")]);
    let there_and_back = Arc::from([delete("b"), put("b", "3"), put("c", "4"), delete("c")]);
    let mut line = vec![
        disk.write(twice, Durability::Kill),
        disk.write(there_and_back, Durability::Kill),
    ];
    for n in 0..50 {
        let change = [put("a", &n.to_string())];
        line.push(disk.write(Arc::from(change), Durability::Kill));
    }
    for write in line {
        write.await.unwrap();
    }

    assert_eq!(scan(&disk, "").await, rows(&[("a", "49"), ("b", "3")]));
}

async fn a_scan_sees_every_write_asked_for_before_it_and_none_after(house: &dyn House) {
    let disk = house.disk();

    let before = disk.write(Arc::from([put("a", "before")]), Durability::Kill);
    let between = disk.scan("a".into());
    let after = disk.write(Arc::from([put("a", "after")]), Durability::Kill);
    let last = disk.scan("a".into());

    // Awaited in another order than asked for: being in line does not depend on it.
    assert_eq!(last.await.unwrap()[0].1, b"after");
    after.await.unwrap();
    assert_eq!(between.await.unwrap()[0].1, b"before");
    before.await.unwrap();
}

async fn an_answered_write_is_there_after_reopening(house: &dyn House) {
    write(&house.disk(), &[put("a", "1"), put("b", "2")]).await;
    write(&house.disk(), &[delete("b")]).await;

    house.reopen();

    assert_eq!(scan(&house.disk(), "").await, rows(&[("a", "1")]));
    write(&house.disk(), &[put("c", "3")]).await;
    house.reopen();
    let found = scan(&house.disk(), "").await;
    assert_eq!(found, rows(&[("a", "1"), ("c", "3")]));
}

async fn the_keys_of_the_store_itself_are_not_seen(house: &dyn House) {
    let disk = house.disk();

    write(&disk, &[put("a", "1")]).await;

    assert!(scan(&disk, "\0").await.is_empty());
    assert_eq!(scan(&disk, "").await.len(), 1);
}

async fn writes_that_meet_share_a_flush_and_are_counted_exactly(house: &dyn House) {
    const WRITES: u64 = 200;
    let disk = house.disk();
    let before = disk.figures();

    let ask = |n| {
        let changes = [put(&format!("k{n:03}"), "v"), delete("none")];
        disk.write(Arc::from(changes), Durability::Kill)
    };
    let line: Vec<_> = (0..WRITES).map(ask).collect();
    for write in line {
        write.await.unwrap();
    }

    let after = disk.figures();
    assert_eq!(after.writes - before.writes, WRITES);
    assert_eq!(after.changes - before.changes, 2 * WRITES);
    assert_eq!(after.bytes - before.bytes, WRITES * (4 + 1 + 4));
    assert_eq!(after.syncs, before.syncs);
    let flushes = after.flushes - before.flushes;
    assert!((1..WRITES / 2).contains(&flushes), "{flushes} flushes");
    // And one that meets nobody has a flush to itself.
    write(&disk, &[put("a", "1")]).await;
    assert_eq!(disk.figures().flushes - after.flushes, 1);
    assert_eq!(disk.figures().writes - after.writes, 1);
}

async fn one_precious_write_syncs_the_flush_it_shares(house: &dyn House) {
    let disk = house.disk();

    let precious = disk.write(Arc::from([put("a", "1")]), Durability::PowerLoss);
    precious.await.unwrap();
    assert_eq!(disk.figures().syncs, 1);

    write(&disk, &[put("b", "1")]).await;
    assert_eq!(disk.figures().syncs, 1);
}

async fn a_write_without_changes_waits_for_those_before_it(house: &dyn House) {
    let disk = house.disk();
    let mut first = disk.write(Arc::from([put("a", "1")]), Durability::Kill);

    write(&disk, &[]).await;

    let answered = futures::poll!(&mut first);
    assert!(answered.is_ready());
}

async fn a_refused_write_changes_nothing_and_harms_nobody(house: &dyn House) {
    let disk = house.disk();

    let changes = Arc::from([put("a", "1"), put("\0version", "{}")]);
    let refused = disk.write(changes, Durability::Kill).await;

    assert!(matches!(refused, Err(Error::KeyRefused { .. })));
    assert!(scan(&disk, "").await.is_empty());
    write(&disk, &[put("b", "1")]).await;
    assert_eq!(disk.figures().writes, 1);
}

async fn a_write_nobody_waits_for_is_written(house: &dyn House) {
    let disk = house.disk();

    drop(disk.write(Arc::from([put("a", "1")]), Durability::Kill));
    drop(disk.scan(String::new()));

    assert_eq!(scan(&disk, "").await, rows(&[("a", "1")]));
}

async fn a_large_value_is_kept_whole(house: &dyn House) {
    let large = "x".repeat(store::VALUE_BYTES_MAX);
    let changes = Arc::from([put("large", &large)]);
    let write = house.disk().write(changes, Durability::PowerLoss);
    write.await.unwrap();

    house.reopen();

    let found = scan(&house.disk(), "large").await;
    assert!(found == rows(&[("large", &large)]), "value differs");
}
