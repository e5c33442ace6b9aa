//! How a container ends, and what the next daemon finds of one.

use super::{
    Awaits, Belongings, CALLERS_MAX, Came, Due, Ending, Found, Model, Process, Still, Stream, Told,
    Was,
};

/// The code of what is killed because it is deleted.
const KILLED: u32 = 137;

impl Model {
    pub fn delete(&mut self, waiter: u64, force: bool, guest_goes: bool) -> Result<(), String> {
        if self.gone() {
            self.answer(waiter, "retired ok");
            return Ok(());
        }
        if self.ending != Ending::No {
            if self.deleters.len() == CALLERS_MAX {
                return Err("its deletion was asked for 64 times already".to_owned());
            }
            self.deleters.push(waiter);
            return Ok(());
        }
        let word = match self.seen() {
            "paused" if self.lives() => "paused",
            _ => self.word(),
        };
        if !force && matches!(word, "creating" | "running" | "paused") {
            return Err(format!(
                "cannot delete container c that is not stopped: {word}"
            ));
        }
        self.deleters = vec![waiter];
        self.close(guest_goes);
        Ok(())
    }

    fn close(&mut self, guest_goes: bool) {
        self.ending = Ending::Processes { guest_goes };
        (self.broken, self.awaits) = (false, Awaits::Nothing);
        self.turns.creation += 1;
        self.turns.poststart += 1;
        self.poststarting = false;
        self.tell_starters();
        self.ask_world("StopHooks");
        self.thaw_for_good();
        self.drop_ooms();
        self.tell_ooms();
        if matches!(self.told, Told::Created | Told::Running) {
            self.told = Told::Stopped(KILLED);
            self.say(format!("Stopped {KILLED}"));
        }
        self.ask_world("CloseProcesses");
        self.go_on_ending();
    }

    pub fn closed(&mut self, name: &str) {
        self.forget(name, "its container was deleted while it was being made");
        self.go_on_ending();
    }

    pub(super) fn go_on_ending(&mut self) {
        let Ending::Processes { guest_goes } = self.ending else {
            return;
        };
        if !self.processes.is_empty() {
            return;
        }
        self.turns.ending += 1;
        match guest_goes {
            true => self.finish(),
            false => self.take_out(),
        }
    }

    /// It has no cgroup of its caller's, so that nothing is left to do for one that has left.
    fn take_out(&mut self) {
        self.ending = Ending::Guest;
        match self.belongings {
            Belongings::Leaving => {}
            Belongings::Gone => self.finish(),
            Belongings::There | Belongings::Due => self.ask_world("Remove"),
        }
    }

    pub fn leave(&mut self) {
        if self.belongings == Belongings::There && self.word() == "stopped" {
            self.belongings = Belongings::Due;
            self.leave_if_over();
        }
    }

    pub fn leave_if_over(&mut self) {
        let read =
            |(name, process): (&String, &Process)| name == "init" || process.stream == Stream::Read;
        let due = self.belongings == Belongings::Due && self.word() == "stopped";
        if due && self.processes.iter().all(read) {
            self.belongings = Belongings::Leaving;
            self.ask_world("Leave");
        }
    }

    pub fn departed(&mut self, came: Came) {
        self.belongings = match came {
            Came::Well => Belongings::Gone,
            Came::Badly | Came::Refused => Belongings::There,
        };
        // Its deletion waited for that.
        if self.ending == Ending::Guest {
            self.take_out();
        }
    }

    pub fn removed(&mut self, came: Came) {
        if came == Came::Well {
            return self.finish();
        }
        self.turns.ending += 1;
        (self.ending, self.broken) = (Ending::No, true);
        for waiter in std::mem::take(&mut self.deleters) {
            self.answer(waiter, format!("retired {}", came.text()));
        }
    }

    /// Of what never came to be and ran no hook, no hook hears.
    pub(super) fn finish(&mut self) {
        self.turns.ending += 1;
        let touched = self.hooked || self.told != Told::Creating;
        if !touched || !self.hooks.poststop {
            return self.retire(Came::Well);
        }
        self.ending = Ending::Poststop;
        self.ask_world("RunHooks Poststop");
    }

    pub fn retire(&mut self, poststop: Came) {
        self.ending = Ending::Gone;
        let answer = format!("retired ok{}", poststop.warning());
        for waiter in std::mem::take(&mut self.deleters) {
            self.answer(waiter, answer.clone());
        }
        self.say("Retired");
    }

    pub fn left_killed(&mut self, came: Came) {
        // Refused: nothing lives there.
        if came == Came::Badly {
            self.kill_left("KillLeft later");
        }
    }

    /// As long as it is nothing but stopped.
    fn kill_left(&mut self, what: &str) {
        let stopped = matches!(self.told, Told::Stopped(_)) && !self.broken;
        if self.left && stopped && self.ending == Ending::No {
            self.ask_world(what);
        }
    }

    /// The next daemon finds what is on record. Nobody waits any more; whoever wants an answer asks again. A
    /// deletion that was under way is to be asked for again too.
    pub fn restart(&mut self, processes: Vec<(String, Option<u8>, Found)>, init_lives: bool) {
        self.left = init_lives;
        self.due = Due::default();
        self.deleters.clear();
        self.starters.clear();
        self.poststart_failed.clear();
        self.oom_waiters.clear();
        self.fresh_ooms.clear();
        self.oom_rests = false;
        self.turns.creation += 1;
        self.turns.freezer += 1;
        self.turns.poststart += 1;
        self.turns.ending += 1;
        let found = processes.into_iter().map(|(name, key, found)| {
            let stream = match found {
                Found::Making => Stream::NotYet(Vec::new()),
                Found::Made => Stream::There,
                Found::Read => Stream::Read,
            };
            (name, Process { key, stream })
        });
        self.processes = found.collect();
        (self.ending, self.awaits, self.poststarting) = (Ending::No, Awaits::Nothing, false);
        self.belongings = Belongings::There;
        self.broken = self.told == Told::Creating;
        if self.broken {
            return self
                .say("Failed the daemon was restarted while this container was being created");
        }
        if !self.lives() {
            return self.kill_left("KillLeft");
        }
        match &mut self.still {
            Still::No | Still::Yes => {}
            Still::Asked { waiters, doomed } => {
                waiters.clear();
                *doomed = false;
                self.ask_world("Freeze");
            }
            Still::Leaving { waiters, was } => {
                waiters.clear();
                // That it was sent SIGKILL is on no record.
                if *was == Was::Doomed {
                    *was = Was::Never;
                }
                self.ask_world("Thaw");
            }
        }
        if self.poststart_due {
            self.run_poststart();
        }
    }
}
