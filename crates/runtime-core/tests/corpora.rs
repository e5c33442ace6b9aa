//! The corpus of lists, as a plain test.

#[path = "../../../fuzz/corpora.rs"]
mod corpora;
#[path = "../../../fuzz/properties/lists.rs"]
mod properties;

#[test]
fn every_list_of_the_corpus_is_read_and_printed_as_it_was_or_adds_nothing() {
    corpora::each("lists", properties::lists);
}
