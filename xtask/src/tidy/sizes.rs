//! No room grows beyond what one can read at once. Tests are counted apart: a table may be long.

use super::{Finding, source::Source};

const FILE_SOFT: usize = 300;
const FILE_HARD: usize = 600;
const FUNCTION_SOFT: usize = 40;
const FUNCTION_HARD: usize = 70;

pub fn check(source: &Source) -> Vec<Finding> {
    if source.is_test() {
        return Vec::new();
    }
    let lines = (1..=source.text().lines().count())
        .filter(|line| !source.in_test(*line))
        .count();
    let file = weigh(lines, FILE_SOFT, FILE_HARD).map(|finding| {
        finding(
            source.path(),
            1,
            format!("{lines} lines beside its tests (soft {FILE_SOFT}, hard {FILE_HARD})"),
        )
    });
    let functions = source.functions().into_iter().filter_map(|function| {
        let start = *function.lines.start();
        let length = function.lines.count();
        let finding = weigh(length, FUNCTION_SOFT, FUNCTION_HARD)?;
        (!source.in_test(start)).then(|| {
            finding(
                source.path(),
                start,
                format!(
                    "fn {} has {length} lines (soft {FUNCTION_SOFT}, hard {FUNCTION_HARD})",
                    function.name
                ),
            )
        })
    });
    file.into_iter().chain(functions).collect()
}

fn weigh(size: usize, soft: usize, hard: usize) -> Option<fn(&str, usize, String) -> Finding> {
    if size > hard {
        Some(Finding::hard)
    } else if size > soft {
        Some(Finding::soft)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::{Weight, tests::texts};

    fn function(lines: usize) -> String {
        format!("fn long() {{\n{}}}\n", "    a();\n".repeat(lines - 2))
    }

    fn weights(text: &str) -> Vec<Weight> {
        texts(check, "crates/x/src/a.rs", text)
            .into_iter()
            .map(|(weight, ..)| weight)
            .collect()
    }

    #[test]
    fn a_function_is_noted_above_40_lines_and_refused_above_70() {
        assert_eq!(weights(&function(40)), []);
        assert_eq!(weights(&function(41)), [Weight::Soft]);
        assert_eq!(weights(&function(70)), [Weight::Soft]);
        assert_eq!(weights(&function(71)), [Weight::Hard]);
    }

    #[test]
    fn a_file_is_noted_above_300_lines_and_refused_above_600() {
        assert_eq!(weights(&"\n".repeat(300)), []);
        assert_eq!(weights(&"\n".repeat(301)), [Weight::Soft]);
        assert_eq!(weights(&"\n".repeat(601)), [Weight::Hard]);
    }

    #[test]
    fn tests_may_be_long() {
        let tests = format!("#[cfg(test)]\nmod tests {{\n{}}}\n", function(650));

        assert_eq!(weights(&tests), []);
        assert!(texts(check, "crates/x/tests/a.rs", &function(650)).is_empty());
    }
}
