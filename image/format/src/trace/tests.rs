use std::path::Path;

use proptest::prelude::*;

use super::*;

fn sample() -> Trace {
    let touched = [
        (7, 0),
        (8, 3),
        (9, 14),
        (1000, 14),
        (1001, 15),
        (3, 20),
        (4, 19),
        (16_777_215, 70_000),
        (0, 70_000),
    ];
    Trace::of(Digest::of(b"seed"), "develop devShells.x86_64-linux.default".into(), 123_456, &touched)
}

fn packed(body: &[u8]) -> Vec<u8> {
    zstd::bulk::compress(body, 1).unwrap()
}

fn body(trace: &Trace) -> Vec<u8> {
    decompress(&trace.to_bytes().unwrap()).unwrap()
}

/// The body of a trace for target "t" with this tail: the count of runs, and the runs.
fn with_runs(tail: &[u8]) -> Vec<u8> {
    [&MAGIC[..], &[1; 32], &[0, 1, b't'], tail].concat()
}

#[test]
fn touched_chunks_become_runs() {
    let runs: Vec<_> = sample().runs.iter().map(|run| (run.first, run.len, run.at_ms)).collect();
    let expected =
        [(7, 2, 0), (9, 1, 14), (1000, 2, 14), (3, 2, 20), (16_777_215, 1, 70_000), (0, 1, 70_000)];
    assert_eq!(runs, expected);
    assert_eq!(sample().chunk_count(), 9);
    assert_eq!(sample().chunks().collect::<Vec<_>>(), [7, 8, 9, 1000, 1001, 3, 4, 16_777_215, 0]);
}

/// What is written down is read for as long as there are seeds of this version.
#[test]
fn the_bytes_are_golden() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus/trace/golden");
    let bytes = sample().to_bytes().unwrap();
    if std::env::var_os("SEED_BLESS").is_some_and(|value| value == "1") {
        std::fs::write(&path, &bytes).unwrap();
    }
    let golden = std::fs::read(&path).unwrap_or_default();
    assert_eq!(
        Trace::from_bytes(&golden).ok(),
        Some(sample()),
        "the trace of {} reads otherwise",
        path.display()
    );
    assert_eq!(
        decompress(&golden).unwrap(),
        body(&sample()),
        "the format of traces has changed; if that is meant, raise its version and run this test with SEED_BLESS=1"
    );
}

/// The sizes that are promised: a development shell that reads 1,200 files here and there.
#[test]
fn a_usual_trace_has_a_few_kilobytes() {
    let mut at = 0;
    let touched: Vec<_> = (0..1200u32)
        .map(|n| {
            at += n.wrapping_mul(2_654_435_761) % 3;
            // Files in a hundred directories, each of which is read in an order of its own.
            ((n / 12) * 700 + n.wrapping_mul(2_654_435_761) % 97, at)
        })
        .collect();
    let bytes = Trace::of(Digest::of(b""), "build x".into(), 0, &touched).to_bytes().unwrap();
    assert!(bytes.len() < 5000, "{} bytes", bytes.len());
}

#[test]
fn malformed_traces_are_refused() {
    let good = body(&sample());
    let end = |cut: usize| good[..good.len() - cut].to_vec();
    let long_target = [&MAGIC[..], &[1; 32], &[0, 0x81, 8], &[b'a'; 1025], &[0]].concat();
    type Is = fn(&TraceError) -> bool;
    let cases: Vec<(&str, Vec<u8>, Is)> = vec![
        ("nothing", vec![], |e| matches!(e, TraceError::Magic)),
        ("another magic", b"SEEDTRC2".to_vec(), |e| matches!(e, TraceError::Magic)),
        ("no seed", MAGIC.to_vec(), |e| matches!(e, TraceError::Length)),
        ("cut", end(1), |e| matches!(e, TraceError::Length | TraceError::Number)),
        ("more behind", [&good[..], &[0]].concat(), |e| matches!(e, TraceError::Length)),
        ("no target", [&MAGIC[..], &[1; 32], &[0, 0, 0]].concat(), |e| matches!(e, TraceError::Target)),
        ("a long target", long_target, |e| matches!(e, TraceError::Target)),
        ("a target beyond the end", [&MAGIC[..], &[1; 32], &[0, 9, b't']].concat(), |e| {
            matches!(e, TraceError::Length)
        }),
        ("a target in no text", [&MAGIC[..], &[1; 32], &[0, 1, 0xff, 0]].concat(), |e| {
            matches!(e, TraceError::Target)
        }),
        ("a target with a newline", [&MAGIC[..], &[1; 32], &[0, 1, b'\n', 0]].concat(), |e| {
            matches!(e, TraceError::Target)
        }),
        ("a long form of a number", with_runs(&[0x80, 0]), |e| matches!(e, TraceError::Number)),
        ("a number of 65 bits", with_runs(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2]), |e| {
            matches!(e, TraceError::Number)
        }),
        ("a number without end", with_runs(&[0xff; 11]), |e| matches!(e, TraceError::Number)),
        ("too many runs", with_runs(&[0x81, 0x80, 0x40]), |e| matches!(e, TraceError::TooMany)),
        ("fewer runs than counted", with_runs(&[2, 0, 0, 0]), |e| matches!(e, TraceError::Length)),
        ("a chunk below 0", with_runs(&[1, 1, 0, 0]), |e| matches!(e, TraceError::Run)),
        ("a chunk beyond all", with_runs(&[1, 0x80, 0x80, 0x80, 0x10, 0, 0]), |e| {
            matches!(e, TraceError::Run)
        }),
        ("a run beyond all", with_runs(&[1, 0, 0x80, 0x80, 0x80, 8, 0]), |e| matches!(e, TraceError::Run)),
        (
            "a run without end",
            with_runs(&[1, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1, 0]),
            |e| matches!(e, TraceError::Run),
        ),
        ("a time without end", with_runs(&[2, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xf, 0, 0, 1]), |e| {
            matches!(e, TraceError::Number)
        }),
        (
            "more chunks than there can be",
            with_runs(&[&[2][..], &[0, 0xff, 0xff, 0xff, 7, 0], &[0xff, 0xff, 0xff, 0xf, 0, 0]].concat()),
            |e| matches!(e, TraceError::TooMany),
        ),
    ];
    for (name, body, is) in cases {
        let error = Trace::from_bytes(&packed(&body)).expect_err(name);
        assert!(is(&error), "{name}: {error:?}");
    }
    let error = Trace::from_bytes(b"no zstd").unwrap_err();
    assert!(matches!(error, TraceError::Zstd(_)), "{error:?}");
    let error = Trace::from_bytes(&vec![0; MAX_TRACE_LEN + 1]).unwrap_err();
    assert!(matches!(error, TraceError::TooLong(MAX_TRACE_LEN)), "{error:?}");
    let bomb = zstd::encode_all(std::io::repeat(0).take(1 << 26), 1).unwrap();
    let error = Trace::from_bytes(&bomb).unwrap_err();
    assert!(matches!(error, TraceError::TooLong(MAX_BODY_LEN)), "{error:?}");
}

#[test]
fn what_cannot_be_read_is_not_written() {
    let run = |first, len, at_ms| Run { first, len, at_ms };
    for (target, runs) in [
        ("", vec![]),
        ("a\u{7}", vec![]),
        ("t", vec![run(0, 0, 0)]),
        ("t", vec![run(u32::MAX, 1, 0)]),
        ("t", vec![run(1, 1, 5), run(1, 1, 4)]),
        ("t", vec![run(0, 1, 0); MAX_RUNS + 1]),
    ] {
        let trace = Trace { seed: Digest::of(b""), target: target.into(), bytes: 0, runs };
        assert!(trace.to_bytes().is_err(), "{target:?}");
    }
}

proptest! {
    #[test]
    fn traces_round_trip(
        bytes: u64,
        target in "[a-zé .#]{1,40}",
        touched in prop::collection::vec((0..MAX_CHUNKS, 0u32..100_000), 0..300),
    ) {
        let trace = Trace::of(Digest::of(b"seed"), target, bytes, &touched);
        let chunks: Vec<_> = trace.chunks().collect();
        prop_assert_eq!(chunks, touched.iter().map(|(chunk, _)| *chunk).collect::<Vec<_>>());
        prop_assert_eq!(Trace::from_bytes(&trace.to_bytes().unwrap()).unwrap(), trace);
    }

    #[test]
    fn any_bytes_are_read_or_refused(tail in prop::collection::vec(any::<u8>(), 0..200)) {
        let written = with_runs(&tail);
        if let Ok(trace) = Trace::from_bytes(&packed(&written)) {
            prop_assert_eq!(body(&trace), written);
        }
        let _ = Trace::from_bytes(&tail);
    }
}

#[test]
fn each_chunk_of_a_bundle_comes_once() {
    let trace =
        Trace::of(Digest::of(b""), "t".into(), 0, &[(5, 0), (6, 0), (2, 1), (5, 2), (6, 3), (7, 3), (70, 4)]);
    assert_eq!(trace.distinct_chunks(1000), [5, 6, 2, 7, 70]);
    assert_eq!(trace.distinct_chunks(7), [5, 6, 2]);
    assert_eq!(trace.distinct_chunks(0), [0u32; 0]);
}
