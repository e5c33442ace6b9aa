//! The corpora of what the daemon reads, as plain tests.

#[path = "../../../fuzz/corpora.rs"]
mod corpora;
#[path = "../../../fuzz/properties/bundles.rs"]
mod properties;

#[test]
fn every_config_of_the_corpus_is_judged_and_none_breaks_the_daemon() {
    corpora::each("config", properties::config);
}

#[test]
fn every_process_of_the_corpus_is_judged_and_none_breaks_the_daemon() {
    corpora::each("process", properties::process);
}

#[test]
fn all_limits_of_the_corpus_are_judged_and_none_break_the_daemon() {
    corpora::each("limits", properties::limits);
}
