//! What a client asks of sandboxes as a whole, and how what it sees of them must agree with itself.

use super::client::{Client, Tried, lost, namespace, request_key};
use runtime_core::{
    container::Force,
    error::Fault,
    host::{
        CreateSandbox, DeleteSandbox, FindSandbox, ListSandboxes, Place, RootKind, SandboxWish,
        ViewSandbox,
    },
    ids::{SandboxId, SandboxUid},
    sandbox::{Lifetime, Obey, SandboxView, Verb},
};
use std::collections::BTreeMap;

impl Client {
    /// The key makes it one request, however often it must be sent.
    pub async fn create_sandbox(&self, id: &str, key: &str) -> Result<SandboxUid, Fault> {
        self.ask(format!("create sandbox {id} under {key}"), async || {
            let wish = SandboxWish {
                uid: SandboxUid::from_random(self.world.dice.throw()),
                namespace: namespace(),
                id: SandboxId::new(id).expect("an id"),
                lifetime: Lifetime::Own,
                created_by: request_key(key),
                created: self.world.now(),
                hostname: id.to_owned(),
                annotations: BTreeMap::new(),
                netns: None,
                cgroup: None,
                root: RootKind::Directory,
            };
            let create = CreateSandbox(Box::new(wish));
            let created = lost(self.world.host().await.send(create).await)??;
            Ok(created.1)
        })
        .await
    }

    pub async fn order(&self, id: &str, verb: Verb) -> Result<(), Fault> {
        let key = self.fresh_key();
        self.ask(format!("{verb:?} sandbox {id} under {key}"), async || {
            let find = FindSandbox {
                namespace: Some(namespace()),
                id: id.to_owned(),
            };
            let located = lost(self.world.host().await.send(find).await)??;
            let obey = Obey {
                key: request_key(&key),
                verb: verb.clone(),
            };
            lost(located.sandbox.send(obey).await)?.map(drop)
        })
        .await
    }

    /// All that is in it goes too.
    pub async fn delete_sandbox(&self, id: &str, force: Force) -> Result<(), Fault> {
        let (key, tried) = (self.fresh_key(), Tried::default());
        let what = format!("delete sandbox {id} {force:?} under {key}");
        let outcome = self.ask(what, async || {
            tried.now(&self.ledger, self.places_in(id).await);
            let delete = DeleteSandbox {
                key: request_key(&key),
                namespace: namespace(),
                id: id.to_owned(),
                force,
                at: self.world.now(),
            };
            lost(self.world.host().await.send(delete).await)?.map(drop)
        });
        let outcome = outcome.await;
        tried.over(&self.ledger, &outcome);
        outcome
    }

    /// Where its containers are.
    async fn places_in(&self, id: &str) -> Vec<Place> {
        let mut places = Vec::new();
        for name in self
            .view_now(id)
            .await
            .map_or(Vec::new(), |(_, names)| names)
        {
            if let Ok(located) = self.find_now(name.id.as_str()).await {
                places.push(located.place);
            }
        }
        places
    }

    async fn view_now(
        &self,
        id: &str,
    ) -> Result<(SandboxView, Vec<runtime_core::host::Name>), Fault> {
        let find = FindSandbox {
            namespace: Some(namespace()),
            id: id.to_owned(),
        };
        lost(self.world.host().await.send(ViewSandbox(find)).await)?
    }

    pub async fn view_sandbox(&self, id: &str) -> Result<SandboxView, Fault> {
        self.ask(format!("view sandbox {id}"), async || {
            Ok(self.view_now(id).await?.0)
        })
        .await
    }

    /// The ids of all that are there for themselves.
    pub async fn sandboxes(&self) -> Result<Vec<String>, Fault> {
        let list = ListSandboxes { namespace: None };
        let all = lost(self.world.host().await.send(list).await)?;
        let own = all
            .into_iter()
            .filter(|(view, _)| view.spec.lifetime == Lifetime::Own);
        Ok(own.map(|(view, _)| view.spec.id.to_string()).collect())
    }
}
