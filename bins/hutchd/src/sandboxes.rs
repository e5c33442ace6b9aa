//! The part of [`Api`] that is for sandboxes: parses requests, asks the rooms.

use crate::{
    api::{Api, asked, key_of, now, parsed},
    bundle,
    convert::{part, sandbox_event, sandbox_info},
    size,
};
use protocols::asynchronous::hutch::{
    AnnotateSandboxRequest, CreateSandboxRequest, CreateSandboxResponse, DeleteSandboxRequest,
    ListSandboxesResponse, NextSandboxEventsRequest, NextSandboxEventsResponse, SandboxRequest,
    SandboxStatsRequest, SandboxStatsResponse, StopSandboxRequest,
};
use runtime_core::{
    agent::Warnings,
    container::Force,
    error::Fault,
    host::{
        CreateSandbox, DeleteSandbox, FindSandbox, GetUnread, ListSandboxes, LocatedSandbox, Name,
        RootKind, SandboxWish, Unread, ViewSandbox,
    },
    ids::{Namespace, RequestKey, SandboxId, SandboxUid},
    sandbox::{ANNOTATIONS_BYTES_MAX, GetSpent, Lifetime, NextEvents, Obey, SandboxView, Verb},
};
use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

/// As the interface says.
const WAIT_MAX_MS: u32 = 30_000;

fn annotations(given: HashMap<String, String>) -> Result<BTreeMap<String, String>, Fault> {
    let bytes: usize = given
        .iter()
        .map(|(key, value)| key.len() + value.len())
        .sum();
    if given.contains_key("") {
        return Err(Fault::invalid("annotations: a key is empty"));
    }
    match bytes > ANNOTATIONS_BYTES_MAX {
        true => Err(Fault::invalid(format!(
            "annotations have {bytes} bytes; at most {ANNOTATIONS_BYTES_MAX} are possible"
        ))),
        false => Ok(given.into_iter().collect()),
    }
}

fn force(force: bool) -> Force {
    match force {
        true => Force::Yes,
        false => Force::No,
    }
}

fn find_in(namespace: &str, id: &str) -> Result<FindSandbox, Fault> {
    let namespace = match namespace {
        "" => None,
        namespace => Some(parsed(Namespace::new(namespace))?),
    };
    Ok(FindSandbox {
        namespace,
        id: parsed(SandboxId::sought(id))?,
    })
}

/// Without an id it goes by its uid.
fn id_of(given: &str, uid: SandboxUid) -> Result<SandboxId, Fault> {
    match given {
        "" => Ok(uid.as_id()),
        id => parsed(SandboxId::new(id)),
    }
}

/// The guest goes by it from its boot on, and nothing but a name of its form is one. A container's may be what its
/// config.json says.
fn hostname(given: String, id: &str) -> Result<String, Fault> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.');
    match given.chars().all(plain) {
        true => bundle::hostname_for_guest(given, id),
        false => Err(Fault::invalid(format!(
            "invalid hostname {given:?}: letters, digits, '-' and '.' are possible"
        ))),
    }
}

impl Api {
    pub(crate) async fn sandbox(&self, namespace: &str, id: &str) -> Result<LocatedSandbox, Fault> {
        asked(self.host.send(find_in(namespace, id)?).await)?
    }

    pub(crate) async fn view_sandbox(
        &self,
        namespace: &str,
        id: &str,
    ) -> Result<(SandboxView, Vec<Name>), Fault> {
        asked(self.host.send(ViewSandbox(find_in(namespace, id)?)).await)?
    }

    pub(crate) async fn sandboxes(
        &self,
        namespace: &str,
    ) -> Result<Vec<(SandboxView, Vec<Name>)>, Fault> {
        let namespace = match namespace {
            "" => None,
            namespace => Some(parsed(Namespace::new(namespace))?),
        };
        asked(self.host.send(ListSandboxes { namespace }).await)
    }

    pub(crate) async fn listed(&self, namespace: &str) -> Result<ListSandboxesResponse, Fault> {
        let sandboxes = self.sandboxes(namespace).await?;
        let unread = asked(self.host.send(GetUnread).await)?;
        let info = |(view, names): &(SandboxView, Vec<Name>)| sandbox_info(view, names);
        Ok(ListSandboxesResponse {
            sandboxes: sandboxes.iter().map(info).collect(),
            unread: unread.iter().map(Unread::to_string).collect(),
            ..Default::default()
        })
    }

    pub(crate) async fn create_empty(
        &self,
        request: CreateSandboxRequest,
    ) -> Result<CreateSandboxResponse, Fault> {
        let uid = SandboxUid::from_random(uuid::Uuid::new_v4().as_u64_pair().0);
        let id = id_of(&request.sandbox_id, uid)?;
        let wish = SandboxWish {
            uid,
            namespace: parsed(Namespace::new(request.namespace))?,
            hostname: hostname(request.hostname, id.as_str())?,
            id,
            lifetime: Lifetime::Own,
            created_by: key_of(&request.key)?,
            created: now(),
            annotations: annotations(request.annotations)?,
            netns: None,
            cgroup: None,
            root: RootKind::Directory,
        };
        self.profiles.choose(&wish.annotations)?;
        let created = CreateSandbox(Box::new(wish));
        let (name, uid) = asked(self.host.send(created).await)??;
        Ok(CreateSandboxResponse {
            sandbox_id: name.id.to_string(),
            sandbox_uid: uid.to_string(),
            ..Default::default()
        })
    }

    async fn obey(
        &self,
        (namespace, id): (&str, &str),
        key: Option<RequestKey>,
        verb: Verb,
    ) -> Result<Warnings, Fault> {
        let located = self.sandbox(namespace, id).await?;
        asked(located.sandbox.send(Obey { key, verb }).await)?
    }

    pub(crate) async fn order(
        &self,
        request: &SandboxRequest,
        verb: Verb,
    ) -> Result<Warnings, Fault> {
        let key = key_of(&request.key)?;
        self.obey((&request.namespace, &request.sandbox), key, verb)
            .await
    }

    pub(crate) async fn stop(&self, request: &StopSandboxRequest) -> Result<Warnings, Fault> {
        let key = key_of(&request.key)?;
        let verb = Verb::Stop(force(request.force));
        self.obey((&request.namespace, &request.sandbox), key, verb)
            .await
    }

    pub(crate) async fn annotate(
        &self,
        request: AnnotateSandboxRequest,
    ) -> Result<Warnings, Fault> {
        let key = key_of(&request.key)?;
        let changed = annotations(request.annotations)?;
        size::check_changed(&changed)?;
        let verb = Verb::Annotate(changed);
        self.obey((&request.namespace, &request.sandbox), key, verb)
            .await
    }

    pub(crate) async fn delete_whole(
        &self,
        request: &DeleteSandboxRequest,
    ) -> Result<Warnings, Fault> {
        let delete = DeleteSandbox {
            key: key_of(&request.key)?,
            namespace: parsed(Namespace::new(request.namespace.as_str()))?,
            id: parsed(SandboxId::sought(&request.sandbox))?,
            force: force(request.force),
            at: now(),
        };
        asked(self.host.send(delete).await)?
    }

    pub(crate) async fn stats_of_sandbox(
        &self,
        request: &SandboxStatsRequest,
    ) -> Result<SandboxStatsResponse, Fault> {
        let located = self.sandbox(&request.namespace, &request.sandbox).await?;
        let spent = asked(located.sandbox.send(GetSpent).await)??;
        Ok(SandboxStatsResponse {
            vcpus: spent.vcpus,
            memory_mib: spent.memory_mib,
            parts: spent.parts.iter().map(part).collect(),
            at_ms: now().0,
            ..Default::default()
        })
    }

    pub(crate) async fn next_events(
        &self,
        request: &NextSandboxEventsRequest,
    ) -> Result<NextSandboxEventsResponse, Fault> {
        let located = self.sandbox(&request.namespace, &request.sandbox).await?;
        let next = NextEvents {
            after: request.after,
            wait: Duration::from_millis(request.wait_ms.min(WAIT_MAX_MS).into()),
        };
        let seen = asked(located.sandbox.send(next).await)?;
        Ok(NextSandboxEventsResponse {
            events: seen.events.iter().map(sandbox_event).collect(),
            over: seen.over,
            ..Default::default()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use runtime_core::error::Kind;

    #[test]
    fn a_hostname_is_one_or_made_from_the_id() {
        let name = |given: &str| hostname(given.to_owned(), "web");

        assert_eq!(name("").unwrap(), "web");
        assert_eq!(name("db-1.example.org").unwrap(), "db-1.example.org");
        for wrong in ["bad/../x", "a b", "ä", "a_b", &"x".repeat(65)] {
            let why = name(wrong).unwrap_err();
            assert_eq!(why.kind(), Kind::Invalid, "{wrong}");
            assert!(why.to_string().contains("hostname"), "{why}");
        }
    }

    #[test]
    fn a_sandbox_goes_by_its_id_and_without_one_by_its_uid() {
        let uid = SandboxUid::from_random(0xab);

        assert_eq!(id_of("", uid).unwrap().as_str(), "00000000000000ab");
        assert_eq!(id_of("web", uid).unwrap().as_str(), "web");
        assert_eq!(id_of("../web", uid).unwrap_err().kind(), Kind::Invalid);
    }
}
