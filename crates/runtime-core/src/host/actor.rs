//! The shell around [`Host`], and the parent of every sandbox.

use super::{
    events::{Doomed, Event, Found, Into, Name, Place, Repeated, World},
    known::{Kept, KnownSandbox, OnRecord, Unread, read_all, read_one},
    machine::Host,
    messages::{Find, FindSandbox, Located, LocatedSandbox, SandboxWish, Wish},
    sandboxes::{FoundSandbox, PANICKED, SandboxName},
    unread::UnreadSandbox,
};
use crate::{
    agent::Warnings,
    container::{ContainerSpec, Force},
    error::{Fault, Kind},
    ids::{Namespace, RequestKey, SandboxUid},
    kit::{self, Gone, Room, Shell, Waiter},
    records::{self, Records},
    sandbox::{
        self, Obey, Phase, SandboxActor, SandboxNotice, SandboxRecord, SandboxSpec, SandboxView,
        Verb,
    },
};
use actix::prelude::*;
use std::{
    collections::{BTreeMap, BTreeSet},
    rc::Rc,
    time::Duration,
};
use tokio::sync::oneshot;

/// Undoing a creation ends a VM and takes its mounts away: seconds on a busy host. Whoever asks for
/// its name hears that it is not over, rather than nothing.
const UNDO_MAX: Duration = Duration::from_secs(20);

/// Makes the spec of a sandbox, for its first container where it is made for one, from the daemon's
/// configuration.
pub type Architect = Rc<dyn Fn(&SandboxWish, Option<&ContainerSpec>) -> SandboxSpec>;

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

/// What is being created, and holds up a drain.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Creation {
    Container(Name),
    Sandbox(SandboxUid),
}

pub struct HostActor {
    shell: Shell<Host>,
    pub(super) around: Surroundings,
    sandboxes: BTreeMap<SandboxUid, Addr<SandboxActor>>,
    creations: BTreeSet<Creation>,
    /// Those that nobody looks after any more, as they were left.
    pub(super) failed: BTreeMap<SandboxUid, SandboxView>,
    draining: Option<Vec<oneshot::Sender<()>>>,
    rebuild: Vec<KnownSandbox>,
    pub(super) unread: Vec<Unread>,
    /// Who waits until a name of an earlier daemon is undone.
    undone: BTreeMap<Name, Vec<oneshot::Sender<()>>>,
}

impl HostActor {
    /// Reads every record and starts the host with all that it knows.
    ///
    /// # Errors
    /// The store does not answer.
    pub async fn open(around: Surroundings) -> Result<Addr<Self>, Fault> {
        let Kept {
            sandboxes,
            unread_sandboxes,
            deletions,
            unread,
        } = read_all(&*around.records).await?;
        let homes = sandboxes.iter().map(KnownSandbox::home);
        let homes = homes.chain(unread_sandboxes.iter().map(UnreadSandbox::home));
        let names = sandboxes.iter().flat_map(KnownSandbox::names);
        let names = names.chain(unread_sandboxes.iter().flat_map(UnreadSandbox::names));
        let host = Host::rebuilt(homes, names, deletions);
        let mut actor = Self {
            shell: Shell::new(host).within(tracing::info_span!("host")),
            around,
            sandboxes: BTreeMap::new(),
            creations: BTreeSet::new(),
            failed: BTreeMap::new(),
            draining: None,
            rebuild: sandboxes,
            unread,
            undone: BTreeMap::new(),
        };
        for unread in unread_sandboxes {
            actor.show(&unread);
        }
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
        if let Phase::Failed(_) = known.record.phase {
            self.failed.insert(uid, known.as_failed());
            return;
        }
        self.failed.remove(&uid);
        let around = self.sandbox_surroundings(ctx);
        let address = SandboxActor::start_rebuilt(around, known.record, known.containers);
        self.sandboxes.insert(uid, address);
    }

    fn create(
        &mut self,
        waiter: Waiter,
        key: Option<RequestKey>,
        into: Into,
        mut wish: Wish,
        ctx: &mut Context<Self>,
    ) {
        wish.spec.created_by.clone_from(&key);
        let address = match into {
            Into::New => {
                let around = self.sandbox_surroundings(ctx);
                let home = wish.home();
                let spec = (self.around.architect)(&home, Some(&wish.spec));
                let address = SandboxActor::start_new(around, spec, home.annotations);
                self.sandboxes.insert(wish.uid, address.clone());
                Some(address)
            }
            Into::Existing(place) => {
                wish.spec.number = place.number;
                wish.spec.devices.container = place.number;
                self.sandboxes.get(&place.uid).cloned()
            }
        };
        let spec = wish.spec;
        let name = Name::of(&spec);
        self.creations.insert(Creation::Container(name.clone()));
        kit::complete(ctx, async move {
            let outcome = match address {
                Some(address) => {
                    let created = address.send(sandbox::CreateContainer(spec)).await;
                    created.unwrap_or_else(|_| rebuilding())
                }
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

    fn create_sandbox(&mut self, wish: SandboxWish, ctx: &mut Context<Self>) {
        let uid = wish.uid;
        let spec = (self.around.architect)(&wish, None);
        let around = self.sandbox_surroundings(ctx);
        let address = SandboxActor::start_new(around, spec, wish.annotations);
        self.sandboxes.insert(uid, address.clone());
        self.creations.insert(Creation::Sandbox(uid));
        kit::complete(ctx, async move {
            let created = address.send(sandbox::CreateEmpty).await;
            let outcome = created.unwrap_or_else(|_| rebuilding());
            Event::SandboxCreated { uid, outcome }
        });
    }

    fn delete(
        &mut self,
        (waiter, key): (Option<Waiter>, Option<RequestKey>),
        doomed: Doomed,
        delete: Deleting,
        repeated: Repeated,
        ctx: &mut Context<Self>,
    ) {
        let uid = doomed.uid();
        let sandbox = match (doomed, self.host().forlorn(uid)) {
            (Doomed::Container(_), Some(forlorn)) => Err(forlorn.fault(uid)),
            // Its records say what is left of it; a room that panics again gives it up again.
            (Doomed::Sandbox(_), Some(_)) => {
                self.delete_failed((waiter, key), uid, &delete, ctx);
                return;
            }
            (Doomed::Container(_) | Doomed::Sandbox(_), None) => {
                Ok(self.sandboxes.get(&uid).cloned())
            }
        };
        kit::complete(ctx, async move {
            let outcome = match sandbox {
                Err(why) => Err(why),
                Ok(Some(sandbox)) => delete.ask(sandbox).await,
                Ok(None) => match repeated {
                    Repeated::Yes => Ok(Warnings::new()),
                    Repeated::No => rebuilding(),
                },
            };
            let outcome = match (outcome, repeated) {
                (Err(why), Repeated::Yes) if why.kind() == Kind::NotFound => Ok(Warnings::new()),
                (outcome, Repeated::Yes | Repeated::No) => outcome,
            };
            Event::Deleted {
                waiter,
                key,
                outcome,
            }
        });
    }

    /// Nobody looks after it: it is taken up as one that is being deleted. Where that cannot be read
    /// either, whatever is there of it is ended here.
    fn delete_failed(
        &mut self,
        (waiter, key): (Option<Waiter>, Option<RequestKey>),
        uid: SandboxUid,
        delete: &Deleting,
        ctx: &mut Context<Self>,
    ) {
        let (records, premises) = (self.around.records.clone(), self.around.premises.clone());
        let by_force = matches!(delete, Deleting::Sandbox);
        let others = self.host().sandboxes().filter(|other| *other != uid);
        let others: BTreeSet<_> = others.collect();
        let me = ctx.address();
        kit::complete(ctx, async move {
            let outcome = match read_one(&*records, uid).await {
                Ok(OnRecord::Unread(unread)) if by_force => {
                    let evicted = unread.evict(&*records, &*premises, others).await;
                    if evicted.is_ok() {
                        me.do_send(gone(uid));
                    }
                    evicted.map(|()| Warnings::new())
                }
                Ok(OnRecord::Unread(unread)) => Err(unread.forlorn().fault(uid)),
                Ok(OnRecord::Known(mut known)) => {
                    known.record.phase = Phase::Deleting;
                    let taken_up = me.send(known).await;
                    match (taken_up, me.send(AddressOf(uid)).await) {
                        (Ok(()), Ok(Some(room))) => Deleting::Sandbox.ask(room).await,
                        _ => rebuilding(),
                    }
                }
                Ok(OnRecord::Nothing) => {
                    me.do_send(gone(uid));
                    Ok(Warnings::new())
                }
                Err(why) => Err(why),
            };
            Event::Deleted {
                waiter,
                key,
                outcome,
            }
        });
    }

    fn give_up(&self, uid: SandboxUid, ctx: &Context<Self>) {
        tracing::error!(%uid, "sandbox given up: its room panics again and again; its vm is ended, its records are kept");
        let (records, premises) = (self.around.records.clone(), self.around.premises.clone());
        let me = ctx.address().downgrade();
        kit::detach(async move {
            let mut known = match read_one(&*records, uid).await {
                Ok(OnRecord::Known(known)) => known,
                Ok(OnRecord::Nothing) => return,
                Ok(OnRecord::Unread(unread)) => {
                    if let Some(me) = me.upgrade() {
                        me.do_send(unread);
                    }
                    return;
                }
                Err(why) => {
                    return tracing::error!(%uid, %why, "sandbox given up, but not released");
                }
            };
            known.record.phase = Phase::Failed(PANICKED.to_owned());
            let key = SandboxRecord::key(uid);
            records.write(vec![records::put(key, &known.record)]).await;
            if let Err(why) = premises.clear(known.record.spec.premises.clone()).await {
                tracing::error!(%uid, %why, "sandbox given up, but not wholly released");
            }
            if let Some(me) = me.upgrade() {
                me.do_send(known);
            }
        });
    }

    fn read_and_rebuild(&self, uid: SandboxUid, ctx: &Context<Self>) {
        let records = self.around.records.clone();
        let me = ctx.address().downgrade();
        kit::detach(async move {
            match (read_one(&*records, uid).await, me.upgrade()) {
                (Ok(OnRecord::Known(known)), Some(me)) => me.do_send(known),
                (Ok(OnRecord::Unread(unread)), Some(me)) => me.do_send(unread),
                (Ok(OnRecord::Nothing), Some(me)) => me.do_send(gone(uid)),
                (Err(why), _) => {
                    tracing::error!(%uid, %why, "records of a sandbox could not be read; it is not rebuilt");
                }
                (Ok(_), None) => {}
            }
        });
    }

    /// What is seen of one that nobody can look after.
    fn show(&mut self, unread: &UnreadSandbox) {
        let uid = unread.uid;
        tracing::error!(%uid, why = unread.why, "nobody looks after a sandbox until it is deleted by force");
        let name = self.host().sandbox_name(uid).cloned();
        let name: SandboxName = name.unwrap_or_else(|| unread.home().name);
        let spec = (self.around.architect)(&unread.wish(name), None);
        self.failed.insert(uid, unread.seen_as(spec));
    }

    pub(super) fn host(&self) -> &Host {
        self.shell.confirmed()
    }

    pub(super) fn sandboxes(&self) -> &BTreeMap<SandboxUid, Addr<SandboxActor>> {
        &self.sandboxes
    }

    /// What an earlier daemon left half made under this id is waited for.
    pub(super) fn until_undone(
        &mut self,
        namespace: &Namespace,
        id: &str,
    ) -> Option<kit::Work<Result<(), Fault>>> {
        let Found::Undoing(name, place) = self.host().find(namespace, id) else {
            return None;
        };
        if let Some(forlorn) = self.host().forlorn(place.uid) {
            let why = forlorn.fault(place.uid);
            return Some(Box::pin(async move { Err(why) }));
        }
        let (tell, undone) = oneshot::channel();
        self.undone.entry(name).or_default().push(tell);
        Some(Box::pin(async move {
            let undone = tokio::time::timeout(UNDO_MAX, undone).await;
            let still = "what an earlier daemon left half made of it is still being undone";
            // The host room going away ends the wait too.
            undone.map_or_else(|_| Err(Fault::new(Kind::Timeout, still)), |_| Ok(()))
        }))
    }

    pub(super) fn locate(&self, find: &Find) -> Result<Located, Fault> {
        match self.host().find(&find.namespace, &find.id) {
            Found::One(name, place) => {
                if let Some(forlorn) = self.host().forlorn(place.uid) {
                    return Err(forlorn.fault(place.uid));
                }
                let Some(sandbox) = self.sandboxes.get(&place.uid).cloned() else {
                    return rebuilding();
                };
                Ok(Located {
                    name,
                    place,
                    sandbox,
                })
            }
            found @ (Found::Undoing(..) | Found::None | Found::Ambiguous(_)) => {
                Err(found.fault(&find.id))
            }
        }
    }

    pub(super) fn locate_sandbox(&self, find: &FindSandbox) -> Result<LocatedSandbox, Fault> {
        match self.host().find_sandbox(find.namespace.as_ref(), &find.id) {
            FoundSandbox::One(name, uid) => {
                let Some(sandbox) = self.sandboxes.get(&uid).cloned() else {
                    return rebuilding();
                };
                Ok(LocatedSandbox { name, uid, sandbox })
            }
            found @ (FoundSandbox::Undoing
            | FoundSandbox::Failed(..)
            | FoundSandbox::None
            | FoundSandbox::Ambiguous(_)) => Err(found.fault(&find.id)),
        }
    }

    pub(super) fn is_draining(&self) -> bool {
        self.draining.is_some()
    }

    pub(super) fn drain(&mut self, done: oneshot::Sender<()>) {
        self.draining.get_or_insert_default().push(done);
        self.settled();
    }

    /// A creation has been answered.
    pub(super) fn answered(&mut self, creation: &Creation) {
        self.creations.remove(creation);
        self.settled();
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

/// What a sandbox is asked for by a deletion.
#[derive(Debug)]
enum Deleting {
    Container(sandbox::DeleteContainer),
    Sandbox,
    /// Refused where it runs.
    SandboxAtRest,
}

impl Deleting {
    async fn ask(self, room: Addr<SandboxActor>) -> Result<Warnings, Fault> {
        let force = match self {
            Self::Container(delete) => {
                return room.send(delete).await.unwrap_or_else(|_| rebuilding());
            }
            Self::Sandbox => Force::Yes,
            Self::SandboxAtRest => Force::No,
        };
        // The deletion's own record carries the key.
        let (key, verb) = (None, Verb::Delete(force));
        let answer = room.send(Obey { key, verb }).await;
        answer.unwrap_or_else(|_| rebuilding())
    }
}

/// Nothing of it is on record.
fn gone(uid: SandboxUid) -> SandboxNotice {
    let notice = sandbox::Notice::Gone;
    SandboxNotice::News { uid, notice }
}

fn rebuilding<T>() -> Result<T, Fault> {
    let gone = "its sandbox's room is being rebuilt; ask again";
    Err(Fault::new(Kind::Unavailable, gone))
}

impl Actor for HostActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Context<Self>) {
        for known in std::mem::take(&mut self.rebuild) {
            self.rebuild(known, ctx);
        }
        kit::apply(self, Event::Resume, ctx);
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
                wish,
            } => self.create(waiter, key, into, *wish, ctx),
            World::CreateSandbox { wish } => self.create_sandbox(*wish, ctx),
            World::Delete {
                waiter,
                key,
                doomed,
                force,
                at,
                repeated,
            } => {
                let delete = match (doomed, force) {
                    (Doomed::Container(place), force) => {
                        Deleting::Container(sandbox::DeleteContainer {
                            container: place.number,
                            force,
                            at,
                        })
                    }
                    (Doomed::Sandbox(_), Force::Yes) => Deleting::Sandbox,
                    (Doomed::Sandbox(_), Force::No) => Deleting::SandboxAtRest,
                };
                self.delete((waiter, key), doomed, delete, repeated, ctx);
            }
            World::TellUndone(name) => {
                for waiter in self.undone.remove(&name).into_iter().flatten() {
                    // Whoever waited and left does not mind.
                    let _ = waiter.send(());
                }
            }
            World::ForgetSandbox(uid) => {
                self.sandboxes.remove(&uid);
                self.failed.remove(&uid);
                self.unread.retain(|one| one.uid() != Some(uid));
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

impl Handler<UnreadSandbox> for HostActor {
    type Result = ();

    fn handle(&mut self, unread: UnreadSandbox, ctx: &mut Context<Self>) {
        self.show(&unread);
        let (uid, forlorn) = (unread.uid, unread.forlorn());
        kit::apply(self, Event::Unread { uid, forlorn }, ctx);
    }
}

/// Private: the room of a sandbox, if it has one.
#[derive(Message)]
#[rtype(result = "Option<Addr<SandboxActor>>")]
struct AddressOf(SandboxUid);

impl Handler<AddressOf> for HostActor {
    type Result = MessageResult<AddressOf>;

    fn handle(&mut self, AddressOf(uid): AddressOf, _: &mut Context<Self>) -> Self::Result {
        MessageResult(self.sandboxes.get(&uid).cloned())
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
            } => kit::apply(self, Event::SandboxGone(uid), ctx),
            SandboxNotice::News {
                notice: sandbox::Notice::Happened,
                ..
            } => {}
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
