//! What a hostile guest may answer, and what becomes of it.

use super::*;
use proptest::prelude::*;
use runtime_core::agent::DeviceNumber;

fn good_exit(seq: u64) -> wire::Exit {
    let mut exit = wire::Exit::new();
    exit.seq = seq;
    exit.container_id = "3".to_owned();
    exit.code = 7;
    exit.reason = wire::ExitReason::EXIT_REASON_EXITED.into();
    exit.at_ms = 1_700_000_000_000;
    exit
}

fn answer(exits: Vec<wire::Exit>) -> wire::NextExitsResponse {
    let mut answer = wire::NextExitsResponse::new();
    answer.exits = exits;
    answer
}

fn told(answer: wire::NextExitsResponse, after: u64) -> Vec<GuestExit> {
    let exit = |news| match news {
        GuestNews::Exited(exit) => exit,
        GuestNews::OomKilled(oom) => panic!("{oom:?}"),
    };
    news(answer, after).unwrap().into_iter().map(exit).collect()
}

#[test]
fn kills_for_want_of_memory_stand_between_the_exits_by_their_numbers() {
    let oom = |seq| {
        let mut oom = wire::Oom::new();
        (oom.seq, oom.container_id, oom.at_ms) = (seq, "3".to_owned(), 9);
        oom
    };
    let mut mixed = answer(vec![good_exit(5), good_exit(7)]);
    mixed.ooms = vec![oom(6), oom(8)];
    let mut gap = answer(vec![good_exit(5)]);
    gap.ooms = vec![oom(7)];
    let mut many = answer((1..=200).map(good_exit).collect());
    many.ooms = (201..=257).map(oom).collect();

    let seqs: Vec<u64> = news(mixed, 4).unwrap().iter().map(GuestNews::seq).collect();

    assert_eq!(seqs, [5, 6, 7, 8]);
    assert!(news(gap, 4).is_err());
    assert!(matches!(news(many, 0), Err(Malformed::TooMany { .. })));
}

#[test]
fn exits_that_follow_the_last_one_are_taken() {
    let mut second = good_exit(6);
    second.exec_id = "shell".to_owned();

    let exits = told(answer(vec![good_exit(5), second]), 4);

    assert_eq!(exits[0].seq, 5);
    assert_eq!(exits[0].container, ContainerNumber(3));
    assert_eq!(exits[0].process, ProcessId::Init);
    assert_eq!(exits[0].status.code, 7);
    assert_eq!(exits[0].status.reason, ExitReason::Exited);
    assert_eq!(
        exits[1].process,
        ProcessId::Exec(ExecId::new("shell").unwrap())
    );
}

#[test]
fn exits_with_a_gap_a_repeat_or_a_number_before_are_refused() {
    for (after, seqs) in [
        (4, &[5, 7][..]),
        (4, &[5, 5]),
        (4, &[4]),
        (4, &[6, 5]),
        (u64::MAX, &[0]),
        (0, &[0]),
    ] {
        let given = seqs.iter().map(|seq| good_exit(*seq)).collect();

        let refused = news(answer(given), after);

        let field = "exits";
        assert_eq!(refused, Err(Malformed::Order { field }), "{after} {seqs:?}");
    }
}

#[test]
fn the_first_exit_may_lie_beyond_what_a_daemon_before_us_acknowledged() {
    let exits = told(answer(vec![good_exit(41), good_exit(42)]), 0);

    assert_eq!(exits[0].seq, 41);
}

#[test]
fn an_exit_with_a_foreign_id_code_or_reason_is_refused() {
    type Spoil = fn(&mut wire::Exit);
    let spoils: [Spoil; 9] = [
        |exit| exit.container_id = String::new(),
        |exit| exit.container_id = "03".to_owned(),
        |exit| exit.container_id = "+3".to_owned(),
        |exit| exit.container_id = "4294967296".to_owned(),
        |exit| exit.container_id = "../1".to_owned(),
        |exit| exit.exec_id = "a/b".to_owned(),
        |exit| exit.exec_id = "x".repeat(4 << 20),
        |exit| exit.code = 256,
        |exit| exit.reason = protobuf::EnumOrUnknown::from_i32(9),
    ];
    for (n, spoil) in spoils.iter().enumerate() {
        let mut exit = good_exit(1);
        spoil(&mut exit);

        assert!(news(answer(vec![exit]), 0).is_err(), "spoil {n}");
    }
    let mut unspecified = good_exit(1);
    unspecified.reason = wire::ExitReason::EXIT_REASON_UNSPECIFIED.into();
    assert!(news(answer(vec![unspecified]), 0).is_err());
}

#[test]
fn more_exits_than_were_promised_are_refused() {
    let many = (1..=257).map(good_exit).collect();
    let most = (1..=256).map(good_exit).collect();

    assert!(matches!(
        news(answer(many), 0),
        Err(Malformed::TooMany {
            len: 257,
            max: 256,
            ..
        })
    ));
    assert_eq!(news(answer(most), 0).unwrap().len(), 256);
}

fn listed(entries: &[(&str, &str, i32)]) -> wire::ListResponse {
    let mut answer = wire::ListResponse::new();
    for (container, exec, state) in entries {
        let mut process = wire::ProcessStatus::new();
        process.exec_id = (*exec).to_owned();
        process.state = protobuf::EnumOrUnknown::from_i32(*state);
        let mut status = wire::ContainerStatus::new();
        status.container_id = (*container).to_owned();
        status.processes.push(process);
        answer.containers.push(status);
    }
    answer
}

#[test]
fn a_list_names_each_process_once_with_a_state() {
    let list = processes(listed(&[("1", "", 2), ("1", "a", 3), ("2", "", 1)])).unwrap();

    assert_eq!(list.len(), 3);
    assert_eq!(list[1].state, GuestProcessState::Exited);
    let field = "process";
    assert_eq!(
        processes(listed(&[("1", "", 2), ("1", "", 2)])),
        Err(Malformed::Twice { field })
    );
    // 4, and 0 of an agent that does not know the word.
    for being_made in [0, 4] {
        let list = processes(listed(&[("1", "", being_made)])).unwrap();
        assert_eq!(list[0].state, GuestProcessState::Making);
    }
    assert!(processes(listed(&[("1", "", 5)])).is_err());
    assert!(processes(listed(&[("x", "", 2)])).is_err());
}

#[test]
fn a_list_longer_than_any_sandbox_is_refused() {
    let mut answer = wire::ListResponse::new();
    let mut status = wire::ContainerStatus::new();
    status.container_id = "1".to_owned();
    status.processes = vec![wire::ProcessStatus::new(); PROCESSES_MAX + 1];
    answer.containers.push(status);
    let mut empty = wire::ListResponse::new();
    empty.containers = vec![wire::ContainerStatus::new(); PROCESSES_MAX + 1];

    for answer in [answer, empty] {
        let refused = processes(answer);
        assert!(matches!(refused, Err(Malformed::TooMany { .. })));
    }
}

#[test]
fn a_pid_of_zero_is_refused_and_a_command_is_made_printable() {
    let mut entry = wire::PidEntry::new();
    entry.pid = 12;
    entry.command = "sh\0-c\u{1b}[31m\n".to_owned();
    let mut answer = wire::PidsResponse::new();
    answer.pids.push(entry);

    let pids = self::pids(answer.clone()).unwrap();
    answer.pids[0].pid = 0;

    assert_eq!(pids[0].command, "sh -c [31m");
    assert!(self::pids(answer).is_err());
}

#[test]
fn an_agent_speaks_hutch_only_if_it_says_so_exactly() {
    let mut answer = kata::GuestDetailsResponse::new();
    assert!(matches!(
        details(answer.clone()),
        Err(Malformed::Missing { .. })
    ));
    let mut stock = kata::AgentDetails::new();
    stock.version = "4.1.0\n".to_owned();
    stock.extra_features = vec!["hutch.agent.v10".to_owned(), "confidential".to_owned()];
    answer.agent_details = Some(stock).into();

    let stock = details(answer.clone()).unwrap();
    answer.agent_details.as_mut().unwrap().extra_features[0] = HUTCH_FEATURE.to_owned();
    let ours = details(answer).unwrap();

    assert_eq!(stock.version, "4.1.0");
    assert!(!stock.speaks_hutch);
    assert!(ours.speaks_hutch && !ours.places_execs);
}

#[test]
fn a_device_of_the_host_is_told_with_its_numbers_and_the_disk_for_it() {
    let number = DeviceNumber {
        major: 259,
        minor: 1_048_575,
    };
    let serial = "hutch-r3".to_owned();

    let told = host_device(GuestDevice { serial, number });

    assert_eq!((told.major, told.minor), (259, 1_048_575));
    assert_eq!(told.serial, "hutch-r3");
}

#[test]
fn a_signal_for_all_and_one_for_the_init_are_told_apart() {
    let ask = |target| Signal {
        container: ContainerNumber(1),
        target,
        signal: 15,
        once: None,
    };

    let all = signal(ask(SignalTarget::All));
    let init = signal(ask(SignalTarget::Process(ProcessId::Init)));
    let exec = signal(ask(SignalTarget::Process(ProcessId::Exec(
        ExecId::new("x").unwrap(),
    ))));

    assert!(all.all);
    assert!(!init.all && init.exec_id.is_empty());
    assert!(!exec.all && exec.exec_id == "x");
}

proptest! {
    #[test]
    fn no_answer_of_a_guest_makes_us_panic(bytes in proptest::collection::vec(any::<u8>(), 0..512), after: u64) {
        use protobuf::Message;
        if let Ok(answer) = wire::NextExitsResponse::parse_from_bytes(&bytes) {
            let _ = news(answer, after);
        }
        if let Ok(answer) = wire::ListResponse::parse_from_bytes(&bytes) {
            let _ = processes(answer);
        }
        if let Ok(answer) = wire::PidsResponse::parse_from_bytes(&bytes) {
            let _ = pids(answer);
        }
        if let Ok(answer) = kata::GuestDetailsResponse::parse_from_bytes(&bytes) {
            let _ = details(answer);
        }
    }

    #[test]
    fn printable_text_is_bounded_and_has_no_control_characters(text: String, max in 0_usize..64) {
        let line = printable(&text, max);

        prop_assert!(line.len() <= max + '…'.len_utf8());
        prop_assert!(!line.contains(char::is_control));
    }
}

#[test]
fn warnings_of_a_hostile_guest_are_few_and_short_and_move_no_cursor() {
    let flood = vec!["a\u{1b}[2J\nb".repeat(WARNING_BYTES_MAX); 10 * WARNINGS_MAX];

    let told = warnings(flood);

    assert_eq!(told.len(), WARNINGS_MAX);
    for line in told {
        assert!(line.len() <= WARNING_BYTES_MAX + '…'.len_utf8(), "{line}");
        assert!(!line.contains(char::is_control), "{line}");
    }
}
