//! What must hold for whatever bytes a guest sends in the place of an answer, or of a stream: it is taken or refused, the
//! same each time, and what is taken is within its bounds.

use agent_client::{
    convert,
    error::Malformed,
    kata::{self as stock, Signals},
};
use protobuf::Message;
use protocols::asynchronous::{agent as kata, hutch_agent as wire};
use runtime_core::ids::{EpochMs, ProcessId};
use std::fmt::Debug;
use stream::{Channel, Nonce, Padding, Reader, Resume, StdinFrom, WINDOW};

const NONCE: Nonce = Nonce([7; 16]);
/// Linux's bound of a command line's page, with the ellipsis of what was cut.
const COMMAND_BYTES: usize = 4096 + '…'.len_utf8();
/// What is taken of a table that a stock agent sends.
const STOCK_LINES: usize = 512;
const CODE_MAX: u32 = 255;

/// The first byte says whose place it takes, the second what was heard before.
pub fn answer(bytes: &[u8]) {
    let [kind, after, answer @ ..] = bytes else {
        return;
    };
    let after = u64::from(*after);
    match kind % 7 {
        0 => same(answer, |answer: wire::NextExitsResponse| {
            let news = convert::news(answer, after)?;
            assert!(news.len() <= convert::NEWS_MAX);
            assert!(news.iter().all(|news| news.seq() > after));
            assert!(news.is_sorted_by(|one, next| one.seq() < next.seq()));
            Ok(news)
        }),
        1 => same(answer, convert::processes),
        2 => same(answer, |answer: wire::PidsResponse| {
            let pids = convert::pids(answer)?;
            for pid in &pids {
                assert!(pid.command.len() <= COMMAND_BYTES);
                assert!(!pid.command.contains(char::is_control));
            }
            Ok(pids)
        }),
        3 => same(answer, convert::stats),
        4 => same(answer, |answer: kata::GuestDetailsResponse| {
            let details = convert::details(answer)?;
            assert!(!details.version.contains(char::is_control));
            Ok(details)
        }),
        5 => same(answer, |answer: kata::StatsContainerResponse| {
            let stats = stock::stats(answer, EpochMs(0));
            let counts = [stats.memory.stat.len(), stats.io.len(), stats.hugetlb.len()];
            assert!(
                counts.iter().all(|count| *count <= STOCK_LINES),
                "{counts:?}"
            );
            assert!(
                !stats
                    .memory
                    .stat
                    .keys()
                    .any(|name| name.contains(char::is_control))
            );
            Ok(stats)
        }),
        _ => same(answer, |answer: kata::WaitProcessResponse| {
            let exit = stock::judge(&ProcessId::Init, answer.status, &Signals::default());
            assert!(exit.code <= CODE_MAX, "{}", exit.code);
            assert!(!exit.detail.contains('\n'));
            Ok((exit.code, exit.reason, exit.detail))
        }),
    }
}

fn same<A: Message, T: Debug + PartialEq>(bytes: &[u8], take: impl Fn(A) -> Result<T, Malformed>) {
    let read = || A::parse_from_bytes(bytes).ok().map(&take);
    let (Some(first), Some(again)) = (read(), read()) else {
        return;
    };
    let said = |outcome: Result<T, Malformed>| outcome.map_err(|why| why.to_string());
    let (first, again) = (said(first), said(again));
    assert_eq!(first, again, "the same bytes give the same answer");
    assert_ne!(first, Err(String::new()), "a refusal says why");
}

/// The host's end of a process's stream; the first byte says in what pieces the rest comes.
pub fn stream(bytes: &[u8]) {
    let [piece, bytes @ ..] = bytes else {
        return;
    };
    let mut reader = Reader::new(Resume::Acked, StdinFrom::Next);
    reader.stdin(b"what it would read");
    reader.connected(NONCE, Padding::None);
    for piece in bytes.chunks(usize::from(*piece).max(1)) {
        if reader.feed(piece).is_err() {
            return;
        }
        while let count @ 1.. = reader.outgoing().len() {
            reader.sent(count);
        }
        for channel in [Channel::Stdout, Channel::Stderr] {
            let held = reader.output(channel).len();
            assert!(held <= WINDOW, "{held} bytes are held");
            reader.output_taken(channel, held / 2);
        }
        assert!(reader.stdin_room() <= WINDOW);
    }
}
