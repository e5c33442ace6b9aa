//! The room as its sandbox sees it: the production actor on the fake guest, in paused time.

use actix::prelude::*;
use agent_client::{
    actor::{AgentActor, Surroundings},
    call::Call,
    fake::{FakeAgent, FakeGuest, Trouble},
    port::AgentPort,
};
use runtime_core::{
    agent::{
        self, Address, CreateContainer, GetPids, GuestRootfs, LinkSpec, ListProcesses,
        NewsRecorded, Notice, Open, Parent, RoomGone, Signal, SignalTarget, StartContainer,
    },
    error::{Fault, Kind},
    hypervisor::{Accelerator, HostEndpoint, StdioKind},
    ids::{ContainerNumber, ProcessId},
    kit::Gone,
};
use serde_json::json;
use std::{rc::Rc, time::Duration};
use tokio::{
    task::LocalSet,
    time::{Instant, sleep},
};

/// The sandbox, as far as this room knows it.
#[derive(Default)]
struct Sandbox {
    heard: Vec<(Notice, Instant)>,
    gone: Vec<Gone>,
}

impl Actor for Sandbox {
    type Context = Context<Self>;
}

impl Handler<Notice> for Sandbox {
    type Result = ();
    fn handle(&mut self, notice: Notice, _: &mut Context<Self>) {
        self.heard.push((notice, Instant::now()));
    }
}

impl Handler<RoomGone> for Sandbox {
    type Result = ();
    fn handle(&mut self, RoomGone(how): RoomGone, _: &mut Context<Self>) {
        self.gone.push(how);
    }
}

#[derive(Message)]
#[rtype(result = "(Vec<(Notice, Instant)>, Vec<Gone>)")]
struct TakeHeard;

impl Handler<TakeHeard> for Sandbox {
    type Result = MessageResult<TakeHeard>;
    fn handle(&mut self, _: TakeHeard, _: &mut Context<Self>) -> Self::Result {
        MessageResult((std::mem::take(&mut self.heard), self.gone.clone()))
    }
}

struct House {
    guest: FakeGuest,
    port: Rc<FakeAgent>,
    sandbox: Addr<Sandbox>,
    room: Address,
}

fn house(guest: FakeGuest) -> House {
    let sandbox = Sandbox::default().start();
    let port = Rc::new(FakeAgent::new(guest.clone()));
    let room = build(&guest, &port, &sandbox);
    House {
        guest,
        port,
        sandbox,
        room,
    }
}

fn build(guest: &FakeGuest, port: &Rc<FakeAgent>, sandbox: &Addr<Sandbox>) -> Address {
    AgentActor::open(Surroundings {
        port: port.clone(),
        signs: Rc::new(guest.clone()),
        parent: Parent {
            notices: sandbox.clone().recipient().downgrade(),
            gone: sandbox.clone().recipient().downgrade(),
        },
    })
}

fn open(accelerator: Accelerator) -> Open {
    Open(LinkSpec {
        control: HostEndpoint::Socket("/nowhere".into()),
        accelerator,
        news_recorded: 0,
        stdio: StdioKind::Ports,
    })
}

const ONE: ContainerNumber = ContainerNumber(1);

impl House {
    async fn open(&self) {
        let opened = self
            .room
            .open
            .send(open(Accelerator::Kvm))
            .await
            .expect("the room lives");
        opened.expect("the agent answers");
    }

    async fn run(&self, args: &[&str]) {
        let config = json!({ "process": { "args": args } }).to_string();
        let create = CreateContainer {
            container: ONE,
            config_json: config.into_bytes(),
            rootfs: GuestRootfs::Share("r".to_owned()),
            mounts: Vec::new(),
            hook_programs: Vec::new(),
            disks: Vec::new(),
            devices: Vec::new(),
            bundle: "/bundle".into(),
            stream: None,
            hooks_limit: Duration::ZERO,
        };
        let created = self
            .room
            .create_container
            .send(create)
            .await
            .expect("the room lives");
        created.expect("the guest creates");
        self.start().await.expect("the guest starts");
    }

    async fn start(&self) -> Result<(), Fault> {
        let start = StartContainer {
            container: ONE,
            hooks_limit: Duration::ZERO,
        };
        self.room
            .start_container
            .send(start)
            .await
            .expect("the room lives")
    }

    async fn heard(&self) -> Vec<(Notice, Instant)> {
        self.sandbox
            .send(TakeHeard)
            .await
            .expect("the room lives")
            .0
    }

    async fn exits_heard(&self) -> Vec<u64> {
        let heard = self.heard().await;
        heard
            .into_iter()
            .map(|(notice, _)| match notice {
                Notice::News(news) => news.seq(),
                Notice::Lost { why } => panic!("lost: {why}"),
            })
            .collect()
    }
}

macro_rules! story {
    ($(fn $name:ident() $body:block)*) => {
        $(
            #[tokio::test(flavor = "current_thread", start_paused = true)]
            async fn $name() {
                LocalSet::new().run_until(async $body).await;
            }
        )*
    };
}

story! {
    fn a_guest_that_boots_slowly_is_reached_in_the_end() {
        let house = house(FakeGuest::booting(Duration::from_secs(11)));
        let begun = Instant::now();

        house.open().await;

        // Five seconds of silence would have ended it; it talked.
        assert!(begun.elapsed() >= Duration::from_secs(11));
        assert!(begun.elapsed() < Duration::from_secs(12));
        assert!(house.heard().await.is_empty());
    }

    fn a_guest_that_hangs_in_its_boot_is_given_up_by_one_line() {
        let guest = FakeGuest::booting(Duration::from_secs(3600));
        let house = house(guest.clone());
        sleep(Duration::from_millis(700)).await;
        guest.hang();
        let begun = Instant::now();

        let opened = house.room.open.send(open(Accelerator::Tcg)).await.unwrap();

        let why = opened.unwrap_err();
        assert_eq!(why.to_string(), "no answer from agent in 30 s (tcg)");
        assert_eq!(begun.elapsed().as_secs(), 30);
        assert!(house.heard().await.is_empty());
        let refused = house.room.list.send(ListProcesses).await.unwrap().unwrap_err();
        assert_eq!(refused.kind(), Kind::Denied);
    }

    fn a_vm_that_is_gone_says_why_it_could_not_be_reached() {
        let house = house(FakeGuest::new());
        house.guest.power_off();

        let opened = house.room.open.send(open(Accelerator::Kvm)).await.unwrap();

        let why = opened.unwrap_err().to_string();
        assert!(why.ends_with("connect to guest: refused"), "{why}");
    }

    fn each_call_yields_what_it_promises() {
        let house = house(FakeGuest::new());
        house.open().await;
        house.run(&["httpd"]).await;

        let list = house.room.list.send(ListProcesses).await.unwrap().unwrap();
        let pids = house.room.pids.send(GetPids { container: ONE }).await.unwrap();
        let unknown = GetPids { container: ContainerNumber(9) };
        let unknown = house.room.pids.send(unknown).await.unwrap().unwrap_err();

        assert_eq!(list.len(), 1);
        assert_eq!(pids.unwrap().len(), 1);
        assert_eq!(unknown.kind(), Kind::NotFound);
    }

    fn an_exit_is_told_once_and_forgotten_by_the_guest_when_it_is_on_record() {
        let house = house(FakeGuest::new());
        house.open().await;
        house.run(&["sh", "-c", "exit 7"]).await;
        sleep(Duration::from_secs(60)).await;

        assert_eq!(house.exits_heard().await, [1]);
        assert_eq!(house.guest.unacknowledged().len(), 1);

        house.room.news_recorded.do_send(NewsRecorded { seq: 1 });
        sleep(Duration::from_secs(1)).await;
        assert!(house.guest.unacknowledged().is_empty());
        assert!(house.exits_heard().await.is_empty());
    }

    fn a_link_that_breaks_comes_back_and_tells_what_is_not_on_record() {
        let house = house(FakeGuest::new());
        house.open().await;
        house.run(&["true"]).await;
        sleep(Duration::from_secs(1)).await;
        assert_eq!(house.exits_heard().await, [1]);

        house.guest.cut();
        sleep(Duration::from_secs(1)).await;

        assert_eq!(house.guest.links(), 2);
        assert_eq!(house.exits_heard().await, [1]);
        house.room.list.send(ListProcesses).await.unwrap().unwrap();
    }

    fn a_call_whose_link_breaks_is_unavailable_and_may_be_repeated() {
        for (trouble, carried_out) in [(Trouble::CutBefore, false), (Trouble::CutAfter, true)] {
            let house = house(FakeGuest::new());
            house.open().await;
            house.run(&["httpd"]).await;
            house.guest.trouble(Call::Signal, trouble);
            let signal = || Signal {
                container: ONE,
                target: SignalTarget::Process(ProcessId::Init),
                signal: 9,
                once: None,
            };

            let cut = house.room.signal.send(signal()).await.unwrap().unwrap_err();
            let down = house.room.signal.send(signal()).await.unwrap().unwrap_err();
            sleep(Duration::from_secs(1)).await;
            let again = house.room.signal.send(signal()).await.unwrap();

            assert_eq!(cut.kind(), Kind::Unavailable);
            assert_eq!(down.kind(), Kind::Unavailable);
            assert_eq!(again.is_err(), carried_out, "{again:?}");
            sleep(Duration::from_secs(1)).await;
            assert_eq!(house.exits_heard().await, [1]);
        }
    }

    fn a_call_without_an_answer_ends_at_its_deadline_and_the_link_stays() {
        let house = house(FakeGuest::new());
        house.open().await;
        house.guest.trouble(Call::List, Trouble::Lost);
        let begun = Instant::now();

        let late = house.room.list.send(ListProcesses).await.unwrap().unwrap_err();

        assert_eq!(late.kind(), Kind::Timeout);
        assert_eq!(begun.elapsed().as_secs(), 5);
        assert_eq!(house.guest.links(), 1);
        house.room.list.send(ListProcesses).await.unwrap().unwrap();
    }

    fn hooks_in_the_guest_have_their_time_beside_what_the_call_has() {
        let house = house(FakeGuest::new());
        house.open().await;
        let mut waited = Vec::new();
        for hooks_limit in [Duration::ZERO, Duration::from_secs(3600)] {
            house.guest.trouble(Call::StartContainer, Trouble::Lost);
            let begun = Instant::now();
            let container = ONE;
            let start = StartContainer { container, hooks_limit };
            let late = house.room.start_container.send(start).await.unwrap().unwrap_err();
            assert_eq!(late.kind(), Kind::Timeout);
            waited.push(begun.elapsed().as_secs());
        }

        assert_eq!(waited, [70, 3670]);
    }

    fn a_guest_that_hangs_is_noticed_and_given_up_and_the_sandbox_hears_it() {
        let house = house(FakeGuest::new());
        house.open().await;
        let begun = Instant::now();
        house.guest.hang();
        sleep(Duration::from_secs(60)).await;

        let heard = house.heard().await;
        let [(Notice::Lost { why }, when)] = &heard[..] else {
            panic!("{heard:?}")
        };
        assert_eq!(why.kind(), Kind::Timeout);
        // A poll that is not answered, then patience.
        assert!(*when - begun <= Duration::from_secs(21), "{:?}", *when - begun);
    }

    fn a_guest_that_hangs_for_a_while_loses_nothing() {
        let house = house(FakeGuest::new());
        house.open().await;
        house.run(&["sleep", "20"]).await;
        house.guest.hang();
        sleep(Duration::from_secs(18)).await;
        house.guest.wake();
        sleep(Duration::from_secs(30)).await;

        assert_eq!(house.exits_heard().await, [1]);
        assert_eq!(house.guest.links(), 2);
    }

    fn a_rebuilt_room_dials_anew_and_hears_what_is_not_on_record() {
        let house = house(FakeGuest::new());
        house.open().await;
        house.run(&["true"]).await;
        sleep(Duration::from_secs(1)).await;
        assert_eq!(house.exits_heard().await, [1]);
        let House { guest, port, sandbox, room } = house;
        drop(room);
        sleep(Duration::from_millis(1)).await;

        let room = build(&guest, &port, &sandbox);
        let house = House { guest, port, sandbox, room };
        house.open().await;
        sleep(Duration::from_secs(1)).await;

        assert_eq!(house.exits_heard().await, [1]);
        assert_eq!(house.guest.links(), 2);
    }

    fn a_room_that_is_dropped_hangs_up_and_says_so() {
        let house = house(FakeGuest::new());
        house.open().await;
        let down = house.port.hung_up();
        let House { sandbox, room, .. } = house;

        drop(room);
        down.await;
        sleep(Duration::from_millis(1)).await;

        let (_, gone) = sandbox.send(TakeHeard).await.unwrap();
        assert_eq!(gone, [Gone::Stopped]);
    }

    fn a_second_open_of_a_standing_link_is_already_so() {
        let house = house(FakeGuest::new());

        let (first, second) = tokio::join!(
            house.room.open.send(open(Accelerator::Kvm)),
            house.room.open.send(open(Accelerator::Kvm)),
        );
        let third = house.room.open.send(open(Accelerator::Kvm)).await;

        assert_eq!(first.unwrap(), second.unwrap());
        assert!(third.unwrap().is_ok());
        assert_eq!(house.guest.links(), 1);
    }

    fn refused_dials_cost_a_moment_each() {
        let house = house(FakeGuest::new());
        house.guest.refuse_dials(40);
        let begun = Instant::now();

        house.open().await;

        assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    }
}

/// A port whose calls panic: a bug of ours, which must not take more than the room with it.
#[derive(Clone)]
struct Panicking(FakeAgent);

mod panicking {
    use super::*;
    use agent_client::port::Answer;
    use runtime_core::{agent::*, kit::Work};

    impl AgentPort for Panicking {
        fn dial(&self, link: LinkSpec, deadline: Duration) -> Answer<AgentDetails> {
            self.0.dial(link, deadline)
        }
        fn hung_up(&self) -> Work<()> {
            self.0.hung_up()
        }
        fn hang_up(&self) {
            self.0.hang_up();
        }
        fn create_sandbox(&self, ask: CreateSandbox, deadline: Duration) -> Answer<()> {
            self.0.create_sandbox(ask, deadline)
        }
        fn adopt(&self, ask: Adopt) {
            self.0.adopt(ask);
        }
        fn set_clock(&self, ask: SetClock, deadline: Duration) -> Answer<()> {
            self.0.set_clock(ask, deadline)
        }
        fn create_container(&self, ask: CreateContainer, deadline: Duration) -> Answer<Warnings> {
            self.0.create_container(ask, deadline)
        }
        fn start_container(&self, ask: StartContainer, deadline: Duration) -> Answer<()> {
            self.0.start_container(ask, deadline)
        }
        fn exec(&self, ask: Exec, deadline: Duration) -> Answer<Warnings> {
            self.0.exec(ask, deadline)
        }
        fn signal(&self, ask: Signal, deadline: Duration) -> Answer<()> {
            self.0.signal(ask, deadline)
        }
        fn remove_container(&self, ask: RemoveContainer, deadline: Duration) -> Answer<()> {
            self.0.remove_container(ask, deadline)
        }
        fn remove_empty(&self, ask: RemoveEmpty, deadline: Duration) -> Answer<bool> {
            self.0.remove_empty(ask, deadline)
        }
        fn pause_container(&self, ask: PauseContainer, deadline: Duration) -> Answer<()> {
            self.0.pause_container(ask, deadline)
        }
        fn resume_container(&self, ask: ResumeContainer, deadline: Duration) -> Answer<()> {
            self.0.resume_container(ask, deadline)
        }
        fn update_container(&self, ask: UpdateContainer, deadline: Duration) -> Answer<Warnings> {
            self.0.update_container(ask, deadline)
        }
        fn stats(&self, ask: GetStats, deadline: Duration) -> Answer<ContainerStats> {
            self.0.stats(ask, deadline)
        }
        fn list(&self, _: ListProcesses, _: Duration) -> Answer<Vec<GuestProcess>> {
            Box::pin(async { panic!("a bug of ours") })
        }
        fn pids(&self, ask: GetPids, deadline: Duration) -> Answer<Vec<GuestPid>> {
            self.0.pids(ask, deadline)
        }
        fn next_news(
            &self,
            after: u64,
            wait: Duration,
            deadline: Duration,
        ) -> Answer<Vec<GuestNews>> {
            self.0.next_news(after, wait, deadline)
        }
        fn ack_news(&self, up_to: u64, deadline: Duration) -> Answer<()> {
            self.0.ack_news(up_to, deadline)
        }
    }
}

story! {
    fn a_panic_ends_the_room_alone_and_its_successor_finds_the_line_free() {
        let guest = FakeGuest::new();
        let sandbox = Sandbox::default().start();
        let port = FakeAgent::new(guest.clone());
        let around = Surroundings {
            port: Rc::new(Panicking(port.clone())),
            signs: Rc::new(guest.clone()),
            parent: Parent {
                notices: sandbox.clone().recipient().downgrade(),
                gone: sandbox.clone().recipient().downgrade(),
            },
        };
        let room = AgentActor::open(around);
        room.open.send(open(Accelerator::Kvm)).await.unwrap().unwrap();
        let down = port.hung_up();

        let asked = room.list.send(ListProcesses).await;

        assert!(!matches!(asked, Ok(Ok(_))), "{asked:?}");
        down.await;
        let (_, gone) = sandbox.send(TakeHeard).await.unwrap();
        assert_eq!(gone, [Gone::Panicked]);
        let successor = build(&guest, &Rc::new(port), &sandbox);
        let opened = successor.open.send(open(Accelerator::Kvm)).await.unwrap();
        assert!(opened.is_ok());
    }
}

#[test]
fn the_address_can_be_asked_for_everything_a_sandbox_needs() {
    // A room whose actor lacks one of the messages does not build; this names the bound.
    fn has<A: actix::Actor<Context = Context<A>>>()
    where
        agent::Address: From<Addr<A>>,
    {
    }
    has::<AgentActor>();
}
