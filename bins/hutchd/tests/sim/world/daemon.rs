//! The production daemon in a simulated world: started, killed and started again as a process
//! would be. Its actors live in a task set of their own, which dies with it.

use super::{
    RESTART, ROOT, World,
    fate::Life,
    pass,
    ports::{SimAgent, SimDisk, SimNamespaces, SimPremises, SimShares, SimSigns, SimVmm},
};
use actix::Addr;
use agent_client::fake::FakeAgent;
use hutchd::{
    architect::{Grounds, plan},
    channel::Channel,
    config::{ChannelChoice, Config},
    profile::Profiles,
    wiring::{self, Ports},
};
use runtime_core::{
    clock::Clock,
    host::HostActor,
    hypervisor::Accelerator,
    ids::{EpochMs, SandboxUid},
    records::Change,
    sandbox::SandboxRecord,
};
use std::{cell::RefCell, collections::BTreeSet, future::pending, rc::Rc, sync::Arc};
use store::{Disk as _, Durability, StoreRecords};
use tokio::task::{LocalSet, spawn_local};

pub const VIRTIOFSD: &str = "/virtiofsd";
/// Whom a client reaches now.
#[derive(Clone)]
pub enum Served {
    Nothing,
    By(Addr<HostActor>),
}

struct WorldClock(Rc<World>);

impl Clock for WorldClock {
    fn now(&self) -> EpochMs {
        self.0.now()
    }
}

impl World {
    /// From now on there is a daemon: where one dies, the next one is started.
    pub fn keep_a_daemon(self: &Rc<Self>) {
        let world = self.clone();
        spawn_local(async move {
            loop {
                world.clone().live().await;
                pass(RESTART).await;
            }
        });
    }

    /// Answers when a daemon serves.
    pub async fn host(&self) -> Addr<HostActor> {
        loop {
            let serves = self.serves.notified();
            if let Served::By(host) = &*self.served.borrow() {
                return host.clone();
            }
            serves.await;
        }
    }

    /// One daemon, until it is killed.
    async fn live(self: Rc<Self>) {
        let number = self.lives.get() + 1;
        self.lives.set(number);
        let life = self.life(number);
        self.life.replace(Some(life.clone()));
        self.log.say(format_args!("daemon {number} starts"));
        let set = LocalSet::new();
        let serve = set.run_until(async {
            if let Err(why) = self.serve(&life).await {
                life.kill(format_args!("it does not start: {why}"));
            }
            pending::<()>().await
        });
        tokio::select! {
            biased;
            () = life.killed() => {}
            () = serve => {}
        }
    }

    fn life(self: &Rc<Self>, number: u32) -> Rc<Life> {
        let (dying, checking) = (Rc::downgrade(self), Rc::downgrade(self));
        let on_death = move || {
            if let Some(world) = dying.upgrade() {
                world.served.replace(Served::Nothing);
                let disk = world.disk.borrow().clone();
                let most = disk.writes_unacknowledged() as u64;
                let kept = usize::try_from(world.dice.below(most + 1)).expect("few");
                disk.crash(kept);
                world.disk.replace(disk.reopen());
            }
        };
        let after_each = move |call: &str| {
            // Only these make something on the host, or take a record away.
            let changes = match call.split_once(' ') {
                Some(("vmm" | "netns" | "share" | "premises", _)) => true,
                Some(("disk", keys)) => keys.contains(" -"),
                Some(_) | None => false,
            };
            if let Some(world) = checking.upgrade().filter(|_| changes) {
                world.check_records_name_what_exists(call);
            }
        };
        Life::new(self.fates.clone(), number, on_death, after_each)
    }

    /// Where no daemon runs, something writes over the record of a sandbox; the next one comes upon it.
    pub async fn garble(&self, uid: SandboxUid) {
        self.log.say(format_args!("the record of {uid} is garbled"));
        self.kill_daemon();
        let (key, value) = (SandboxRecord::key(uid), b"{\"v\":".to_vec());
        let garbled = Arc::new([Change::Put { key, value }]);
        let disk = self.disk.borrow().clone();
        let written = disk.write(garbled, Durability::Kill).await;
        written.expect("a disk that is sound");
    }

    /// As `hutchd::start` does it.
    async fn serve(self: &Rc<Self>, life: &Rc<Life>) -> Result<(), runtime_core::error::Fault> {
        let ports = self.ports(life);
        let rows = ports.records.scan("sandbox/".to_owned()).await?;
        let uid = |key: &str| key.strip_prefix("sandbox/")?.parse::<SandboxUid>().ok();
        let known: BTreeSet<_> = rows.iter().filter_map(|(key, _)| uid(key)).collect();
        for swept in self.premises.sweep(known).await? {
            self.log.say(format_args!("swept {}", swept.name));
        }
        let host = wiring::build(ports).await?;
        if life.is_alive() {
            self.log.say(format_args!("daemon {} serves", life.number));
            self.served.replace(Served::By(host));
            self.serves.notify_waiters();
        }
        Ok(())
    }

    fn ports(self: &Rc<Self>, life: &Rc<Life>) -> Ports {
        let disk = SimDisk {
            life: life.clone(),
            disk: self.disk.borrow().clone(),
        };
        let ended = life.clone();
        let end = Rc::new(move |why: &store::Error| ended.kill(format_args!("store: {why}")));
        let grounds = Grounds {
            root: ROOT.into(),
            profiles: Profiles::of(&config(self.channel)).expect("a channel that needs no look"),
            config: config(self.channel),
            accelerator: Accelerator::Tcg,
        };
        let (entropy, agents, agents_life) = (self.dice.fork(), self.clone(), life.clone());
        Ports {
            vmm: Rc::new(SimVmm {
                life: life.clone(),
                vmm: self.vmm(),
            }),
            agent: Rc::new(move |uid| {
                let guest = agents.guest(uid);
                let agent = SimAgent {
                    life: agents_life.clone(),
                    uid,
                    agent: FakeAgent::new(guest.clone()),
                    guest: guest.clone(),
                };
                let life = agents_life.clone();
                (Rc::new(agent), Rc::new(SimSigns { life, guest }))
            }),
            devices: Rc::new(SimShares {
                life: life.clone(),
                shares: self.shares.clone(),
            }),
            namespaces: Rc::new(SimNamespaces {
                life: life.clone(),
                namespaces: self.namespaces.clone(),
                premises: self.premises.clone(),
                last: RefCell::default(),
            }),
            premises: Rc::new(SimPremises {
                life: life.clone(),
                premises: self.premises.clone(),
            }),
            records: Rc::new(StoreRecords::new(Rc::new(disk), &[], end)),
            clock: Rc::new(WorldClock(self.clone())),
            entropy: Rc::new(move || entropy.throw().to_le_bytes().repeat(4)),
            architect: Rc::new(move |wish, first| plan(&grounds, wish, first)),
            boot_id: self.boot_id(),
        }
    }
}

/// As of a host without a configuration.
fn config(channel: Channel) -> Config {
    let mut config = Config::default();
    config.guest.channel = match channel {
        Channel::Serial => ChannelChoice::Serial,
        Channel::Vsock => ChannelChoice::Vsock,
        Channel::HybridVsock => ChannelChoice::HybridVsock,
    };
    config.guest.kernel = "/vmlinux".into();
    config.guest.initrd = "/initrd.img".into();
    config.share.virtiofsd = VIRTIOFSD.into();
    config
}
