//! The interface over the daemon's own wiring, with fakes of everything below: what it answers to requests as they come.

#![allow(clippy::unwrap_used)] // Tests may.

use agent_client::fake::{FakeAgent, FakeGuest};
use devices::{
    fake::{FakeShares, OwnGround},
    plan::Nature,
};
use host::fake::FakePremises;
use hutchd::{
    api::{Api, Facts, now},
    architect::{Grounds, plan},
    config::{ChannelChoice, Config},
    profile::Profiles,
    wiring::{self, Ports},
};
use hypervisor::fake::FakeHost;
use netns::fake::{FakeNamespaces, Thing};
use protocols::asynchronous::{
    hutch::{CreateRequest, CreateSandboxRequest, SandboxRequest},
    hutch_ttrpc::Runtime,
};
use runtime_core::{clock::Clock, hypervisor::Accelerator, ids::EpochMs};
use serde_json::{Value, json};
use std::{
    future::Future,
    path::{Path, PathBuf},
    rc::Rc,
    sync::Arc,
    time::Duration,
};
use store::{Schema, StoreRecords};
use tempfile::TempDir;
use tokio::{task::LocalSet, time::timeout};
use ttrpc::r#async::TtrpcContext;

const SCHEMA: Schema = Schema {
    version: 1,
    upgrades: &[],
    written_by: "hutchd's tests",
};
/// Nothing here takes a second on a quiet machine.
const LIMIT: Duration = Duration::from_secs(60);

/// A network that a caller has.
const LENT: &str = "/proc/self/ns/net";
/// A network that no sandbox is in: the VMMs' numbers here are those of any processes of this host, which may all be in ours.
const FOREIGN: &str = "/proc/self/ns/uts";

struct HostClock;

impl Clock for HostClock {
    fn now(&self) -> EpochMs {
        now()
    }
}

struct House {
    folder: TempDir,
    api: Api,
}

impl House {
    async fn open() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut config = Config::default();
        // It needs no look at the host.
        config.guest.channel = ChannelChoice::Serial;
        let profiles = Profiles::of(&config).unwrap();
        let host = wiring::build(ports(folder.path(), config)).await.unwrap();
        let facts = Facts {
            root: folder.path().display().to_string(),
            accelerator: "none",
            accelerator_reason: "there are no vms".to_owned(),
            damaged_stores: Vec::new(),
        };
        let api = Api {
            host,
            facts: Arc::new(facts),
            store: Arc::new(store::Figures::default),
            lodging: Arc::new(|_| Vec::new()),
            profiles: Arc::new(profiles),
        };
        Self { folder, api }
    }

    /// Creates a container with these namespaces; joins a sandbox if one is named.
    async fn create(&self, id: &str, joins: &str, namespaces: Value) -> ttrpc::Result<()> {
        let config = json!({
            "ociVersion": "1.0.2",
            "process": {"args": ["/bin/cat"], "cwd": "/", "user": {"uid": 0, "gid": 0}},
            "root": {"path": "rootfs"},
            "linux": {"namespaces": namespaces},
        });
        let request = CreateRequest {
            namespace: "default".to_owned(),
            container_id: id.to_owned(),
            sandbox_id: joins.to_owned(),
            bundle: bundle(self.folder.path()).display().to_string(),
            config_json: config.to_string().into_bytes(),
            ..Default::default()
        };
        self.api
            .create(&TtrpcContext::default(), request)
            .await
            .map(drop)
    }

    /// Creates a sandbox of its own, and starts it; its uid.
    async fn sandbox(&self, id: &str) -> String {
        let request = CreateSandboxRequest {
            namespace: "default".to_owned(),
            sandbox_id: id.to_owned(),
            ..Default::default()
        };
        let created = self
            .api
            .create_sandbox(&TtrpcContext::default(), request)
            .await
            .unwrap();
        let request = SandboxRequest {
            namespace: "default".to_owned(),
            sandbox: id.to_owned(),
            ..Default::default()
        };
        self.api
            .start_sandbox(&TtrpcContext::default(), request)
            .await
            .unwrap();
        created.sandbox_uid
    }
}

fn bundle(folder: &Path) -> PathBuf {
    folder.join("bundle")
}

fn ports(root: &Path, config: Config) -> Ports {
    let opened = store::open(&root.join("store"), &SCHEMA).unwrap();
    let end = |why: &store::Error| panic!("the store failed: {why}");
    let shares = FakeShares::new(Rc::new(OwnGround::default()));
    for path in [bundle(root), bundle(root).join("rootfs")] {
        shares.put(path, Nature::Directory);
    }
    shares.put(config.share.virtiofsd.clone(), Nature::File(None));
    let grounds = Grounds {
        root: root.to_owned(),
        profiles: Profiles::of(&config).unwrap(),
        config,
        accelerator: Accelerator::Tcg,
    };
    let namespaces = FakeNamespaces::default();
    namespaces.put(LENT, Thing::Network);
    Ports {
        vmm: Rc::new(FakeHost::new().driver()),
        agent: Rc::new(|_| {
            let guest = FakeGuest::new();
            (Rc::new(FakeAgent::new(guest.clone())), Rc::new(guest))
        }),
        devices: Rc::new(shares),
        namespaces: Rc::new(namespaces),
        premises: Rc::new(FakePremises::new(root.to_owned())),
        records: Rc::new(StoreRecords::new(Rc::new(opened.store), &[], Rc::new(end))),
        clock: Rc::new(HostClock),
        entropy: Rc::new(|| vec![0; 32]),
        architect: Rc::new(move |wish, first| plan(&grounds, wish, first)),
        boot_id: "boot".to_owned(),
    }
}

fn told(story: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    LocalSet::new().block_on(&runtime, async {
        timeout(LIMIT, story).await.expect("the story ends");
    });
}

/// Why a request was refused.
fn said(outcome: ttrpc::Result<()>) -> String {
    match outcome.unwrap_err() {
        ttrpc::Error::RpcStatus(status) => status.message,
        other => panic!("{other}"),
    }
}

fn network(path: impl AsRef<Path>) -> Value {
    json!([{"type": "pid"}, {"type": "network", "path": path.as_ref()}])
}

#[test]
fn whoever_joins_a_sandbox_may_name_its_network_and_no_other() {
    told(async {
        let house = House::open().await;
        house.create("infra", "", network(LENT)).await.unwrap();

        let again = house.folder.path().join("again");
        std::os::unix::fs::symlink(LENT, &again).unwrap();
        house.create("a", "infra", network(LENT)).await.unwrap();
        house.create("b", "infra", network(&again)).await.unwrap();
        house
            .create("c", "infra", json!([{"type": "network"}]))
            .await
            .unwrap();
        house.create("d", "infra", json!([])).await.unwrap();
        let refused = house.create("e", "infra", network(FOREIGN)).await;

        let said = said(refused);
        assert!(
            said.contains("/proc/self/ns/uts is not that of sandbox"),
            "{said}"
        );
        house.create("e", "infra", network(LENT)).await.unwrap();
    });
}

#[test]
fn a_sandbox_that_is_joined_by_its_own_names_lends_its_network_alone() {
    told(async {
        let house = House::open().await;
        let uid = house.sandbox("pod").await;
        // A container's id that begins as the sandbox's.
        house.create("pod-1", "", json!([])).await.unwrap();
        let own = house.folder.path().join("s").join(&uid).join("netns");
        std::fs::create_dir_all(own.parent().unwrap()).unwrap();
        std::fs::write(&own, "").unwrap();

        for (id, joins) in [("a", "pod"), ("b", uid.as_str())] {
            let refused = house.create(id, joins, network(FOREIGN)).await;

            let said = said(refused);
            let words = format!("{FOREIGN} is not that of sandbox \"pod\"");
            assert!(said.contains(&words), "{said}");
            house.create(id, joins, network(&own)).await.unwrap();
        }
    });
}
