//! Which functions of a file are tests: those with a test's attribute, and those that a list of tests names.

use super::source::{Source, Token};

/// Macros that take a list of tests: contracts that several drivers keep, actors' stories, cases of the container engine,
/// and the stories of the e2e.
const LISTS: &[&str] = &[
    "cases",
    "channel_contract",
    "contract",
    "on",
    "stories",
    "story",
    "suite",
];
/// What may stand between a function's attributes and its `fn`.
const BEFORE_FN: &[&str] = &["async", "const", "extern", "literal", "pub", "unsafe"];

/// The names of the tests.
pub fn tests(source: &Source) -> Vec<&str> {
    let tokens = source.tokens();
    let mut names: Vec<&str> = (0..tokens.len())
        .filter(|&at| tokens[at].text == "fn" && is_marked(tokens, at))
        .filter_map(|at| tokens.get(at + 1))
        .map(|name| name.text.as_str())
        .collect();
    // Elsewhere such a macro is none of tests.
    if source.is_test() || source.path().starts_with("xtask/src/e2e/stories/") {
        let lists = (0..tokens.len()).filter(|&at| begins_list(tokens, at));
        names.extend(lists.flat_map(|at| listed(&tokens[at..])));
    }
    names
}

/// Whether the `fn` at `at` has a test's attribute: `#[test]`, or one of a runtime with its arguments.
fn is_marked(tokens: &[Token], at: usize) -> bool {
    let mut end = at;
    while let Some(before) = end.checked_sub(1) {
        match tokens[before].text.as_str() {
            // As in `pub(crate)`.
            ")" => end = opening(tokens, before),
            word if BEFORE_FN.contains(&word) => end = before,
            "]" => {
                let open = opening(tokens, before);
                if is_test_attribute(&tokens[open + 1..before]) {
                    return true;
                }
                // Its `#`.
                end = open.saturating_sub(1);
            }
            _ => return false,
        }
    }
    false
}

/// Whether the path that the attribute begins with ends in `test`.
fn is_test_attribute(tokens: &[Token]) -> bool {
    let path = tokens.iter().take_while(|token| token.text != "(");
    path.last().is_some_and(|token| token.text == "test")
}

/// Where what closes at `close` was opened.
fn opening(tokens: &[Token], close: usize) -> usize {
    let mut depth = 0usize;
    for at in (0..=close).rev() {
        match tokens[at].text.as_str() {
            ")" | "]" | "}" => depth += 1,
            "(" | "[" | "{" => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return at;
        }
    }
    0
}

fn begins_list(tokens: &[Token], at: usize) -> bool {
    let text = |at: usize| tokens.get(at).map_or("", |token| token.text.as_str());
    LISTS.contains(&text(at)) && text(at + 1) == "!" && ["(", "[", "{"].contains(&text(at + 2))
}

/// The words of a list, less the bodies of what is written out in it.
fn listed(tokens: &[Token]) -> Vec<&str> {
    let mut words = Vec::new();
    let mut depth = 0usize;
    let mut body: Option<usize> = None;
    // Behind the macro's name and its `!`.
    for token in &tokens[2..] {
        match token.text.as_str() {
            open @ ("(" | "[" | "{") => {
                depth += 1;
                if open == "{" && depth > 1 {
                    body.get_or_insert(depth);
                }
            }
            ")" | "]" | "}" => {
                if body == Some(depth) {
                    body = None;
                }
                depth -= 1;
                if depth == 0 {
                    break;
                }
            }
            word if body.is_none() => words.push(word),
            _ => {}
        }
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(path: &str, text: &str) -> Vec<String> {
        let source = Source::parse(path, text).unwrap();
        tests(&source).into_iter().map(str::to_owned).collect()
    }

    #[test]
    fn a_test_is_known_by_its_attribute() {
        let text = "#[test]\nfn plain() {}\n\
            #[tokio::test(flavor = \"current_thread\")]\n#[allow(x)]\npub(crate) async fn with_a_runtime() {}\n\
            proptest! {\n    /// Why.\n    #[test]\n    fn of_properties(a in 0..3) {}\n}\n\
            #[cfg(test)]\nfn for_tests() {}\n#[test]\nconst A: u8 = 1;\nfn after_another_item() {}\n";

        let names = names("crates/x/src/a.rs", text);

        assert_eq!(names, ["plain", "with_a_runtime", "of_properties"]);
    }

    #[test]
    fn a_test_is_known_by_the_list_that_names_it() {
        let list = "super::cases![one_case, another];\n\
            story! {\n    fn a_story() { helper() }\n}\n\
            macro_rules! all {\n    () => { on!(bench, [of_a_driver]); };\n}\nfn helper() {}\nfn forgotten() {}\n";

        let names = names("crates/x/tests/a.rs", list);

        for name in ["one_case", "another", "a_story", "of_a_driver"] {
            assert!(names.iter().any(|known| known == name), "{name}");
        }
        for name in ["helper", "forgotten"] {
            assert!(!names.iter().any(|known| known == name), "{name}");
        }
    }

    #[test]
    fn a_list_outside_of_tests_is_no_list_of_tests() {
        let list = "stories![run::a_story];\n";

        assert!(names("crates/x/src/a.rs", list).is_empty());
        let told = names("xtask/src/e2e/stories/mod.rs", list);
        assert!(told.contains(&"a_story".to_owned()), "{told:?}");
    }
}
