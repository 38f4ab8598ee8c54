//! One phase of the work, and how its progress is shown.

use std::sync::Mutex;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::{Printer, Style, bytes, seconds, write_err};

/// What ends sooner needs no bar: it would only flicker.
const PATIENCE: Duration = Duration::from_millis(250);

/// Between two drawings of a bar.
const TICK: Duration = Duration::from_millis(100);

/// A phase that is under way. Dropping it without [`Phase::end`] takes its bar away and says nothing.
#[derive(Debug)]
pub(crate) struct Phase {
    printer: Printer,
    name: &'static str,
    began: Instant,
    bar: ProgressBar,
    /// Wakes the thread that waits to show the bar; taken when the phase ends.
    ended: Mutex<Option<mpsc::Sender<()>>>,
}

impl Phase {
    pub(super) fn begin(printer: Printer, name: &'static str) -> Self {
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden());
        bar.set_style(style(false));
        bar.set_prefix(name);
        let ended =
            (printer.shared.style == Style::Terminal && !printer.shared.quiet).then(|| show_later(&bar));
        Self { printer, name, began: Instant::now(), bar, ended: Mutex::new(ended) }
    }

    /// Sets how many bytes there will be, once it is known.
    pub(crate) fn set_total(&self, total: u64) {
        self.bar.set_length(total);
        self.bar.set_style(style(true));
    }

    /// Sets how many bytes there have been.
    pub(crate) fn set_done(&self, done: u64) {
        self.bar.set_position(done);
    }

    /// Counts `more` bytes.
    pub(crate) fn advance(&self, more: u64) {
        self.bar.inc(more);
    }

    /// Ends the phase: takes its bar away and, where nobody watches, prints its line.
    pub(crate) fn end(self) -> Duration {
        let took = self.began.elapsed();
        self.clear();
        let done = self.bar.position();
        let notes: &[_] = if done > 0 { &[("seed.bytes", done)] } else { &[] };
        self.printer.trace().phase(self.name, took, notes);
        match self.printer.shared.style {
            _ if self.printer.shared.quiet => {}
            Style::Json => self.printer.prose_json(&serde_json::json!({
                "level": "info", "phase": self.name, "seconds": took.as_secs_f64(), "bytes": done,
            })),
            Style::Lines if done > 0 => {
                write_err(format_args!("{}: {}, {}\n", self.name, seconds(took), bytes(done)));
            }
            Style::Lines => write_err(format_args!("{}: {}\n", self.name, seconds(took))),
            Style::Terminal => {}
        }
        took
    }

    fn clear(&self) {
        if let Ok(mut ended) = self.ended.lock() {
            ended.take();
        }
        self.bar.finish_and_clear();
    }
}

impl Drop for Phase {
    fn drop(&mut self) {
        self.clear();
    }
}

/// Shows `bar` if nobody drops the sender in time.
fn show_later(bar: &ProgressBar) -> mpsc::Sender<()> {
    let (sender, ended) = mpsc::channel();
    let bar = bar.clone();
    thread::spawn(move || {
        if ended.recv_timeout(PATIENCE) == Err(RecvTimeoutError::Timeout) && !bar.is_finished() {
            bar.set_draw_target(ProgressDrawTarget::stderr());
            bar.enable_steady_tick(TICK);
        }
    });
    sender
}

fn style(total_known: bool) -> ProgressStyle {
    let template = if total_known {
        "{prefix} [{bar:30}] {bytes}/{total_bytes} {bytes_per_sec}"
    } else {
        "{prefix} {spinner} {elapsed}"
    };
    ProgressStyle::with_template(template).expect("the template is a constant").progress_chars("=> ")
}
