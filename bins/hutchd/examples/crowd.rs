//! hutchd with a crowd of sandboxes and no virtual machine, for `cargo xtask bench crowd`.
//!
//! `crowd N ROOT BUNDLE` builds the daemon's own wiring over its real store in ROOT and the fakes
//! of everything else, creates and starts N containers of BUNDLE's config.json, each in a sandbox
//! of its own, serves them in ROOT, says `ready`, and stays until its input ends. What it holds then
//! is what hutchd would hold, and the fakes; the QMP conversations and control links of real
//! sandboxes it has not.

use actix::Addr;
use agent_client::fake::{FakeAgent, FakeGuest};
use anyhow::{Context as _, Result};
use devices::{
    fake::{FakeShares, OwnGround},
    plan::Nature,
};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use host::fake::FakePremises;
use hutchd::{
    api::{Api, Facts, now},
    architect::{Grounds, plan},
    bundle,
    config::{ChannelChoice, Config},
    lookout::Lookout,
    profile::Profiles,
    serve,
    wiring::{self, Ports},
};
use hypervisor::fake::FakeHost;
use netns::fake::FakeNamespaces;
use runtime_core::{
    clock::Clock,
    container::Start,
    host::{CreateContainer, Find, HostActor},
    hypervisor::Accelerator,
    ids::{ContainerId, EpochMs, Namespace, SandboxUid},
    sandbox::StartIn,
};
use std::{
    env, fs,
    io::{Read as _, stdin},
    path::Path,
    rc::Rc,
    sync::Arc,
    time::Duration,
};
use store::{Schema, StoreRecords};
use tokio::{runtime, task::LocalSet};

/// Enough at once that simulated boots overlap, and few enough for every line.
const AT_ONCE: usize = 50;
const BOOT: Duration = Duration::from_millis(20);

const SCHEMA: Schema = Schema {
    version: 1,
    upgrades: &[],
    written_by: "hutchd's crowd",
};

struct HostClock;

impl Clock for HostClock {
    fn now(&self) -> EpochMs {
        now()
    }
}

/// With a channel that needs no look at the host.
fn settings() -> Config {
    let mut config = Config::default();
    config.guest.channel = ChannelChoice::Serial;
    config
}

fn ports(root: &Path, bundle: &Path) -> Result<Ports> {
    let opened = store::open(&root.join("store"), &SCHEMA).context("open store")?;
    let end = |why: &store::Error| panic!("the store failed: {why}");
    let shares = FakeShares::new(Rc::new(OwnGround::default()));
    for folder in [bundle, &bundle.join("rootfs")] {
        shares.put(folder, Nature::Directory);
    }
    shares.put(Config::default().share.virtiofsd, Nature::File(None));
    let config = settings();
    let grounds = Grounds {
        root: root.to_owned(),
        profiles: Profiles::of(&config)?,
        config,
        accelerator: Accelerator::Tcg,
    };
    Ok(Ports {
        vmm: Rc::new(FakeHost::new().driver()),
        agent: Rc::new(|_| {
            let guest = FakeGuest::booting(BOOT);
            (Rc::new(FakeAgent::new(guest.clone())), Rc::new(guest))
        }),
        devices: Rc::new(shares),
        namespaces: Rc::new(FakeNamespaces::default()),
        premises: Rc::new(FakePremises::new(root.to_owned())),
        records: Rc::new(StoreRecords::new(Rc::new(opened.store), &[], Rc::new(end))),
        clock: Rc::new(HostClock),
        entropy: Rc::new(|| vec![0; 32]),
        architect: Rc::new(move |wish, first| plan(&grounds, wish, first)),
        boot_id: "crowd".to_owned(),
    })
}

/// Creates a container in a sandbox of its own, and starts it.
async fn live(host: Addr<HostActor>, bundle: &Path, config: &[u8], number: u64) -> Result<()> {
    let namespace = Namespace::new("default").context("name a namespace")?;
    let id = ContainerId::new(format!("crowd-{number}")).context("name a container")?;
    let wish = bundle::wish(bundle::Request {
        namespace: namespace.clone(),
        id: id.clone(),
        bundle: &bundle.display().to_string(),
        config_json: config,
        join: None,
        neighbours: None,
        cgroups_path: String::new(),
        relay: None,
        uid: SandboxUid::from_random(number),
        created: now(),
    })?;
    let (key, wish) = (None, Box::new(wish));
    let created = host.send(CreateContainer { key, wish }).await??;
    let find = Find {
        namespace,
        id: id.to_string(),
    };
    let located = host.send(find).await??;
    let start = StartIn {
        container: created.place.number,
        start: Start { key: None },
    };
    located.sandbox.send(start).await??;
    Ok(())
}

async fn gather(count: u64, root: &Path, bundle: &Path) -> Result<()> {
    let config = fs::read(bundle.join("config.json")).context("read config.json")?;
    let host = wiring::build(ports(root, bundle)?).await?;
    let lives = (1..=count).map(|number| live(host.clone(), bundle, &config, number));
    stream::iter(lives)
        .buffer_unordered(AT_ONCE)
        .try_collect::<Vec<()>>()
        .await?;
    let facts = Facts {
        root: root.display().to_string(),
        accelerator: "none",
        accelerator_reason: "simulated".to_owned(),
        damaged_stores: Vec::new(),
        sigterm_kills: false,
    };
    let api = Api {
        host,
        facts: Arc::new(facts),
        store: Arc::new(store::Figures::default),
        lodging: Arc::new(|_| Vec::new()),
        profiles: Arc::new(Profiles::of(&settings())?),
        lookout: Lookout::default(),
    };
    let (root, socket) = (root.to_owned(), serve::socket_path(root));
    let mut served = tokio::task::spawn_local(async move { serve::serve(&root, api).await });
    while !socket.exists() && !served.is_finished() {
        tokio::task::yield_now().await;
    }
    println!("ready");
    let ended = tokio::task::spawn_blocking(|| stdin().read_to_end(&mut Vec::new()));
    tokio::select! {
        biased;
        ended = ended => ended?.context("wait for the end of input").map(drop),
        served = &mut served => served?,
    }
}

fn main() -> Result<()> {
    let mut words = env::args().skip(1);
    let mut word = || words.next().context("usage: crowd N ROOT BUNDLE");
    let (count, root, bundle) = (word()?, word()?, word()?);
    let runtime = runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let count = count.parse().context("how many is a number")?;
    LocalSet::new().block_on(&runtime, gather(count, root.as_ref(), bundle.as_ref()))
}
