//! A client of the daemon, as the command line is one: it asks, and asks again where the daemon
//! died or says that it should.
//!
//! Whatever it is told goes into the [`Ledger`], which never accepts two truths.

use super::{BUNDLE, Relay, World, ledger::Ledger, pass};
use actix::MailboxError;
use hutchd::bundle;
use runtime_core::{
    agent::{ExitStatus, Program, Warnings},
    container::{
        ContainerState, Exec, Force, Freeze, FreezeContainer, NextOoms, ProcessCommand, Start,
        UpdateLimits,
    },
    error::{Fault, Kind},
    host::{CreateContainer, Delete, Find, List, Listed, Located, Place},
    ids::{ContainerId, ExecId, HostProcess, Namespace, ProcessId, RequestKey, SandboxUid},
    process::Kill,
    sandbox::{ExecIn, FreezeIn, NextOomsIn, ProcessIn, StartIn, UpdateIn, ViewContainer, WaitIn},
};
use serde_json::json;
use std::{cell::RefCell, fmt, rc::Rc, time::Duration};
use tokio::{task::spawn_local, time::timeout};

/// Between two attempts, as a person would pause.
const AGAIN: Duration = Duration::from_millis(50);
/// A daemon that does not come back in this many attempts is missed.
const ATTEMPTS_MAX: u32 = 2_000;
/// How long a relay waits for the daemon to hear of the exit that it has.
const RELAY_PATIENCE: Duration = Duration::from_secs(1);
const OOM_WAIT: Duration = Duration::from_secs(10);

#[derive(Clone)]
pub struct Client {
    pub world: Rc<World>,
    pub ledger: Rc<Ledger>,
}

pub(super) fn namespace() -> Namespace {
    Namespace::new("sim").expect("a name")
}

pub(super) fn lost<T>(answer: Result<T, MailboxError>) -> Result<T, Fault> {
    answer.map_err(|_| Fault::new(Kind::Unavailable, "the connection is lost"))
}

fn again(why: &Fault) -> bool {
    why.kind() == Kind::Unavailable
}

pub(super) fn request_key(key: &str) -> Option<RequestKey> {
    Some(RequestKey::new(key).expect("a key"))
}

pub fn process_json(command: &str) -> serde_json::Value {
    let args: Vec<_> = command.split(' ').collect();
    json!({ "args": args, "cwd": "/", "user": { "uid": 0, "gid": 0 }, "apparmorProfile": "strict" })
}

/// The containers whose deletion each attempt of one request was for.
#[derive(Default)]
pub(super) struct Tried(RefCell<Vec<Vec<Place>>>);

impl Tried {
    pub(super) fn now(&self, ledger: &Ledger, places: impl IntoIterator<Item = Place>) {
        let places: Vec<_> = places.into_iter().collect();
        places.iter().for_each(|place| ledger.deleting(*place));
        self.0.borrow_mut().push(places);
    }

    /// Of an attempt that was refused at once nothing was done. An earlier one may have been begun by a daemon
    /// that died.
    pub(super) fn over<T>(&self, ledger: &Ledger, outcome: &Result<T, Fault>) {
        let denied = matches!(outcome, Err(why) if why.kind() == Kind::Denied);
        if let ([only], true) = (self.0.borrow().as_slice(), denied) {
            only.iter().for_each(|place| ledger.not_deleting(*place));
        }
    }
}

/// A container that a client wants.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    pub id: &'a str,
    pub command: &'a str,
    /// Into whose sandbox.
    pub join: Option<&'a str>,
    /// Below the bundle.
    pub root: &'a str,
    /// The programs of prestart, poststart and poststop; the fake host knows what each does.
    pub hooks: Option<[&'a str; 3]>,
    /// What it brings of the bundle, besides.
    pub binds: &'a [&'a str],
}

/// What is published is for reading.
fn bind(source: &str) -> serde_json::Value {
    let options: &[&str] = match source {
        "config" => &["rbind", "ro"],
        // A disk that is written is one container's.
        "disk" => &["bind", "ro"],
        _ => &["bind"],
    };
    json!({ "type": "bind", "source": source, "destination": format!("/{source}"), "options": options })
}

fn config_json(wanted: Wanted<'_>) -> Vec<u8> {
    let hook = |path: &str| json!([{ "path": path, "timeout": 5 }]);
    let hooks = wanted.hooks.map(|[prestart, poststart, poststop]| {
        json!({
            "prestart": hook(prestart),
            "poststart": hook(poststart),
            "poststop": hook(poststop),
        })
    });
    let config = json!({
        "hooks": hooks,
        "ociVersion": "1.0.2",
        "process": process_json(wanted.command),
        "root": { "path": wanted.root },
        "mounts": wanted.binds.iter().map(|source| bind(source)).collect::<Vec<_>>(),
        "linux": { "intelRdt": {} },
    });
    config.to_string().into_bytes()
}

impl Client {
    pub fn new(world: &Rc<World>) -> Self {
        Self {
            world: world.clone(),
            ledger: Rc::new(Ledger::new(world)),
        }
    }

    fn told<T: fmt::Debug>(&self, what: &str, answer: &Result<T, Fault>) {
        match answer {
            Ok(value) => self.world.log.say(format_args!("told {what}: {value:?}")),
            Err(why) => {
                let kind = why.kind();
                if matches!(kind, Kind::Invalid | Kind::Unsupported) {
                    self.world.violated(format_args!("{what}: {why}"));
                }
                self.world
                    .log
                    .say(format_args!("told {what}: {kind:?}: {why}"));
            }
        }
    }

    pub(super) async fn ask<T: fmt::Debug>(
        &self,
        what: String,
        attempt: impl AsyncFn() -> Result<T, Fault>,
    ) -> Result<T, Fault> {
        self.world.log.say(format_args!("ask {what}"));
        for _ in 0..ATTEMPTS_MAX {
            let answer = attempt().await;
            match answer {
                Err(why) if again(&why) => pass(AGAIN).await,
                answer => {
                    self.told(&what, &answer);
                    return answer;
                }
            }
        }
        self.world
            .violated(format_args!("{what}: asked {ATTEMPTS_MAX} times in vain"));
        Err(Fault::new(Kind::Timeout, "asked in vain"))
    }

    /// One for each request, however often it must be sent.
    pub(super) fn fresh_key(&self) -> String {
        format!("{:016x}", self.world.dice.throw())
    }

    pub(super) async fn find_now(&self, id: &str) -> Result<Located, Fault> {
        let find = Find {
            namespace: namespace(),
            id: id.to_owned(),
        };
        lost(self.world.host().await.send(find).await)?
    }

    pub async fn find(&self, id: &str) -> Result<Place, Fault> {
        self.ask(format!("find {id}"), async || {
            Ok(self.find_now(id).await?.place)
        })
        .await
    }

    /// The key makes it one request, however often it must be sent.
    pub async fn create(&self, wanted: Wanted<'_>, key: &str) -> Result<Place, Fault> {
        self.create_for(wanted, key, None).await
    }

    /// With a relay that its init has from the start, or that comes later.
    pub async fn create_stood_for(
        &self,
        wanted: Wanted<'_>,
        key: &str,
    ) -> Result<(Place, Option<Rc<Relay>>), Fault> {
        if self.world.dice.below(2) == 0 {
            let place = self.create(wanted, key).await?;
            return Ok((place, self.relay(wanted.id, place, ProcessId::Init).await));
        }
        let relay = Rc::new(Relay::spawn(&self.world));
        let created = self.create_for(wanted, key, Some(relay.process)).await;
        match created {
            Ok(place) => {
                self.stand(wanted.id, place, ProcessId::Init, &relay);
                Ok((place, Some(relay)))
            }
            Err(why) => {
                relay.exit();
                Err(why)
            }
        }
    }

    async fn create_for(
        &self,
        wanted: Wanted<'_>,
        key: &str,
        relay: Option<HostProcess>,
    ) -> Result<Place, Fault> {
        let what = format!("create {wanted:?} under {key}");
        self.ask(what, async || self.create_once(wanted, key, relay).await)
            .await
    }

    async fn create_once(
        &self,
        wanted: Wanted<'_>,
        key: &str,
        relay: Option<HostProcess>,
    ) -> Result<Place, Fault> {
        let host = self.world.host().await;
        let wish = bundle::wish(bundle::Request {
            namespace: namespace(),
            id: ContainerId::new(wanted.id).expect("an id"),
            bundle: BUNDLE,
            config_json: &config_json(wanted),
            join: wanted.join.map(str::to_owned),
            neighbours: None,
            // Callers of runtimes name one for each container; here, for those that join.
            cgroups_path: match wanted.join {
                Some(_) => format!("/caller-{}", wanted.id),
                None => String::new(),
            },
            relay,
            uid: SandboxUid::from_random(self.world.dice.throw()),
            created: self.world.now(),
        })?;
        let create = CreateContainer {
            key: request_key(key),
            wish: Box::new(wish),
        };
        let created = lost(host.send(create).await)??;
        self.warned("create", &created.init.warnings);
        Ok(created.place)
    }

    /// Each request of a story asks for one thing that no guest has.
    fn warned(&self, what: &str, warnings: &[String]) {
        if warnings.len() != 1 {
            self.world
                .violated(format_args!("{what}: warned of {warnings:?}"));
        }
    }

    async fn command(
        &self,
        what: String,
        id: &str,
        command: impl Fn() -> ProcessCommand,
    ) -> Result<(), Fault> {
        self.ask(what, async || {
            let located = self.find_now(id).await?;
            let command = ProcessIn {
                container: located.place.number,
                command: command(),
            };
            lost(located.sandbox.send(command).await)?
        })
        .await
    }

    pub async fn start(&self, id: &str) -> Result<(), Fault> {
        self.start_told(id).await.map(drop)
    }

    /// And which hooks failed.
    pub async fn start_told(&self, id: &str) -> Result<Warnings, Fault> {
        let key = self.fresh_key();
        self.ask(format!("start {id}"), async || {
            let located = self.find_now(id).await?;
            let start = StartIn {
                container: located.place.number,
                start: Start {
                    key: request_key(&key),
                },
            };
            lost(located.sandbox.send(start).await)?
        })
        .await
    }

    pub async fn kill(&self, id: &str, process: &ProcessId, signal: u32) -> Result<(), Fault> {
        self.signal(id, process, signal, false).await
    }

    pub async fn kill_all(&self, id: &str, signal: u32) -> Result<(), Fault> {
        self.signal(id, &ProcessId::Init, signal, true).await
    }

    async fn signal(
        &self,
        id: &str,
        process: &ProcessId,
        signal: u32,
        all: bool,
    ) -> Result<(), Fault> {
        let what = format!("kill {id} {process} {signal}, all: {all}");
        let key = self.fresh_key();
        let kill = || {
            let kill = Kill {
                key: request_key(&key),
                signal,
                all,
            };
            ProcessCommand::Kill(process.clone(), kill)
        };
        self.command(what, id, kill).await
    }

    pub async fn exec(&self, id: &str, exec: &str, command: &str) -> Result<(), Fault> {
        self.exec_for(id, exec, command, None).await
    }

    /// Its relay is told with it, or comes later.
    pub async fn stood_for_exec(
        &self,
        id: &str,
        place: Place,
        exec: &str,
        command: &str,
    ) -> Result<(), Fault> {
        let process = ProcessId::Exec(ExecId::new(exec).expect("an id"));
        if self.world.dice.below(2) == 0 {
            self.exec(id, exec, command).await?;
            self.relay(id, place, process).await;
            return Ok(());
        }
        let relay = Rc::new(Relay::spawn(&self.world));
        let asked = self.exec_for(id, exec, command, Some(relay.process)).await;
        match &asked {
            Ok(()) => self.stand(id, place, process, &relay),
            Err(_) => relay.exit(),
        }
        asked
    }

    async fn exec_for(
        &self,
        id: &str,
        exec: &str,
        command: &str,
        relay: Option<HostProcess>,
    ) -> Result<(), Fault> {
        let key = self.fresh_key();
        self.ask(format!("exec {id} {exec} ({command})"), async || {
            let located = self.find_now(id).await?;
            let exec = ExecIn {
                container: located.place.number,
                exec: Exec {
                    key: request_key(&key),
                    exec: ExecId::new(exec).expect("an id"),
                    program: Program {
                        process_json: process_json(command).to_string().into_bytes(),
                        ..Program::default()
                    },
                    relay,
                },
            };
            let made = lost(located.sandbox.send(exec).await)??;
            // A daemon that died before it had the guest's answer has its successor ask how far it came.
            if !made.warnings.is_empty() {
                self.warned("exec", &made.warnings);
            }
            Ok(())
        })
        .await
    }

    pub async fn freeze(&self, id: &str, wish: Freeze) -> Result<(), Fault> {
        let key = self.fresh_key();
        self.ask(format!("{wish:?} {id}"), async || {
            let located = self.find_now(id).await?;
            let freeze = FreezeIn {
                container: located.place.number,
                freeze: FreezeContainer {
                    key: request_key(&key),
                    wish,
                },
            };
            lost(located.sandbox.send(freeze).await)?
        })
        .await
    }

    pub async fn update(&self, id: &str) -> Result<(), Fault> {
        self.ask(format!("update {id}"), async || {
            let located = self.find_now(id).await?;
            let resources = br#"{"pids": {"limit": 7}, "network": {}}"#.to_vec();
            let update = UpdateIn {
                container: located.place.number,
                update: UpdateLimits { resources },
            };
            let warnings = lost(located.sandbox.send(update).await)??;
            self.warned("update", &warnings);
            Ok(())
        })
        .await
    }

    /// Kills for want of memory, by their numbers.
    pub async fn ooms(&self, id: &str, after: u64) -> Result<(Vec<u64>, bool), Fault> {
        self.ask(format!("ooms of {id} after {after}"), async || {
            let located = self.find_now(id).await?;
            let next = NextOomsIn {
                container: located.place.number,
                next: NextOoms {
                    after,
                    wait: OOM_WAIT,
                },
            };
            let found = lost(located.sandbox.send(next).await)??;
            let numbers = found.ooms.iter().map(|oom| oom.number).collect();
            Ok((numbers, found.over))
        })
        .await
    }

    pub async fn wait(&self, id: &str, process: &ProcessId) -> Result<ExitStatus, Fault> {
        self.ask(format!("wait {id} {process}"), async || {
            let located = self.find_now(id).await?;
            let wait = WaitIn {
                container: located.place.number,
                process: process.clone(),
            };
            let exit = lost(located.sandbox.send(wait).await)??;
            self.ledger.exited(located.place, process, &exit);
            Ok(exit)
        })
        .await
    }

    pub async fn state(&self, id: &str) -> Result<ContainerState, Fault> {
        self.ask(format!("state {id}"), async || {
            let located = self.find_now(id).await?;
            let view = ViewContainer(located.place.number);
            let view = lost(located.sandbox.send(view).await)??;
            self.ledger.seen(located.place, &view.state);
            Ok(view.state)
        })
        .await
    }

    pub async fn delete(&self, id: &str, force: Force) -> Result<(), Fault> {
        self.delete_told(id, force).await.map(drop)
    }

    /// And which hooks failed.
    pub async fn delete_told(&self, id: &str, force: Force) -> Result<Warnings, Fault> {
        let (key, tried) = (self.fresh_key(), Tried::default());
        let what = format!("delete {id} {force:?} under {key}");
        let outcome = self.ask(what, async || {
            let located = self.find_now(id).await;
            tried.now(&self.ledger, located.ok().map(|located| located.place));
            let delete = Delete {
                key: request_key(&key),
                namespace: namespace(),
                id: id.to_owned(),
                force,
                at: self.world.now(),
            };
            lost(self.world.host().await.send(delete).await)?
        });
        let outcome = outcome.await;
        tried.over(&self.ledger, &outcome);
        outcome
    }

    /// Everything that the daemon lists, seen and checked.
    pub async fn list(&self) -> Result<Vec<Listed>, Fault> {
        let list = List { namespace: None };
        let listed = lost(self.world.host().await.send(list).await)?;
        for Listed { uid, view, .. } in &listed {
            let number = view.spec.number;
            self.ledger.seen(Place { uid: *uid, number }, &view.state);
        }
        Ok(listed)
    }

    /// A relay stands for the process from now on; it goes when the process does.
    pub async fn relay(&self, id: &str, place: Place, process: ProcessId) -> Option<Rc<Relay>> {
        let relay = Rc::new(Relay::spawn(&self.world));
        let attach = || ProcessCommand::AttachRelay(process.clone(), relay.process.into());
        let what = format!("attach relay {} to {id} {process}", relay.process);
        if self.command(what, id, attach).await.is_err() {
            relay.exit();
            return None;
        }
        self.stand(id, place, process, &relay);
        Some(relay)
    }

    fn stand(&self, id: &str, place: Place, process: ProcessId, relay: &Rc<Relay>) {
        let (me, id, standing) = (self.clone(), id.to_owned(), relay.clone());
        spawn_local(async move {
            let guest = me.world.guest(place.uid);
            guest.ended(place.number, &process).await;
            if standing.is_alive() {
                let done = || ProcessCommand::RelayDone(process.clone());
                let told = me.command(format!("relay done {id} {process}"), &id, done);
                // Told or not, it exits with the code.
                let _ = timeout(RELAY_PATIENCE, told).await;
                standing.exit();
            }
        });
    }
}
