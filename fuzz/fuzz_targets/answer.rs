//! cargo +nightly fuzz run answer
#![no_main]

#[path = "../properties/answers.rs"]
mod properties;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| properties::answer(bytes));
