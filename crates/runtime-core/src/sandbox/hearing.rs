//! What the rooms of a [`SandboxActor`] tell it, and how it opens those again that panicked.

use super::{actor::SandboxActor, events::Event, machine::State};
use crate::{
    agent::{self, GuestExit, GuestNews, GuestOom},
    container, devices, hypervisor,
    kit::{self, Gone},
    network,
};
use actix::prelude::*;

impl Handler<hypervisor::Notice> for SandboxActor {
    type Result = ();

    fn handle(&mut self, notice: hypervisor::Notice, ctx: &mut Context<Self>) {
        match notice {
            hypervisor::Notice::VmExited(exit) => kit::apply(self, Event::VmExited(exit), ctx),
            hypervisor::Notice::Adopted(vm) => {
                tracing::info!(uid = %self.uid, vmm = %vm.vmm, "vm adopted");
            }
        }
    }
}

impl Handler<agent::Notice> for SandboxActor {
    type Result = ();

    fn handle(&mut self, notice: agent::Notice, ctx: &mut Context<Self>) {
        match notice {
            agent::Notice::Lost { why } => kit::apply(self, Event::LinkLost { why }, ctx),
            agent::Notice::News(news) => self.told(news),
        }
    }
}

impl SandboxActor {
    fn told(&mut self, news: GuestNews) {
        let seq = news.seq();
        self.exits.told(seq);
        let (GuestNews::Exited(GuestExit { container, .. })
        | GuestNews::OomKilled(GuestOom { container, .. })) = &news;
        let Some(room) = self.containers.get(container) else {
            // Of a container that was deleted meanwhile.
            return self.confirm_exit(seq);
        };
        match news {
            GuestNews::Exited(exit) => room.do_send(container::GuestExited {
                seq,
                process: exit.process,
                status: exit.status,
            }),
            GuestNews::OomKilled(GuestOom { at, .. }) => {
                room.do_send(container::GuestOomKilled { seq, at });
            }
        }
    }
}

impl SandboxActor {
    /// What the one before it knew of a guest that tells nothing of itself is lost with it.
    fn tell_agent_rebuilt(&self) {
        for room in self.containers.values() {
            room.do_send(container::AgentRebuilt);
        }
    }
}

impl Handler<devices::Notice> for SandboxActor {
    type Result = ();

    fn handle(&mut self, notice: devices::Notice, ctx: &mut Context<Self>) {
        match notice {
            devices::Notice::ShareLost { why } => kit::apply(self, Event::ShareLost { why }, ctx),
        }
    }
}

/// A room that panicked is opened again from its record; the agent's link is then opened anew.
macro_rules! reopen {
    ($room:ident $(, and $tell:ident)?) => {
        impl Handler<$room::RoomGone> for SandboxActor {
            type Result = ();

            fn handle(&mut self, $room::RoomGone(how): $room::RoomGone, ctx: &mut Context<Self>) {
                if how == Gone::Stopped {
                    return;
                }
                let _within = self.shell.span().entered();
                tracing::error!(uid = %self.uid, room = stringify!($room), "room panicked; it is rebuilt");
                self.lent.update(|open| open.$room = None);
                match self.shell.confirmed().state().clone() {
                    State::Up { vm, .. }
                    | State::Beginning { vm, .. }
                    | State::Quieting { vm, .. }
                    | State::Thawed { vm, .. } => {
                        self.adopt(vm, ctx);
                    }
                    State::Paused { .. } | State::Greeting { .. } => self.open_again(ctx),
                    // What is under way opens what it needs, or fails and says so.
                    _ => {}
                }
                $(self.$tell();)?
            }
        }
    };
}

reopen!(hypervisor);
reopen!(agent, and tell_agent_rebuilt);
reopen!(devices);
reopen!(network);
