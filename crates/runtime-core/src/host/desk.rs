//! The commands and queries of the host.

use super::{
    actor::HostActor,
    events::{Answer, Created, Event, Into, Name, Place},
    messages::{CreateContainer, Delete, Drain, Find, List, ListSandboxes, Listed, Located, Wish},
};
use crate::{
    error::{Fault, Kind},
    ids::RequestKey,
    kit,
    sandbox::{GetSandbox, SandboxView, TakeNumber, ViewContainer},
};
use actix::prelude::*;
use tokio::sync::oneshot;

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
        let located = self.locate(&Find { namespace, id });
        Box::pin(async move {
            let located = located.map_err(|why| why.during("join sandbox"))?;
            let Ok(number) = located.sandbox.send(TakeNumber).await else {
                return host_gone();
            };
            let uid = located.place.uid;
            let into = Into::Existing(Place { uid, number });
            let answer = me.send(CreateInto { key, into, wish }).await;
            answer.unwrap_or_else(|_| host_gone())
        })
    }
}

/// Private: a creation has been answered.
#[derive(Message)]
#[rtype(result = "()")]
struct Settled(Name);

impl Handler<Settled> for HostActor {
    type Result = ();

    fn handle(&mut self, Settled(name): Settled, _: &mut Context<Self>) {
        self.answered(&name);
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
            me.do_send(Settled(name));
            match answer? {
                Answer::Created(outcome) => outcome,
                Answer::Deleted(_) => {
                    let wrong = "a creation was answered as a deletion";
                    Err(Fault::new(Kind::Internal, wrong))
                }
            }
        })
    }
}

impl Handler<Delete> for HostActor {
    type Result = ResponseFuture<Result<(), Fault>>;

    fn handle(&mut self, delete: Delete, ctx: &mut Context<Self>) -> Self::Result {
        let answer = kit::command(self, |waiter| Event::Delete { waiter, delete }, ctx);
        Box::pin(async move {
            match answer.await? {
                Answer::Deleted(outcome) => outcome,
                Answer::Created(_) => {
                    let wrong = "a deletion was answered as a creation";
                    Err(Fault::new(Kind::Internal, wrong))
                }
            }
        })
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
        let places: Vec<_> = host
            .names()
            .filter(|(name, _)| wanted(name))
            .filter_map(|(_, place)| Some((place, self.sandboxes().get(&place.uid)?.clone())))
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
        let sandboxes = self.sandboxes().clone();
        let host = self.host();
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
