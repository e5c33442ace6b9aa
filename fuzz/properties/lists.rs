//! What must hold for whatever text is taken for a list of volumes or of sockets: what is read is printed as it was, and
//! read again; what is refused adds nothing.

use runtime_core::listed::{List, Listed, Socket, Volume};
use std::fmt::Debug;

pub fn lists(text: &[u8]) {
    let Ok(text) = std::str::from_utf8(text) else {
        return;
    };
    judge::<Volume>(text);
    judge::<Socket>(text);
}

fn judge<T: Listed + Debug + PartialEq>(text: &str) {
    let mut list = List::<T>::default();
    match list.set(text) {
        Ok(()) => {
            assert_eq!(list.to_string(), text);
            let mut again = List::<T>::default();
            again
                .set(&list.to_string())
                .expect("what was printed is read again");
            assert_eq!(again.entries(), list.entries());
        }
        Err(why) => {
            assert!(list.entries().is_empty(), "{text:?} added something");
            assert!(!why.to_string().is_empty());
        }
    }
}
