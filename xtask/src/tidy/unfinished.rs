//! Nothing unfinished lands, and nothing waits by sleeping.

use super::{Finding, source::Source};

/// Tokens that must not follow each other anywhere, and why.
const NEVER: &[(&[&str], &str)] = &[
    (&["todo", "!"], "unfinished code does not land"),
    (&["unimplemented", "!"], "unfinished code does not land"),
    (&["#", "[", "ignore"], "a test that is not run is no test"),
    (
        &["thread", ":", ":", "sleep"],
        "never sleep to wait: look at a level until it holds, or set a timer",
    ),
];
/// A sleep on tokio's paused clock takes no time and races with nothing.
const PAUSED: &str = "start_paused";
const PAUSE: &[&str] = &["time", ":", ":", "pause", "("];

pub fn check(source: &Source) -> Vec<Finding> {
    let never = NEVER.iter().flat_map(|(pattern, why)| {
        source.find(pattern).into_iter().map(move |line| {
            Finding::hard(source.path(), line, format!("{}: {why}", pattern.concat()))
        })
    });
    never.chain(real_sleeps(source)).collect()
}

fn real_sleeps(source: &Source) -> Vec<Finding> {
    let paused =
        source.tokens().iter().any(|token| token.text == PAUSED) || !source.find(PAUSE).is_empty();
    if paused {
        return Vec::new();
    }
    source
        .find(&["sleep", "("])
        .into_iter()
        .filter(|line| source.in_test(*line))
        .map(|line| {
            Finding::hard(
                source.path(),
                line,
                "a test below e2e sleeps on tokio's paused clock only",
            )
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::tests::texts;

    fn lines(path: &str, text: &str) -> Vec<usize> {
        texts(check, path, text)
            .into_iter()
            .map(|(_, line, _)| line)
            .collect()
    }

    #[test]
    fn unfinished_code_and_tests_that_do_not_run_are_found() {
        let text = "fn a() { todo!() }\nfn b() { unimplemented!(\"x\") }\n#[ignore = \"slow\"]\nfn c() {}\n";

        assert_eq!(lines("crates/x/src/a.rs", text), [1, 2, 3]);
    }

    #[test]
    fn a_thread_that_sleeps_is_found_everywhere() {
        let text = "fn a() { std::thread::sleep(D) }\n";

        assert_eq!(lines("crates/x/src/a.rs", text), [1]);
    }

    #[test]
    fn a_test_may_sleep_on_the_paused_clock_only() {
        let test = "async fn a() { tokio::time::sleep(D).await }\n";
        let paused = format!("#[tokio::test(start_paused = true)]\n{test}");

        assert_eq!(lines("crates/x/tests/a.rs", test), [1]);
        assert!(lines("crates/x/tests/a.rs", &paused).is_empty());
        assert!(lines("crates/x/src/a.rs", test).is_empty(), "a timer");
    }
}
