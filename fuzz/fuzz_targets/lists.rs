//! cargo +nightly fuzz run lists
#![no_main]

#[path = "../properties/lists.rs"]
mod properties;

libfuzzer_sys::fuzz_target!(|text: &[u8]| properties::lists(text));
