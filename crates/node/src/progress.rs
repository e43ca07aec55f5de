//! How long steps are shown: a bar on a terminal, log lines otherwise.

use std::{
    io::IsTerminal as _,
    sync::{LazyLock, Mutex, PoisonError},
    time::{Duration, Instant},
};

use engine::{
    Readiness,
    models::{Progress, Stage},
};
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use tokio::sync::watch;

use crate::config::value::ByteSize;

/// Without a terminal, a running step is logged this often.
const LOG_INTERVAL: Duration = Duration::from_secs(10);
/// A step that is over sooner than this is not worth a line.
const WORTH_A_LINE: Duration = Duration::from_secs(1);

static BARS: LazyLock<MultiProgress> = LazyLock::new(|| {
    let target = if is_terminal() { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
    MultiProgress::with_draw_target(target)
});

fn is_terminal() -> bool {
    std::io::stderr().is_terminal()
}

/// Runs `write` while no bar is drawn.
pub(crate) fn suspended<T>(write: impl FnOnce() -> T) -> T {
    BARS.suspend(write)
}

/// Shows steps that are counted in bytes (download, digest) or per mille (load), one at a time.
#[derive(Default)]
pub(crate) struct Steps(Mutex<Option<Step>>);

struct Step {
    label: String,
    bar: ProgressBar,
    started: Instant,
    logged: Instant,
    total: u64,
    bytes: bool,
}

impl Steps {
    fn with(&self, change: impl FnOnce(&mut Option<Step>)) {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }

    fn begin(&self, label: &str, total: u64, bytes: bool) {
        let bar = BARS.add(if total == 0 { ProgressBar::new_spinner() } else { ProgressBar::new(total) });
        let template = match (total, bytes) {
            (0, _) => "{spinner} {msg} {bytes} {bytes_per_sec}",
            (_, true) => "{msg} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta}",
            (_, false) => "{msg} {wide_bar} {percent} %",
        };
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        bar.set_message(label.to_owned());
        let now = Instant::now();
        self.with(|step| *step = Some(Step { label: label.to_owned(), bar, started: now, logged: now, total, bytes }));
    }

    /// A step in per mille begins.
    pub(crate) fn start_per_mille(&self, label: &str) {
        self.begin(label, 1000, false);
    }

    /// The step is so far now.
    pub(crate) fn set(&self, position: u64) {
        self.with(|step| {
            if let Some(step) = step {
                step.bar.set_position(position);
                step.log();
            }
        });
    }
}

impl Step {
    fn log(&mut self) {
        if is_terminal() || self.logged.elapsed() < LOG_INTERVAL {
            return;
        }
        self.logged = Instant::now();
        let done = self.bar.position();
        match (self.bytes, self.total) {
            (true, 0) => tracing::info!(done = %ByteSize(done), "{}", self.label),
            (true, total) => tracing::info!(done = %ByteSize(done), total = %ByteSize(total), "{}", self.label),
            (false, total) => tracing::info!(percent = done * 100 / total.max(1), "{}", self.label),
        }
    }
}

impl Progress for Steps {
    fn start(&self, _stage: Stage, label: &str, total_bytes: u64) {
        self.begin(label, total_bytes, true);
    }

    fn inc(&self, bytes: u64) {
        self.with(|step| {
            if let Some(step) = step {
                step.bar.inc(bytes);
                step.log();
            }
        });
    }

    fn finish(&self) {
        self.with(|step| {
            if let Some(step) = step.take() {
                step.bar.finish_and_clear();
                BARS.remove(&step.bar);
                let took = step.started.elapsed();
                if took >= WORTH_A_LINE {
                    tracing::info!(seconds = took.as_secs_f32(), "{}: done", step.label);
                }
            }
        });
    }
}

/// [`Steps`] of a starting node, which `/health/ready` shows, too.
pub(crate) struct Shown {
    steps: Steps,
    readiness: watch::Sender<Readiness>,
    now: Mutex<Position>,
}

#[derive(Debug, Clone, Copy)]
struct Position {
    stage: Stage,
    done_bytes: u64,
    total_bytes: u64,
}

impl Position {
    fn per_mille(self) -> u16 {
        let per_mille = u128::from(self.done_bytes) * 1000 / u128::from(self.total_bytes.max(1));
        if self.total_bytes == 0 { 0 } else { u16::try_from(per_mille.min(1000)).unwrap_or(1000) }
    }
}

impl Shown {
    pub(crate) fn new(readiness: watch::Sender<Readiness>) -> Self {
        let now = Mutex::new(Position { stage: Stage::Digest, done_bytes: 0, total_bytes: 0 });
        Self { steps: Steps::default(), readiness, now }
    }

    /// This is being done now; how far it is, is not known yet.
    pub(crate) fn stage(&self, stage: Stage) {
        self.show(|_| Position { stage, done_bytes: 0, total_bytes: 0 });
    }

    fn show(&self, change: impl FnOnce(Position) -> Position) {
        let mut now = self.now.lock().unwrap_or_else(PoisonError::into_inner);
        *now = change(*now);
        let next = Readiness::Preparing { stage: now.stage, per_mille: now.per_mille() };
        self.readiness.send_if_modified(|shown| {
            let changed = *shown != next;
            *shown = next;
            changed
        });
    }
}

impl Progress for Shown {
    fn start(&self, stage: Stage, label: &str, total_bytes: u64) {
        self.show(|_| Position { stage, done_bytes: 0, total_bytes });
        self.steps.start(stage, label, total_bytes);
    }

    fn inc(&self, bytes: u64) {
        self.show(|now| Position { done_bytes: now.done_bytes.saturating_add(bytes), ..now });
        self.steps.inc(bytes);
    }

    fn finish(&self) {
        self.steps.finish();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shown_is_also_the_readiness() {
        let (sender, receiver) = watch::channel(Readiness::Starting { per_mille: 0 });
        let shown = Shown::new(sender);
        let check = |stage, per_mille| {
            assert_eq!(*receiver.borrow(), Readiness::Preparing { stage, per_mille });
        };
        shown.start(Stage::Download, "x", 2000);
        check(Stage::Download, 0);
        shown.inc(500);
        check(Stage::Download, 250);
        shown.inc(u64::MAX);
        check(Stage::Download, 1000);
        shown.finish();
        shown.start(Stage::Digest, "x", 0);
        shown.inc(7);
        check(Stage::Digest, 0);
        shown.stage(Stage::Convert);
        check(Stage::Convert, 0);
    }
}
