//! What holds whatever comes, in any order.

use super::*;

/// What may come, in any order, with any operation's name.
fn any_event() -> impl Strategy<Value = Event> {
    let op = (0_u64..40).prop_map(OpId);
    let fault = Just(Fault::new(Kind::Unavailable, "x"));
    let polled = prop_oneof![
        (0_u64..20, 0_u64..4).prop_map(|(after, count)| exits(after + 1..=after + count)),
        fault.clone().prop_map(Err),
    ];
    prop_oneof![
        3 => Just(Event::Open { waiter: Waiter(0), link: spec() }),
        3 => Just(Event::Call { waiter: Waiter(0), call: Call::Exec }),
        1 => (0_u64..30).prop_map(|seq| Event::NewsRecorded { seq }),
        3 => op.clone().prop_map(|op| Event::RetryDue { op }),
        1 => op.clone().prop_map(|op| Event::PatienceDue { op }),
        1 => (op.clone(), 0_u64..3).prop_map(|(op, console_bytes)| Event::PatienceLooked { op, console_bytes }),
        1 => (op.clone(), 0_u64..3).prop_map(|(op, console_bytes)| Event::PatienceNoted { op, console_bytes }),
        1 => op.clone().prop_map(|op| Event::HungUp { op }),
        4 => op.clone().prop_map(|op| dialed(op, Ok(details()))),
        1 => (op.clone(), fault.clone()).prop_map(|(op, why)| dialed(op, Err(why))),
        3 => (op.clone(), polled).prop_map(|(op, outcome)| Event::Polled { op, outcome }),
        2 => op.prop_map(|op| Event::Called { op, outcome: Ok(()) }),
    ]
}

proptest! {
    #[test]
    fn every_command_is_answered_at_most_once_and_nothing_unrecorded_is_acknowledged(
        events in proptest::collection::vec(any_event(), 1..200)
    ) {
        let mut link = Link::new();
        let mut waiting = std::collections::BTreeSet::new();
        let mut issued = 0;
        let mut recorded = 0;
        for mut event in events {
            if let Event::Open { waiter, .. } | Event::Call { waiter, .. } = &mut event {
                issued += 1;
                *waiter = Waiter(issued);
                waiting.insert(*waiter);
            }
            if let Event::NewsRecorded { seq } = event {
                recorded = recorded.max(seq);
            }
            let before = link.clone();
            let mut batch = Batch::default();
            let verdict = link.on(event, &mut batch);
            if verdict.is_err() {
                prop_assert!(batch.is_empty());
                prop_assert_eq!(&link, &before);
                waiting.remove(&Waiter(issued));
            }
            for (waiter, _) in &batch.replies {
                prop_assert!(waiting.remove(waiter), "answered twice, or never asked: {:?}", waiter);
            }
            for effect in &batch.world {
                if let World::Ack { up_to, .. } = effect {
                    prop_assert!(*up_to <= recorded);
                }
            }
            let told = batch.announce.iter().filter_map(|notice| match notice {
                Notice::News(news) => Some(news.seq()),
                Notice::Lost { .. } => None,
            });
            let told: Vec<u64> = told.collect();
            prop_assert!(told.windows(2).all(|pair| pair[0] < pair[1]));
            if link.state_name() == "lost" {
                prop_assert!(waiting.is_empty(), "left waiting for ever: {:?}", waiting);
            }
        }
    }

    #[test]
    fn a_link_always_comes_to_an_end_without_an_agent(console in proptest::collection::vec(any::<u8>(), 0..16)) {
        let mut link = Link::new();
        let op = patience_op(&open(&mut link, 1, spec()));
        let mut looks = 0;
        let mut console = console.into_iter();

        while link.state_name() != "lost" {
            looks += 1;
            prop_assert!(looks <= patience::BUDGETS_MAX);
            let console_bytes = console.next().unwrap_or(0).into();
            drive(&mut link, Event::PatienceLooked { op, console_bytes });
        }
    }
}
