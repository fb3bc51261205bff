//! Numbers for people.

use jiff::SignedDuration;

/// A report: a title and lines of a name and a value.
pub(crate) struct Report {
    title: String,
    lines: Vec<(String, String)>,
}

impl Report {
    pub(crate) fn new(title: impl Into<String>) -> Self {
        Self {
            title: title.into(),
            lines: Vec::new(),
        }
    }

    pub(crate) fn line(&mut self, name: impl Into<String>, value: impl ToString) {
        self.lines.push((name.into(), value.to_string()));
    }

    #[allow(clippy::print_stdout, reason = "the report is what a soak is run for")]
    pub(crate) fn print(&self) {
        println!("\n{}", self.title);
        for (name, value) in &self.lines {
            println!("{name:<58}{value:>14}");
        }
    }
}

/// Milliseconds as seconds, with three digits.
pub(crate) fn seconds(duration: SignedDuration) -> String {
    format!("{:.3} s", duration.as_secs_f64())
}

/// The value below which this share of sorted values lies; nothing of nothing.
pub(crate) fn share_below(sorted: &[SignedDuration], share: f64) -> SignedDuration {
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "an index of a list of thousands"
    )]
    let index = ((sorted.len() as f64 * share).ceil() as usize).saturating_sub(1);
    sorted.get(index).copied().unwrap_or(SignedDuration::ZERO)
}

/// What percentage a part is of the whole.
#[allow(clippy::cast_precision_loss, reason = "counts of thousands")]
pub(crate) fn share(part: usize, whole: usize) -> f64 {
    100.0 * part as f64 / whole.max(1) as f64
}
