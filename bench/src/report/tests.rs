use super::*;
use crate::session::Mark;

fn run(ready: f64, develop: f64, build: f64) -> Run {
    let at = |seconds| Mark { seconds, bytes: 2_000_000 };
    let commands = BTreeMap::from([("compile".to_owned(), 0.5)]);
    Run { ready: at(ready), develop: at(develop), build: at(build), commands, ..Run::default() }
}

fn report() -> Report {
    let machine = Machine {
        date: "2026-01-01 00:00 UTC".into(),
        command: "bench/run".into(),
        processor: "processor".into(),
        cores: 2,
        memory_bytes: 8 << 30,
        kernel: "6.18".into(),
        congestion_control: "cubic".into(),
    };
    let mut section = Section::new(Kind::Gigabit20);
    for (round, seed) in [3.0, 5.0].into_iter().enumerate() {
        let round = u32::try_from(round).unwrap();
        section.add(LOCAL, round, run(0.0, 1.0, 2.0));
        section.add(OURS, round, run(0.5, seed, 6.0));
        section.add("tar", round, run(30.0, 31.0, 33.0));
    }
    section.set_failed((40, 2));
    let figure = |id: &str, ours, other, unit: &str| Figure {
        id: id.into(),
        name: format!("the {id}"),
        ours,
        other,
        unit: unit.into(),
    };
    let figures = vec![
        figure("ready", 0.3, Some(0.1), "s"),
        figure("pack", 10.0, Some(15.0), "s"),
        figure("pack-memory", 200.0, None, "MB"),
    ];
    let workload = Size { name: "medium".into(), store_paths: 1, files: 2, bytes: 3_000_000_000 };
    Report { machine, workload, tmpfs: true, sections: vec![section], figures }
}

#[test]
fn ratios_and_targets_are_of_the_medians() {
    let text = report().markdown("");
    for line in [
        "| native | 0.00 | 1.00 | 0.00 | – | – | 2.00 | 2.0 | 0.0 | 0.50 |",
        "| seed | 0.50 | 4.00 | 3.00 | 1.0 | 1.0 | 6.00 | 2.0 | 0.0 | 0.50 |",
        "| tar | 30.00 | 31.00 | 30.00 | 7.8 | 10.0 | 33.00 | 2.0 | 0.0 | 0.50 |",
        "Of 40 requests to the failing registry 2 failed.",
        "| the ready | 0.30 | 0.10 | s | 3.00 |",
        "| the pack-memory | 200.00 | – | MB | – |",
        "| `develop`, net, faster than tar | 10.00 × | ≥ 2 × | ≥ 12 × | reached, the goal is not |",
        "| `develop`, net, faster than podman | – | ≥ 10 × | ≥ 60 × | not measured |",
        "| mount ready, against a seed of Nix alone | 3.00 × | ≤ 1.5 × | ≤ 1.2 × | **missed** |",
        "| pack, faster than podman push | 1.50 × | ≥ 1 × | ≥ 2 × | reached, the goal is not |",
        "| peak memory of pack | 200.00 MB | ≤ 500 MB | ≤ 250 MB | goal reached |",
    ] {
        assert!(text.lines().any(|written| written == line), "{line}\nis not in\n{text}");
    }
}

#[test]
fn a_small_workload_has_no_targets() {
    let mut report = report();
    assert!(report.markdown("").contains("## Targets"));
    report.workload.name = "small".into();
    assert!(!report.markdown("").contains("## Targets"));
}

#[test]
fn notes_are_kept_to_the_letter() {
    let report = report();
    let notes = "## Notes\n\nA note.\n";
    assert_eq!(report.markdown(notes), format!("{}\n{notes}", report.markdown("")));
}

#[test]
fn the_document_for_programs_has_the_medians_and_the_targets() {
    let document: serde_json::Value = serde_json::from_str(&report().json().unwrap()).unwrap();
    assert_eq!(document["medians"][0]["seed"]["develop"]["seconds"], 4.0);
    assert_eq!(document["sections"][0]["runs"].as_array().unwrap().len(), 6);
    assert_eq!(document["targets"][1]["verdict"], "must");
}
