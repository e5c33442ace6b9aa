//! One seed from an empty host to an empty host, with everything that is checked on the way.

use crate::{
    stories::{self, Teller},
    weather::{CALM_AFTER, Forecast, strike},
    world::{World, client::Client, dice::Dice, fate::Injected, pass},
};
use runtime_core::container::Force;
use std::{any::Any, cell::RefCell, panic, rc::Rc, sync::Once, time::Duration};
use tokio::{
    runtime::Builder,
    task::{LocalSet, spawn_local},
    time::timeout,
};

/// Stories in one world.
const STORIES_MAX: u64 = 7;
/// Of the stories' beginnings.
const BEGIN_WITHIN_MS: u64 = 3_000;
/// A question to a room has 300 s; nobody waits for more than a few of them.
const END_MAX: Duration = Duration::from_secs(3_600);
/// What is under way comes to rest: as long as the longest deadline.
const REST: Duration = Duration::from_secs(400);
const LOOK_EVERY: Duration = Duration::from_millis(300);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Detail {
    Events,
    /// With what the rooms trace.
    Traced,
}

pub struct Verdict {
    pub log: String,
    pub violations: Vec<String>,
}

thread_local! {
    /// Panics that nobody wished; `None` outside of a story.
    static PANICS: RefCell<Option<Vec<String>>> = const { RefCell::new(None) };
}

/// A panic that is injected, or that follows from one.
fn is_meant(payload: &dyn Any) -> bool {
    let text = payload.downcast_ref::<String>().map(String::as_str);
    let text = text
        .or_else(|| payload.downcast_ref::<&str>().copied())
        .unwrap_or_default();
    payload.is::<Injected>()
        || text == "work of this actor panicked"
        || text.starts_with("the room of ")
}

fn collect_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let usual = panic::take_hook();
        panic::set_hook(Box::new(move |panic| {
            let collected = PANICS.with_borrow_mut(|panics| match panics {
                None => false,
                Some(panics) => {
                    if !is_meant(panic.payload()) {
                        panics.push(panic.to_string());
                    }
                    true
                }
            });
            if !collected {
                usual(panic);
            }
        }));
    });
    PANICS.set(Some(Vec::new()));
}

/// Tells a seed.
pub fn told(seed: u64, detail: Detail) -> Verdict {
    collect_panics();
    let runtime = Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    let world = LocalSet::new().block_on(&runtime, async {
        let dice = Dice::new(seed);
        let forecast = Forecast::draw(&dice);
        let world = World::new(dice.throw(), forecast.weather.clone());
        let _tracing = (detail == Detail::Traced).then(|| world.log.trace());
        world.log.say(format_args!("seed {seed}: {forecast:?}"));
        tell(&world, forecast, &dice).await;
        world
    });
    for panic in PANICS.take().unwrap_or_default() {
        world.violated(format_args!("a panic that nobody wished: {panic}"));
    }
    world.end();
    Verdict {
        log: world.log.text(),
        violations: world.violations(),
    }
}

async fn tell(world: &Rc<World>, forecast: Forecast, dice: &Dice) {
    let client = Client::new(world);
    let calm = forecast.is_calm();
    world.keep_a_daemon();
    let mut stories = Vec::new();
    for number in 0..=dice.below(STORIES_MAX) {
        let story = *dice.pick(stories::ALL);
        let teller = Teller {
            client: client.clone(),
            dice: dice.fork(),
            id: format!("s{number}"),
            root: dice.pick::<&str>(&["rootfs", "rootfs", "image"]),
            binds: dice.pick::<&[&str]>(&[&[], &["data", "hosts"], &["hosts", "config", "config"]]),
            calm,
        };
        let begin = Duration::from_millis(dice.below(BEGIN_WITHIN_MS));
        let name = format!("{story:?} s{number}");
        world
            .log
            .say(format_args!("story {name} begins after {begin:?}"));
        let told = spawn_local(async move {
            pass(begin).await;
            teller.tell(story).await;
        });
        stories.push((name, told));
    }
    spawn_local(strike(world.clone(), forecast.blows, dice.fork()));
    let looking = spawn_local(look(client.clone()));

    pass(CALM_AFTER).await;
    world.log.say("calm");
    world.fates.calm_down();
    for (name, told) in stories {
        match timeout(END_MAX, told).await {
            Ok(Ok(())) => world.log.say(format_args!("story {name} is told")),
            Ok(Err(why)) => world.violated(format_args!("{name}: {why}")),
            Err(_) => world.violated(format_args!("{name} does not end")),
        }
    }
    looking.abort();
    pass(REST).await;
    world.check_agreement(&client.ledger);
    tidy_up(&client).await;
    pass(REST).await;
    world.check_empty();
}

/// Somebody lists containers now and then.
async fn look(client: Client) {
    loop {
        pass(LOOK_EVERY).await;
        // A daemon that dies meanwhile answers nothing.
        let _ = client.list().await;
    }
}

/// Everything can be deleted.
async fn tidy_up(client: &Client) {
    let world = &client.world;
    let Ok(listed) = client.list().await else {
        return world.violated("a calm daemon does not list");
    };
    for listed in listed {
        let id = listed.view.spec.id.to_string();
        match timeout(END_MAX, client.delete(&id, Force::Yes)).await {
            Ok(Ok(())) => {}
            Ok(Err(why)) => world.violated(format_args!("{id} cannot be deleted: {why}")),
            Err(_) => world.violated(format_args!("{id} is deleted for ever")),
        }
    }
}
