//! Stories of sandboxes as a whole, with several containers in each.

use super::{INIT, STAYS, Teller, Told};
use crate::world::client::Wanted;
use futures::future::join_all;
use runtime_core::{
    container::{ContainerState, Force},
    error::Kind,
    ids::{ExecId, ProcessId},
    sandbox::{Standing, Verb},
};
use std::collections::BTreeMap;

/// In one storm.
const EXECS: u64 = 6;

impl Teller {
    pub(super) async fn sandbox(&self) -> Told {
        let key = self.key("sandbox");
        self.client.create_sandbox(&self.id, &key).await.map(drop)
    }

    pub(super) async fn expect_standing(&self, due: Standing) -> Told {
        let at = self.client.view_sandbox(&self.id).await?.standing;
        let what = format!("its sandbox is {} where {} was due", at.name(), due.name());
        self.expect(at == due, what);
        Ok(())
    }

    /// One that is refused where nothing goes wrong.
    fn expect_refused(&self, outcome: &Told, what: &str) {
        let denied = matches!(outcome, Err(why) if why.kind() == Kind::Denied);
        self.expect(denied, format!("{what}: {outcome:?}"));
    }

    pub(super) fn member(&self, number: u64) -> String {
        format!("{}-m{number}", self.id)
    }

    pub(super) async fn sandbox_gone(&self) {
        let found = self.client.view_sandbox(&self.id).await;
        let kind = found.err().map(|why| why.kind());
        self.expect(
            kind == Some(Kind::NotFound),
            "its sandbox is deleted, and found",
        );
    }

    /// Stopped as it should be, started again, and stopped by force.
    pub(super) async fn sandbox_life(&self) -> Told {
        let (client, id) = (&self.client, &self.id);
        self.sandbox().await?;
        self.expect_standing(Standing::Ready).await?;
        let (stays, ends, late) = (self.member(0), self.member(1), self.member(2));
        self.running(&stays, STAYS, Some(id)).await?;
        self.running(&ends, "sh -c exit 3", Some(id)).await?;
        self.expect_standing(Standing::Running).await?;
        let marks = BTreeMap::from([("mark".to_owned(), self.key("a"))]);
        client.order(id, Verb::Annotate(marks.clone())).await?;
        let early = client.delete_sandbox(id, Force::No).await;
        self.expect_refused(&early, "what ran was deleted");
        self.expect_code(&client.wait(&ends, &INIT).await?, 3);
        self.moment().await;
        client.order(id, Verb::Stop(Force::No)).await?;
        self.expect_standing(Standing::Stopped).await?;
        self.expect_code(&client.wait(&stays, &INIT).await?, 143);
        let shut = self.running(&self.member(3), STAYS, Some(id)).await;
        self.expect_refused(&shut, "a container came into what is stopped");
        client.order(id, Verb::Start).await?;
        self.expect_standing(Standing::Running).await?;
        self.expect_code(&client.wait(&stays, &INIT).await?, 143);
        self.running(&late, STAYS, Some(id)).await?;
        client.delete(&ends, Force::No).await?;
        self.moment().await;
        client.order(id, Verb::Stop(Force::Yes)).await?;
        self.expect_code(&client.wait(&late, &INIT).await?, 137);
        let kept = client.view_sandbox(id).await?.annotations;
        self.expect(kept == marks, "its annotations are others");
        client.delete_sandbox(id, Force::No).await?;
        self.sandbox_gone().await;
        self.gone(&late).await;
        Ok(())
    }

    /// What is paused refuses, goes on as it was, and what is killed in it ends.
    pub(super) async fn sandbox_pause(&self) -> Told {
        let (client, id) = (&self.client, &self.id);
        self.sandbox().await?;
        let (killed, goes, stays) = (self.member(0), self.member(1), self.member(2));
        for member in [&killed, &goes, &stays] {
            self.running(member, STAYS, Some(id)).await?;
        }
        let (paused, ended) = tokio::join!(client.order(id, Verb::Pause), async {
            self.moment().await;
            let (a, b) = tokio::join!(
                client.kill(&killed, &INIT, 9),
                client.delete(&goes, Force::Yes)
            );
            a.and(b)
        });
        paused?;
        // Nobody keeps that from anything.
        ended?;
        self.expect_code(&client.wait(&killed, &INIT).await?, 137);
        self.gone(&goes).await;
        self.expect_standing(Standing::Paused).await?;
        let exec = client.exec(&stays, "e", "true").await;
        self.expect_refused(&exec, "an exec began in what is paused");
        let stop = client.order(id, Verb::Stop(Force::No)).await;
        self.expect_refused(&stop, "what is paused was asked to stop");
        self.moment().await;
        match self.dice.below(3) {
            0 => {
                client.order(id, Verb::Stop(Force::Yes)).await?;
                self.expect_code(&client.wait(&stays, &INIT).await?, 137);
            }
            _ => {
                client.order(id, Verb::Resume).await?;
                self.expect_standing(Standing::Running).await?;
                client.exec(&stays, "e2", "true").await?;
            }
        }
        client.delete_sandbox(id, Force::Yes).await?;
        self.sandbox_gone().await;
        Ok(())
    }

    /// Its start is that of all that is created in it.
    pub(super) async fn sandbox_start(&self) -> Told {
        let (client, id) = (&self.client, &self.id);
        self.sandbox().await?;
        let members: Vec<_> = (0..3).map(|number| self.member(number)).collect();
        for member in &members {
            let key = format!("{member}-key");
            let wanted = self.wanted(member, STAYS, Some(id));
            client.create_stood_for(wanted, &key).await?;
        }
        self.expect_standing(Standing::Ready).await?;
        client.order(id, Verb::Pause).await?;
        let paused = client.start(&members[0]).await;
        self.expect_refused(&paused, "a container started in what is paused");
        client.order(id, Verb::Resume).await?;
        self.expect_standing(Standing::Ready).await?;
        client.order(id, Verb::Start).await?;
        for member in &members {
            let state = client.state(member).await?;
            self.expect(state == ContainerState::Running, "one was not started");
        }
        let again = client.order(id, Verb::Start).await;
        self.expect_refused(&again, "what runs was started");
        client.order(id, Verb::Stop(Force::No)).await?;
        for member in &members {
            self.expect_code(&client.wait(member, &INIT).await?, 143);
        }
        client.delete_sandbox(id, Force::No).await
    }

    /// At any moment, with all that is in it.
    pub(super) async fn sandbox_deleted(&self) -> Told {
        let (client, id) = (&self.client, &self.id);
        let lives = async {
            self.sandbox().await?;
            let member = self.member(0);
            self.running(&member, STAYS, Some(id)).await?;
            client.order(id, Verb::Stop(Force::Yes)).await?;
            client.order(id, Verb::Start).await?;
            self.running(&self.member(1), STAYS, Some(id)).await
        };
        let (lived, deleted) = tokio::join!(lives, async {
            self.moment().await;
            client.delete_sandbox(id, Force::Yes).await
        });
        self.expect(deleted.is_ok(), "a forced deletion is refused");
        // Asked for before it was there, or by a daemon that had not heard of it, there was nothing to delete.
        if lived.is_ok() || client.view_sandbox(id).await.is_ok() {
            client.delete_sandbox(id, Force::Yes).await?;
        }
        self.sandbox_gone().await;
        for number in 0..2 {
            self.gone(&self.member(number)).await;
        }
        Ok(())
    }

    /// Its record does not read any more: it lives on, and goes when somebody says so.
    pub(super) async fn sandbox_unread(&self) -> Told {
        let (client, world) = (&self.client, &self.client.world);
        let key = self.key("sandbox");
        let uid = client.create_sandbox(&self.id, &key).await?;
        let member = self.member(0);
        self.running(&member, STAYS, Some(&self.id)).await?;
        let lives = || world.vms.live().iter().any(|(of, _)| *of == uid);

        world.garble(uid).await;

        let id = uid.to_string();
        let seen = client.view_sandbox(&id).await?;
        let refused = client.kill(&member, &INIT, 9).await;
        let denied = client.delete_sandbox(&id, Force::No).await;
        if seen.standing != Standing::Failed || refused.is_ok() || denied.is_ok() || !lives() {
            let standing = seen.standing.name();
            world.violated(format_args!(
                "what does not read is {standing}, lives: {}, and was told: {refused:?}, {denied:?}",
                lives()
            ));
        }
        client.delete_sandbox(&id, Force::Yes).await?;
        if lives() {
            world.violated(format_args!("{id} is deleted, and lives"));
        }
        self.sandbox_gone().await;
        self.gone(&member).await;
        Ok(())
    }

    /// Many at once: containers, and execs in each.
    pub(super) async fn sandbox_crowd(&self) -> Told {
        let (client, id) = (&self.client, &self.id);
        self.sandbox().await?;
        let members: Vec<_> = (0..=self.dice.below(3))
            .map(|number| self.member(number))
            .collect();
        let running = members
            .iter()
            .map(|member| self.running(member, STAYS, Some(id)));
        let running = join_all(running).await;
        let mut last: Told = running.into_iter().collect();
        let storms = members.iter().map(|member| self.storm(member));
        last = last.and(join_all(storms).await.into_iter().collect());
        self.moment().await;
        let first = client.delete(&members[0], Force::Yes).await;
        for member in &members[1..] {
            let state = client.state(member).await;
            let runs = state == Ok(ContainerState::Running);
            self.expect(runs, "another one ended with the first");
        }
        client.delete_sandbox(id, Force::Yes).await?;
        self.sandbox_gone().await;
        last.and(first)
    }

    async fn storm(&self, member: &str) -> Told {
        let client = &self.client;
        let place = client.find(member).await?;
        let execs = (0..EXECS).map(|number| async move {
            let exec = format!("e{number}");
            client
                .stood_for_exec(member, place, &exec, "sh -c exit 5")
                .await?;
            let process = ProcessId::Exec(ExecId::new(exec).expect("an id"));
            let exit = client.wait(member, &process).await?;
            self.expect_code(&exit, 5);
            Ok(())
        });
        join_all(execs).await.into_iter().collect()
    }

    /// One whose hook fails or hangs comes to nothing, and the others do not notice.
    pub(super) async fn sandbox_hooks(&self) -> Told {
        let (client, id) = (&self.client, &self.id);
        self.sandbox().await?;
        let (well, badly) = (self.member(0), self.member(1));
        self.running(&well, STAYS, Some(id)).await?;
        let wanted = Wanted {
            hooks: Some([*self.dice.pick(&["/fails", "/hangs"]), "/ok", "/ok"]),
            ..self.wanted(&badly, STAYS, Some(id))
        };
        let key = self.key("badly");
        let (created, paused) = tokio::join!(client.create(wanted, &key), async {
            self.moment().await;
            client.order(id, Verb::Pause).await
        });
        self.expect(created.is_err(), "it was created though its hook failed");
        self.gone(&badly).await;
        match paused {
            Ok(()) => client.order(id, Verb::Resume).await?,
            // While it was being created.
            Err(why) => self.expect_refused(&Err(why), "a pause"),
        }
        let state = client.state(&well).await?;
        self.expect(state == ContainerState::Running, "another one noticed");
        client.delete(&well, Force::Yes).await?;
        client.delete_sandbox(id, Force::Yes).await
    }
}
