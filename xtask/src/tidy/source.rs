//! A Rust file as tokens with their lines, so that rules see neither comments nor the insides of strings.

use anyhow::{Result, anyhow};
use proc_macro2::{Delimiter, TokenStream, TokenTree};
use std::ops::RangeInclusive;

/// House style bows to better code that says why: `// tidy: ` and the reason.
const EXCUSE: &str = "// tidy: ";
/// Shorter is no reason.
const REASON_MIN: usize = 20;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    pub text: String,
    pub line: usize,
}

/// A function from its `fn` to its closing brace.
#[derive(Debug, PartialEq, Eq)]
pub struct Function {
    pub name: String,
    pub lines: RangeInclusive<usize>,
}

pub struct Source {
    path: String,
    text: String,
    tokens: Vec<Token>,
    /// Items under `#[cfg(test)]`.
    test_items: Vec<RangeInclusive<usize>>,
}

impl Source {
    pub fn parse(path: &str, text: &str) -> Result<Self> {
        let stream: TokenStream = text
            .parse()
            .map_err(|error| anyhow!("{path}: not Rust: {error}"))?;
        let mut tokens = Vec::new();
        flatten(stream, &mut tokens);
        let test_items = test_items(&tokens);
        Ok(Self {
            path: path.to_owned(),
            text: text.to_owned(),
            tokens,
            test_items,
        })
    }

    pub fn path(&self) -> &str {
        &self.path
    }

    pub fn text(&self) -> &str {
        &self.text
    }

    pub fn tokens(&self) -> &[Token] {
        &self.tokens
    }

    /// Whether the whole file is a test, or a program for tests.
    pub fn is_test(&self) -> bool {
        let mut parts = self.path.split('/');
        parts.any(|part| {
            ["benches", "examples", "tests", "tests.rs"].contains(&part)
                || part.ends_with("_tests.rs")
        })
    }

    /// Whether the line, or the comment above it, says why a rule is left aside there.
    pub fn is_excused(&self, line: usize) -> bool {
        let mut lines = self
            .text
            .lines()
            .take(line)
            .collect::<Vec<_>>()
            .into_iter()
            .rev();
        let here = lines.next();
        let above = lines.take_while(|text| text.trim_start().starts_with("//"));
        here.into_iter().chain(above).any(|text| {
            text.split_once(EXCUSE)
                .is_some_and(|(_, reason)| reason.len() >= REASON_MIN)
        })
    }

    /// Whether this line belongs to tests.
    pub fn in_test(&self, line: usize) -> bool {
        self.is_test() || self.test_items.iter().any(|item| item.contains(&line))
    }

    /// The lines where these tokens follow each other.
    pub fn find(&self, pattern: &[&str]) -> Vec<usize> {
        self.tokens
            .windows(pattern.len())
            .filter(|window| {
                window
                    .iter()
                    .zip(pattern)
                    .all(|(token, text)| token.text == *text)
            })
            .map(|window| window[0].line)
            .collect()
    }

    pub fn functions(&self) -> Vec<Function> {
        (0..self.tokens.len())
            .filter(|&at| self.tokens[at].text == "fn")
            .filter_map(|at| {
                let name = self.tokens.get(at + 1)?;
                // `fn(u8)` is a type.
                if !name
                    .text
                    .starts_with(|c: char| c == '_' || c.is_alphabetic())
                {
                    return None;
                }
                let end = item_end(&self.tokens, at)?;
                (self.tokens[end].text == "}").then(|| Function {
                    name: name.text.clone(),
                    lines: self.tokens[at].line..=self.tokens[end].line,
                })
            })
            .collect()
    }
}

fn flatten(stream: TokenStream, tokens: &mut Vec<Token>) {
    let push = |text: String, line: usize, tokens: &mut Vec<Token>| {
        tokens.push(Token { text, line });
    };
    for tree in stream {
        match tree {
            TokenTree::Group(group) => {
                let (open, close) = match group.delimiter() {
                    Delimiter::Parenthesis => ("(", ")"),
                    Delimiter::Brace => ("{", "}"),
                    Delimiter::Bracket => ("[", "]"),
                    Delimiter::None => ("", ""),
                };
                push(open.into(), group.span_open().start().line, tokens);
                flatten(group.stream(), tokens);
                push(close.into(), group.span_close().end().line, tokens);
            }
            // Long pieces of text are of no use to a rule.
            TokenTree::Literal(literal) => {
                push("literal".into(), literal.span().start().line, tokens);
            }
            other => push(other.to_string(), other.span().start().line, tokens),
        }
    }
}

/// Where the item that begins at `at` ends: its closing brace, or its semicolon.
fn item_end(tokens: &[Token], at: usize) -> Option<usize> {
    let mut depth = 0usize;
    for (index, token) in tokens.iter().enumerate().skip(at) {
        match token.text.as_str() {
            "(" | "[" | "{" => depth += 1,
            ")" | "]" | "}" => {
                // The item's container ends first: there was none.
                depth = depth.checked_sub(1)?;
                if depth == 0 && token.text == "}" {
                    return Some(index);
                }
            }
            ";" if depth == 0 => return Some(index),
            _ => {}
        }
    }
    None
}

fn test_items(tokens: &[Token]) -> Vec<RangeInclusive<usize>> {
    let texts: Vec<&str> = tokens.iter().map(|token| token.text.as_str()).collect();
    texts
        .windows(6)
        .enumerate()
        .filter(|(_, window)| {
            matches!(
                window,
                ["#", "[", "cfg", "(", "test", ")" | ","]
                    | ["cfg", "(", "all" | "any", "(", "test", _]
            )
        })
        .filter_map(|(at, _)| Some(tokens[at].line..=tokens[item_end(tokens, at)?].line))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(text: &str) -> Source {
        Source::parse("crates/x/src/a.rs", text).unwrap()
    }

    #[test]
    fn a_function_reaches_from_its_name_to_its_closing_brace() {
        let source = source(
            "struct A { f: fn(u8) }\nimpl A {\n    fn long(\n        self,\n    ) -> [u8; 2] {\n        [0; 2]\n    }\n}\n\
             trait T {\n    fn none();\n}\n",
        );

        assert_eq!(
            source.functions(),
            [Function {
                name: "long".into(),
                lines: 3..=7
            }]
        );
    }

    #[test]
    fn words_in_comments_and_strings_are_not_code() {
        let source = source("// todo!()\n/// todo!()\nfn a() { let _ = \"todo!()\"; }\n");

        assert!(source.find(&["todo", "!"]).is_empty());
    }

    #[test]
    fn code_inside_macros_is_seen() {
        let source = source("fn a() {\n    select! {\n        _ = x => todo!(),\n    }\n}\n");

        assert_eq!(source.find(&["todo", "!"]), [3]);
    }

    #[test]
    fn a_test_module_is_told_from_what_stands_around_it() {
        let source = source(
            "fn a() {}\n#[cfg(test)]\nuse x::{y};\nfn b() {}\n#[cfg(test)]\nmod tests {\n    fn c() {}\n}\nfn d() {}\n",
        );

        let tests: Vec<usize> = (1..=9).filter(|line| source.in_test(*line)).collect();
        assert_eq!(tests, [2, 3, 5, 6, 7, 8]);
    }

    #[test]
    fn a_reason_beside_the_code_excuses_its_line_alone() {
        let source = source(
            "fn a() {\n    // tidy: the kernel gives no event for this\n    // and so on\n    b();\n    c();\n    d(); // tidy: because\n}\n",
        );

        assert!(source.is_excused(4));
        assert!(!source.is_excused(5));
        assert!(!source.is_excused(6), "no reason");
    }

    #[test]
    fn files_below_tests_are_tests() {
        assert!(
            Source::parse("crates/x/tests/contract.rs", "")
                .unwrap()
                .is_test()
        );
        assert!(
            Source::parse("crates/x/src/machine_tests.rs", "")
                .unwrap()
                .is_test()
        );
        assert!(!source("").is_test());
    }
}
