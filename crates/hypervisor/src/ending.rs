//! How a VM ends: stopped, killed for a reason, or by itself. Part of the machine.
//!
//! Whatever the reason, the end is there when the process is gone, and not before.

use crate::{
    blocks::Blocks,
    events::{Answer, Command, Notice, World},
    machine::{Batch, Cause, Ending, Gait, Hypervisor, Kill, State, Vm, Waiting, Whose, reply_all},
    port::{Exit, ExitHow},
    streams::Streams,
};
use runtime_core::{
    error::{Fault, Kind},
    hypervisor::VmExit,
    ids::OpId,
    kit::Waiter,
};

impl Hypervisor {
    pub(crate) fn stop(&mut self, waiter: Waiter, batch: &mut Batch) {
        match std::mem::replace(&mut self.state, State::Idle) {
            State::Idle | State::Ended(_) => batch.replies.push((waiter, Answer::Done)),
            State::Adopting {
                op,
                attempt,
                suspect,
                leased,
                mut held,
            } => {
                // Looking takes half a second at most; then it is known what there is to stop.
                held.push((waiter, Command::Stop));
                self.state = State::Adopting {
                    op,
                    attempt,
                    suspect,
                    leased,
                    held,
                };
            }
            State::Spawning {
                op,
                plan,
                mut waiting,
                held,
            } => {
                // Neither can a spawn be called back; what it yields is killed.
                waiting.stoppers.push(waiter);
                self.state = State::Spawning {
                    op,
                    plan,
                    waiting,
                    held,
                };
            }
            State::Connecting {
                vm, whose, held, ..
            } => {
                let launchers = match whose {
                    Whose::Launch(launchers) => launchers,
                    Whose::Adoption { .. } => Vec::new(),
                };
                let stoppers = vec![waiter];
                let waiting = Waiting {
                    launchers,
                    stoppers,
                };
                self.kill(vm, Cause::Ordered, waiting, batch);
                self.replay(held, batch);
            }
            State::Running {
                vm,
                streams,
                blocks,
                gait,
            } => {
                abandon(streams, blocks, gait, &stopped(), batch);
                self.kill(vm, Cause::Ordered, stopper(waiter), batch);
            }
            State::Ending(ending) => self.stop_again(ending, waiter, batch),
        }
    }

    fn stop_again(&mut self, mut ending: Ending, waiter: Waiter, batch: &mut Batch) {
        ending.waiting.stoppers.push(waiter);
        match ending.cause {
            // From now on it is gone because it was told to.
            Cause::AdoptionFailed(_) | Cause::Vanished => ending.cause = Cause::Ordered,
            Cause::Ordered | Cause::LaunchFailed(_) => {}
        }
        if ending.kill == Kill::Failed {
            let op = self.ops.issue();
            ending.kill = Kill::Sent(op);
            batch.world.push(World::Kill { op });
        }
        self.state = State::Ending(ending);
    }

    pub(crate) fn kill(&mut self, vm: Vm, cause: Cause, waiting: Waiting, batch: &mut Batch) {
        let op = self.ops.issue();
        batch.world.push(World::Kill { op });
        self.state = State::Ending(Ending {
            plan: vm.plan,
            process: Some(vm.process),
            watch: vm.watch,
            kill: Kill::Sent(op),
            cause,
            waiting,
        });
    }

    pub(crate) fn killed(&mut self, done: OpId, outcome: Result<(), Fault>, batch: &mut Batch) {
        if let State::Ending(ending) = &mut self.state
            && ending.kill == Kill::Sent(done)
            && let Err(why) = outcome
        {
            ending.kill = Kill::Failed;
            let waiting = std::mem::take(&mut ending.waiting);
            let launch = match &ending.cause {
                Cause::LaunchFailed(cause) => cause.clone(),
                Cause::Ordered | Cause::AdoptionFailed(_) | Cause::Vanished => why.clone(),
            };
            reply_all(waiting.launchers, &Answer::Failed(launch), batch);
            reply_all(waiting.stoppers, &Answer::Failed(why), batch);
        }
    }

    pub(crate) fn ended(&mut self, watch: OpId, exit: Exit, batch: &mut Batch) {
        match std::mem::replace(&mut self.state, State::Idle) {
            State::Connecting {
                vm, whose, held, ..
            } if vm.watch == watch => {
                match whose {
                    Whose::Launch(launchers) => {
                        batch.world.push(World::Forget);
                        let why = Answer::Failed(ended_early(&exit));
                        reply_all(launchers, &why, batch);
                    }
                    Whose::Adoption { .. } => self.is_gone(exit_of(exit), batch),
                }
                self.replay(held, batch);
            }
            State::Running {
                vm,
                streams,
                blocks,
                gait,
            } if vm.watch == watch => {
                let why = format!("the vm is gone ({})", exit.how);
                let why = Fault::new(Kind::Unavailable, why);
                abandon(streams, blocks, gait, &why, batch);
                self.is_gone(exit_of(exit), batch);
            }
            State::Ending(ending) if ending.watch == watch => self.finish(ending, exit, batch),
            // Stale: of a VM before this one.
            other => self.state = other,
        }
    }

    fn finish(&mut self, ending: Ending, exit: Exit, batch: &mut Batch) {
        let Waiting {
            launchers,
            stoppers,
        } = ending.waiting;
        let why = match ending.cause {
            Cause::Ordered => {
                batch.world.push(World::Forget);
                // A launch that was cut short is told to its callers, not as an end.
                if launchers.is_empty() {
                    batch.announce.push(Notice::Exited(VmExit::Stopped));
                }
                stopped()
            }
            Cause::LaunchFailed(why) => {
                batch.world.push(World::Forget);
                why
            }
            Cause::AdoptionFailed(why) => {
                let status = format!("killed, because it could not be adopted: {why}");
                let stderr = exit.stderr;
                self.is_gone(VmExit::Crashed { status, stderr }, batch);
                why
            }
            Cause::Vanished => {
                self.is_gone(exit_of(exit), batch);
                stopped()
            }
        };
        reply_all(launchers, &Answer::Failed(why), batch);
        reply_all(stoppers, &Answer::Done, batch);
    }

    /// It ended by itself.
    pub(crate) fn is_gone(&mut self, exit: VmExit, batch: &mut Batch) {
        batch.world.push(World::Forget);
        batch.announce.push(Notice::Exited(exit.clone()));
        self.state = State::Ended(exit);
    }
}

fn stopper(waiter: Waiter) -> Waiting {
    Waiting {
        launchers: Vec::new(),
        stoppers: vec![waiter],
    }
}

fn abandon(streams: Streams, blocks: Blocks, gait: Gait, why: &Fault, batch: &mut Batch) {
    let turning = match gait {
        Gait::Steady => Vec::new(),
        Gait::Turning { waiters, .. } => waiters,
    };
    let lent = streams.abandon().chain(blocks.abandon());
    let waiters = lent.chain(turning).collect();
    reply_all(waiters, &Answer::Failed(why.clone()), batch);
}

fn stopped() -> Fault {
    Fault::new(Kind::Aborted, "the vm was stopped")
}

fn ended_early(exit: &Exit) -> Fault {
    let words = exit.stderr.lines().collect::<Vec<_>>().join(" | ");
    let colon = if words.is_empty() { "" } else { ": " };
    let what = format!("vmm ended before it answered ({}){colon}{words}", exit.how);
    Fault::new(Kind::Internal, what)
}

/// Why a VM that nobody stopped is gone, in the sandbox's words.
fn exit_of(exit: Exit) -> VmExit {
    match exit.how {
        ExitHow::PoweredOff => VmExit::PoweredOff,
        ExitHow::Reset | ExitHow::Panicked => VmExit::GuestPanic {
            console: exit.console,
        },
        ExitHow::ChannelLost => VmExit::ChannelLost { said: exit.stderr },
        ExitHow::Code(_) | ExitHow::Signal(_) | ExitHow::Unknown => VmExit::Crashed {
            status: exit.how.to_string(),
            stderr: exit.stderr,
        },
    }
}
