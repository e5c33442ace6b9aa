//! The attendants of one guest's processes, and the link that they share. It outlives links; when
//! it goes, its attendants go.

use super::{
    attendant::Attendant,
    exits::now,
    ledger::{Ledger, ProcessKey, Whence},
    pull::Pull,
    station::Station,
};
use crate::error::Error;
use runtime_core::{
    agent::{Adopt, GuestProcessState},
    hypervisor::GuestEndpoint,
    kit,
};
use std::{cell::RefCell, collections::BTreeMap, path::PathBuf, rc::Rc};
use stream::{GuestEnd, Outputs};
use tokio::sync::{oneshot, watch};

/// Cheap to clone; clones are the same household.
#[derive(Clone)]
pub struct Household(Rc<Shared>);

struct Shared {
    ledger: Ledger,
    links: watch::Sender<Option<Pull>>,
    /// Who listens where: a socket passes from one process to the next.
    posts: RefCell<BTreeMap<PathBuf, oneshot::Sender<()>>>,
    /// Processes without a stream are only waited for.
    watches: RefCell<Vec<oneshot::Sender<()>>>,
}

/// The stdio that a process was promised.
pub(super) struct Promised {
    path: PathBuf,
    station: Station,
    outputs: Outputs,
}

impl Promised {
    /// The process never came to be.
    pub fn withdraw(self) {
        self.station.close();
    }
}

impl Household {
    pub fn new() -> Self {
        Self(Rc::new(Shared {
            ledger: Ledger::beginning(now()),
            links: watch::Sender::new(None),
            posts: RefCell::default(),
            watches: RefCell::default(),
        }))
    }

    pub fn ledger(&self) -> &Ledger {
        &self.0.ledger
    }

    /// What is yielded changes when there is another link, or none, or nobody to have one.
    pub(super) fn linked(&self, link: &Pull) -> watch::Receiver<Option<Pull>> {
        self.0.links.send_replace(Some(link.clone()));
        self.0.links.subscribe()
    }

    /// There is no link; nobody may keep its connection open.
    pub fn parted(&self) {
        self.0.links.send_replace(None);
    }

    /// Listens where the relay will look, before the guest hears of the process.
    pub(super) fn promise(
        &self,
        stream: Option<&GuestEndpoint>,
        outputs: Outputs,
        call: &'static str,
    ) -> Result<Option<Promised>, Error> {
        let path = match stream {
            None => return Ok(None),
            Some(GuestEndpoint::Calls(path)) => path.clone(),
            Some(GuestEndpoint::SerialPort(_) | GuestEndpoint::VsockPort(_)) => {
                let what = "a stdio stream of its own";
                return Err(Error::Inexpressible { call, what });
            }
        };
        // Whoever had this place before is done with it.
        self.0.posts.borrow_mut().remove(&path);
        let station = Station::open(&path).map_err(|source| Error::Station {
            call,
            path: path.clone(),
            source,
        })?;
        Ok(Some(Promised {
            path,
            station,
            outputs,
        }))
    }

    /// One whose stdio is not carried by calls needs nobody.
    pub fn adopt(&self, ask: Adopt) {
        let stream = match &ask.stream {
            stream @ GuestEndpoint::Calls(_) => stream,
            GuestEndpoint::SerialPort(_) | GuestEndpoint::VsockPort(_) => return,
        };
        let key = (ask.container, ask.process);
        if self.0.ledger.whence(&key).is_some() {
            // It is attended to already: a second listener would take its place away.
            return;
        }
        // Whether it has a terminal is not on record; a stderr that is none ends at once.
        let outputs = Outputs::StdoutAndStderr;
        let promised = match self.promise(Some(stream), outputs, "adopt a process") {
            Ok(promised) => promised,
            Err(why) => {
                let why = runtime_core::error::fault(&why);
                tracing::error!(%why, container = %key.0, "its stdio is not carried; it is waited for");
                None
            }
        };
        self.attend(&key, ask.state, promised, Whence::Adopted);
    }

    /// From here on it is attended to, whatever becomes of the link. One that is known already is.
    pub(super) fn attend(
        &self,
        key: &ProcessKey,
        state: GuestProcessState,
        promised: Option<Promised>,
        whence: Whence,
    ) {
        if !self.0.ledger.created(key, state, whence) {
            return;
        }
        let (stop, stopped) = oneshot::channel();
        let stdio = match promised {
            None => {
                let mut watches = self.0.watches.borrow_mut();
                watches.retain(|watch| !watch.is_closed());
                watches.push(stop);
                None
            }
            Some(promised) => {
                let end = match whence {
                    Whence::Made => GuestEnd::new(promised.outputs),
                    Whence::Adopted => GuestEnd::succeeding(promised.outputs),
                };
                let mut posts = self.0.posts.borrow_mut();
                posts.retain(|_, post| !post.is_closed());
                posts.insert(promised.path, stop);
                Some((promised.station, end, promised.outputs))
            }
        };
        let links = self.0.links.subscribe();
        let attendant = Attendant::new(key.clone(), self.0.ledger.clone(), links, stdio);
        kit::detach(attendant.attend(stopped));
    }
}

impl Default for Household {
    fn default() -> Self {
        Self::new()
    }
}
