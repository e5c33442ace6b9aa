//! The kit with a small room around it: order of effects, the line, panics.

use actix::prelude::*;
use runtime_core::{
    error::{Fault, Kind},
    kit::{self, Batch, Gone, Guard, Machine, Room, Shell, Waiter, Work},
    records::{Change, Records, Rows},
};
use std::{cell::RefCell, rc::Rc, time::Duration};
use tokio::{task::LocalSet, time::sleep};

const WRITE: Duration = Duration::from_millis(20);

/// Counts; refuses above two.
#[derive(Debug, Clone, PartialEq, Default)]
struct Counter {
    count: u32,
    burning: Option<Waiter>,
}

#[derive(Debug)]
enum Event {
    Add { waiter: Waiter },
    Burn { waiter: Waiter },
}

#[derive(Debug, PartialEq)]
struct Full;

impl Machine for Counter {
    type Event = Event;
    type World = &'static str;
    type Notice = u32;
    type Answer = Result<u32, &'static str>;
    type Denied = Full;

    fn on(&mut self, event: Event, batch: &mut Batch<Self>) -> Result<(), Full> {
        match event {
            Event::Add { .. } if self.count == 2 => Err(Full),
            Event::Add { waiter } => {
                self.count += 1;
                batch.records.push(Change::Delete {
                    key: self.count.to_string(),
                });
                batch.world.push("world");
                batch.replies.push((waiter, Ok(self.count)));
                batch.announce.push(self.count);
                Ok(())
            }
            Event::Burn { waiter } => {
                self.burning = Some(waiter);
                batch.world.push("burn");
                Ok(())
            }
        }
    }

    fn refuse(Full: Full) -> Self::Answer {
        Err("full")
    }

    fn state_name(&self) -> &'static str {
        "counting"
    }
}

type Log = Rc<RefCell<Vec<String>>>;

struct SlowRecords(Log);

impl Records for SlowRecords {
    fn write(&self, changes: Vec<Change>) -> Work<()> {
        let log = self.0.clone();
        Box::pin(async move {
            sleep(WRITE).await;
            log.borrow_mut().push(format!("record {}", changes.len()));
        })
    }

    fn scan(&self, _: String) -> Work<Result<Rows, Fault>> {
        Box::pin(async { Ok(Rows::new()) })
    }
}

struct CounterActor {
    shell: Shell<Counter>,
    log: Log,
    _guard: Guard,
}

impl Actor for CounterActor {
    type Context = Context<Self>;
}

impl Room for CounterActor {
    type Machine = Counter;

    fn shell(&mut self) -> &mut Shell<Counter> {
        &mut self.shell
    }

    fn records(&self) -> Rc<dyn Records> {
        Rc::new(SlowRecords(self.log.clone()))
    }

    fn touch(&mut self, effect: &'static str, ctx: &mut Context<Self>) {
        self.log.borrow_mut().push(effect.to_owned());
        if effect == "burn" {
            kit::complete(ctx, async { panic!("this work is wrong") });
        }
    }

    fn announce(&mut self, notice: u32, _: &mut Context<Self>) {
        self.log.borrow_mut().push(format!("told {notice}"));
    }
}

runtime_core::room!(CounterActor);

#[derive(Message)]
#[rtype(result = "Result<Result<u32, &'static str>, Fault>")]
enum Command {
    Add,
    Burn,
}

#[derive(Message)]
#[rtype(result = "u32")]
struct GetCount;

impl Handler<Command> for CounterActor {
    type Result = ResponseFuture<Result<Result<u32, &'static str>, Fault>>;

    fn handle(&mut self, command: Command, ctx: &mut Context<Self>) -> Self::Result {
        let event = |waiter| match command {
            Command::Add => Event::Add { waiter },
            Command::Burn => Event::Burn { waiter },
        };
        Box::pin(kit::command(self, event, ctx))
    }
}

impl Handler<GetCount> for CounterActor {
    type Result = u32;

    fn handle(&mut self, _: GetCount, _: &mut Context<Self>) -> u32 {
        self.shell.confirmed().count
    }
}

fn house(tell: impl FnOnce(Gone) + 'static) -> (Addr<CounterActor>, Log) {
    let log = Log::default();
    let actor = CounterActor {
        shell: Shell::new(Counter::default()),
        log: log.clone(),
        _guard: Guard::new(tell),
    };
    (actor.start(), log)
}

#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn effects_come_after_the_record_and_in_order() {
    LocalSet::new()
        .run_until(async {
            let (room, log) = house(|_| {});

            let answer = tokio::task::spawn_local(room.send(Command::Add));
            sleep(WRITE - Duration::from_millis(1)).await;
            assert!(log.borrow().is_empty());
            assert_eq!(room.send(GetCount).await.unwrap(), 0);

            assert_eq!(answer.await.unwrap().unwrap().unwrap(), Ok(1));
            assert_eq!(*log.borrow(), ["record 1", "world", "told 1"]);
            assert_eq!(room.send(GetCount).await.unwrap(), 1);
        })
        .await;
}

#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn what_arrives_during_a_write_waits_in_line_and_a_denial_is_answered() {
    LocalSet::new()
        .run_until(async {
            let (room, log) = house(|_| {});

            let (a, b, c) = tokio::join!(
                room.send(Command::Add),
                room.send(Command::Add),
                room.send(Command::Add)
            );

            assert_eq!(a.unwrap().unwrap(), Ok(1));
            assert_eq!(b.unwrap().unwrap(), Ok(2));
            assert_eq!(c.unwrap().unwrap(), Err("full"));
            assert_eq!(log.borrow().len(), 6);
        })
        .await;
}

#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn work_that_panics_takes_its_actor_down_and_the_parent_hears_of_it() {
    LocalSet::new()
        .run_until(async {
            let heard = Rc::new(RefCell::new(Vec::new()));
            let ear = heard.clone();
            let (room, _) = house(move |gone| ear.borrow_mut().push(gone));

            let answer = room.send(Command::Burn).await.unwrap();

            assert_eq!(answer.unwrap_err().kind(), Kind::Unavailable);
            assert_eq!(*heard.borrow(), [Gone::Panicked]);
            assert!(!room.connected());
        })
        .await;
}
