//! The part of [`Host`] that knows sandboxes by name: their creation, their deletion, and which of
//! them are given up.

use super::{
    events::{Answer, Denied, Doomed, HomeFate, KnownHome, Place, Repeated, World},
    machine::{CREATIONS_MAX, Host},
    messages::{DeleteSandbox, SandboxWish, Wish},
    sandboxes::{Forlorn, FoundSandbox, Home, Progress, SandboxName},
};
use crate::{
    agent::Warnings,
    container::Force,
    error::{Fault, Kind},
    ids::{Namespace, RequestKey, SandboxUid},
    kit::{Batch, Waiter},
};

impl Host {
    /// A sandbox on record.
    pub(super) fn settle_in(&mut self, known: KnownHome) {
        let KnownHome {
            mut name,
            uid,
            created_by,
            fate,
        } = known;
        // What does not read may say what is not so.
        if self.sandboxes.get(&name).is_some() {
            name.id = uid.as_id();
        }
        let progress = match fate {
            HomeFate::Made => Progress::Lives,
            HomeFate::HalfMade => Progress::Undoing,
            HomeFate::Failed(forlorn) => Progress::Failed(forlorn),
        };
        let home = Home {
            uid,
            created_by,
            progress,
        };
        self.sandboxes.insert(name, home);
    }

    pub fn find_sandbox(&self, namespace: Option<&Namespace>, id: &str) -> FoundSandbox {
        let containers = self.names().map(|(name, place)| (name, place.uid));
        self.sandboxes.find(namespace, id, containers)
    }

    /// By its whole name: no prefix.
    pub fn named_sandbox(&self, namespace: &Namespace, id: &str) -> FoundSandbox {
        let containers = self.names().map(|(name, place)| (name, place.uid));
        self.sandboxes.named(Some(namespace), id, containers)
    }

    pub fn sandbox_name(&self, uid: SandboxUid) -> Option<&SandboxName> {
        self.sandboxes.name(uid)
    }

    pub(super) fn create_sandbox(
        &mut self,
        waiter: Waiter,
        wish: Box<SandboxWish>,
        batch: &mut Batch<Self>,
    ) -> Result<(), Denied> {
        if let Some(key) = &wish.created_by
            && let Some((name, home)) = self.sandboxes.by_key(key)
        {
            let answer = match &mut home.progress {
                Progress::Creating(waiters) | Progress::Gone(waiters) => {
                    waiters.push(waiter);
                    return Ok(());
                }
                Progress::Lives => Ok((name.clone(), home.uid)),
                Progress::Undoing => Err(FoundSandbox::Undoing.fault(name.id.as_str())),
                Progress::Failed(forlorn) => Err(forlorn.fault(home.uid)),
            };
            batch.replies.push((waiter, Answer::SandboxCreated(answer)));
            return Ok(());
        }
        if self.sandboxes.creating() + self.creating() >= CREATIONS_MAX {
            return Err(Denied::TooManyCreations);
        }
        let name = SandboxName {
            namespace: wish.namespace.clone(),
            id: wish.id.clone(),
        };
        self.claim(name, wish.uid, wish.created_by.clone(), vec![waiter])?;
        batch.world.push(World::CreateSandbox { wish });
        Ok(())
    }

    /// A name and a uid that nothing else has.
    fn claim(
        &mut self,
        name: SandboxName,
        uid: SandboxUid,
        created_by: Option<RequestKey>,
        waiters: Vec<Waiter>,
    ) -> Result<(), Denied> {
        match self.sandboxes.get(&name).map(|home| &home.progress) {
            Some(Progress::Undoing | Progress::Gone(_)) => {
                let id = name.id.to_string();
                return Err(Denied::NotOneSandbox(FoundSandbox::Undoing, id));
            }
            Some(_) => return Err(Denied::SandboxExists(name)),
            None if self.sandboxes.knows(uid) => return Err(Denied::Taken(uid)),
            None => {}
        }
        let progress = Progress::Creating(waiters);
        let home = Home {
            uid,
            created_by,
            progress,
        };
        self.sandboxes.insert(name, home);
        Ok(())
    }

    /// For a container that gets a sandbox of its own.
    pub(super) fn claim_for(&mut self, wish: &Wish) -> Result<(), Denied> {
        let home = wish.home();
        let name = SandboxName {
            namespace: home.namespace,
            id: home.id,
        };
        self.claim(name, home.uid, None, Vec::new())
    }

    /// The sandbox that was made for this container is there.
    pub(super) fn made(&mut self, place: Place) {
        if let Some(home) = self.sandboxes.by_uid(place.uid)
            && home.progress == Progress::Creating(Vec::new())
        {
            home.progress = Progress::Lives;
        }
    }

    /// It goes with the container; it is told when it is gone.
    pub(super) fn not_made(&mut self, place: Place) {
        if let Some(home) = self.sandboxes.by_uid(place.uid)
            && home.progress == Progress::Creating(Vec::new())
        {
            home.progress = Progress::Undoing;
        }
    }

    pub(super) fn sandbox_created(
        &mut self,
        uid: SandboxUid,
        outcome: &Result<(), Fault>,
        batch: &mut Batch<Self>,
    ) {
        let Some((name, home)) = self.sandboxes.by_uid_named(uid) else {
            return;
        };
        let name = name.clone();
        let (waiters, outcome) = match &mut home.progress {
            Progress::Creating(waiters) => {
                let waiters = std::mem::take(waiters);
                home.progress = match outcome {
                    Ok(()) => Progress::Lives,
                    // It is told when it is gone.
                    Err(_) => Progress::Undoing,
                };
                (waiters, outcome.clone())
            }
            Progress::Gone(waiters) => {
                let waiters = std::mem::take(waiters);
                self.sandboxes.remove(uid);
                let gone = || Fault::new(Kind::Aborted, "deleted while it was being created");
                let outcome = outcome.clone().and_then(|()| Err(gone()));
                (waiters, outcome)
            }
            Progress::Lives | Progress::Undoing | Progress::Failed(_) => return,
        };
        let answer = outcome.map(|()| (name, uid));
        for waiter in waiters {
            let answer = Answer::SandboxCreated(answer.clone());
            batch.replies.push((waiter, answer));
        }
    }

    pub(super) fn forsake_home(
        &mut self,
        uid: SandboxUid,
        forlorn: Forlorn,
        batch: &mut Batch<Self>,
    ) {
        let Some(home) = self.sandboxes.by_uid(uid) else {
            return;
        };
        let why = forlorn.fault(uid);
        let before = std::mem::replace(&mut home.progress, Progress::Failed(forlorn));
        if let Progress::Creating(waiters) | Progress::Gone(waiters) = before {
            let answer = Answer::SandboxCreated(Err(why));
            let answers = waiters.into_iter().map(|waiter| (waiter, answer.clone()));
            batch.replies.extend(answers);
        }
    }

    /// Whoever still waits for its creation is about to hear what became of it.
    pub(super) fn sandbox_gone(&mut self, uid: SandboxUid) {
        match self.sandboxes.by_uid(uid).map(|home| &mut home.progress) {
            Some(progress @ Progress::Creating(_))
                if *progress != Progress::Creating(Vec::new()) =>
            {
                if let Progress::Creating(waiters) = progress {
                    *progress = Progress::Gone(std::mem::take(waiters));
                }
            }
            Some(_) | None => self.sandboxes.remove(uid),
        }
        self.panics.remove(&uid);
    }

    pub(super) fn delete_sandbox(
        &mut self,
        waiter: Waiter,
        delete: DeleteSandbox,
        batch: &mut Batch<Self>,
    ) -> Result<(), Denied> {
        let DeleteSandbox {
            key,
            namespace,
            id,
            force,
            at,
        } = delete;
        if self.asked_to_delete_again(key.as_ref(), waiter, batch) {
            return Ok(());
        }
        let found = match force {
            // As of a container: what begins like it must not be taken for what is not there.
            Force::Yes => self.named_sandbox(&namespace, &id),
            Force::No => self.find_sandbox(Some(&namespace), &id),
        };
        let uid = match found {
            FoundSandbox::One(_, uid) => uid,
            FoundSandbox::Failed(_, uid, _) if force == Force::Yes => uid,
            // As of a container: deleting with force what is not there is no error.
            FoundSandbox::None if force == Force::Yes => {
                batch
                    .replies
                    .push((waiter, Answer::Deleted(Ok(Warnings::new()))));
                return Ok(());
            }
            found @ (FoundSandbox::Undoing
            | FoundSandbox::Failed(..)
            | FoundSandbox::None
            | FoundSandbox::Ambiguous(_)) => return Err(Denied::NotOneSandbox(found, id)),
        };
        let doomed = Doomed::Sandbox(uid);
        if let Some(key) = key.clone() {
            let changes = self.deletions.begin(key, doomed, force, at);
            batch.records.extend(changes);
        }
        batch.world.push(World::Delete {
            waiter: Some(waiter),
            key,
            doomed,
            force,
            at,
            repeated: Repeated::No,
        });
        Ok(())
    }
}
