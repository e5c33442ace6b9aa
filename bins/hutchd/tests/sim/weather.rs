//! Which faults a seed has: troubles of calls, and what befalls the world from outside.

use crate::world::{Weather, World, dice::Dice, fate::ANY, pass};
use hypervisor::port::ExitHow;
use std::{rc::Rc, time::Duration};
use tokio::task::spawn_local;

/// After this nothing goes wrong any more.
pub const CALM_AFTER: Duration = Duration::from_secs(40);

/// What somebody does to the world at a random moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blow {
    VmDies,
    GuestPanics,
    LinkBreaks,
    GuestHangs,
    VirtiofsdDies,
    BackendDies,
    DaemonKilled,
    DaemonDrained,
    HostRestarts,
}

const BLOWS: &[Blow] = &[
    Blow::VmDies,
    Blow::GuestPanics,
    Blow::LinkBreaks,
    Blow::GuestHangs,
    Blow::VirtiofsdDies,
    Blow::BackendDies,
    Blow::DaemonKilled,
    Blow::DaemonKilled,
    Blow::DaemonDrained,
    Blow::HostRestarts,
];

/// What a seed brings.
#[derive(Debug)]
pub struct Forecast {
    pub weather: Weather,
    pub blows: Vec<Blow>,
}

impl Forecast {
    pub fn draw(dice: &Dice) -> Self {
        let one = vec![*dice.pick(ANY)];
        let at = Some(1 + dice.below(250));
        let exact = Weather {
            troubles: one.clone(),
            per_mille: 0,
            at,
            most: 1,
        };
        let blows = |most: u64| (0..=dice.below(most)).map(|_| *dice.pick(BLOWS)).collect();
        let (weather, blows) = match dice.below(10) {
            0 => (Weather::calm(), Vec::new()),
            1..=4 => (exact, Vec::new()),
            5 | 6 => (Weather::calm(), blows(4)),
            7 => (
                Weather {
                    troubles: one,
                    per_mille: 20,
                    at: None,
                    most: 6,
                },
                Vec::new(),
            ),
            8 => (exact, blows(2)),
            _ => {
                let troubles = ANY.to_vec();
                let per_mille = 5 + dice.below(25);
                (
                    Weather {
                        troubles,
                        per_mille,
                        at: None,
                        most: 8,
                    },
                    blows(3),
                )
            }
        };
        Self { weather, blows }
    }

    pub fn is_calm(&self) -> bool {
        self.weather.troubles.is_empty() && self.blows.is_empty()
    }
}

/// Strikes at random moments until it is calm.
pub async fn strike(world: Rc<World>, blows: Vec<Blow>, dice: Dice) {
    let most = u64::try_from(CALM_AFTER.as_millis()).expect("seconds");
    let mut blows: Vec<_> = blows
        .into_iter()
        .map(|blow| (dice.below(most / 4), blow))
        .collect();
    blows.sort_by_key(|(at, _)| *at);
    let mut now = 0;
    for (at, blow) in blows {
        pass(Duration::from_millis(at - now)).await;
        now = at;
        blow.strike(&world, &dice);
    }
}

impl Blow {
    fn strike(self, world: &Rc<World>, dice: &Dice) {
        world.log.say(format_args!("blow: {self:?}"));
        let live = world.vms.live();
        let victim = match live.is_empty() {
            true => None,
            false => Some(dice.pick(&live).0),
        };
        match (self, victim) {
            (Self::DaemonKilled, _) => world.kill_daemon(),
            (Self::DaemonDrained, _) => {
                let world = world.clone();
                spawn_local(async move { world.drain_daemon().await });
            }
            (Self::HostRestarts, _) => world.reboot(),
            (_, None) => {}
            (Self::VmDies, Some(uid)) => world.kill_vm(uid, ExitHow::Signal(9)),
            (Self::GuestPanics, Some(uid)) => world.kill_vm(uid, ExitHow::Panicked),
            (Self::LinkBreaks, Some(uid)) => world.guest(uid).cut(),
            (Self::GuestHangs, Some(uid)) => world.guest(uid).hang(),
            (Self::VirtiofsdDies, Some(uid)) => world.kill_virtiofsd(uid),
            (Self::BackendDies, Some(uid)) => world.kill_backend(uid),
        }
    }
}
