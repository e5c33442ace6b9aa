//! One QEMU process that lives or has lived: its watch, and the conversation with it.
//!
//! The watch owns the process: it keeps the conversation open, notes why the guest went down,
//! takes the exit status and keeps the logs small; what carries the channel ends with it, and it
//! with that. Everybody else looks at levels: is there a conversation, has it ended.

use crate::{
    console::{self, Report},
    error::{Error, QmpError},
    layout::Layout,
    port::{Exit, ExitHow, LaunchPlan},
    process::{Held, Status},
    qemu::{
        backend::Carrier,
        qmp::{Event, Qmp},
    },
};
use qapi::qmp::{DEVICE_DELETED, QmpCommand, SHUTDOWN, ShutdownCause};
use runtime_core::{hypervisor::Accelerator, ids::HostProcess, kit};
use std::{cell::RefCell, collections::BTreeSet, path::Path, rc::Rc, time::Duration};
use tokio::{
    sync::{Notify, mpsc, watch},
    time::{MissedTickBehavior, interval, sleep, timeout},
};

/// A VMM answers within 50 ms of its exec on a quiet host; emulation has more patience.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);

/// QEMU answers a command in under a millisecond unless it is starved.
const COMMAND_LIMIT: Duration = Duration::from_secs(10);

/// Memory of a killed process is given back by then, even 100 GiB of it.
const KILL_LIMIT: Duration = Duration::from_secs(10);

/// A guest that runs lets go of a device in 0.4 s.
const RELEASE_LIMIT: Duration = Duration::from_secs(5);

/// QEMU closes its end when it exits; the words it said before are there already.
const LAST_WORDS_LIMIT: Duration = Duration::from_secs(1);

/// A conversation that broke under a live VMM is taken up again after this.
const REDIAL_DELAY: Duration = Duration::from_millis(200);

/// At the 1 MiB/s that an emulated serial line carries, a log stays below 6 MiB.
const LOGS_INTERVAL: Duration = Duration::from_secs(5);

/// A process, as the driver keeps it. Clones share it.
#[derive(Debug, Clone)]
pub struct Session {
    layout: Layout,
    accelerator: Accelerator,
    held: Option<Rc<Held>>,
    qmp: watch::Receiver<Option<Qmp>>,
    exit: watch::Receiver<Option<Exit>>,
    released: Rc<Released>,
}

/// Devices that QEMU said are gone.
#[derive(Debug, Default)]
struct Released {
    ids: RefCell<BTreeSet<String>>,
    news: Notify,
}

impl Session {
    /// Begins to watch a live process, and what carries its channel.
    pub fn begin(plan: &LaunchPlan, held: Held, carrier: Carrier) -> Self {
        let held = Rc::new(held);
        let (send_qmp, qmp) = watch::channel(None);
        let (send_exit, exit) = watch::channel(None);
        let session = Self {
            layout: Layout::of(&plan.spec),
            accelerator: plan.spec.accelerator,
            held: Some(held.clone()),
            qmp,
            exit,
            released: Rc::default(),
        };
        let watch = Watch {
            layout: session.layout.clone(),
            answer_limit: session.patient(ANSWER_LIMIT),
            held,
            qmp: send_qmp,
            released: session.released.clone(),
            shutdown: None,
            channel: Channel::Carried(carrier),
        };
        kit::detach(async move {
            let exit = watch.run().await;
            // Nobody may be left to care.
            let _ = send_exit.send(Some(exit));
        });
        session
    }

    /// A VMM that was gone before anyone looked; what it left in its logs is still there, and so may
    /// be what carried its channel: that ends now.
    pub async fn vanished(plan: &LaunchPlan, carrier: Carrier) -> Self {
        let layout = Layout::of(&plan.spec);
        carrier.end(&layout).await;
        let exit = last_words(&layout, ExitHow::Unknown).await;
        Self {
            layout,
            accelerator: plan.spec.accelerator,
            held: None,
            qmp: watch::channel(None).1,
            exit: watch::channel(Some(exit)).1,
            released: Rc::default(),
        }
    }

    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// The process, while it lives.
    pub fn process(&self) -> Option<HostProcess> {
        let ended = self.exit.borrow().is_some();
        let held = self.held.as_ref().filter(|_| !ended);
        held.map(|held| held.process())
    }

    pub async fn ended(&self) -> Exit {
        let mut exit = self.exit.clone();
        let ended = exit.wait_for(Option::is_some).await;
        let ended = ended.map(|exit| exit.clone()).ok().flatten();
        ended.unwrap_or(Exit {
            how: ExitHow::Unknown,
            console: String::new(),
            stderr: String::new(),
        })
    }

    /// Answers when the VMM answered.
    ///
    /// # Errors
    /// It ended, or says nothing within its limit.
    pub async fn connected(&self) -> Result<(), Error> {
        let limit = self.patient(ANSWER_LIMIT);
        let mut qmp = self.qmp.clone();
        tokio::select! {
            biased;
            exit = self.ended() => Err(Error::EndedEarly {
                status: exit.how.to_string(),
                stderr: exit.stderr,
            }),
            connected = timeout(limit, qmp.wait_for(Option::is_some)) => match connected {
                Ok(_) => Ok(()),
                Err(_) => Err(Error::NoAnswer {
                    accelerator: self.accelerator,
                    limit,
                    console: last_words(&self.layout, ExitHow::Unknown).await.console,
                    source: QmpError::Timeout { command: "greeting", limit },
                }),
            },
        }
    }

    /// Runs a command as soon as there is a conversation.
    ///
    /// # Errors
    /// As [`Qmp::run`].
    pub async fn run<C: QmpCommand>(&self, command: C) -> Result<C::Ok, QmpError> {
        let limit = self.patient(COMMAND_LIMIT);
        let mut qmp = self.qmp.clone();
        let qmp = timeout(limit, qmp.wait_for(Option::is_some)).await;
        let late = |_| QmpError::Timeout {
            command: C::NAME,
            limit,
        };
        let qmp = qmp.map_err(late)?.map(|qmp| qmp.clone());
        match qmp {
            Ok(Some(qmp)) => qmp.run(command, limit).await,
            // The watch is gone, and with it the process.
            Ok(None) | Err(_) => Err(QmpError::Closed),
        }
    }

    /// # Errors
    /// The process does not end.
    pub async fn kill(&self) -> Result<(), Error> {
        let Some(held) = &self.held else {
            return Ok(());
        };
        let process = held.process();
        if self.process().is_none() {
            return Ok(());
        }
        let watch = |source| Error::Watch { process, source };
        held.kill().map_err(watch)?;
        let limit = KILL_LIMIT;
        let unkillable = |_| Error::Unkillable { process, limit };
        timeout(limit, self.ended()).await.map_err(unkillable)?;
        Ok(())
    }

    /// To be called before a device is told to go: only news from now on counts.
    pub fn expect_release(&self, device: &str) {
        self.released.ids.borrow_mut().remove(device);
    }

    /// Answers when QEMU said that the device is gone. It says so twice, the first time of the
    /// device's inner half and without an id; only the second frees what is behind it.
    ///
    /// # Errors
    /// The guest does not let go.
    pub async fn released(&self, device: &str) -> Result<(), Error> {
        let limit = self.patient(RELEASE_LIMIT);
        let gone = async {
            loop {
                let news = self.released.news.notified();
                if self.released.ids.borrow_mut().remove(device) {
                    return;
                }
                news.await;
            }
        };
        timeout(limit, gone).await.map_err(|_| Error::NotReleased {
            device: device.to_owned(),
            limit,
        })
    }

    fn patient(&self, limit: Duration) -> Duration {
        limit * self.accelerator.patience()
    }
}

/// The task beside a process.
struct Watch {
    layout: Layout,
    answer_limit: Duration,
    held: Rc<Held>,
    qmp: watch::Sender<Option<Qmp>>,
    released: Rc<Released>,
    shutdown: Option<ShutdownCause>,
    channel: Channel,
}

enum Channel {
    Carried(Carrier),
    /// The VMM is being killed for it.
    Lost(Carrier),
}

impl Channel {
    async fn lost(&self) {
        match self {
            Self::Carried(carrier) => carrier.lost().await,
            Self::Lost(_) => std::future::pending().await,
        }
    }
}

impl Watch {
    async fn run(mut self) -> Exit {
        let held = self.held.clone();
        let mut logs = interval(LOGS_INTERVAL);
        logs.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut events = None;
        loop {
            tokio::select! {
                biased;
                // A watch that fails has lost the reactor: the daemon is going down.
                _ = held.ended() => break,
                // The driver forgot the VM: its conversation is free for another.
                () = self.qmp.closed() => return last_words(&self.layout, ExitHow::Unknown).await,
                () = self.channel.lost() => self.channel_lost(),
                news = next(&self.layout, self.answer_limit, &mut events) => self.note(news),
                _ = logs.tick() => keep_small(&self.layout).await,
            }
        }
        if let Some(events) = &mut events {
            let rest = async {
                while let Some(event) = events.recv().await {
                    self.note(News::Event(event));
                }
            };
            // What it said before it ended has arrived, or never will.
            let _ = timeout(LAST_WORDS_LIMIT, rest).await;
        }
        let status = held.reap();
        let (how, carrier) = match &self.channel {
            Channel::Carried(carrier) => (how(self.shutdown, status), carrier),
            Channel::Lost(carrier) => (ExitHow::ChannelLost, carrier),
        };
        carrier.end(&self.layout).await;
        last_words(&self.layout, how).await
    }

    /// The guest runs, and nobody can talk to it any more.
    fn channel_lost(&mut self) {
        if let Channel::Carried(carrier) = &self.channel {
            self.channel = Channel::Lost(carrier.clone());
        }
        if let Err(error) = self.held.kill() {
            // Whoever stops the VM is told.
            tracing::warn!(%error, "cannot kill a vmm that lost its channel");
        }
    }

    fn note(&mut self, news: News) {
        match news {
            News::Connected(qmp) => drop(self.qmp.send(Some(qmp))),
            News::Lost => drop(self.qmp.send(None)),
            News::Event(event) => {
                if let Some(shutdown) = event.read::<SHUTDOWN>() {
                    self.shutdown = Some(shutdown.reason);
                }
                if let Some(device) = event.read::<DEVICE_DELETED>().and_then(|e| e.device) {
                    self.released.ids.borrow_mut().insert(device);
                    self.released.news.notify_waiters();
                }
            }
        }
    }
}

enum News {
    Connected(Qmp),
    Event(Event),
    Lost,
}

/// The next thing to note; opens the conversation when there is none. May be dropped at any
/// point: what it has not returned it has not taken.
async fn next(
    layout: &Layout,
    limit: Duration,
    events: &mut Option<mpsc::Receiver<Event>>,
) -> News {
    if let Some(receiver) = events {
        let event = receiver.recv().await;
        return event.map_or_else(
            || {
                *events = None;
                News::Lost
            },
            News::Event,
        );
    }
    loop {
        match Qmp::connect(&layout.qmp(), limit).await {
            Ok((qmp, receiver)) => {
                *events = Some(receiver);
                return News::Connected(qmp);
            }
            Err(error) => {
                tracing::debug!(%error, "no conversation with the vmm yet");
                sleep(REDIAL_DELAY).await;
            }
        }
    }
}

/// The guest's reason counts before the process's: QEMU exits with 0 for all of them.
fn how(shutdown: Option<ShutdownCause>, status: Status) -> ExitHow {
    match (shutdown, status) {
        (Some(ShutdownCause::guest_shutdown), _) => ExitHow::PoweredOff,
        (Some(ShutdownCause::guest_reset), _) => ExitHow::Reset,
        (Some(ShutdownCause::guest_panic), _) => ExitHow::Panicked,
        (_, Status::Code(code)) => ExitHow::Code(code),
        (_, Status::Signal(signal)) => ExitHow::Signal(signal),
        (_, Status::Unknown) => ExitHow::Unknown,
    }
}

async fn last_words(layout: &Layout, how: ExitHow) -> Exit {
    let stderr = match how {
        ExitHow::ChannelLost => layout.vsock_log(),
        ExitHow::PoweredOff
        | ExitHow::Reset
        | ExitHow::Panicked
        | ExitHow::Code(_)
        | ExitHow::Signal(_)
        | ExitHow::Unknown => layout.stderr(),
    };
    let console = layout.console();
    let read = move || (said_by_guest(&console, how), console::tail(&stderr));
    let (console, stderr) = tokio::task::spawn_blocking(read).await.unwrap_or_default();
    if let Some(report) = &console.whole {
        // Its folder goes before anybody could look.
        tracing::error!(%how, console = report, "the guest's kernel ended by itself");
    }
    let console = console.gist;
    Exit {
        how,
        console,
        stderr,
    }
}

fn said_by_guest(console: &Path, how: ExitHow) -> Report {
    match how {
        ExitHow::Panicked | ExitHow::Reset => console::report(console),
        ExitHow::PoweredOff
        | ExitHow::ChannelLost
        | ExitHow::Code(_)
        | ExitHow::Signal(_)
        | ExitHow::Unknown => Report {
            gist: console::tail(console),
            whole: None,
        },
    }
}

async fn keep_small(layout: &Layout) {
    let logs = layout.logs();
    let cut = move || logs.iter().try_for_each(|log| console::keep_small(log));
    if let Ok(Err(error)) = tokio::task::spawn_blocking(cut).await {
        tracing::warn!(%error, "cannot keep a log small");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn why_the_guest_went_down_counts_before_how_its_vmm_ended() {
        let reset = Some(ShutdownCause::guest_reset);
        let off = Some(ShutdownCause::guest_shutdown);
        let quit = Some(ShutdownCause::host_qmp_quit);

        assert_eq!(how(reset, Status::Code(0)), ExitHow::Reset);
        assert_eq!(how(off, Status::Unknown), ExitHow::PoweredOff);
        assert_eq!(how(quit, Status::Code(0)), ExitHow::Code(0));
        assert_eq!(how(None, Status::Signal(9)), ExitHow::Signal(9));
        assert_eq!(how(None, Status::Unknown), ExitHow::Unknown);
    }
}
