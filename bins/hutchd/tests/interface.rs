//! The interface over the daemon's own wiring, with fakes of everything below: what it answers to requests as they come.

#![allow(clippy::unwrap_used)] // Tests may.

mod ground;

use agent_client::fake::{FakeAgent, FakeGuest};
use ground::{Ground, told};
use hutchd::{
    api::{Api, Facts},
    config::{ChannelChoice, Config, Containers},
    lookout::Lookout,
    profile::Profiles,
    wiring::{self, Ports},
};
use netns::fake::{FakeNamespaces, Thing};
use protocols::asynchronous::{
    hutch::{
        CreateRequest, CreateSandboxRequest, ExecRequest, KillRequest, PauseRequest, ProcessRef,
        ResumeRequest, SandboxRequest, StartRequest, WaitRequest,
    },
    hutch_ttrpc::Runtime,
};
use runtime_core::host::{FindSandbox, ViewSandbox};
use serde_json::{Value, json};
use std::{
    path::{Path, PathBuf},
    rc::Rc,
    sync::Arc,
};
use tempfile::TempDir;
use ttrpc::r#async::TtrpcContext;

/// A network that a caller has.
const LENT: &str = "/proc/self/ns/net";
/// A network that no sandbox is in: the VMMs' numbers here are those of any processes of this host, which may all be in ours.
const FOREIGN: &str = "/proc/self/ns/uts";

struct House {
    folder: TempDir,
    api: Api,
}

impl House {
    async fn open() -> Self {
        Self::with(Containers::default()).await
    }

    async fn with(containers: Containers) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut config = Config {
            containers,
            ..Config::default()
        };
        // It needs no look at the host.
        config.guest.channel = ChannelChoice::Serial;
        let profiles = Profiles::of(&config).unwrap();
        let sigterm_kills = config.containers.sigterm_kills;
        let host = wiring::build(ports(folder.path(), config)).await.unwrap();
        let facts = Facts {
            root: folder.path().display().to_string(),
            accelerator: "none",
            accelerator_reason: "there are no vms".to_owned(),
            damaged_stores: Vec::new(),
            sigterm_kills,
        };
        let api = Api {
            host,
            facts: Arc::new(facts),
            store: Arc::new(store::Figures::default),
            lodging: Arc::new(|_| Vec::new()),
            profiles: Arc::new(profiles),
            lookout: Lookout::default(),
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
        self.create_of(id, joins, config).await
    }

    async fn create_of(&self, id: &str, joins: &str, config: Value) -> ttrpc::Result<()> {
        let request = CreateRequest {
            namespace: "default".to_owned(),
            container_id: id.to_owned(),
            sandbox_id: joins.to_owned(),
            bundle: bundle(self.folder.path()).display().to_string(),
            config_json: config.to_string().into_bytes(),
            ..Default::default()
        };
        self.api.create(&context(), request).await.map(drop)
    }

    async fn start(&self, id: &str) {
        let request = StartRequest {
            namespace: "default".to_owned(),
            container_id: id.to_owned(),
            ..Default::default()
        };
        self.api.start(&context(), request).await.unwrap();
    }

    /// What waits for its thaw is seen: a guest's process hears nothing but SIGKILL meanwhile.
    async fn pause(&self, id: &str) {
        let request = PauseRequest {
            namespace: "default".to_owned(),
            container_id: id.to_owned(),
            ..Default::default()
        };
        self.api.pause(&context(), request).await.unwrap();
    }

    /// What waits for the thaw may end it before that is answered.
    async fn resume(&self, id: &str) {
        let request = ResumeRequest {
            namespace: "default".to_owned(),
            container_id: id.to_owned(),
            ..Default::default()
        };
        if let Err(why) = self.api.resume(&context(), request).await {
            assert!(why.to_string().contains("container not running"), "{why}");
        }
    }

    async fn kill(&self, process: ProcessRef, signal: i32, key: &str) -> ttrpc::Result<()> {
        let request = KillRequest {
            key: key.to_owned(),
            process: Some(process).into(),
            signal: signal.try_into().unwrap(),
            ..Default::default()
        };
        self.api.kill(&context(), request).await.map(drop)
    }

    async fn exec(&self, process: ProcessRef) {
        let json = json!({"args": ["/bin/cat"], "cwd": "/", "user": {"uid": 0, "gid": 0}});
        let request = ExecRequest {
            process: Some(process).into(),
            process_json: json.to_string().into_bytes(),
            ..Default::default()
        };
        self.api.exec(&context(), request).await.unwrap();
    }

    /// The code with which a process ends.
    async fn code(&self, process: ProcessRef) -> u32 {
        let request = WaitRequest {
            process: Some(process).into(),
            ..Default::default()
        };
        let ended = self.api.wait(&context(), request).await.unwrap();
        ended.exit.code
    }

    /// Creates a sandbox of its own, and starts it; its uid.
    async fn sandbox(&self, id: &str) -> String {
        let request = CreateSandboxRequest {
            namespace: "default".to_owned(),
            sandbox_id: id.to_owned(),
            ..Default::default()
        };
        let created = self.api.create_sandbox(&context(), request).await.unwrap();
        let request = SandboxRequest {
            namespace: "default".to_owned(),
            sandbox: id.to_owned(),
            ..Default::default()
        };
        self.api.start_sandbox(&context(), request).await.unwrap();
        created.sandbox_uid
    }
}

fn context() -> TtrpcContext {
    TtrpcContext::default()
}

fn process(container: &str, exec: &str) -> ProcessRef {
    ProcessRef {
        namespace: "default".to_owned(),
        container_id: container.to_owned(),
        exec_id: exec.to_owned(),
        ..Default::default()
    }
}

fn bundle(folder: &Path) -> PathBuf {
    folder.join("bundle")
}

fn ports(root: &Path, config: Config) -> Ports {
    let namespaces = FakeNamespaces::default();
    namespaces.put(LENT, Thing::Network);
    let ground = Ground {
        root,
        config,
        bundle: &bundle(root),
        namespaces,
        agent: Rc::new(|_| {
            let guest = FakeGuest::new();
            (Rc::new(FakeAgent::new(guest.clone())), Rc::new(guest))
        }),
    };
    ground.ports()
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
fn a_destination_that_is_not_absolute_is_refused() {
    told(async {
        let house = House::open().await;
        let config = json!({
            "ociVersion": "1.0.2",
            "process": {"args": ["/bin/cat"], "cwd": "/", "user": {"uid": 0, "gid": 0}},
            "root": {"path": "rootfs"},
            "linux": {},
            "mounts": [{"destination": "mnt", "type": "tmpfs", "source": "tmpfs"}],
        });

        let refused = house.create_of("web", "", config).await;

        let said = said(refused);
        let words = "mounts[0]: destination \"mnt\" is not an absolute path";
        assert!(said.contains(words), "{said}");
    });
}

#[test]
fn a_sandbox_whose_first_root_is_an_image_has_no_share() {
    told(async {
        let house = House::open().await;
        let bundle = bundle(house.folder.path());
        std::fs::create_dir_all(bundle.join("rootfs")).unwrap();
        std::fs::write(bundle.join("image"), "").unwrap();

        for (root, shares) in [("rootfs", true), ("image", false)] {
            let config = json!({
                "ociVersion": "1.0.2",
                "process": {"args": ["/bin/cat"], "cwd": "/", "user": {"uid": 0, "gid": 0}},
                "root": {"path": root},
                "linux": {},
            });
            house.create_of(root, "", config).await.unwrap();

            let find = FindSandbox {
                namespace: None,
                id: root.to_owned(),
            };
            let found = house.api.host.send(ViewSandbox(find)).await.unwrap();
            let (view, _) = found.unwrap();
            assert_eq!(view.spec.share.is_some(), shares, "{root}");
        }
    });
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

#[test]
fn sigkill_follows_a_sigterm_to_an_init_where_the_configuration_says_so() {
    told(async {
        let sigterm_kills = true;
        let house = House::with(Containers { sigterm_kills }).await;
        for id in ["held", "free", "other"] {
            house.create(id, "", json!([])).await.unwrap();
            house.start(id).await;
        }
        house.exec(process("other", "e")).await;

        house.pause("held").await;
        house.pause("other").await;
        for _ in ["once", "asked again"] {
            let init = process("held", "");
            house.kill(init, libc::SIGTERM, "k").await.unwrap();
        }
        // The guest's processes end of their SIGTERM at once; there is nobody left for the second signal.
        house
            .kill(process("free", ""), libc::SIGTERM, "")
            .await
            .unwrap();
        house
            .kill(process("other", "e"), libc::SIGTERM, "")
            .await
            .unwrap();
        house
            .kill(process("other", ""), libc::SIGINT, "")
            .await
            .unwrap();
        house.resume("other").await;

        assert_eq!(house.code(process("held", "")).await, 128 + 9);
        assert_eq!(house.code(process("free", "")).await, 128 + 15);
        assert_eq!(house.code(process("other", "e")).await, 128 + 15);
        assert_eq!(house.code(process("other", "")).await, 128 + 2);
        let gone = house.kill(process("free", ""), libc::SIGTERM, "").await;
        assert!(said(gone).ends_with("container not running"));
    });
}

#[test]
fn nothing_follows_a_sigterm_unless_the_configuration_says_so() {
    told(async {
        let house = House::open().await;
        house.create("held", "", json!([])).await.unwrap();
        house.start("held").await;

        house.pause("held").await;
        house
            .kill(process("held", ""), libc::SIGTERM, "")
            .await
            .unwrap();
        house.resume("held").await;

        assert_eq!(house.code(process("held", "")).await, 128 + 15);
    });
}
