//! Readers are killed and replaced at any byte, and every channel carries what was written.

mod world;

use proptest::prelude::*;
use stream::{Channel, Outputs, PAYLOAD_MAX, Padding, Request, WINDOW, Winsize};
use world::World;

#[derive(Debug, Clone)]
enum Op {
    Output(Channel, usize),
    Stdin(usize),
    TakeStdin(usize),
    TakeOutput(Channel, usize),
    Carry(usize),
    Deliver(usize),
    Signal(u32),
    Resize(u16),
    Cut { lost: usize, arrived: usize },
    Replace { lost: usize, arrived: usize },
    Exit,
}

fn output() -> impl Strategy<Value = Channel> {
    prop_oneof![Just(Channel::Stdout), Just(Channel::Stderr)]
}

/// Mostly the sizes at which something changes.
fn count() -> impl Strategy<Value = usize> {
    prop_oneof![
        3 => 0..64_usize,
        2 => 0..5_000_usize,
        2 => PAYLOAD_MAX - 30..PAYLOAD_MAX + 60,
        1 => WINDOW - 2..WINDOW + 2,
    ]
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => (output(), count()).prop_map(|(channel, count)| Op::Output(channel, count)),
        3 => count().prop_map(Op::Stdin),
        3 => count().prop_map(Op::TakeStdin),
        4 => (output(), count()).prop_map(|(channel, count)| Op::TakeOutput(channel, count)),
        8 => count().prop_map(Op::Carry),
        8 => count().prop_map(Op::Deliver),
        1 => (1..32_u32).prop_map(Op::Signal),
        1 => (1..500_u16).prop_map(Op::Resize),
        2 => (count(), count()).prop_map(|(lost, arrived)| Op::Cut { lost, arrived }),
        1 => (count(), count()).prop_map(|(lost, arrived)| Op::Replace { lost, arrived }),
        1 => Just(Op::Exit),
    ]
}

fn perform(world: &mut World, op: Op) {
    match op {
        Op::Output(channel, count) => world.write_output(channel, count),
        Op::Stdin(count) => world.write_stdin(count),
        Op::TakeStdin(count) => world.take_stdin(count),
        Op::TakeOutput(channel, count) => world.take_output(channel, count),
        Op::Carry(count) => world.carry(count),
        Op::Deliver(count) => world.deliver(count),
        Op::Signal(number) => world.signal(number),
        Op::Resize(rows) => world.resize(Winsize { rows, columns: 80 }),
        Op::Cut { lost, arrived } => world.cut(lost, arrived),
        Op::Replace { lost, arrived } => world.replace(lost, arrived),
        Op::Exit => world.exit(),
    }
}

fn is_subsequence(part: &[u32], whole: &[u32]) -> bool {
    let mut rest = whole.iter();
    part.iter()
        .all(|wanted| rest.any(|number| number == wanted))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn nothing_is_lost_or_repeated_whoever_is_killed(ops in prop::collection::vec(op(), 1..120)) {
        let replaced = ops.iter().any(|op| matches!(op, Op::Replace { .. }));
        let mut world = World::new();
        for op in ops {
            perform(&mut world, op);
        }
        let asked = world.stdin_source;
        while world.stdin.written < asked {
            world.write_stdin(usize::try_from(asked - world.stdin.written).unwrap());
            world.settle();
        }
        world.exit();

        world.settle();

        prop_assert_eq!(world.stdout.taken, world.stdout.written);
        prop_assert_eq!(world.stderr.taken, world.stderr.written);
        prop_assert_eq!(world.stdin.taken, asked);
        prop_assert_eq!(world.exits, 1);
        prop_assert!(world.guest.is_exit_acknowledged());
        prop_assert_eq!(world.size_got, world.size.filter(|_| !replaced).or(world.size_got));
        if replaced {
            prop_assert!(is_subsequence(&world.signals_got, &world.signals_sent));
        } else {
            prop_assert_eq!(&world.signals_got, &world.signals_sent);
        }
    }
}

fn settled() -> World {
    let mut world = World::new();
    world.settle();
    world
}

#[test]
fn a_reader_that_takes_nothing_stops_its_channel_and_no_other() {
    let mut world = settled();
    world.write_output(Channel::Stdout, WINDOW);
    world.carry(usize::MAX);
    assert_eq!(world.guest.room(Channel::Stdout), 0);

    while world.stderr.taken < 10 * WINDOW as u64 {
        world.write_output(Channel::Stderr, WINDOW);
        world.carry(usize::MAX);
        world.deliver(usize::MAX);
        world.take_output(Channel::Stderr, usize::MAX);
    }

    assert_eq!(world.guest.room(Channel::Stdout), 0);
    world.settle();
    assert_eq!(world.guest.room(Channel::Stdout), WINDOW);
}

#[test]
fn an_exit_waits_for_what_was_in_the_pipe_and_not_for_a_child_that_holds_it() {
    let mut world = settled();
    world.written_at_exit = Some((0, 0));
    world.guest.exited(42);
    world.settle();
    assert_eq!(world.reader.exit(), None);

    world.guest.output_dry(Channel::Stderr);
    world.write_output(Channel::Stdout, 1000);
    world.settle();
    assert_eq!(world.reader.exit(), None);
    world.guest.output_dry(Channel::Stdout);
    world.settle();

    assert_eq!(world.reader.exit(), Some(42));
    assert!(!world.reader.output_is_over(Channel::Stdout));
    world.write_output(Channel::Stdout, 10);
    world.settle();
    assert_eq!(world.stdout.taken, 1010);
}

#[test]
fn an_exit_does_not_wait_for_ever_for_a_child_that_writes_without_end() {
    let mut world = settled();
    world.written_at_exit = Some((0, 0));
    world.guest.exited(42);
    world.guest.output_dry(Channel::Stderr);

    for _ in 0..5 {
        world.write_output(Channel::Stdout, WINDOW);
        world.settle();
    }

    assert_eq!(world.reader.exit(), Some(42));
}

#[test]
fn an_exit_does_not_show_before_the_output_was_taken() {
    let mut world = settled();
    world.write_output(Channel::Stdout, 5);
    world.exit();
    world.carry(usize::MAX);
    world.deliver(usize::MAX);
    assert_eq!(world.reader.exit(), None);

    world.take_output(Channel::Stdout, 5);

    assert_eq!(world.reader.exit(), Some(42));
}

#[test]
fn what_came_before_the_vm_died_can_still_be_taken_and_the_exit_shows() {
    let mut world = settled();
    world.write_output(Channel::Stdout, 1000);
    world.exit();
    world.carry(usize::MAX);
    world.deliver(usize::MAX);

    world.reader.disconnected();
    world.take_output(Channel::Stdout, 1000);

    assert_eq!(world.stdout.taken, 1000);
    assert_eq!(world.exits, 1);
}

#[test]
fn stdin_ends_after_its_last_byte_also_over_a_reconnect() {
    let mut world = settled();
    world.write_stdin(100_000);
    world.reader.end_stdin();
    world.carry(40_000);
    world.cut(0, 33_333);
    world.carry(usize::MAX);
    world.deliver(usize::MAX);
    assert!(!world.guest.stdin_is_over());

    world.settle();

    assert_eq!(world.stdin.taken, 100_000);
    assert!(world.guest.stdin_is_over());
}

#[test]
fn a_process_that_closes_its_stdin_ends_the_senders_half() {
    let mut world = settled();
    world.write_stdin(WINDOW);
    world.guest.stdin_closed();

    world.carry(usize::MAX);
    world.deliver(usize::MAX);

    assert!(!world.reader.wants_stdin());
    world.replace(0, 0);
    assert!(world.reader.wants_stdin());
    world.settle();
    assert!(!world.reader.wants_stdin());
}

#[test]
fn an_output_that_nobody_wants_is_closed_in_the_guest_and_the_exit_still_comes() {
    let mut world = settled();
    world.write_output(Channel::Stdout, WINDOW);
    world.carry(usize::MAX);
    world.reader.refuse_output(Channel::Stdout);
    world.carry(usize::MAX);
    world.deliver(usize::MAX);
    assert_eq!(
        world.guest.next_request(),
        Some(Request::CloseOutput(Channel::Stdout))
    );
    assert_eq!(world.guest.output(Channel::Stdout, b"more"), 0);

    world.cut(7, 7);
    world.written_at_exit = Some((0, 0));
    world.guest.exited(42);
    world.guest.output_dry(Channel::Stderr);
    world.settle();

    assert_eq!(world.reader.exit(), Some(42));
    assert_eq!(world.guest.next_request(), None);
}

#[test]
fn a_finished_stream_has_everything_acknowledged() {
    let mut world = settled();
    world.write_output(Channel::Stdout, 9);
    world.guest.output_ended(Channel::Stdout);
    world.guest.output_ended(Channel::Stderr);
    world.exit();
    assert!(!world.guest.is_finished());

    world.settle();

    assert!(world.guest.is_finished());
    assert!(world.reader.is_exit_acknowledged());
    assert!(world.reader.output_is_over(Channel::Stdout));
}

#[test]
fn a_terminal_has_no_stderr() {
    let mut world = World::new();
    world.guest = stream::GuestEnd::new(Outputs::Terminal);
    world.write_output(Channel::Stdout, 3);
    world.settle();

    assert_eq!(world.stdout.taken, 3);
    assert!(world.reader.output_is_over(Channel::Stderr));
}

#[test]
fn a_successor_that_asks_for_forgotten_output_is_told_what_is_gone() {
    let mut world = settled();
    world.write_output(Channel::Stdout, 100);
    world.settle();
    let resume = stream::Resume::At {
        stdout: 40,
        stderr: 0,
    };
    let mut late = stream::Reader::new(resume, stream::StdinFrom::Next);
    late.connected(stream::Nonce([99; 16]), Padding::Full);
    let hello = late.outgoing().to_vec();
    world.guest.feed(&hello).unwrap();

    let answer = world.guest.outgoing().to_vec();

    assert_eq!(
        late.feed(&answer),
        Err(stream::Fault::Gone {
            channel: Channel::Stdout,
            wanted: 40,
            oldest: 100
        })
    );
}
