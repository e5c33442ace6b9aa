//! The environment of a process.

use std::collections::{BTreeMap, btree_map::Entry};

/// The last value of each variable, where it was named first, as in runc. Programs differ in which of several they take.
pub fn last_of_each(variables: &[String]) -> Vec<String> {
    let mut places = BTreeMap::new();
    let mut last: Vec<String> = Vec::new();
    for variable in variables {
        let name = variable.split('=').next();
        match places.entry(name) {
            Entry::Vacant(place) => {
                place.insert(last.len());
                last.push(variable.clone());
            }
            Entry::Occupied(place) => last[*place.get()].clone_from(variable),
        }
    }
    last
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_value_of_a_variable_stays_where_it_was_named_first() {
        let asked = ["A=1", "PATH=/nowhere", "B=2", "A=3=4", "PATH=/bin", "AB="];

        let env = last_of_each(&asked.map(str::to_owned));

        assert_eq!(env, ["A=3=4", "PATH=/bin", "B=2", "AB="]);
    }
}
