//! What the network room understands. The room itself is the crate `netns`.

use crate::{error::Fault, ids::SandboxUid, kit::Gone};
use actix::{WeakRecipient, prelude::*};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkSpec {
    pub uid: SandboxUid,
    /// The sandbox's folder; `netns` is made in it.
    pub folder: PathBuf,
    /// A network namespace of the caller's; `None`: one of our own.
    pub netns: Option<PathBuf>,
}

/// What the VMM needs to know.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkStatus {
    /// The namespace that the VMM enters.
    pub netns: PathBuf,
}

/// Command: make or join the network namespace, with loopback up.
#[derive(Message, Debug)]
#[rtype(result = "Result<NetworkStatus, Fault>")]
pub struct Connect(pub NetworkSpec);

/// Command: release what was made; a namespace of the caller's stays.
#[derive(Message, Debug)]
#[rtype(result = "Result<(), Fault>")]
pub struct Disconnect;

/// Event, told to the sandbox when the actor itself ended.
#[derive(Message, Debug, Clone, Copy, PartialEq, Eq)]
#[rtype(result = "()")]
pub struct RoomGone(pub Gone);

/// The room's address, without its type.
#[derive(Clone)]
pub struct Address {
    pub connect: Recipient<Connect>,
    pub disconnect: Recipient<Disconnect>,
}

impl<A> From<Addr<A>> for Address
where
    A: Actor<Context = Context<A>> + Handler<Connect> + Handler<Disconnect>,
{
    fn from(room: Addr<A>) -> Self {
        Self {
            connect: room.clone().recipient(),
            disconnect: room.recipient(),
        }
    }
}

/// Whom the room tells.
#[derive(Clone)]
pub struct Parent {
    pub gone: WeakRecipient<RoomGone>,
}
