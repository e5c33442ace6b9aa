//! The shell around [`Host`], and the parent of every sandbox.

use super::{
    machine::{Created, Event, Found, Host, Into, Name, Place, World},
    messages::{
        CreateContainer, Drain, Find, GetUndone, List, ListSandboxes, Listed, Located, Wish,
    },
};
use crate::{
    container::{ContainerRecord, ContainerSpec},
    error::{Fault, Kind},
    ids::{ContainerNumber, RequestKey, SandboxUid},
    kit::{self, Gone, Room, Shell, Waiter},
    process::ProcessRecord,
    records::{Record, Records, Rows, decode},
    sandbox::{
        self, GetSandbox, Phase, SandboxActor, SandboxNotice, SandboxRecord, SandboxSpec,
        SandboxView, ViewContainer,
    },
};
use actix::prelude::*;
use std::{
    collections::{BTreeMap, BTreeSet},
    rc::Rc,
};
use tokio::sync::oneshot;

/// Makes the spec of a sandbox for its first container, from the daemon's configuration.
pub type Architect = Rc<dyn Fn(&Wish) -> SandboxSpec>;

/// What the host is built with.
#[derive(Clone)]
pub struct Surroundings {
    pub boot_id: String,
    pub rooms: Rc<dyn crate::rooms::Rooms>,
    pub premises: Rc<dyn crate::premises::Premises>,
    pub records: Rc<dyn Records>,
    pub clock: Rc<dyn crate::clock::Clock>,
    pub entropy: Rc<dyn Fn() -> Vec<u8>>,
    pub architect: Architect,
}

pub struct HostActor {
    shell: Shell<Host>,
    around: Surroundings,
    sandboxes: BTreeMap<SandboxUid, Addr<SandboxActor>>,
    wishes: BTreeMap<SandboxUid, Wish>,
    creations: BTreeSet<Name>,
    draining: Option<Vec<oneshot::Sender<()>>>,
    rebuild: Vec<KnownSandbox>,
    /// Sandboxes that an earlier daemon left half made.
    undoing: BTreeSet<SandboxUid>,
    awaiting_undone: Vec<oneshot::Sender<()>>,
}

/// The records of one sandbox.
#[derive(Message)]
#[rtype(result = "()")]
struct KnownSandbox {
    record: SandboxRecord,
    containers: Vec<(ContainerRecord, Vec<ProcessRecord>)>,
}

/// A record that does not read is left where it is, and named.
fn readable<R: Record>(rows: &Rows) -> Vec<R> {
    let mut found = Vec::new();
    for (key, bytes) in rows {
        match decode(bytes) {
            Ok(record) => found.push(record),
            Err(why) => {
                tracing::error!(%key, why = %crate::error::chain(&why), "record left aside")
            }
        }
    }
    found
}

fn known(sandboxes: &Rows, containers: &Rows, processes: &Rows) -> Vec<KnownSandbox> {
    let mut by_sandbox: BTreeMap<SandboxUid, Vec<(ContainerRecord, Vec<ProcessRecord>)>> =
        BTreeMap::new();
    let mut by_container: BTreeMap<(SandboxUid, ContainerNumber), Vec<ProcessRecord>> =
        BTreeMap::new();
    for process in readable::<ProcessRecord>(processes) {
        let place = (process.uid, process.container);
        by_container.entry(place).or_default().push(process);
    }
    for container in readable::<ContainerRecord>(containers) {
        let place = (container.uid, container.spec.number);
        let processes = by_container.remove(&place).unwrap_or_default();
        by_sandbox
            .entry(container.uid)
            .or_default()
            .push((container, processes));
    }
    let sandboxes = readable::<SandboxRecord>(sandboxes).into_iter();
    let with_containers = sandboxes.map(|record| KnownSandbox {
        containers: by_sandbox.remove(&record.spec.uid).unwrap_or_default(),
        record,
    });
    with_containers.collect()
}

impl HostActor {
    /// Reads every record and starts the host with all that it knows.
    ///
    /// # Errors
    /// The store does not answer.
    pub async fn open(around: Surroundings) -> Result<Addr<Self>, Fault> {
        let sandboxes = around
            .records
            .scan(SandboxRecord::PREFIX.to_owned())
            .await?;
        let containers = around.records.scan("container/".to_owned()).await?;
        let processes = around.records.scan("process/".to_owned()).await?;
        let rebuild = known(&sandboxes, &containers, &processes);
        let names = rebuild.iter().flat_map(|sandbox| &sandbox.containers);
        let names = names.map(|(container, _)| {
            let spec = &container.spec;
            let place = Place {
                uid: container.uid,
                number: spec.number,
            };
            (name_of(spec), place)
        });
        let half_made = rebuild
            .iter()
            .filter(|known| known.record.phase == Phase::Creating);
        let undoing = half_made.map(|known| known.record.spec.uid).collect();
        let actor = Self {
            undoing,
            awaiting_undone: Vec::new(),
            shell: Shell::new(Host::rebuilt(names)),
            around,
            sandboxes: BTreeMap::new(),
            wishes: BTreeMap::new(),
            creations: BTreeSet::new(),
            draining: None,
            rebuild,
        };
        Ok(actor.start())
    }

    fn sandbox_surroundings(&self, ctx: &Context<Self>) -> sandbox::Surroundings {
        sandbox::Surroundings {
            boot_id: self.around.boot_id.clone(),
            rooms: self.around.rooms.clone(),
            premises: self.around.premises.clone(),
            records: self.around.records.clone(),
            clock: self.around.clock.clone(),
            entropy: self.around.entropy.clone(),
            parent: ctx.address().recipient().downgrade(),
        }
    }

    fn rebuild(&mut self, known: KnownSandbox, ctx: &Context<Self>) {
        let uid = known.record.spec.uid;
        let around = self.sandbox_surroundings(ctx);
        let address = SandboxActor::start_rebuilt(around, known.record, known.containers);
        self.sandboxes.insert(uid, address);
    }

    fn create(
        &mut self,
        waiter: Waiter,
        key: Option<RequestKey>,
        into: Into,
        mut spec: ContainerSpec,
        ctx: &mut Context<Self>,
    ) {
        let address = match into {
            Into::New(uid) => {
                let wish = self.wishes.remove(&uid);
                let wish = wish.expect("the wish is kept until its sandbox is made");
                let around = self.sandbox_surroundings(ctx);
                let address = SandboxActor::start_new(around, (self.around.architect)(&wish));
                self.sandboxes.insert(uid, address.clone());
                Some(address)
            }
            Into::Existing(place) => {
                spec.number = place.number;
                spec.devices.container = place.number;
                self.sandboxes.get(&place.uid).cloned()
            }
        };
        let name = name_of(&spec);
        self.creations.insert(name.clone());
        kit::complete(ctx, async move {
            let outcome = match address {
                Some(address) => address
                    .send(sandbox::CreateContainer(spec))
                    .await
                    .unwrap_or_else(|_| {
                        let gone = "its sandbox's room is being rebuilt; ask again";
                        Err(Fault::new(Kind::Unavailable, gone))
                    }),
                None => Err(Fault::new(Kind::NotFound, "its sandbox does not exist")),
            };
            Event::Created {
                name,
                key,
                waiter,
                outcome,
            }
        });
    }

    fn give_up(&self, uid: SandboxUid, ctx: &Context<Self>) {
        tracing::error!(%uid, "sandbox given up: its room panics again and again; its vm is ended, its records are kept");
        let key = SandboxRecord::key(uid);
        let (scan, premises) = (self.around.records.scan(key), self.around.premises.clone());
        let _ = ctx;
        kit::detach(async move {
            let rows = scan.await.unwrap_or_default();
            for record in readable::<SandboxRecord>(&rows) {
                if let Err(why) = premises.clear(record.spec.premises).await {
                    tracing::error!(%uid, %why, "sandbox given up, but not wholly released");
                }
            }
        });
    }

    fn read_and_rebuild(&self, uid: SandboxUid, ctx: &Context<Self>) {
        let records = self.around.records.clone();
        let me = ctx.address().downgrade();
        kit::detach(async move {
            let sandboxes = records.scan(SandboxRecord::key(uid)).await;
            let containers = records.scan(ContainerRecord::prefix(uid)).await;
            let processes = records.scan(format!("process/{uid}/")).await;
            let (Ok(sandboxes), Ok(containers), Ok(processes)) = (sandboxes, containers, processes)
            else {
                tracing::error!(%uid, "records of a sandbox could not be read; it is not rebuilt");
                return;
            };
            if let Some(me) = me.upgrade() {
                for known in known(&sandboxes, &containers, &processes) {
                    me.do_send(known);
                }
            }
        });
    }

    fn locate(&self, find: &Find) -> Result<Located, Fault> {
        let host = self.shell.confirmed();
        match host.find(&find.namespace, &find.id) {
            Found::One(name, place) => {
                if host.is_given_up(place.uid) {
                    let why = format!(
                        "its sandbox {} failed: its room panicked too often",
                        place.uid
                    );
                    return Err(Fault::new(Kind::Internal, why));
                }
                let rebuilding = "its sandbox's room is being rebuilt; ask again";
                let sandbox = self.sandboxes.get(&place.uid).cloned();
                let sandbox = sandbox.ok_or_else(|| Fault::new(Kind::Unavailable, rebuilding))?;
                Ok(Located {
                    name,
                    place,
                    sandbox,
                })
            }
            // runc's words.
            Found::None => Err(Fault::new(Kind::NotFound, "container does not exist")),
            Found::Ambiguous(candidates) => Err(Fault::new(
                Kind::Invalid,
                format!(
                    "id {:?} is ambiguous and could refer to multiple containers: {}",
                    find.id,
                    candidates.join(", ")
                ),
            )),
        }
    }

    fn tell_undone(&mut self) {
        if self.undoing.is_empty() {
            for waiter in self.awaiting_undone.drain(..) {
                // Whoever waited and left does not mind.
                let _ = waiter.send(());
            }
        }
    }

    fn settled(&mut self) {
        if self.creations.is_empty()
            && let Some(waiters) = &mut self.draining
        {
            for waiter in waiters.drain(..) {
                // Whoever drained and left does not mind.
                let _ = waiter.send(());
            }
        }
    }
}

fn name_of(spec: &ContainerSpec) -> Name {
    Name {
        namespace: spec.namespace.clone(),
        id: spec.id.clone(),
    }
}

impl Actor for HostActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Context<Self>) {
        for known in std::mem::take(&mut self.rebuild) {
            self.rebuild(known, ctx);
        }
    }
}

impl Room for HostActor {
    type Machine = Host;

    fn shell(&mut self) -> &mut Shell<Host> {
        &mut self.shell
    }

    fn records(&self) -> Rc<dyn Records> {
        self.around.records.clone()
    }

    fn touch(&mut self, effect: World, ctx: &mut Context<Self>) {
        match effect {
            World::Create {
                waiter,
                key,
                into,
                spec,
            } => self.create(waiter, key, into, *spec, ctx),
            World::ForgetSandbox(uid) => {
                self.sandboxes.remove(&uid);
            }
            World::Rebuild(uid) => self.read_and_rebuild(uid, ctx),
            World::GiveUp(uid) => self.give_up(uid, ctx),
        }
    }

    fn announce(&mut self, (): (), _: &mut Context<Self>) {}
}

crate::room!(HostActor);

impl Handler<KnownSandbox> for HostActor {
    type Result = ();

    fn handle(&mut self, known: KnownSandbox, ctx: &mut Context<Self>) {
        self.rebuild(known, ctx);
    }
}

impl Handler<SandboxNotice> for HostActor {
    type Result = ();

    fn handle(&mut self, notice: SandboxNotice, ctx: &mut Context<Self>) {
        match notice {
            SandboxNotice::News {
                uid,
                notice: sandbox::Notice::ContainerGone { container: number },
            } => kit::apply(self, Event::ContainerGone(Place { uid, number }), ctx),
            SandboxNotice::News {
                uid,
                notice: sandbox::Notice::Gone,
            } => {
                kit::apply(self, Event::SandboxGone(uid), ctx);
                self.undoing.remove(&uid);
                self.tell_undone();
            }
            SandboxNotice::Gone {
                how: Gone::Stopped, ..
            } => {}
            SandboxNotice::Gone {
                uid,
                how: Gone::Panicked,
            } => {
                tracing::error!(%uid, "sandbox room panicked; it is rebuilt from its record");
                self.sandboxes.remove(&uid);
                let at = self.around.clock.now();
                kit::apply(self, Event::RoomPanicked { uid, at }, ctx);
            }
        }
    }
}

impl Handler<CreateContainer> for HostActor {
    type Result = ResponseFuture<Result<Created, Fault>>;

    fn handle(&mut self, create: CreateContainer, ctx: &mut Context<Self>) -> Self::Result {
        if self.draining.is_some() {
            let why = Fault::new(Kind::Unavailable, "the daemon is stopping; ask again");
            return Box::pin(async move { Err(why) });
        }
        let CreateContainer { key, wish } = create;
        let spec = wish.spec.clone();
        let name = name_of(&spec);
        let joined = wish.join.as_ref().map(|id| {
            self.locate(&Find {
                namespace: spec.namespace.clone(),
                id: id.clone(),
            })
        });
        let me = ctx.address();
        match joined {
            Some(Err(why)) => Box::pin(async move { Err(why.during("join sandbox")) }),
            Some(Ok(located)) => Box::pin(async move {
                let view = located.sandbox.send(GetSandbox).await;
                let next = view.ok().and_then(|view| view.containers.last().copied());
                let number = ContainerNumber(next.map_or(0, |last| last.0 + 1));
                let place = Place {
                    uid: located.place.uid,
                    number,
                };
                let answer = me.send(CreateIn { key, place, spec }).await;
                answer
                    .unwrap_or_else(|_| Err(Fault::new(Kind::Unavailable, "the host room is gone")))
            }),
            None => {
                let uid = wish.uid;
                self.wishes.insert(uid, *wish);
                let event = |waiter| Event::Create {
                    waiter,
                    key,
                    into: Into::New(uid),
                    spec: Box::new(spec),
                };
                let answer = kit::command(self, event, ctx);
                // Whatever was not taken up by now was denied, or answered from memory.
                self.wishes.remove(&uid);
                Box::pin(async move { finished(me, name, answer.await).await })
            }
        }
    }
}

async fn finished(
    me: Addr<HostActor>,
    name: Name,
    answer: Result<Result<Created, Fault>, Fault>,
) -> Result<Created, Fault> {
    me.do_send(Settled(name));
    answer?
}

/// Private: a creation has been answered.
#[derive(Message)]
#[rtype(result = "()")]
struct Settled(Name);

impl Handler<Settled> for HostActor {
    type Result = ();

    fn handle(&mut self, Settled(name): Settled, _: &mut Context<Self>) {
        self.creations.remove(&name);
        self.settled();
    }
}

/// Private: a creation in a sandbox that exists.
#[derive(Message)]
#[rtype(result = "Result<Created, Fault>")]
struct CreateIn {
    key: Option<RequestKey>,
    place: Place,
    spec: ContainerSpec,
}

impl Handler<CreateIn> for HostActor {
    type Result = ResponseFuture<Result<Created, Fault>>;

    fn handle(&mut self, create: CreateIn, ctx: &mut Context<Self>) -> Self::Result {
        let CreateIn { key, place, spec } = create;
        let (me, name) = (ctx.address(), name_of(&spec));
        let event = |waiter| Event::Create {
            waiter,
            key,
            into: Into::Existing(place),
            spec: Box::new(spec),
        };
        let answer = kit::command(self, event, ctx);
        Box::pin(async move { finished(me, name, answer.await).await })
    }
}

impl Handler<Find> for HostActor {
    type Result = MessageResult<Find>;

    fn handle(&mut self, find: Find, _: &mut Context<Self>) -> Self::Result {
        MessageResult(self.locate(&find))
    }
}

impl Handler<List> for HostActor {
    type Result = ResponseFuture<Vec<Listed>>;

    fn handle(&mut self, List { namespace }: List, _: &mut Context<Self>) -> Self::Result {
        let wanted = |name: &Name| {
            namespace
                .as_ref()
                .is_none_or(|wanted| name.namespace == *wanted)
        };
        let host = self.shell.confirmed();
        let places: Vec<_> = host
            .names()
            .filter(|(name, _)| wanted(name))
            .filter_map(|(_, place)| Some((place, self.sandboxes.get(&place.uid)?.clone())))
            .collect();
        Box::pin(async move {
            let mut listed = Vec::new();
            for (place, sandbox) in places {
                // One that goes away meanwhile is not listed.
                if let Ok(Ok(view)) = sandbox.send(ViewContainer(place.number)).await {
                    let uid = place.uid;
                    listed.push(Listed { uid, view });
                }
            }
            listed
        })
    }
}

impl Handler<ListSandboxes> for HostActor {
    type Result = ResponseFuture<Vec<(SandboxView, Vec<Name>)>>;

    fn handle(&mut self, _: ListSandboxes, _: &mut Context<Self>) -> Self::Result {
        let sandboxes = self.sandboxes.clone();
        let host = self.shell.confirmed();
        let names: Vec<_> = host
            .names()
            .map(|(name, place)| (name.clone(), place.uid))
            .collect();
        Box::pin(async move {
            let mut views = Vec::new();
            for (uid, sandbox) in sandboxes {
                if let Ok(view) = sandbox.send(GetSandbox).await {
                    let mine = names.iter().filter(|(_, at)| *at == uid);
                    views.push((view, mine.map(|(name, _)| name.clone()).collect()));
                }
            }
            views
        })
    }
}

impl Handler<GetUndone> for HostActor {
    type Result = ResponseFuture<()>;

    fn handle(&mut self, _: GetUndone, _: &mut Context<Self>) -> Self::Result {
        let (done, undone) = oneshot::channel();
        self.awaiting_undone.push(done);
        self.tell_undone();
        Box::pin(async move {
            // The host room going away ends the wait too.
            let _ = undone.await;
        })
    }
}

impl Handler<Drain> for HostActor {
    type Result = ResponseFuture<()>;

    fn handle(&mut self, _: Drain, _: &mut Context<Self>) -> Self::Result {
        let (done, settled) = oneshot::channel();
        self.draining.get_or_insert_default().push(done);
        self.settled();
        Box::pin(async move {
            // The host room going away settles it too.
            let _ = settled.await;
        })
    }
}
