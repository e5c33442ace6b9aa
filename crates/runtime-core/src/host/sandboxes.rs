//! Which ids sandboxes go by, and who waits for one to be created. Part of [`super::Host`].
//!
//! A sandbox has an id of its own, unique in its namespace; it may also be called by its uid, by the
//! id of a container in it, and by a unique prefix of its id or uid. Its own id comes first.

use super::events::Name;
use crate::{
    error::{Fault, Kind},
    ids::{Namespace, RequestKey, SandboxId, SandboxUid},
    kit::Waiter,
};
use std::collections::{BTreeMap, BTreeSet};

/// At most so many candidates are named to whoever gives what several go by.
const CANDIDATES_MAX: usize = 5;

/// Why one is given up.
pub const PANICKED: &str = "its room panicked too often";

/// What identifies a sandbox to its callers.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct SandboxName {
    pub namespace: Namespace,
    pub id: SandboxId,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Home {
    pub uid: SandboxUid,
    pub created_by: Option<RequestKey>,
    pub progress: Progress,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Progress {
    /// These asked for it.
    Creating(Vec<Waiter>),
    Lives,
    /// It is gone, and these were not told yet why.
    Gone(Vec<Waiter>),
    /// What an earlier daemon left half made; it is going.
    Undoing,
    /// Nobody looks after it.
    Failed(Forlorn),
}

/// Why nobody looks after a sandbox, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Forlorn {
    /// Its VM is ended, and its record says what is left of it.
    Panicking(String),
    /// Its own record does not read: whatever it has may live.
    Unread {
        why: String,
        /// There are containers in it whose records do not read either.
        nameless: bool,
    },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FoundSandbox {
    One(SandboxName, SandboxUid),
    Undoing,
    Failed(SandboxName, SandboxUid, Forlorn),
    None,
    /// What several go by, or begin with; at most a few of them.
    Ambiguous(Vec<String>),
}

impl FoundSandbox {
    pub fn uid(&self) -> Option<SandboxUid> {
        match self {
            Self::One(_, uid) | Self::Failed(_, uid, _) => Some(*uid),
            Self::Undoing | Self::None | Self::Ambiguous(_) => None,
        }
    }

    /// Why it is not one that can be asked.
    pub fn fault(self, id: &str) -> Fault {
        match self {
            Self::Ambiguous(candidates) => {
                let candidates = candidates.join(", ");
                let why = format!(
                    "id {id:?} is ambiguous and could refer to multiple sandboxes: {candidates}"
                );
                Fault::invalid(why)
            }
            Self::Undoing => {
                let still =
                    "what an earlier daemon left half made of it is being undone; ask again";
                Fault::new(Kind::Unavailable, still)
            }
            Self::Failed(_, uid, forlorn) => forlorn.fault(uid),
            Self::One(..) | Self::None => Fault::new(Kind::NotFound, "sandbox does not exist"),
        }
    }
}

impl Forlorn {
    pub fn why(&self) -> &str {
        match self {
            Self::Panicking(why) | Self::Unread { why, .. } => why,
        }
    }

    /// What everything that is asked of it is told.
    pub fn fault(&self, uid: SandboxUid) -> Fault {
        let why = format!("its sandbox {uid} failed: {}", self.why());
        Fault::new(Kind::Internal, why)
    }
}

/// The sandboxes of a host by name.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Sandboxes(BTreeMap<SandboxName, Home>);

impl Sandboxes {
    pub fn get(&self, name: &SandboxName) -> Option<&Home> {
        self.0.get(name)
    }

    pub fn insert(&mut self, name: SandboxName, home: Home) {
        self.0.insert(name, home);
    }

    pub fn knows(&self, uid: SandboxUid) -> bool {
        self.0.values().any(|home| home.uid == uid)
    }

    pub fn by_key(&mut self, key: &RequestKey) -> Option<(&SandboxName, &mut Home)> {
        let mut all = self.0.iter_mut();
        all.find(|(_, home)| home.created_by.as_ref() == Some(key))
    }

    pub fn by_uid_named(&mut self, uid: SandboxUid) -> Option<(&SandboxName, &mut Home)> {
        self.0.iter_mut().find(|(_, home)| home.uid == uid)
    }

    pub fn by_uid(&mut self, uid: SandboxUid) -> Option<&mut Home> {
        self.by_uid_named(uid).map(|(_, home)| home)
    }

    pub fn uids(&self) -> impl Iterator<Item = SandboxUid> {
        self.0.values().map(|home| home.uid)
    }

    pub fn name(&self, uid: SandboxUid) -> Option<&SandboxName> {
        let mut all = self.0.iter();
        all.find(|(_, home)| home.uid == uid).map(|(name, _)| name)
    }

    /// Those that nobody looks after.
    pub fn forlorn(&self, uid: SandboxUid) -> Option<&Forlorn> {
        let home = self.0.values().find(|home| home.uid == uid)?;
        match &home.progress {
            Progress::Failed(forlorn) => Some(forlorn),
            Progress::Creating(_) | Progress::Lives | Progress::Gone(_) | Progress::Undoing => None,
        }
    }

    pub fn creating(&self) -> usize {
        // One that is made for a container has nobody but the container's creator.
        let asked = |home: &&Home| matches!(&home.progress, Progress::Creating(w) if !w.is_empty());
        self.0.values().filter(asked).count()
    }

    pub fn remove(&mut self, uid: SandboxUid) {
        self.0.retain(|_, home| home.uid != uid);
    }

    fn of(&self, namespace: Option<&Namespace>) -> impl Iterator<Item = (&SandboxName, &Home)> {
        let is_mine = move |of: &Namespace| namespace.is_none_or(|wanted| wanted == of);
        let all = self.0.iter();
        all.filter(move |(name, _)| is_mine(&name.namespace))
    }

    /// Its id, its uid, or the id of a container in it, whole; of several namespaces only if it is one's alone. `containers`
    /// are those of the host, with where they live.
    pub fn named<'a>(
        &self,
        namespace: Option<&Namespace>,
        id: &str,
        containers: impl Iterator<Item = (&'a Name, SandboxUid)>,
    ) -> FoundSandbox {
        let is_mine = |of: &Namespace| namespace.is_none_or(|wanted| wanted == of);
        let own = |(name, _): &(&SandboxName, &Home)| name.id.as_str() == id;
        let found = one(self.of(namespace).filter(own));
        if found != FoundSandbox::None {
            return found;
        }
        let uids: BTreeSet<_> = match id.parse().ok() {
            Some(uid) if self.knows(uid) => [uid].into(),
            _ => {
                let named = |name: &Name| is_mine(&name.namespace) && name.id.as_str() == id;
                let named = containers.filter(|(name, _)| named(name));
                named.map(|(_, uid)| uid).collect()
            }
        };
        let is_theirs = |(_, home): &(&SandboxName, &Home)| uids.contains(&home.uid);
        one(self.of(namespace).filter(is_theirs))
    }

    /// Its whole name, as in [`Self::named`], else a unique prefix of its id or uid.
    pub fn find<'a>(
        &self,
        namespace: Option<&Namespace>,
        id: &str,
        containers: impl Iterator<Item = (&'a Name, SandboxUid)>,
    ) -> FoundSandbox {
        let named = self.named(namespace, id, containers);
        if named != FoundSandbox::None || id.is_empty() {
            return named;
        }
        let begins = |(name, home): &(&SandboxName, &Home)| {
            name.id.as_str().starts_with(id) || home.uid.to_string().starts_with(id)
        };
        one(self.of(namespace).filter(begins))
    }
}

/// Which of these is meant. Where they are of several namespaces, each is named with its own.
fn one<'a>(found: impl Iterator<Item = (&'a SandboxName, &'a Home)>) -> FoundSandbox {
    let found: Vec<_> = found.take(CANDIDATES_MAX).collect();
    let [(first, _), ..] = found[..] else {
        return FoundSandbox::None;
    };
    if let [alone] = found[..] {
        return seen(alone);
    }
    let together = found
        .iter()
        .all(|(name, _)| name.namespace == first.namespace);
    let candidates = found.iter().map(|(name, _)| match together {
        true => name.id.to_string(),
        false => format!("{} (namespace {})", name.id, name.namespace),
    });
    FoundSandbox::Ambiguous(candidates.collect())
}

fn seen((name, home): (&SandboxName, &Home)) -> FoundSandbox {
    match &home.progress {
        Progress::Creating(_) | Progress::Lives => FoundSandbox::One(name.clone(), home.uid),
        Progress::Undoing | Progress::Gone(_) => FoundSandbox::Undoing,
        Progress::Failed(forlorn) => FoundSandbox::Failed(name.clone(), home.uid, forlorn.clone()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::ContainerId;

    fn namespace() -> Namespace {
        Namespace::new("default").expect("a name")
    }

    fn registry(ids: &[(&str, u64)]) -> Sandboxes {
        let mut all = Sandboxes::default();
        for (id, random) in ids {
            let name = SandboxName {
                namespace: namespace(),
                id: SandboxId::new(*id).expect("an id"),
            };
            all.insert(
                name,
                Home {
                    uid: SandboxUid::from_random(*random),
                    created_by: None,
                    progress: Progress::Lives,
                },
            );
        }
        all
    }

    fn uid_of(found: FoundSandbox) -> Option<u64> {
        match found {
            FoundSandbox::One(_, uid) => Some(uid.number()),
            _ => None,
        }
    }

    #[test]
    fn a_sandbox_is_found_by_its_id_then_its_uid_then_a_container_then_a_prefix() {
        let all = registry(&[("web", 1), ("db", 2), ("webshop", 3)]);
        let container = Name {
            namespace: namespace(),
            id: ContainerId::new("web").expect("an id"),
        };
        let other = Name {
            namespace: namespace(),
            id: ContainerId::new("init").expect("an id"),
        };
        let containers = || {
            let two = SandboxUid::from_random(2);
            [(&container, two), (&other, two)].into_iter()
        };
        let find = |id: &str| uid_of(all.find(Some(&namespace()), id, containers()));

        assert_eq!(find("web"), Some(1), "its own id comes first");
        assert_eq!(find("0000000000000003"), Some(3));
        assert_eq!(find("init"), Some(2));
        assert_eq!(find("webs"), Some(3));
        assert_eq!(find("we"), None);
        let named = |id: &str| uid_of(all.named(Some(&namespace()), id, containers()));
        assert_eq!(named("webshop"), Some(3));
        assert_eq!(named("0000000000000003"), Some(3));
        assert_eq!(named("init"), Some(2));
        assert_eq!(named("webs"), None, "a beginning is no name");
        assert_eq!(
            all.find(Some(&namespace()), "we", containers()),
            FoundSandbox::Ambiguous(vec!["web".to_owned(), "webshop".to_owned()])
        );
        let elsewhere = Namespace::new("other").expect("a name");
        assert_eq!(
            all.find(Some(&elsewhere), "web", containers()),
            FoundSandbox::None
        );
        assert_eq!(uid_of(all.find(None, "web", containers())), Some(1));
    }

    #[test]
    fn a_name_of_two_namespaces_is_ambiguous_to_who_names_none() {
        let elsewhere = Namespace::new("other").expect("a name");
        let mut all = registry(&[("web", 1), ("db", 2)]);
        let name = SandboxName {
            namespace: elsewhere.clone(),
            id: SandboxId::new("web").expect("an id"),
        };
        let home = Home {
            uid: SandboxUid::from_random(3),
            created_by: None,
            progress: Progress::Lives,
        };
        all.insert(name, home);
        let init = |namespace| Name {
            namespace,
            id: ContainerId::new("init").expect("an id"),
        };
        let (here, there) = (init(namespace()), init(elsewhere.clone()));
        let find = |namespace: Option<&Namespace>, id: &str| {
            let containers = [
                (&here, SandboxUid::from_random(2)),
                (&there, SandboxUid::from_random(3)),
            ];
            all.find(namespace, id, containers.into_iter())
        };

        for id in ["web", "we"] {
            let both = ["web (namespace default)", "web (namespace other)"];
            let both = both.map(str::to_owned).to_vec();
            assert_eq!(find(None, id), FoundSandbox::Ambiguous(both), "{id}");
        }
        let both = ["db (namespace default)", "web (namespace other)"];
        let both = both.map(str::to_owned).to_vec();
        assert_eq!(find(None, "init"), FoundSandbox::Ambiguous(both));
        assert_eq!(uid_of(find(None, "db")), Some(2));
        assert_eq!(uid_of(find(Some(&elsewhere), "web")), Some(3));
        assert_eq!(uid_of(find(Some(&elsewhere), "init")), Some(3));
        assert_eq!(uid_of(find(Some(&namespace()), "web")), Some(1));
        assert_eq!(find(Some(&elsewhere), "db"), FoundSandbox::None);
    }
}
