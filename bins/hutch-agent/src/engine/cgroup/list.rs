//! Lists of cpus and of memory nodes, as the kernel writes them: "0-2,5". Pure.

use std::collections::BTreeSet;

/// The kernel takes no more in one write.
const LIST_BYTES_MAX: usize = 4096;
/// The kernel has none with a higher number.
const NUMBER_MAX: u32 = 8191;

/// None: not such a list, or one with more to it than ranges, which the kernel may understand.
pub fn parse(text: &str) -> Option<BTreeSet<u32>> {
    if text.len() > LIST_BYTES_MAX {
        return None;
    }
    let number = |text: &str| text.trim().parse().ok().filter(|one| *one <= NUMBER_MAX);
    let mut all = BTreeSet::new();
    for range in text.trim().split(',') {
        match range.split_once('-') {
            Some((first, last)) => all.extend(number(first)?..=number(last)?),
            None => {
                all.insert(number(range)?);
            }
        }
    }
    Some(all)
}

pub fn show(all: &BTreeSet<u32>) -> String {
    let mut ranges: Vec<(u32, u32)> = Vec::new();
    for one in all {
        match ranges.last_mut() {
            Some((_, last)) if *last + 1 == *one => *last = *one,
            _ => ranges.push((*one, *one)),
        }
    }
    let words = ranges.iter().map(|(first, last)| match first == last {
        true => first.to_string(),
        false => format!("{first}-{last}"),
    });
    words.collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_reads_as_it_is_written() {
        for (text, same) in [
            ("0", "0"),
            ("0-2,5", "0-2,5"),
            ("3,1,2\n", "1-3"),
            (" 0 , 2", "0,2"),
        ] {
            assert_eq!(show(&parse(text).unwrap()), same);
        }
        for none in ["", "a", "1-", "0-9:2/4", "9999999"] {
            assert_eq!(parse(none), None, "{none}");
        }
    }
}
