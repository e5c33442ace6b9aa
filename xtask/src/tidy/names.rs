//! Names that say nothing are not used for types.

use super::{Finding, source::Source};

const FORBIDDEN: &[&str] = &[
    "Manager", "Handler", "Inner", "Util", "Utils", "Helper", "Info", "Data",
];
const KEYWORDS: &[&str] = &["struct", "enum", "trait", "union", "type"];

pub fn check(source: &Source) -> Vec<Finding> {
    source
        .tokens()
        .windows(2)
        .filter(|pair| KEYWORDS.contains(&pair[0].text.as_str()))
        .filter_map(|pair| {
            let name = &pair[1].text;
            let word = FORBIDDEN.iter().find(|word| name.ends_with(**word))?;
            Some(Finding::hard(
                source.path(),
                pair[1].line,
                format!("{name}: `{word}` says nothing; name what it is"),
            ))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::tests::texts;

    #[test]
    fn empty_words_at_the_end_of_a_type_are_found() {
        let text = "struct VmManager;\nenum Data {}\ntrait PortHelper {}\nimpl Handler<Open> for Agent {}\n";

        let found = texts(check, "crates/x/src/a.rs", text);

        let lines: Vec<usize> = found.into_iter().map(|(_, line, _)| line).collect();
        assert_eq!(lines, [1, 2, 3], "using a name of others is no finding");
    }
}
