//! Work on the premises of one sandbox is done in the order in which it was begun, whoever waits
//! for it: what a room that panicked had begun is over before its successor clears.

use runtime_core::ids::SandboxUid;
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};
use tokio::sync::oneshot::{self, error::TryRecvError};

/// Clones share one line for each sandbox.
#[derive(Debug, Clone, Default)]
pub(crate) struct Turns(Arc<Mutex<BTreeMap<SandboxUid, oneshot::Receiver<()>>>>);

/// A place in line; its drop lets the next one begin.
#[derive(Debug)]
pub(crate) struct Turn {
    before: Option<oneshot::Receiver<()>>,
    _over: oneshot::Sender<()>,
}

impl Turns {
    pub fn take(&self, uid: SandboxUid) -> Turn {
        let (over, next) = oneshot::channel();
        let mut lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        lines.retain(|_, last| last.try_recv() == Err(TryRecvError::Empty));
        let before = lines.insert(uid, next);
        Turn {
            before,
            _over: over,
        }
    }
}

impl Turn {
    /// Nothing is ever sent: a place that is given up ends the wait.
    pub fn wait(&mut self) {
        if let Some(before) = self.before.take() {
            let _ = before.blocking_recv();
        }
    }

    pub async fn come(&mut self) {
        if let Some(before) = self.before.take() {
            let _ = before.await;
        }
    }
}
