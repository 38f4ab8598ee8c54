//! What is drawn: the timeline of ranges and waits, and the histogram of waits.

use std::fmt::{self, Write};
use std::time::Duration;

use seed_fuse::activity::{Cause, Event};
use seed_fuse::mount::Report;

use crate::printer::{bytes, seconds};

const WIDTH: f64 = 1080.0;
/// Room for the scale on the left.
const LEFT: f64 = 74.0;
/// Bars of the timeline.
const BINS: usize = 160;
/// Where the bars and the dots of the timeline stand.
const BARS: (f64, f64) = (10.0, 150.0);
const DOTS: (f64, f64) = (172.0, 262.0);
/// Shortest and longest wait that is drawn, in microseconds.
const WAITS: (f64, f64) = (100.0, 10_000_000.0);

/// What came, by cause, over time; and below it each read that waited, by how long.
pub(super) fn timeline(page: &mut String, report: &Report) -> fmt::Result {
    page.write_str(
        "<section><h2>What came, and what had to be waited for</h2>\n<p class=\"legend\"><i class=\"demand\"></i>for a read that \
         waits <i class=\"ahead\"></i>fetched ahead <i class=\"fill\"></i>background fill</p>\n",
    )?;
    let Some((first, last)) = span(&report.events) else {
        return page.write_str("<p class=\"legend\">Nothing had to be fetched.</p></section>\n");
    };
    let length = last - first;
    let x = |time: f64| LEFT + (time - first) / length * (WIDTH - LEFT);
    let bins = bins(&report.events, first, length);
    let bin_seconds = length / BINS as f64 / 1e6;
    let peak = bins.iter().map(|bin| bin.iter().sum::<f64>()).fold(0.0, f64::max) / bin_seconds;
    let top = round_up(peak);
    writeln!(page, "<svg viewBox=\"0 0 {WIDTH} 290\" role=\"img\" aria-label=\"timeline\">")?;
    for part in [0.0, 0.5, 1.0] {
        let y = BARS.1 - part * (BARS.1 - BARS.0);
        line(page, y)?;
        scale(page, y, &format!("{}/s", bytes(whole(top * part))))?;
    }
    let width = (WIDTH - LEFT) / BINS as f64;
    for (n, bin) in bins.iter().enumerate() {
        let mut y = BARS.1;
        for (class, amount) in ["demand", "ahead", "fill"].iter().zip(bin) {
            let height = amount / bin_seconds / top * (BARS.1 - BARS.0);
            if height > 0.0 {
                y -= height;
                let (left, width) = (LEFT + n as f64 * width, (width - 0.8).max(0.5));
                writeln!(
                    page,
                    "<rect class=\"{class}\" x=\"{left:.1}\" y=\"{y:.2}\" width=\"{width:.2}\" height=\"{height:.2}\"/>"
                )?;
            }
        }
    }
    let wait_y = |wait: f64| {
        let part = (wait.clamp(WAITS.0, WAITS.1) / WAITS.0).ln() / (WAITS.1 / WAITS.0).ln();
        DOTS.1 - part * (DOTS.1 - DOTS.0)
    };
    for (wait, text) in [(1e3, "1 ms"), (1e5, "0.1 s"), (1e7, "10 s")] {
        line(page, wait_y(wait))?;
        scale(page, wait_y(wait), text)?;
    }
    for event in &report.events {
        if let Event::Miss { at, wait, .. } = event {
            let (cx, cy) = (x(*at as f64), wait_y(f64::from(*wait)));
            writeln!(page, "<circle class=\"demand\" cx=\"{cx:.1}\" cy=\"{cy:.1}\" r=\"2.6\"/>")?;
        }
    }
    for part in [0.0, 0.25, 0.5, 0.75, 1.0] {
        let time = Duration::from_micros(whole(first + part * length));
        let at = LEFT + part * (WIDTH - LEFT);
        let anchor = if part == 1.0 {
            "end"
        } else if part == 0.0 {
            "start"
        } else {
            "middle"
        };
        writeln!(page, "<text x=\"{at:.0}\" y=\"284\" text-anchor=\"{anchor}\">{}</text>", seconds(time))?;
    }
    page.write_str("</svg></section>\n")
}

/// How many reads waited how long.
pub(super) fn waits(page: &mut String, report: &Report) -> fmt::Result {
    const ROW: f64 = 22.0;
    let most = report.waits.iter().copied().max().unwrap_or(0).max(1);
    let height = ROW * report.waits.len() as f64;
    writeln!(
        page,
        "<section><h2>How long reads waited</h2>\n<svg viewBox=\"0 0 520 {height}\" role=\"img\" aria-label=\"histogram of waits\">"
    )?;
    for (n, count) in report.waits.iter().enumerate() {
        let label = match report.wait_bounds.get(n) {
            Some(bound) => format!("≤ {}", duration(*bound)),
            None => format!("&gt; {}", duration(report.wait_bounds.last().copied().unwrap_or(0))),
        };
        let (y, width) = (n as f64 * ROW, *count as f64 / most as f64 * 380.0);
        writeln!(
            page,
            "<text x=\"66\" y=\"{:.0}\" text-anchor=\"end\">{label}</text>\
             <rect class=\"demand\" x=\"74\" y=\"{:.0}\" width=\"{width:.1}\" height=\"13\" rx=\"2\"/>\
             <text x=\"{:.1}\" y=\"{:.0}\">{}</text>",
            y + 14.0,
            y + 3.0,
            80.0 + width,
            y + 14.0,
            if *count > 0 { count.to_string() } else { String::new() }
        )?;
    }
    page.write_str("</svg></section>\n")
}

/// From the first to the last event, in microseconds; a millisecond at least.
fn span(events: &[Event]) -> Option<(f64, f64)> {
    let ends = events.iter().map(|event| match event {
        Event::Miss { at, wait, .. } => (*at, at + u64::from(*wait)),
        Event::Fetch { at, took, .. } => (*at, at + u64::from(*took)),
    });
    let (first, last) =
        ends.fold((u64::MAX, 0), |(first, last), (begin, end)| (first.min(begin), last.max(end)));
    (first <= last).then(|| (first as f64, last.max(first + 1000) as f64))
}

/// Bytes of each bin, by cause. A range's bytes are spread over the time that it took.
fn bins(events: &[Event], first: f64, length: f64) -> Vec<[f64; 3]> {
    let mut bins = vec![[0.0; 3]; BINS];
    let width = length / BINS as f64;
    for event in events {
        let Event::Fetch { at, took, bytes, cause } = *event else { continue };
        let class = match cause {
            Cause::Demand => 0,
            Cause::Ahead => 1,
            Cause::Fill => 2,
        };
        let (begin, took) = (at as f64 - first, f64::from(took).max(1.0));
        for (n, bin) in bins.iter_mut().enumerate() {
            let (from, to) = (n as f64 * width, (n + 1) as f64 * width);
            let shared = (to.min(begin + took) - from.max(begin)).max(0.0);
            bin[class] += f64::from(bytes) * shared / took;
        }
    }
    bins
}

fn line(page: &mut String, y: f64) -> fmt::Result {
    writeln!(page, "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{WIDTH}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>")
}

fn scale(page: &mut String, y: f64, text: &str) -> fmt::Result {
    writeln!(page, "<text x=\"{:.0}\" y=\"{:.1}\" text-anchor=\"end\">{text}</text>", LEFT - 8.0, y + 4.0)
}

/// The next larger number of bytes that reads well: 1, 2, 4, … of a unit.
fn round_up(value: f64) -> f64 {
    let mut top = 1024.0;
    while top < value {
        top *= 2.0;
    }
    top
}

fn duration(micros: u64) -> String {
    match micros {
        0..1_000 => format!("{micros} µs"),
        1_000..1_000_000 => format!("{} ms", micros as f64 / 1e3),
        _ => format!("{} s", micros as f64 / 1e6),
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a float that is out of range saturates"
)]
fn whole(value: f64) -> u64 {
    value as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_spread_over_their_time() {
        let event = |at, took, bytes, cause| Event::Fetch { at, took, bytes, cause };
        let events = [
            event(1000, 1000, 4000, Cause::Demand),
            event(0, 500, 1000, Cause::Fill),
            event(1999, 1, 7, Cause::Ahead),
        ];
        assert_eq!(span(&events), Some((0.0, 2000.0)));
        let bins = bins(&events, 0.0, 2000.0);
        let sum = |class: usize| bins.iter().map(|bin| bin[class]).sum::<f64>().round();
        assert_eq!([sum(0), sum(1), sum(2)], [4000.0, 7.0, 1000.0]);
        assert_eq!(bins[..BINS / 2].iter().map(|bin| bin[0]).sum::<f64>(), 0.0);
        assert_eq!(span(&[]), None);
    }

    #[test]
    fn scales_read_well() {
        for (value, top) in [(0.0, 1024.0), (1025.0, 2048.0), (90e6, 134_217_728.0)] {
            assert_eq!(round_up(value), top);
        }
        assert_eq!([duration(250), duration(2500), duration(5_000_000)], ["250 µs", "2.5 ms", "5 s"]);
    }
}
