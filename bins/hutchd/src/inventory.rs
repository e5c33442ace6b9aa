//! What is on the host in the daemon's name, against what is on record: settled at the start, before anything is adopted.
//!
//! What no record knows is nobody's, and is swept. That holds only where nothing is missing from the records: while a
//! store is incomplete, they are restored from beside their sandboxes, and nothing is swept.

use crate::mirror;
use anyhow::{Context as _, Result};
use host::{HostPremises, Swept};
use runtime_core::{
    error::Fault, ids::SandboxUid, kit::Work, premises::PremisesSpec, records::Records,
};
use std::collections::BTreeSet;
use store::Incomplete;

/// The host, as far as whoever takes stock asks it.
pub trait Inventory {
    /// Takes away whatever is of no known sandbox.
    fn sweep(&self, known: BTreeSet<SandboxUid>) -> Work<Result<Vec<Swept>, Fault>>;

    /// Every sandbox that a sweep would find, known or not.
    fn claims(&self) -> Work<Result<Vec<PremisesSpec>, Fault>>;
}

impl Inventory for HostPremises {
    fn sweep(&self, known: BTreeSet<SandboxUid>) -> Work<Result<Vec<Swept>, Fault>> {
        Self::sweep(self, known)
    }

    fn claims(&self) -> Work<Result<Vec<PremisesSpec>, Fault>> {
        Self::claims(self)
    }
}

/// Sweeps, or restores where records are missing; whoever is interrupted in it is done with by the next one.
///
/// # Errors
/// The store or the host does not answer.
pub async fn settle(
    host: &dyn Inventory,
    records: &dyn Records,
    incomplete: Option<Incomplete>,
) -> Result<()> {
    let Some(incomplete) = incomplete else {
        return sweep(host, records).await;
    };
    let claims = host.claims().await.context("list what is on the host")?;
    // Each of them is on record then, the lost ones too: no later sweep takes one.
    mirror::restore(claims, records).await?;
    let over = tokio::task::spawn_blocking(|| incomplete.is_over());
    if let Err(why) = over.await.context("mark the store as complete")? {
        tracing::error!(%why, "the store is still marked as incomplete; the next daemon restores again");
    }
    Ok(())
}

/// What no record knows is killed, unmounted and removed.
async fn sweep(host: &dyn Inventory, records: &dyn Records) -> Result<()> {
    let rows = records.scan("sandbox/".to_owned()).await?;
    let uid = |key: &str| key.strip_prefix("sandbox/")?.parse::<SandboxUid>().ok();
    let known: BTreeSet<SandboxUid> = rows.iter().filter_map(|(key, _)| uid(key)).collect();
    for swept in host.sweep(known).await? {
        tracing::warn!(name = %swept.name, "swept what no record knows");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use host::fake::FakePremises;
    use runtime_core::{
        premises::{Cgroup, Premises},
        records::{Change, Rows},
    };
    use std::{
        cell::Cell,
        fs,
        path::{Path, PathBuf},
        rc::Rc,
    };
    use store::{Opened, Schema, StoreRecords};
    use tempfile::TempDir;
    use tokio::{sync::Notify, task::LocalSet};

    const SCHEMA: Schema = Schema {
        version: 1,
        upgrades: &[],
        written_by: "a test",
    };

    impl Inventory for FakePremises {
        fn sweep(&self, known: BTreeSet<SandboxUid>) -> Work<Result<Vec<Swept>, Fault>> {
            Self::sweep(self, known)
        }

        fn claims(&self) -> Work<Result<Vec<PremisesSpec>, Fault>> {
            Self::claims(self)
        }
    }

    /// A daemon that is killed in its writes: the first so many are done, the next one never is.
    struct Killed {
        records: StoreRecords,
        writes_left: Cell<u32>,
        reached: Rc<Notify>,
    }

    impl Records for Killed {
        fn write(&self, changes: Vec<Change>) -> Work<()> {
            let Some(left) = self.writes_left.get().checked_sub(1) else {
                self.reached.notify_one();
                return Box::pin(std::future::pending());
            };
            self.writes_left.set(left);
            self.records.write(changes)
        }

        fn scan(&self, prefix: String) -> Work<Result<Rows, Fault>> {
            self.records.scan(prefix)
        }
    }

    struct Host {
        place: TempDir,
        premises: FakePremises,
    }

    impl Host {
        /// With these sandboxes, whose records are beside them, and a store that does not read.
        async fn damaged(sandboxes: &[u64]) -> Self {
            let place = tempfile::tempdir().unwrap();
            let premises = FakePremises::new(place.path().to_owned());
            for uid in sandboxes.iter().copied().map(SandboxUid::from_random) {
                let spec = PremisesSpec {
                    uid,
                    folder: place.path().join("s").join(uid.to_string()),
                    vmm: Cgroup(format!("/hutch/{uid}/vmm")),
                    helpers: Cgroup(format!("/hutch/{uid}/helpers")),
                    lodged: BTreeSet::new(),
                };
                let folder = spec.folder.clone();
                premises.prepare(spec).await.unwrap();
                fs::create_dir_all(&folder).unwrap();
                let row = format!("[[\"sandbox/{uid}\",\"of {uid}\"]]\n");
                fs::write(folder.join("records.jsonl"), row).unwrap();
            }
            fs::write(place.path().join("store"), "no store at all").unwrap();
            Self { place, premises }
        }

        fn mirror(&self, random: u64) -> PathBuf {
            let uid = SandboxUid::from_random(random).to_string();
            self.place.path().join("s").join(uid).join("records.jsonl")
        }

        /// A daemon begins, and is done with it, or is killed after so many writes.
        async fn start(&self, writes_max: u32) -> Result<bool> {
            let opened = open(self.place.path()).await;
            let (reached, end) = (Rc::new(Notify::new()), |why: &store::Error| panic!("{why}"));
            let records = Killed {
                records: StoreRecords::new(Rc::new(opened.store), &[], Rc::new(end)),
                writes_left: Cell::new(writes_max),
                reached: reached.clone(),
            };
            tokio::select! {
                biased;
                settled = settle(&self.premises, &records, opened.incomplete) => settled.map(|()| true),
                () = reached.notified() => Ok(false),
            }
        }

        async fn on_record(&self) -> Vec<(String, String)> {
            let opened = open(self.place.path()).await;
            let end = |why: &store::Error| panic!("{why}");
            let records = StoreRecords::new(Rc::new(opened.store), &[], Rc::new(end));
            let rows = records.scan("sandbox/".to_owned()).await.unwrap();
            let text = |(key, value)| (key, String::from_utf8(value).unwrap());
            rows.into_iter().map(text).collect()
        }

        async fn claimed(&self) -> BTreeSet<SandboxUid> {
            let claims = self.premises.claims().await.unwrap();
            claims.iter().map(|claim| claim.uid).collect()
        }
    }

    /// The actor of the one before may not have let go of it yet.
    async fn open(root: &Path) -> Opened {
        loop {
            match store::open(&root.join("store"), &SCHEMA) {
                Ok(opened) => return opened,
                Err(store::Error::Held { .. }) => tokio::task::yield_now().await,
                Err(why) => panic!("{why}"),
            }
        }
    }

    fn row(random: u64) -> (String, String) {
        let uid = SandboxUid::from_random(random);
        (format!("sandbox/{uid}"), format!("of {uid}"))
    }

    fn uids(randoms: &[u64]) -> BTreeSet<SandboxUid> {
        let uids = randoms.iter().copied().map(SandboxUid::from_random);
        uids.collect()
    }

    fn sorted(rows: &[(String, String)]) -> Vec<(String, String)> {
        let mut rows = rows.to_vec();
        rows.sort();
        rows
    }

    #[tokio::test]
    async fn a_daemon_killed_between_two_sandboxes_costs_neither() {
        let told = async {
            let host = Host::damaged(&[1, 2, 3]).await;

            for writes_max in [1, 0, 1] {
                assert!(!host.start(writes_max).await.unwrap(), "it was killed");
                assert_eq!(host.claimed().await, uids(&[1, 2, 3]));
            }
            assert_eq!(host.on_record().await.len(), 2);
            assert!(host.start(9).await.unwrap(), "this one was not");

            let all = sorted(&[row(1), row(2), row(3)]);
            assert_eq!(host.on_record().await, all);
            assert!(host.start(9).await.unwrap());
            assert_eq!(host.claimed().await, uids(&[1, 2, 3]), "nothing is swept");
            assert_eq!(host.on_record().await, all);
        };
        LocalSet::new().run_until(told).await;
    }

    #[tokio::test]
    async fn what_cannot_be_restored_is_on_record_as_lost_and_never_swept() {
        let told = async {
            let host = Host::damaged(&[1, 2]).await;
            fs::write(host.mirror(2), "no line\n").unwrap();

            for _ in ["restored", "restarted", "restarted again"] {
                assert!(host.start(9).await.unwrap());
                assert_eq!(host.claimed().await, uids(&[1, 2]));
            }

            let rows = host.on_record().await;
            let (_, lost) = rows.iter().find(|(key, _)| *key == row(2).0).unwrap();
            assert!(runtime_core::records::is_lost(lost.as_bytes()), "{lost}");
            assert!(rows.contains(&row(1)));
        };
        LocalSet::new().run_until(told).await;
    }

    #[tokio::test]
    async fn what_no_record_knows_is_swept_where_nothing_is_missing() {
        let told = async {
            let host = Host::damaged(&[1]).await;
            fs::remove_file(host.place.path().join("store")).unwrap();

            assert!(host.start(9).await.unwrap());

            assert_eq!(host.claimed().await, uids(&[]));
        };
        LocalSet::new().run_until(told).await;
    }
}
