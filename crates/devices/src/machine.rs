//! The devices of a sandbox as a pure machine.
//!
//! ```text
//!            OpenShare          opened                        Release             closed
//!   Closed ───────────► Opening ───────► Open ──────────────────────────► Closing ───────► Closed
//!                          │ failed        │ virtiofsd ended: told upward
//!                          └──► Closed ◄───┘
//!
//!            Attach            surveyed, planned         bound                Detach
//!   (none) ───────────► Surveying ─────────────► Binding ─────► Attached ───────────► Unbinding ─► (none)
//! ```
//!
//! Invariants:
//! - Share and binds are on record before they exist, and leave the record after they are gone.
//! - While the share closes, no container is attached.

use crate::{
    events::{Answer, Denied, Event, Refused, World},
    plan::{self, Plan, Refusal, Survey},
    record::{DevicesRecord, SharedPlan, check_size},
    steps::Bind,
};
use runtime_core::{
    devices::{ContainerDevices, Notice, Share, ShareSpec},
    error::{Fault, Kind, fault},
    ids::{ContainerNumber, HostProcess, OpId, SandboxUid},
    kit::{Batch, Machine, Waiter},
    records::{self, Change},
};
use std::{collections::BTreeMap, time::Duration};

/// What could not be copied is looked at again after this: as long as a guest believes what it
/// knows of a directory, so that nobody notices the difference.
const FOLLOW_AGAIN: Duration = Duration::from_secs(1);

#[derive(Debug, Clone, PartialEq, Eq)]
enum ShareState {
    Closed,
    Opening {
        op: OpId,
        waiter: Waiter,
        spec: ShareSpec,
    },
    /// `virtiofsd` is unknown where a daemon died while it was being started.
    Open {
        spec: ShareSpec,
        virtiofsd: Option<HostProcess>,
    },
    Closing {
        op: OpId,
        waiter: Waiter,
        spec: Option<ShareSpec>,
        /// What was bound may be so still, where closing fails.
        plans: BTreeMap<ContainerNumber, SharedPlan>,
    },
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Container {
    Surveying {
        op: OpId,
        waiter: Waiter,
        devices: Box<ContainerDevices>,
    },
    Binding {
        op: OpId,
        waiter: Waiter,
        plan: SharedPlan,
    },
    Attached(SharedPlan),
    Unbinding {
        op: OpId,
        waiter: Waiter,
        plan: SharedPlan,
    },
}

#[derive(Debug, Clone, PartialEq)]
pub struct Devices {
    uid: SandboxUid,
    share: ShareState,
    virtiofsd: Option<HostProcess>,
    containers: BTreeMap<ContainerNumber, Container>,
    ops_issued: u64,
}

impl Devices {
    pub fn new(uid: SandboxUid) -> Self {
        Self {
            uid,
            share: ShareState::Closed,
            virtiofsd: None,
            containers: BTreeMap::new(),
            ops_issued: 0,
        }
    }

    /// What is on record may exist; whatever was half made is undone by `Detach` and `Release`.
    pub fn rebuilt(record: DevicesRecord) -> Self {
        let share = match record.share {
            Some(spec) => ShareState::Open {
                spec,
                virtiofsd: record.virtiofsd,
            },
            None => ShareState::Closed,
        };
        let containers = record.containers.into_iter();
        Self {
            share,
            virtiofsd: record.virtiofsd,
            containers: containers
                .map(|(n, plan)| (n, Container::Attached(plan)))
                .collect(),
            ..Self::new(record.uid)
        }
    }

    fn op(&mut self) -> OpId {
        self.ops_issued += 1;
        OpId(self.ops_issued)
    }

    fn spec(&self) -> Option<&ShareSpec> {
        match &self.share {
            ShareState::Opening { spec, .. } | ShareState::Open { spec, .. } => Some(spec),
            ShareState::Closing { spec, .. } => spec.as_ref(),
            ShareState::Closed => None,
        }
    }

    fn plans(&self) -> BTreeMap<ContainerNumber, SharedPlan> {
        let plan = |container: &Container| match container {
            Container::Surveying { .. } => None,
            Container::Binding { plan, .. }
            | Container::Attached(plan)
            | Container::Unbinding { plan, .. } => Some(plan.clone()),
        };
        let all = self.containers.iter();
        all.filter_map(|(number, container)| Some((*number, plan(container)?)))
            .collect()
    }

    fn record(&self) -> Change {
        let key = DevicesRecord::key(self.uid);
        let containers = match &self.share {
            ShareState::Closing { plans, .. } => plans.clone(),
            ShareState::Closed | ShareState::Opening { .. } | ShareState::Open { .. } => {
                self.plans()
            }
        };
        let share = self.spec().cloned();
        if share.is_none() && containers.is_empty() {
            return records::delete(key);
        }
        let virtiofsd = self.virtiofsd;
        let record = DevicesRecord {
            uid: self.uid,
            share,
            virtiofsd,
            containers,
        };
        records::put(key, &record)
    }

    fn open_share(
        &mut self,
        waiter: Waiter,
        spec: ShareSpec,
        batch: &mut Batch<Self>,
    ) -> Result<(), Denied> {
        match &self.share {
            ShareState::Closed => {
                let op = self.op();
                self.share = ShareState::Opening {
                    op,
                    waiter,
                    spec: spec.clone(),
                };
                batch.records.push(self.record());
                batch.world.push(World::OpenShare { op, spec });
                Ok(())
            }
            ShareState::Open { spec: known, .. } if *known == spec => {
                let share = share_of(&spec);
                batch.replies.push((waiter, Answer::Share(Ok(share))));
                Ok(())
            }
            ShareState::Opening { .. } | ShareState::Open { .. } | ShareState::Closing { .. } => {
                Err(Denied::Share)
            }
        }
    }

    fn share_opened(&mut self, outcome: Result<HostProcess, Fault>, batch: &mut Batch<Self>) {
        let ShareState::Opening { waiter, spec, .. } = self.share.clone() else {
            return;
        };
        let answer = match outcome {
            Ok(virtiofsd) => {
                self.virtiofsd = Some(virtiofsd);
                batch.world.push(World::Watch {
                    spec: spec.clone(),
                    virtiofsd,
                });
                let share = share_of(&spec);
                let virtiofsd = Some(virtiofsd);
                self.share = ShareState::Open { spec, virtiofsd };
                Ok(share)
            }
            Err(why) => {
                self.share = ShareState::Closed;
                Err(why)
            }
        };
        batch.records.push(self.record());
        batch.replies.push((waiter, Answer::Share(answer)));
    }

    fn surveyed(
        &mut self,
        number: ContainerNumber,
        outcome: Result<Survey, Fault>,
        batch: &mut Batch<Self>,
    ) {
        let Some(Container::Surveying {
            waiter, devices, ..
        }) = self.containers.remove(&number)
        else {
            return;
        };
        let folder = self.spec().map(|spec| spec.folder.clone());
        let planned = outcome.and_then(|survey| {
            let plan = plan::plan(&devices, &survey, folder.as_deref());
            let plan = plan.map_err(|refusal: Refusal| fault(&refusal));
            plan.map(SharedPlan::new)
        });
        match planned {
            Ok(plan) => {
                let (op, container) = (self.op(), number);
                let binds = plan.binds.clone();
                self.containers
                    .insert(number, Container::Binding { op, waiter, plan });
                let record = self.record();
                if let Err(why) = check_size(&record, number) {
                    self.containers.remove(&number);
                    return batch.replies.push((waiter, Answer::Attached(Err(why))));
                }
                batch.records.push(record);
                batch.world.push(World::Bind {
                    container,
                    op,
                    binds,
                });
            }
            Err(why) => batch.replies.push((waiter, Answer::Attached(Err(why)))),
        }
    }

    fn bound(
        &mut self,
        number: ContainerNumber,
        outcome: Result<(), Fault>,
        batch: &mut Batch<Self>,
    ) {
        let Some(Container::Binding { waiter, plan, .. }) = self.containers.remove(&number) else {
            return;
        };
        let answer = match outcome {
            Ok(()) => {
                let attached = plan.attached.clone();
                follow(number, &plan, Duration::ZERO, batch);
                self.containers.insert(number, Container::Attached(plan));
                Ok(attached)
            }
            Err(why) => {
                batch.records.push(self.record());
                Err(why)
            }
        };
        batch.replies.push((waiter, Answer::Attached(answer)));
    }

    /// Whatever is in the way may go: as long as the container is there, it is tried again.
    fn unfollowed(
        &mut self,
        number: ContainerNumber,
        copies: Bind,
        outcome: &Result<(), Fault>,
        batch: &mut Batch<Self>,
    ) {
        let attached = match self.containers.get(&number) {
            Some(Container::Attached(plan)) => plan.copies().any(|known| *known == copies),
            Some(
                Container::Surveying { .. }
                | Container::Binding { .. }
                | Container::Unbinding { .. },
            )
            | None => false,
        };
        if attached && outcome.is_err() {
            batch.world.push(World::Follow {
                container: number,
                copies,
                pause: FOLLOW_AGAIN,
            });
        }
    }

    fn detach(
        &mut self,
        waiter: Waiter,
        number: ContainerNumber,
        batch: &mut Batch<Self>,
    ) -> Result<(), Denied> {
        match self.containers.get(&number).cloned() {
            None => batch.replies.push((waiter, Answer::Done(Ok(())))),
            Some(Container::Attached(plan)) => {
                let (op, container) = (self.op(), number);
                let binds = plan.binds.clone();
                self.containers
                    .insert(number, Container::Unbinding { op, waiter, plan });
                batch.world.push(World::Unbind {
                    container,
                    op,
                    binds,
                });
            }
            Some(
                Container::Surveying { .. }
                | Container::Binding { .. }
                | Container::Unbinding { .. },
            ) => {
                return Err(Denied::Busy(number));
            }
        }
        Ok(())
    }

    fn unbound(
        &mut self,
        number: ContainerNumber,
        outcome: Result<(), Fault>,
        batch: &mut Batch<Self>,
    ) {
        let Some(Container::Unbinding { waiter, plan, .. }) = self.containers.remove(&number)
        else {
            return;
        };
        if outcome.is_err() {
            follow(number, &plan, FOLLOW_AGAIN, batch);
            self.containers.insert(number, Container::Attached(plan));
        }
        batch.records.push(self.record());
        batch.replies.push((waiter, Answer::Done(outcome)));
    }

    /// Whoever waits for an attachment hears that it is over; the shared folder goes whole.
    fn release(&mut self, waiter: Waiter, batch: &mut Batch<Self>) -> Result<(), Denied> {
        if let ShareState::Closing { .. } = self.share {
            return Err(Denied::Releasing);
        }
        let over = Fault::new(Kind::Aborted, "the sandbox is being released");
        if let ShareState::Opening { waiter, .. } = &self.share {
            batch
                .replies
                .push((*waiter, Answer::Share(Err(over.clone()))));
        }
        for container in self.containers.values() {
            match container {
                Container::Surveying { waiter, .. } | Container::Binding { waiter, .. } => {
                    batch
                        .replies
                        .push((*waiter, Answer::Attached(Err(over.clone()))));
                }
                Container::Unbinding { waiter, .. } => {
                    batch
                        .replies
                        .push((*waiter, Answer::Done(Err(over.clone()))));
                }
                Container::Attached(_) => {}
            }
        }
        let (op, spec) = (self.op(), self.spec().cloned());
        let virtiofsd = self.virtiofsd;
        self.share = ShareState::Closing {
            op,
            waiter,
            spec: spec.clone(),
            plans: self.plans(),
        };
        self.containers.clear();
        batch.world.push(World::Close {
            op,
            spec,
            virtiofsd,
        });
        Ok(())
    }

    fn closed(&mut self, outcome: Result<(), Fault>, batch: &mut Batch<Self>) {
        let ShareState::Closing {
            waiter,
            spec,
            plans,
            ..
        } = self.share.clone()
        else {
            return;
        };
        if outcome.is_err() {
            let bound = plans.into_iter();
            self.containers = bound
                .map(|(number, plan)| (number, Container::Attached(plan)))
                .collect();
        }
        let virtiofsd = self.virtiofsd;
        self.share = match (&outcome, spec) {
            (Err(_), Some(spec)) => ShareState::Open { spec, virtiofsd },
            (Ok(()), _) | (Err(_), None) => {
                self.virtiofsd = None;
                ShareState::Closed
            }
        };
        batch.records.push(self.record());
        batch.replies.push((waiter, Answer::Done(outcome)));
    }
}

/// Copies that were made are kept up to date from now on.
fn follow(container: ContainerNumber, plan: &Plan, pause: Duration, batch: &mut Batch<Devices>) {
    for copies in plan.copies() {
        let copies = copies.clone();
        batch.world.push(World::Follow {
            container,
            copies,
            pause,
        });
    }
}

fn share_of(spec: &ShareSpec) -> Share {
    Share {
        socket: spec.folder.join("virtiofs.sock"),
    }
}

impl Machine for Devices {
    type Event = Event;
    type World = World;
    type Notice = Notice;
    type Answer = Answer;
    type Denied = Refused;

    // tidy: one table; each arm is a call or a few lines
    fn on(&mut self, event: Event, batch: &mut Batch<Self>) -> Result<(), Self::Denied> {
        match event {
            Event::OpenShare { waiter, spec } => {
                return self.open_share(waiter, spec, batch).map_err(Refused::Share);
            }
            Event::ShareOpened { op, outcome } => {
                if matches!(self.share, ShareState::Opening { op: begun, .. } if begun == op) {
                    self.share_opened(outcome, batch);
                }
            }
            Event::Attach { waiter, devices } => {
                let number = devices.container;
                let denied = match (&self.share, self.containers.contains_key(&number)) {
                    (ShareState::Closing { .. }, _) => Some(Denied::Releasing),
                    (_, true) => Some(Denied::AttachedAlready(number)),
                    (
                        ShareState::Closed | ShareState::Opening { .. } | ShareState::Open { .. },
                        false,
                    ) => None,
                };
                if let Some(denied) = denied {
                    return Err(Refused::Attach(denied));
                }
                let op = self.op();
                let world = World::Survey {
                    op,
                    devices: devices.clone(),
                };
                let surveying = Container::Surveying {
                    op,
                    waiter,
                    devices,
                };
                self.containers.insert(number, surveying);
                batch.world.push(world);
            }
            Event::Surveyed {
                container,
                op,
                outcome,
            } => {
                if matches!(self.containers.get(&container), Some(Container::Surveying { op: begun, .. }) if *begun == op)
                {
                    self.surveyed(container, outcome, batch);
                }
            }
            Event::Bound {
                container,
                op,
                outcome,
            } => {
                if matches!(self.containers.get(&container), Some(Container::Binding { op: begun, .. }) if *begun == op)
                {
                    self.bound(container, outcome, batch);
                }
            }
            Event::Detach { waiter, container } => {
                return self
                    .detach(waiter, container, batch)
                    .map_err(Refused::Other);
            }
            Event::Unbound {
                container,
                op,
                outcome,
            } => {
                if matches!(self.containers.get(&container), Some(Container::Unbinding { op: begun, .. }) if *begun == op)
                {
                    self.unbound(container, outcome, batch);
                }
            }
            Event::Release { waiter } => {
                return self.release(waiter, batch).map_err(Refused::Other);
            }
            Event::Closed { op, outcome } => {
                if matches!(self.share, ShareState::Closing { op: begun, .. } if begun == op) {
                    self.closed(outcome, batch);
                }
            }
            Event::Unfollowed {
                container,
                copies,
                outcome,
            } => self.unfollowed(container, copies, &outcome, batch),
            Event::VirtiofsdEnded { virtiofsd, said } => {
                if matches!(self.share, ShareState::Open { virtiofsd: Some(known), .. } if known == virtiofsd)
                {
                    let what = match said.is_empty() {
                        true => "virtiofsd ended".to_owned(),
                        false => format!("virtiofsd ended: {said}"),
                    };
                    let why = Fault::new(Kind::Internal, what);
                    batch.announce.push(Notice::ShareLost { why });
                }
            }
            Event::Resume => {
                for (number, container) in &self.containers {
                    if let Container::Attached(plan) = container {
                        follow(*number, plan, Duration::ZERO, batch);
                    }
                }
                if let ShareState::Open {
                    spec,
                    virtiofsd: Some(virtiofsd),
                } = &self.share
                {
                    let (spec, virtiofsd) = (spec.clone(), *virtiofsd);
                    batch.world.push(World::Watch { spec, virtiofsd });
                }
            }
        }
        Ok(())
    }

    fn refuse(refused: Refused) -> Answer {
        match refused {
            Refused::Share(denied) => Answer::Share(Err(denied.into())),
            Refused::Attach(denied) => Answer::Attached(Err(denied.into())),
            Refused::Other(denied) => Answer::Done(Err(denied.into())),
        }
    }

    fn state_name(&self) -> &'static str {
        match self.share {
            ShareState::Closed => "closed",
            ShareState::Opening { .. } => "opening",
            ShareState::Open { .. } => "open",
            ShareState::Closing { .. } => "closing",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        record::RECORD_BYTES_MAX,
        steps::{Access, Depth, Shape},
    };
    use runtime_core::{agent::GuestRootfs, devices::Attached, premises::Cgroup};

    fn record() -> DevicesRecord {
        let uid = SandboxUid::from_random(7);
        let attached = Attached {
            rootfs: GuestRootfs::Share("0/rootfs".to_owned()),
            mounts: Vec::new(),
            hook_programs: Vec::new(),
            disks: Vec::new(),
            devices: Vec::new(),
            blocks: Vec::new(),
        };
        let plan = SharedPlan::new(Plan {
            binds: Vec::new(),
            attached,
        });
        DevicesRecord {
            uid,
            share: Some(ShareSpec {
                uid,
                folder: "/f".into(),
                virtiofsd: "/virtiofsd".into(),
                cgroup: Cgroup("/c".to_owned()),
            }),
            virtiofsd: None,
            containers: BTreeMap::from([(ContainerNumber(3), plan)]),
        }
    }

    /// The store would refuse the record, and end the daemon over it.
    #[test]
    fn a_container_is_refused_whose_volumes_are_too_many_for_one_record() {
        let mut full = record();
        let bind = Bind {
            folder: "/f".into(),
            place: "3/m0".to_owned(),
            source: format!("/{}", "x".repeat(4094)).into(),
            shape: Shape::Directory,
            depth: Depth::Top,
            access: Access::ReadOnly,
        };
        let attached = full.containers[&ContainerNumber(3)].attached.clone();
        let binds = vec![bind; RECORD_BYTES_MAX / 4096];
        let plan = SharedPlan::new(Plan { binds, attached });
        full.containers.insert(ContainerNumber(3), plan);
        let mut devices = Devices::rebuilt(full);
        let container = ContainerNumber(4);
        let asked = ContainerDevices {
            container,
            bundle: "/b".into(),
            root: "rootfs".into(),
            root_read_only: false,
            binds: Vec::new(),
        };
        let mut batch = Batch::default();
        let attach = Event::Attach {
            waiter: Waiter(1),
            devices: Box::new(asked),
        };
        devices.on(attach, &mut batch).unwrap();
        let [World::Survey { op, .. }] = batch.world[..] else {
            panic!("{:?}", batch.world);
        };
        let outcome = Ok(Survey {
            bundle: "/b".into(),
            root: plan::Source {
                path: "/b/rootfs".into(),
                nature: plan::Nature::Directory,
                number: None,
                habit: plan::Habit::Unknown,
            },
            binds: Vec::new(),
        });

        let mut batch = Batch::default();
        let surveyed = Event::Surveyed {
            container,
            op,
            outcome,
        };
        devices.on(surveyed, &mut batch).unwrap();

        assert!(batch.records.is_empty() && batch.world.is_empty());
        let [(Waiter(1), Answer::Attached(Err(why)))] = &batch.replies[..] else {
            panic!("{:?}", batch.replies);
        };
        assert_eq!(why.kind(), Kind::Exhausted);
        let detach = Event::Detach {
            waiter: Waiter(2),
            container,
        };
        let mut batch = Batch::default();
        devices.on(detach, &mut batch).unwrap();
        let is_done = |answer: &Answer| matches!(answer, Answer::Done(Ok(())));
        assert!(
            batch.replies.iter().all(|(_, answer)| is_done(answer)),
            "nothing is left of it"
        );
    }

    /// Seed 130 of the simulation: whatever was bound was on no record any more.
    #[test]
    fn what_may_be_bound_still_stays_on_record_when_closing_fails_and_leaves_it_when_it_is_done() {
        let mut devices = Devices::rebuilt(record());
        let release = |devices: &mut Devices, waiter| {
            let mut batch = Batch::default();
            let asked = devices.on(Event::Release { waiter }, &mut batch);
            assert_eq!(asked, Ok(()));
            match batch.world[..] {
                [World::Close { op, .. }] => op,
                _ => panic!("it is closed: {batch:?}"),
            }
        };
        let closed = |devices: &mut Devices, op, outcome| {
            let mut batch = Batch::default();
            let told = devices.on(Event::Closed { op, outcome }, &mut batch);
            assert_eq!(told, Ok(()));
            batch.records
        };

        let op = release(&mut devices, Waiter(1));
        let failed = Err(Fault::new(Kind::Internal, "busy"));
        let kept = closed(&mut devices, op, failed);
        let op = release(&mut devices, Waiter(2));
        let gone = closed(&mut devices, op, Ok(()));

        let key = DevicesRecord::key(record().uid);
        assert_eq!(kept, [records::put(key.clone(), &record())]);
        assert_eq!(gone, [records::delete(key)]);
    }
}
