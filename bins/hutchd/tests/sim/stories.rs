//! What clients do in a simulated world. Each story is told by one client at its own pace; where
//! nothing goes wrong, it must end as it says.

mod disks;
mod pods;

use crate::world::{
    client::{Client, Wanted},
    dice::Dice,
    pass,
};
use runtime_core::{
    agent::ExitStatus,
    container::{ContainerState, Force, Freeze},
    error::{Fault, Kind},
    ids::ProcessId,
};
use std::{fmt, time::Duration};

pub struct Teller {
    pub client: Client,
    pub dice: Dice,
    /// No other story has it.
    pub id: String,
    /// The root file systems of its containers: a directory or a disk image.
    pub root: &'static str,
    /// What they bring from the host.
    pub binds: &'static [&'static str],
    /// Nothing goes wrong in this world.
    pub calm: bool,
}

type Told = Result<(), Fault>;

const INIT: ProcessId = ProcessId::Init;
/// A process that ends only by a signal.
const STAYS: &str = "httpd";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Story {
    Life,
    Exec,
    Kill,
    ForceDeleteWhileStarting,
    TwoCreationsWithOneId,
    Pod,
    RelayDeath,
    SameKey,
    WrongOrders,
    LongLife,
    Freeze,
    FreezeCreated,
    Ooms,
    Hooks,
    HookFails,
    SandboxLife,
    SandboxPause,
    SandboxStart,
    SandboxDeleted,
    SandboxCrowd,
    SandboxHooks,
    SandboxDisks,
    SandboxUnread,
}

pub const ALL: &[Story] = &[
    Story::Life,
    Story::Exec,
    Story::Kill,
    Story::ForceDeleteWhileStarting,
    Story::TwoCreationsWithOneId,
    Story::Pod,
    Story::RelayDeath,
    Story::SameKey,
    Story::WrongOrders,
    Story::LongLife,
    Story::Freeze,
    Story::FreezeCreated,
    Story::Ooms,
    Story::Hooks,
    Story::HookFails,
    Story::SandboxLife,
    Story::SandboxPause,
    Story::SandboxStart,
    Story::SandboxDeleted,
    Story::SandboxCrowd,
    Story::SandboxHooks,
    Story::SandboxDisks,
];

/// Each is interrupted at every effect; together they have every operation on a container and on a sandbox. A crowd and
/// a long life do again what the others do.
pub fn interrupted() -> impl Iterator<Item = Story> {
    let again = [Story::LongLife, Story::SandboxCrowd];
    let others = ALL.iter().copied();
    others
        .filter(move |story| !again.contains(story))
        .chain([Story::SandboxUnread])
}

impl Teller {
    /// Tells a story; in a calm world it ends well.
    pub async fn tell(&self, story: Story) {
        let told = match story {
            Story::Life => self.life().await,
            Story::Exec => self.exec().await,
            Story::Kill => self.kill().await,
            Story::ForceDeleteWhileStarting => self.force_delete_while_starting().await,
            Story::TwoCreationsWithOneId => self.two_creations_with_one_id().await,
            Story::Pod => self.pod().await,
            Story::RelayDeath => self.relay_death().await,
            Story::SameKey => self.same_key().await,
            Story::WrongOrders => self.wrong_orders().await,
            Story::LongLife => self.long_life().await,
            Story::Freeze => self.freeze().await,
            Story::FreezeCreated => self.freeze_created().await,
            Story::Ooms => self.ooms().await,
            Story::Hooks => self.hooks().await,
            Story::HookFails => self.hook_fails().await,
            Story::SandboxLife => self.sandbox_life().await,
            Story::SandboxPause => self.sandbox_pause().await,
            Story::SandboxStart => self.sandbox_start().await,
            Story::SandboxDeleted => self.sandbox_deleted().await,
            Story::SandboxCrowd => self.sandbox_crowd().await,
            Story::SandboxHooks => self.sandbox_hooks().await,
            Story::SandboxDisks => self.sandbox_disks().await,
            Story::SandboxUnread => self.sandbox_unread().await,
        };
        if let (true, Err(why)) = (self.calm, told) {
            let id = &self.id;
            let world = &self.client.world;
            world.violated(format_args!(
                "{story:?} {id}, and nothing went wrong: {why}"
            ));
        }
    }

    fn expect(&self, holds: bool, what: impl fmt::Display) {
        if self.calm && !holds {
            let id = &self.id;
            self.client.world.violated(format_args!("{id}: {what}"));
        }
    }

    fn expect_code(&self, exit: &ExitStatus, code: u32) {
        let what = format!("code {} where {code} was due", exit.code);
        self.expect(exit.code == code, what);
    }

    async fn moment(&self) {
        let most = *self.dice.pick(&[2, 50, 1_500, 4_000]);
        pass(Duration::from_millis(self.dice.below(most))).await;
    }

    fn key(&self, part: &str) -> String {
        format!("{}-{part}", self.id)
    }

    fn wanted<'a>(&self, id: &'a str, command: &'a str, join: Option<&'a str>) -> Wanted<'a> {
        Wanted {
            id,
            command,
            join,
            root: self.root,
            hooks: None,
            binds: self.binds,
        }
    }

    /// Creates it, puts a relay beside it, and starts it.
    async fn running(&self, id: &str, command: &str, join: Option<&str>) -> Told {
        let client = &self.client;
        let key = format!("{id}-key");
        let wanted = self.wanted(id, command, join);
        client.create_stood_for(wanted, &key).await?;
        client.start(id).await
    }

    async fn gone(&self, id: &str) {
        let found = self.client.find(id).await;
        let kind = found.err().map(|why| why.kind());
        self.expect(kind == Some(Kind::NotFound), "deleted, and still found");
    }

    async fn life(&self) -> Told {
        let (client, id) = (&self.client, &self.id);
        let code = u32::try_from(self.dice.below(100)).expect("small");
        self.running(id, &format!("sh -c exit {code}"), None)
            .await?;
        let (a, b, c) = tokio::join!(client.wait(id, &INIT), client.wait(id, &INIT), async {
            self.moment().await;
            client.wait(id, &INIT).await
        });
        for exit in [a?, b?, c?] {
            self.expect_code(&exit, code);
        }
        self.moment().await;
        client.delete(id, Force::No).await?;
        self.gone(id).await;
        Ok(())
    }

    async fn exec(&self) -> Told {
        let (client, id) = (&self.client, &self.id);
        self.running(id, STAYS, None).await?;
        let place = client.find(id).await?;
        let mut last = Ok(());
        for number in 0..=self.dice.below(4) {
            let exec = format!("e{number}");
            client
                .stood_for_exec(id, place, &exec, "sh -c exit 5")
                .await?;
            let process =
                ProcessId::Exec(runtime_core::ids::ExecId::new(exec.as_str()).expect("an id"));
            let exit = client.wait(id, &process).await;
            if let Ok(exit) = &exit {
                self.expect_code(exit, 5);
            }
            last = last.and(exit.map(drop));
        }
        client.kill(id, &INIT, 15).await?;
        let exit = client.wait(id, &INIT).await?;
        self.expect_code(&exit, 143);
        client.delete(id, Force::No).await?;
        last
    }

    async fn kill(&self) -> Told {
        let (client, id) = (&self.client, &self.id);
        self.running(id, "sleep 3600", None).await?;
        let signal = *self.dice.pick(&[9, 15, 2]);
        let (killed, exit) = tokio::join!(
            async {
                self.moment().await;
                client.kill(id, &INIT, signal).await
            },
            client.wait(id, &INIT)
        );
        killed?;
        self.expect_code(&exit?, 128 + signal);
        let state = client.state(id).await?;
        let stopped = matches!(state, ContainerState::Stopped(_));
        self.expect(stopped, "its exit was told, and it is not stopped");
        self.moment().await;
        client.delete(id, Force::Yes).await
    }

    async fn force_delete_while_starting(&self) -> Told {
        let (client, id) = (&self.client, &self.id);
        let (created, deleted) = tokio::join!(self.running(id, STAYS, None), async {
            self.moment().await;
            client.delete(id, Force::Yes).await
        });
        let missed = matches!(&deleted, Err(why) if why.kind() == Kind::NotFound);
        self.expect(missed || deleted.is_ok(), "a forced deletion is refused");
        // Asked for too early there was nothing to delete.
        if missed && created.is_ok() {
            client.delete(id, Force::Yes).await?;
        }
        self.gone(id).await;
        Ok(())
    }

    async fn two_creations_with_one_id(&self) -> Told {
        let (client, id) = (&self.client, &self.id);
        let (one, two) = (self.key("one"), self.key("two"));
        let (a, b) = tokio::join!(client.create(self.wanted(id, STAYS, None), &one), async {
            self.moment().await;
            client.create(self.wanted(id, STAYS, None), &two).await
        });
        let won = [&a, &b].into_iter().filter(|outcome| outcome.is_ok());
        self.expect(won.count() == 1, "of two creations with one id not one won");
        client.delete(id, Force::Yes).await
    }

    async fn pod(&self) -> Told {
        let (client, id) = (&self.client, &self.id);
        self.running(id, STAYS, None).await?;
        let members: Vec<String> = (0..=self.dice.below(3))
            .map(|number| format!("{id}-m{number}"))
            .collect();
        let mut last = Ok(());
        let mut started = Vec::new();
        for member in &members {
            let running = self.running(member, "sh -c exit 3", Some(id)).await;
            started.push(running.is_ok());
            last = last.and(running);
        }
        for (member, started) in members.iter().zip(started) {
            // One that was never started never ends.
            if started && let Ok(exit) = client.wait(member, &INIT).await {
                self.expect_code(&exit, 3);
            }
            self.moment().await;
            last = last.and(client.delete(member, Force::Yes).await);
        }
        let state = client.state(id).await?;
        let runs = state == ContainerState::Running;
        self.expect(runs, "a pod's first container ended with another");
        client.delete(id, Force::Yes).await?;
        last
    }

    async fn relay_death(&self) -> Told {
        let (client, id) = (&self.client, &self.id);
        let key = self.key("key");
        let wanted = self.wanted(id, STAYS, None);
        let (_, relay) = client.create_stood_for(wanted, &key).await?;
        client.start(id).await?;
        self.moment().await;
        if let Some(relay) = relay {
            client
                .world
                .log
                .say(format_args!("relay of {id} is killed"));
            relay.exit();
        }
        let exit = client.wait(id, &INIT).await?;
        self.expect_code(&exit, 137);
        client.delete(id, Force::No).await
    }

    async fn same_key(&self) -> Told {
        let (client, id) = (&self.client, &self.id);
        let key = self.key("key");
        let (a, b) = tokio::join!(client.create(self.wanted(id, STAYS, None), &key), async {
            self.moment().await;
            client.create(self.wanted(id, STAYS, None), &key).await
        });
        let c = client.create(self.wanted(id, STAYS, None), &key).await;
        self.expect(a == b && b == c, "one key got different answers");
        client.delete(id, Force::Yes).await
    }

    async fn wrong_orders(&self) -> Told {
        let (client, id) = (&self.client, &self.id);
        let missing = client.start(id).await;
        self.expect(missing.is_err(), "what is not there was started");
        self.running(id, STAYS, None).await?;
        let twice = client.start(id).await;
        self.expect(twice.is_err(), "it was started twice");
        let running = client.delete(id, Force::No).await;
        self.expect(running.is_err(), "it was deleted while it ran");
        let again = client
            .create(self.wanted(id, STAYS, None), &self.key("other"))
            .await;
        self.expect(again.is_err(), "an id was given twice");
        client.delete(id, Force::Yes).await?;
        let gone = client.kill(id, &INIT, 9).await;
        self.expect(gone.is_err(), "what is gone was killed");
        Ok(())
    }

    /// What is paused does not end, and goes on.
    async fn freeze(&self) -> Told {
        let (client, id) = (&self.client, &self.id);
        self.running(id, "sleep 30", None).await?;
        client.freeze(id, Freeze::Pause).await?;
        let state = client.state(id).await?;
        self.expect(state == ContainerState::Paused, "paused, and not so");
        let exec = client.exec(id, "e", "true").await;
        self.expect(exec.is_err(), "an exec began in what is paused");
        client.update(id).await?;
        pass(Duration::from_secs(60)).await;
        let state = client.state(id).await?;
        self.expect(state == ContainerState::Paused, "it did not stay paused");
        client.freeze(id, Freeze::Resume).await?;
        let exit = client.wait(id, &INIT).await?;
        self.expect_code(&exit, 0);
        let late = client.freeze(id, Freeze::Pause).await;
        self.expect(late.is_err(), "what had stopped was paused");
        client.delete(id, Force::No).await
    }

    /// It is created afterwards, and not running; what is paused can be killed.
    async fn freeze_created(&self) -> Told {
        let (client, id) = (&self.client, &self.id);
        let key = self.key("key");
        let wanted = self.wanted(id, STAYS, None);
        client.create_stood_for(wanted, &key).await?;
        client.freeze(id, Freeze::Pause).await?;
        let started = client.start(id).await;
        self.expect(started.is_err(), "it was started though it is paused");
        client.freeze(id, Freeze::Resume).await?;
        let state = client.state(id).await?;
        self.expect(state == ContainerState::Created, "it is not as before");
        client.start(id).await?;
        client.freeze(id, Freeze::Pause).await?;
        self.moment().await;
        match self.dice.below(2) {
            0 => client.kill_all(id, 9).await?,
            _ => client.kill(id, &INIT, 9).await?,
        }
        let resumed = client.freeze(id, Freeze::Resume).await;
        self.expect(resumed.is_err(), "it was paused still though it was killed");
        let exit = client.wait(id, &INIT).await?;
        self.expect_code(&exit, 137);
        client.delete(id, Force::No).await
    }

    /// Names of the hooks that ran for this story's container.
    fn hooks_run(&self) -> Vec<String> {
        let mine = |state: &[u8]| {
            let state: serde_json::Value = serde_json::from_slice(state).expect("a state is json");
            state["id"] == self.id.as_str()
        };
        let all = self.client.world.premises.hooks_run().into_iter();
        all.filter(|(_, state)| mine(state))
            .map(|(name, _)| name)
            .collect()
    }

    /// Those after the start may fail or hang, and hold up nothing but their own verb.
    async fn hooks(&self) -> Told {
        let (client, id) = (&self.client, &self.id);
        let poststart = *self.dice.pick(&["/ok", "/fails", "/hangs"]);
        let poststop = *self.dice.pick(&["/ok", "/fails", "/hangs"]);
        let wanted = Wanted {
            hooks: Some(["/ok", poststart, poststop]),
            ..self.wanted(id, STAYS, None)
        };
        client.create_stood_for(wanted, &self.key("key")).await?;
        let early = self.hooks_run();
        let told = client.start_told(id).await?;
        self.expect_told(poststart, &told);
        let started = self.hooks_run();
        let told = client.delete_told(id, Force::Yes).await?;
        self.expect_told(poststop, &told);
        let ended = self.hooks_run();
        self.expect(early == ["hooks.prestart[0]"], "prestart did not run once");
        let due = ["hooks.prestart[0]", "hooks.poststart[0]"];
        self.expect(started == due, "poststart did not run before the answer");
        let last = ended.last().map(String::as_str);
        if last != Some("hooks.poststop[0]") {
            let world = &client.world;
            world.violated(format_args!(
                "{id} is deleted, and its hooks were {ended:?}"
            ));
        }
        self.expect(ended.len() == 3, "a hook ran twice");
        Ok(())
    }

    fn expect_told(&self, hook: &str, told: &[String]) {
        let due = usize::from(hook != "/ok");
        self.expect(
            told.len() == due,
            format_args!("of {hook} was told {told:?}"),
        );
    }

    /// No container comes of it, and what was begun is undone.
    async fn hook_fails(&self) -> Told {
        let (client, id) = (&self.client, &self.id);
        let prestart = *self.dice.pick(&["/fails", "/hangs"]);
        let wanted = Wanted {
            hooks: Some([prestart, "/ok", "/ok"]),
            ..self.wanted(id, STAYS, None)
        };
        let key = self.key("key");
        let (created, deleted) = tokio::join!(client.create(wanted, &key), async {
            match self.dice.below(2) {
                0 => Ok(()),
                _ => {
                    self.moment().await;
                    client.delete(id, Force::Yes).await
                }
            }
        });
        self.expect(created.is_err(), "it was created though its hook failed");
        let missed = matches!(&deleted, Err(why) if why.kind() == Kind::NotFound);
        self.expect(missed || deleted.is_ok(), "a forced deletion is refused");
        self.gone(id).await;
        let ran = self.hooks_run();
        let begun = ran.iter().any(|name| name == "hooks.prestart[0]");
        let undone = ran.iter().any(|name| name == "hooks.poststop[0]");
        self.expect(begun == undone, "poststop did not follow prestart");
        let started = ran.iter().any(|name| name == "hooks.poststart[0]");
        if started {
            let world = &client.world;
            world.violated(format_args!(
                "{id} never started, and its hooks were {ran:?}"
            ));
        }
        Ok(())
    }

    async fn ooms(&self) -> Told {
        let (client, id) = (&self.client, &self.id);
        self.running(id, STAYS, None).await?;
        let place = client.find(id).await?;
        let due = self.dice.below(4);
        for _ in 0..due {
            self.moment().await;
            client.world.guest(place.uid).oom(place.number);
        }
        let mut heard = Vec::new();
        while (heard.len() as u64) < due {
            let last = heard.last().copied().unwrap_or(0);
            let (numbers, over) = client.ooms(id, last).await?;
            heard.extend(numbers);
            if over || !self.calm {
                break;
            }
        }
        let all: Vec<u64> = (1..=due).collect();
        self.expect(heard == all, "kills for want of memory were lost");
        let told_twice = heard.windows(2).any(|pair| pair[0] >= pair[1]);
        if told_twice || heard.len() as u64 > due {
            let world = &client.world;
            world.violated(format_args!("{id}: {due} ooms were told as {heard:?}"));
        }
        client.delete(id, Force::Yes).await
    }

    /// It is deleted by whoever tidies up in the end.
    async fn long_life(&self) -> Told {
        self.running(&self.id, STAYS, None).await
    }
}
