//! `docs/closure.md` names the rules as the program does.

// All of this crate is tests.
#![allow(clippy::unwrap_used)]

use std::path::Path;

use seed_image::capture::Rule;

const ALL: [Rule; 10] = [
    Rule::Inputs,
    Rule::BuildInputs,
    Rule::Imports,
    Rule::FixedOutputs,
    Rule::Shells,
    Rule::Derivations,
    Rule::Registered,
    Rule::Realisations,
    Rule::Fetches,
    Rule::Programs,
];

#[test]
fn every_rule_has_its_row() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/closure.md");
    let text = std::fs::read_to_string(path).unwrap();
    let rows: Vec<String> = text
        .lines()
        .filter_map(|line| {
            let mut cells = line.split('|').map(str::trim).skip(1);
            let number: u8 = cells.next()?.parse().ok()?;
            Some(format!("rule {number} ({})", cells.next()?))
        })
        .collect();
    let rules: Vec<String> = ALL.iter().map(ToString::to_string).collect();
    assert_eq!(rows, rules);
}
