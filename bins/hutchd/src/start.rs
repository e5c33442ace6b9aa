//! From a configuration to a serving daemon: store, sweep, ports, wiring, socket, in this order.

use crate::{
    apart::Apart,
    api::{Api, Facts, now},
    architect::{Grounds, plan},
    config::Config,
    inventory, logs,
    lookout::Lookout,
    mirror::Mirrored,
    profile::Profiles,
    serve,
    wiring::{self, Ports},
};
use agent_client::{rpc::TtrpcAgent, signs::ConsoleLog};
use anyhow::{Context as _, Result};
use host::HostPremises;
use runtime_core::{clock::Clock, ids::EpochMs, records::Records};
use std::{path::Path, rc::Rc, sync::Arc, time::Duration};
use store::{Incomplete, Opened, Schema, StoreRecords};
use tokio::{runtime, task::LocalSet};

/// The version of the layout of keys; each record carries a version of its own besides.
const SCHEMA: Schema = Schema {
    version: 1,
    upgrades: &[],
    written_by: concat!("hutchd ", env!("CARGO_PKG_VERSION")),
};
/// Nothing needs to survive a loss of power yet: with it, every VM is gone.
const SYNCED: &[&str] = &[];

/// How long what is under way beside the daemon's own thread may hold up its end: a file that is written takes
/// milliseconds.
const THREADS_END_MAX: Duration = Duration::from_secs(5);

struct HostClock;

impl Clock for HostClock {
    fn now(&self) -> EpochMs {
        now()
    }
}

/// Who started this daemon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StartedBy {
    /// systemd, or a person: session and cgroup are as they should be.
    Supervisor,
    /// A command that found none.
    Command,
}

/// Serves until it is told to stop.
///
/// # Errors
/// Something that the daemon needs is missing, or its store is held by another.
pub fn serve(root: &Path, config: &Config, started_by: StartedBy) -> Result<()> {
    logs::start(&config.log)?;
    may_open_many_files();
    config.check_assets()?;
    let profiles = Profiles::of(config)?;
    serve::prepare_root(root)?;
    let apart = match started_by {
        StartedBy::Supervisor => None,
        StartedBy::Command => set_apart(root),
    };
    let runtime = runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("start runtime")?;
    let served = LocalSet::new().block_on(&runtime, run(root, config, profiles));
    // Where a caller's file system hangs, a thread that looks at it does, and its end is not waited for.
    runtime.shutdown_timeout(THREADS_END_MAX);
    if let Some(Err(why)) = apart.map(Apart::end) {
        tracing::warn!(why = %format!("{why:#}"), "the daemon's own cgroup stays");
    }
    served
}

/// Each sandbox takes about ten: a hundred would be too many for the usual soft limit, which is all that a daemon gets
/// from the command that started it.
fn may_open_many_files() {
    if let Err(why) = proc::open_files::raise() {
        tracing::warn!(%why, "the limit of open files stays as it is; many sandboxes may not fit");
    }
}

/// A host whose cgroups cannot be written starts no sandbox; that error will say more.
fn set_apart(root: &Path) -> Option<Apart> {
    let apart = Apart::from_caller(root);
    let said = |why: &anyhow::Error| {
        tracing::warn!(why = %format!("{why:#}"), "the daemon stays in its caller's cgroup");
    };
    apart.inspect_err(said).ok()
}

fn entropy() -> Vec<u8> {
    let (a, b) = (uuid::Uuid::new_v4(), uuid::Uuid::new_v4());
    [a.into_bytes(), b.into_bytes()].concat()
}

/// A store that cannot be written ends the daemon: the next one adopts what lives.
fn end(why: &store::Error) {
    tracing::error!(why = %runtime_core::error::chain(why), "the store failed; the daemon ends");
    std::process::exit(1);
}

async fn run(root: &Path, config: &Config, profiles: Profiles) -> Result<()> {
    let store_path = root.join("store");
    let opened = tokio::task::spawn_blocking(move || store::open(&store_path, &SCHEMA));
    let Opened {
        store,
        damaged,
        incomplete,
        ..
    } = opened.await.context("open store")??;
    if let Some(damaged) = &damaged {
        tracing::error!(moved_to = %damaged.moved_to.display(), "the store was damaged and is kept aside");
    }
    let gauge = Arc::new(store.gauge());
    let records: Rc<dyn Records> = Rc::new(StoreRecords::new(Rc::new(store), SYNCED, Rc::new(end)));
    let premises = HostPremises::new(root.to_owned())?;
    let damaged_stores = incomplete.iter().flat_map(Incomplete::kept);
    let damaged_stores = damaged_stores
        .map(|kept| kept.display().to_string())
        .collect();
    inventory::settle(&premises, &*records, incomplete).await?;
    let records = Rc::new(Mirrored::new(records, root));

    let boot_id = host::proc::boot_id()?;
    let chosen = wiring::accelerator(root, config, &boot_id).await?;
    tracing::info!(accelerator = chosen.accelerator.name(), because = %chosen.because, "accelerator chosen");
    let channel = profiles.by_default().channel.name();
    tracing::info!(channel, "channel chosen");
    let grounds = Grounds {
        root: root.to_owned(),
        config: config.clone(),
        accelerator: chosen.accelerator,
        profiles: profiles.clone(),
    };
    let sandboxes = root.join("s");
    let lodging = wiring::lodging(&premises);
    let ports = Ports {
        vmm: wiring::qemu(config)?,
        agent: Rc::new(move |uid| {
            let path = sandboxes.join(uid.to_string()).join("console.log");
            (Rc::new(TtrpcAgent::new()), Rc::new(ConsoleLog { path }))
        }),
        devices: wiring::shares(&premises),
        namespaces: Rc::new(netns::driver::Host::default()),
        premises: Rc::new(premises),
        records,
        clock: Rc::new(HostClock),
        entropy: Rc::new(entropy),
        architect: Rc::new(move |wish, first| plan(&grounds, wish, first)),
        boot_id,
    };
    let host = wiring::build(ports).await?;
    let facts = Facts {
        root: root.display().to_string(),
        accelerator: chosen.accelerator.name(),
        accelerator_reason: chosen.because,
        damaged_stores,
        sigterm_kills: config.containers.sigterm_kills,
    };
    let api = Api {
        host,
        facts: Arc::new(facts),
        store: gauge,
        lodging,
        profiles: Arc::new(profiles),
        lookout: Lookout::default(),
    };
    serve::serve(root, api).await
}
