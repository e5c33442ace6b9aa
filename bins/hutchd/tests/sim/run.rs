//! One seed from an empty host to an empty host, with everything that is checked on the way.

use crate::{
    stories::{self, Story, Teller},
    weather::{CALM_AFTER, Forecast, strike},
    world::{
        Weather, World,
        client::Client,
        dice::Dice,
        fate::{Injected, Trouble},
        pass,
    },
};
use runtime_core::container::Force;
use std::{
    any::Any,
    cell::{Cell, RefCell},
    panic,
    rc::Rc,
    sync::Once,
    time::Duration,
};
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
    judged(async {
        let dice = Dice::new(seed);
        let forecast = Forecast::draw(&dice);
        let world = World::new(dice.throw(), forecast.weather.clone());
        let _tracing = (detail == Detail::Traced).then(|| world.log.trace());
        world.log.say(format_args!("seed {seed}: {forecast:?}"));
        tell(&world, forecast, &dice).await;
        world
    })
}

/// A story alone, and what happens to exactly one call of a port.
#[derive(Debug, Clone, Copy)]
pub struct Interrupted {
    pub story: Story,
    /// Each telling is the same until it is interrupted.
    pub dice: u64,
    pub trouble: Trouble,
    pub at: u64,
}

/// Tells it; and how many calls there were.
pub fn told_interrupted(interrupted: Interrupted, detail: Detail) -> (Verdict, u64) {
    let Interrupted {
        story,
        dice,
        trouble,
        at,
    } = interrupted;
    let calls = Rc::new(Cell::new(0));
    let counted = calls.clone();
    let verdict = judged(async move {
        let dice = Dice::new(dice);
        let weather = Weather {
            troubles: vec![trouble],
            per_mille: 0,
            at: Some(at),
            most: 1,
        };
        let world = World::new(dice.throw(), weather);
        let _tracing = (detail == Detail::Traced).then(|| world.log.trace());
        world.log.say(format_args!("{interrupted:?}"));
        let client = Client::new(&world);
        world.keep_a_daemon();
        let teller = Teller {
            client: client.clone(),
            dice: dice.fork(),
            id: "s0".to_owned(),
            root: "rootfs",
            binds: &[],
            calm: false,
        };
        if timeout(END_MAX, teller.tell(story)).await.is_err() {
            world.violated(format_args!("{story:?} does not end"));
        }
        counted.set(world.fates.calls());
        world.fates.calm_down();
        leave(&world, &client).await;
        world
    });
    (verdict, calls.get())
}

fn judged(story: impl Future<Output = Rc<World>>) -> Verdict {
    collect_panics();
    let runtime = Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    let world = LocalSet::new().block_on(&runtime, story);
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
    leave(world, &client).await;
}

/// It comes to rest, agrees with what is on record, and is emptied.
async fn leave(world: &World, client: &Client) {
    pass(REST).await;
    world.check_agreement(&client.ledger);
    tidy_up(client).await;
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
    for id in client.sandboxes().await.unwrap_or_default() {
        match timeout(END_MAX, client.delete_sandbox(&id, Force::Yes)).await {
            Ok(Ok(())) => {}
            Ok(Err(why)) => world.violated(format_args!("sandbox {id} cannot be deleted: {why}")),
            Err(_) => world.violated(format_args!("sandbox {id} is deleted for ever")),
        }
    }
}
