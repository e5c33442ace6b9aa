//! The commands and queries of the host.

use super::{
    actor::{Creation, HostActor},
    events::{Answer, Created, Event, Into, Name, Place},
    known::{OnRecord, container, read_one},
    messages::{
        CreateContainer, CreateSandbox, Delete, DeleteSandbox, Drain, Find, FindSandbox, GetUnread,
        List, ListSandboxes, Listed, Located, ViewSandbox, Wish,
    },
    sandboxes::{Forlorn, SandboxName},
};
use crate::{
    agent::Warnings,
    error::{Fault, Kind},
    ids::{RequestKey, SandboxUid},
    kit,
    records::Records,
    sandbox::{GetSandbox, SandboxView, TakeNumber, ViewContainer},
};
use actix::prelude::*;
use futures::future::join_all;
use std::collections::BTreeSet;
use tokio::sync::oneshot;

fn crossed<T>() -> Result<T, Fault> {
    let wrong = "a command was answered as another";
    Err(Fault::new(Kind::Internal, wrong))
}

fn host_gone<T>() -> Result<T, Fault> {
    Err(Fault::new(Kind::Unavailable, "the host room is gone"))
}

impl Handler<CreateContainer> for HostActor {
    type Result = ResponseFuture<Result<Created, Fault>>;

    fn handle(&mut self, create: CreateContainer, ctx: &mut Context<Self>) -> Self::Result {
        if self.is_draining() {
            let why = Fault::new(Kind::Unavailable, "the daemon is stopping; ask again");
            return Box::pin(async move { Err(why) });
        }
        let spec = &create.wish.spec;
        let (namespace, id) = (spec.namespace.clone(), spec.id.as_str());
        let mut undone = self.until_undone(&namespace, id);
        if let (None, Some(joined)) = (&undone, &create.wish.join) {
            undone = self.until_undone(&namespace, joined);
        }
        let me = ctx.address();
        if let Some(undone) = undone {
            return Box::pin(async move {
                undone.await?;
                me.send(create).await.unwrap_or_else(|_| host_gone())
            });
        }
        let CreateContainer { key, wish } = create;
        let Some(id) = wish.join.clone() else {
            let into = Into::New;
            return self.create_into(CreateInto { key, into, wish }, ctx);
        };
        let find = FindSandbox {
            namespace: Some(namespace),
            id,
        };
        let located = self.locate_sandbox(&find);
        Box::pin(async move {
            let located =
                located.map_err(|why| why.during(format!("join sandbox {:?}", find.id)))?;
            let Ok(number) = located.sandbox.send(TakeNumber).await else {
                return host_gone();
            };
            let uid = located.uid;
            let into = Into::Existing(Place { uid, number });
            let answer = me.send(CreateInto { key, into, wish }).await;
            answer.unwrap_or_else(|_| host_gone())
        })
    }
}

/// Private: a creation has been answered.
#[derive(Message)]
#[rtype(result = "()")]
struct Settled(Creation);

impl Handler<Settled> for HostActor {
    type Result = ();

    fn handle(&mut self, Settled(creation): Settled, _: &mut Context<Self>) {
        self.answered(&creation);
    }
}

/// Private: a creation whose sandbox is known.
#[derive(Message)]
#[rtype(result = "Result<Created, Fault>")]
struct CreateInto {
    key: Option<RequestKey>,
    into: Into,
    wish: Box<Wish>,
}

impl Handler<CreateInto> for HostActor {
    type Result = ResponseFuture<Result<Created, Fault>>;

    fn handle(&mut self, create: CreateInto, ctx: &mut Context<Self>) -> Self::Result {
        self.create_into(create, ctx)
    }
}

impl HostActor {
    fn create_into(
        &mut self,
        create: CreateInto,
        ctx: &mut Context<Self>,
    ) -> ResponseFuture<Result<Created, Fault>> {
        let CreateInto { key, into, wish } = create;
        let (me, name) = (ctx.address(), Name::of(&wish.spec));
        let event = |waiter| Event::Create {
            waiter,
            key,
            into,
            wish,
        };
        let answer = kit::command(self, event, ctx);
        Box::pin(async move {
            let answer = answer.await;
            me.do_send(Settled(Creation::Container(name)));
            match answer? {
                Answer::Created(outcome) => outcome,
                Answer::SandboxCreated(_) | Answer::Deleted(_) => crossed(),
            }
        })
    }
}

impl Handler<Delete> for HostActor {
    type Result = ResponseFuture<Result<Warnings, Fault>>;

    fn handle(&mut self, delete: Delete, ctx: &mut Context<Self>) -> Self::Result {
        let answer = kit::command(self, |waiter| Event::Delete { waiter, delete }, ctx);
        Box::pin(async move {
            match answer.await? {
                Answer::Deleted(outcome) => outcome,
                Answer::Created(_) | Answer::SandboxCreated(_) => crossed(),
            }
        })
    }
}

impl Handler<CreateSandbox> for HostActor {
    type Result = ResponseFuture<Result<(SandboxName, SandboxUid), Fault>>;

    fn handle(
        &mut self,
        CreateSandbox(wish): CreateSandbox,
        ctx: &mut Context<Self>,
    ) -> Self::Result {
        if self.is_draining() {
            let why = Fault::new(Kind::Unavailable, "the daemon is stopping; ask again");
            return Box::pin(async move { Err(why) });
        }
        let (me, uid) = (ctx.address(), wish.uid);
        let answer = kit::command(self, |waiter| Event::CreateSandbox { waiter, wish }, ctx);
        Box::pin(async move {
            let answer = answer.await;
            me.do_send(Settled(Creation::Sandbox(uid)));
            match answer? {
                Answer::SandboxCreated(outcome) => outcome,
                Answer::Created(_) | Answer::Deleted(_) => crossed(),
            }
        })
    }
}

impl Handler<DeleteSandbox> for HostActor {
    type Result = ResponseFuture<Result<Warnings, Fault>>;

    fn handle(&mut self, delete: DeleteSandbox, ctx: &mut Context<Self>) -> Self::Result {
        let event = |waiter| Event::DeleteSandbox { waiter, delete };
        let answer = kit::command(self, event, ctx);
        Box::pin(async move {
            match answer.await? {
                Answer::Deleted(outcome) => outcome,
                Answer::Created(_) | Answer::SandboxCreated(_) => crossed(),
            }
        })
    }
}

impl Handler<FindSandbox> for HostActor {
    type Result = MessageResult<FindSandbox>;

    fn handle(&mut self, find: FindSandbox, _: &mut Context<Self>) -> Self::Result {
        MessageResult(self.locate_sandbox(&find))
    }
}

impl Handler<Find> for HostActor {
    type Result = ResponseFuture<Result<Located, Fault>>;

    fn handle(&mut self, find: Find, ctx: &mut Context<Self>) -> Self::Result {
        let Some(undone) = self.until_undone(&find.namespace, &find.id) else {
            let located = self.locate(&find);
            return Box::pin(async move { located });
        };
        let me = ctx.address();
        Box::pin(async move {
            undone.await?;
            me.send(find).await.unwrap_or_else(|_| host_gone())
        })
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
        let host = self.host();
        // Of one whose room panicked too often the VM is ended. Few are looked for among all.
        let is_failed = |uid| self.failed.contains_key(&uid);
        let has_ended = |uid| matches!(host.forlorn(uid), Some(Forlorn::Panicking(_)));
        let lives = |uid| !(is_failed(uid) && has_ended(uid));
        let places: Vec<_> = host
            .names()
            .filter(|(name, place)| wanted(name) && lives(place.uid))
            .map(|(_, place)| (place, self.sandboxes().get(&place.uid).cloned()))
            .collect();
        let records = self.around.records.clone();
        Box::pin(async move {
            // All are asked before the first one is heard.
            let asked: Vec<_> = places
                .into_iter()
                .map(|(place, room)| {
                    (
                        place,
                        room.map(|room| room.send(ViewContainer(place.number))),
                    )
                })
                .collect();
            let mut listed = Vec::with_capacity(asked.len());
            for (Place { uid, number }, asked) in asked {
                let heard = match asked {
                    Some(asked) => asked.await.ok(),
                    None => None,
                };
                let found = match heard.and_then(Result::ok) {
                    Some(view) => Some((view, String::new())),
                    // A room has panicked, or it is gone, and then nothing is on record.
                    None => match on_record(&*records, uid).await {
                        OnRecord::Known(known) => {
                            known.container(number).map(|view| (view, String::new()))
                        }
                        OnRecord::Unread(unread) => {
                            container(&unread.containers, number).map(|view| (view, unread.why))
                        }
                        OnRecord::Nothing => None,
                    },
                };
                listed.extend(found.map(|(view, unsure)| Listed { uid, view, unsure }));
            }
            listed
        })
    }
}

impl Handler<ViewSandbox> for HostActor {
    type Result = ResponseFuture<Result<(SandboxView, Vec<Name>), Fault>>;

    fn handle(&mut self, ViewSandbox(find): ViewSandbox, _: &mut Context<Self>) -> Self::Result {
        let namespace = find.namespace.as_ref();
        let uid = self.host().find_sandbox(namespace, &find.id).uid();
        let names = self.host().names();
        let mine = names.filter(|(_, place)| Some(place.uid) == uid);
        let mine: Vec<_> = mine.map(|(name, _)| name.clone()).collect();
        let failed = uid.and_then(|uid| self.failed.get(&uid).cloned());
        let located = self.locate_sandbox(&find);
        Box::pin(async move {
            let view = match failed {
                Some(view) => view,
                None => {
                    let view = located?.sandbox.send(GetSandbox).await;
                    let gone = "its sandbox's room is being rebuilt; ask again";
                    view.map_err(|_| Fault::new(Kind::Unavailable, gone))?
                }
            };
            Ok((view, mine))
        })
    }
}

impl Handler<ListSandboxes> for HostActor {
    type Result = ResponseFuture<Vec<(SandboxView, Vec<Name>)>>;

    fn handle(&mut self, list: ListSandboxes, _: &mut Context<Self>) -> Self::Result {
        let (rooms, mut failed) = (self.sandboxes().clone(), self.failed.clone());
        let records = self.around.records.clone();
        let host = self.host();
        let uids: BTreeSet<SandboxUid> = host.sandboxes().chain(rooms.keys().copied()).collect();
        let names: Vec<_> = host
            .names()
            .map(|(name, place)| (name.clone(), place.uid))
            .collect();
        Box::pin(async move {
            let view = |uid: SandboxUid| {
                let (given_up, room) = (failed.remove(&uid), rooms.get(&uid));
                let records = &*records;
                async move {
                    let asked = match (given_up, room) {
                        (Some(view), _) => Some(view),
                        (None, Some(room)) => room.send(GetSandbox).await.ok(),
                        (None, None) => None,
                    };
                    match asked {
                        Some(view) => Some(view),
                        // Its room has panicked, or it is gone, and then nothing is on record.
                        None => match on_record(records, uid).await {
                            OnRecord::Known(known) => Some(known.as_rebuilding()),
                            // It is about to be shown as failed.
                            OnRecord::Unread(_) | OnRecord::Nothing => None,
                        },
                    }
                }
            };
            let views = join_all(uids.into_iter().map(view)).await;
            let mut views: Vec<_> = views.into_iter().flatten().collect();
            let wanted = |view: &SandboxView| {
                let namespace = list.namespace.as_ref();
                namespace.is_none_or(|wanted| view.spec.namespace == *wanted)
            };
            views.retain(wanted);
            let with_names = |view: SandboxView| {
                let mine = names.iter().filter(|(_, at)| *at == view.spec.uid);
                let mine = mine.map(|(name, _)| name.clone()).collect();
                (view, mine)
            };
            views.into_iter().map(with_names).collect()
        })
    }
}

async fn on_record(records: &dyn Records, uid: SandboxUid) -> OnRecord {
    read_one(records, uid).await.unwrap_or_else(|why| {
        tracing::error!(%uid, %why, "a sandbox is missing in a list: its room is gone, and its records could not be read");
        OnRecord::Nothing
    })
}

impl Handler<GetUnread> for HostActor {
    type Result = MessageResult<GetUnread>;

    fn handle(&mut self, _: GetUnread, _: &mut Context<Self>) -> Self::Result {
        MessageResult(self.unread.clone())
    }
}

impl Handler<Drain> for HostActor {
    type Result = ResponseFuture<()>;

    fn handle(&mut self, _: Drain, _: &mut Context<Self>) -> Self::Result {
        let (done, settled) = oneshot::channel();
        self.drain(done);
        Box::pin(async move {
            // The host room going away settles it too.
            let _ = settled.await;
        })
    }
}
