//! Which stream carries the stdio of which process.
//!
//! A host that gives a stream to the next process is done with the one before. What carries that one may not know it yet:
//! the acknowledgement of its exit is still on the way, or never comes since its relay was killed.

use crate::stdio::Endpoint;
use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::{select, sync::watch, time::timeout};

/// Removing a container kills its processes within milliseconds.
const END_LIMIT: Duration = Duration::from_secs(10);

/// Entries of streams that closed go when the next one opens.
#[derive(Default)]
pub(super) struct Streams(Mutex<BTreeMap<Endpoint, Carried>>);

struct Carried {
    /// Of the process.
    exit: watch::Receiver<Option<u32>>,
    /// Dropped to end the carrying.
    hold: watch::Sender<()>,
    /// Closed once the stream is.
    open: watch::Receiver<()>,
}

impl Streams {
    /// Carries until `carrying` is done, or the stream is given to the next process.
    pub fn carry(
        &self,
        endpoint: Endpoint,
        exit: watch::Receiver<Option<u32>>,
        carrying: impl Future<Output = ()> + Send + 'static,
    ) {
        let (hold, mut held) = watch::channel(());
        let (opened, open) = watch::channel(());
        let mut all = self.all();
        // One whose other end is gone has closed.
        all.retain(|_, carried| carried.open.has_changed().is_ok());
        all.insert(endpoint, Carried { exit, hold, open });
        drop(all);
        tokio::spawn(async move {
            select! {
                biased;
                // Nothing is ever sent on it: it only closes.
                _ = held.changed() => {}
                () = carrying => {}
            }
            // With it went what was carried, and the stream is closed.
            drop(opened);
        });
    }

    /// Ends what still carries a process that is over. The host may give its stream to the next one before it has the
    /// container removed, so its end is waited for; one that runs on keeps its stream.
    pub async fn free(&self, endpoint: &Endpoint) {
        let exit = self.all().get(endpoint).map(|carried| carried.exit.clone());
        if let Some(mut exit) = exit {
            // Over, gone with its container, or neither in time: the next look tells.
            let _ = timeout(END_LIMIT, exit.wait_for(Option::is_some)).await;
        }
        let over = {
            let mut all = self.all();
            match all.get(endpoint) {
                Some(carried) if carried.exit.borrow().is_some() => all.remove(endpoint),
                Some(_) | None => None,
            }
        };
        if let Some(Carried { hold, mut open, .. }) = over {
            drop(hold);
            // Nothing is ever sent on it: it only closes.
            let _ = open.changed().await;
        }
    }

    fn all(&self) -> MutexGuard<'_, BTreeMap<Endpoint, Carried>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{future::pending, sync::Arc};

    fn port() -> Endpoint {
        Endpoint::Serial("hutch.stream.1".to_owned())
    }

    /// Is held by whoever carries.
    fn wire() -> (Arc<()>, impl Future<Output = ()> + Send) {
        let wire = Arc::new(());
        let held = wire.clone();
        let carrying = async move {
            let _held = held;
            pending().await
        };
        (wire, carrying)
    }

    #[tokio::test]
    async fn a_stream_is_free_for_the_next_process_though_nobody_acknowledged_the_exit_of_the_last()
    {
        let (streams, exit) = (Streams::default(), watch::Sender::new(None));
        let (wire, carrying) = wire();
        streams.carry(port(), exit.subscribe(), carrying);
        exit.send_replace(Some(0));

        streams.free(&port()).await;

        assert_eq!(Arc::strong_count(&wire), 1, "it is closed by now");
    }

    #[tokio::test]
    async fn a_stream_of_a_process_that_is_just_being_killed_is_waited_for() {
        let (streams, exit) = (Streams::default(), watch::Sender::new(None));
        let (wire, carrying) = wire();
        streams.carry(port(), exit.subscribe(), carrying);
        let killing = async {
            tokio::task::yield_now().await;
            exit.send_replace(Some(137));
        };

        let port = port();
        tokio::join!(streams.free(&port), killing);

        assert_eq!(Arc::strong_count(&wire), 1, "it is closed by now");
    }

    #[tokio::test(start_paused = true)]
    async fn a_process_that_runs_keeps_its_stream() {
        let (streams, exit) = (Streams::default(), watch::Sender::new(None));
        let (wire, carrying) = wire();
        streams.carry(port(), exit.subscribe(), carrying);

        streams.free(&port()).await;
        streams.free(&Endpoint::Vsock(7)).await;

        assert_eq!(Arc::strong_count(&wire), 2);
    }

    #[tokio::test]
    async fn a_stream_that_closed_by_itself_is_free() {
        let (streams, exit) = (Streams::default(), watch::Sender::new(Some(0)));
        streams.carry(port(), exit.subscribe(), async {});
        tokio::task::yield_now().await;
        streams.carry(Endpoint::Vsock(7), exit.subscribe(), pending());

        assert_eq!(streams.all().len(), 1, "what closed is forgotten");
        streams.free(&port()).await;
    }
}
