//! The table: a pure function from rows, the time and a width to text.

use std::fmt::Write as _;

use jiff::Timestamp;

use super::row::{Attention, Row};
use crate::cli::terminal::{BAD, FAINT, GOOD, HEAD, WORRYING, brief, wrapped};

/// The room that a table has.
#[derive(Clone, Copy, Debug)]
pub(super) struct Room {
    /// Columns; names and advice are made to fit. `None` where nothing has to fit.
    pub(super) width: Option<usize>,
    /// Lines; what does not fit is counted.
    pub(super) height: Option<usize>,
    /// Several namespaces are shown.
    pub(super) namespaces: bool,
}

/// Columns of a lifetime's bar.
const BAR: usize = 8;
/// What advice is indented by.
const INDENT: &str = "    ";
/// Lines of advice where the height is bounded: one that fills the screen hides the others.
const ADVICE_LINES: usize = 3;
/// Columns behind the name: ready, synced, bar and time left, renewal, and the gaps between them.
const BEHIND_NAME: usize = 2 + 7 + 2 + 19 + 2 + BAR + 1 + 7 + 2 + 7;
/// The advice where the resource itself says that all is well, and it is not.
const NOBODY_RENEWS: &str = "Nobody renews it: does the operator run, and does it watch this \
                             namespace? See its pods and their log.";
/// A name is not made shorter than this.
const LEAST_NAME: usize = 12;

/// The whole table. Rows are taken in the order in which they come.
pub(super) fn table(rows: &[Row], now: Timestamp, room: Room) -> String {
    let names: Vec<_> = rows.iter().map(|row| name(row, room)).collect();
    let longest = names.iter().map(|name| name.chars().count()).max();
    let wanted = longest.unwrap_or(0).max(LEAST_NAME);
    let width = match room.width {
        Some(width) => wanted.min(width.saturating_sub(BEHIND_NAME).max(LEAST_NAME)),
        None => wanted,
    };
    let mut text = format!("{HEAD}{}{HEAD:#}\n", summary(rows, now));
    let head = format!(
        "{:width$}  {:7}  {:19}  {:lived$}  {}",
        "NAME",
        "READY",
        "SYNCED",
        "LIFETIME LEFT",
        "RENEWS",
        lived = BAR + 8
    );
    let _ = writeln!(text, "{HEAD}{head}{HEAD:#}");
    let mut lines = 2;
    for (shown, (row, name)) in rows.iter().zip(&names).enumerate() {
        let line = line(row, &shortened(name, width), width, now);
        let advice = advice(row, now, room);
        let more = 1 + advice.lines().count();
        // The last line is kept for the count of those that do not fit.
        if room.height.is_some_and(|height| lines + more >= height) {
            let _ = writeln!(text, "{FAINT}… and {} more{FAINT:#}", rows.len() - shown);
            break;
        }
        lines += more;
        text += &line;
        text += &advice;
    }
    text
}

fn name(row: &Row, room: Room) -> String {
    if room.namespaces {
        format!("{}/{}", row.namespace, row.name)
    } else {
        row.name.clone()
    }
}

/// A name that does not fit loses its middle: its ends tell names apart.
fn shortened(name: &str, width: usize) -> String {
    let letters: Vec<_> = name.chars().collect();
    if letters.len() <= width {
        return name.to_owned();
    }
    let (front, back) = ((width - 1) / 2, width / 2);
    let front: String = letters[..front].iter().collect();
    let back: String = letters[letters.len() - back..].iter().collect();
    format!("{front}…{back}")
}

fn summary(rows: &[Row], now: Timestamp) -> String {
    let count = |attention| {
        let alike = rows.iter().filter(|row| row.attention(now) == attention);
        alike.count()
    };
    let parts = [
        (Attention::NotReady, "not ready"),
        (Attention::Failing, "ready but failing"),
        (Attention::Overdue, "overdue"),
        (Attention::NotVerified, "not accepted by the probe"),
        (Attention::Pending, "pending"),
        (Attention::Suspended, "suspended"),
        (Attention::Well, "well"),
    ];
    let parts = parts.map(|(attention, word)| (count(attention), word));
    let said = parts.iter().filter(|(count, _)| *count > 0);
    let said: Vec<_> = said
        .map(|(count, word)| format!("{count} {word}"))
        .collect();
    let resources = if rows.len() == 1 {
        "resource"
    } else {
        "resources"
    };
    format!("{} {resources}: {}", rows.len(), said.join(", "))
}

fn line(row: &Row, name: &str, width: usize, now: Timestamp) -> String {
    let mood = match row.attention(now) {
        Attention::NotReady => BAD,
        Attention::Failing | Attention::Overdue | Attention::NotVerified => WORRYING,
        Attention::Pending | Attention::Suspended => FAINT,
        Attention::Well => GOOD,
    };
    // The operator may not have said it yet, or may not run.
    let expired = row.expires_at.is_some_and(|at| at <= now);
    let ready = if expired {
        "Expired"
    } else {
        &row.ready.status
    };
    let left = match (row.left(now), row.expires_at) {
        (Some(share), Some(at)) if at > now => {
            format!("{} {:7}", bar(share), brief(at.duration_since(now)))
        }
        (Some(_), Some(at)) => format!("{} -{:6}", bar(0.0), brief(now.duration_since(at))),
        _ => format!("{} {:7}", " ".repeat(BAR), "-"),
    };
    let renews = match row.renewal_time {
        Some(at) if row.synced.status == "True" && at > now => brief(at.duration_since(now)),
        Some(_) if row.synced.status == "True" => "now".to_owned(),
        _ => "-".to_owned(),
    };
    format!(
        "{name:width$}  {mood}{ready:7}  {:19}{mood:#}  {mood}{left}{mood:#}  {renews}\n",
        row.synced.reason
    )
}

fn bar(share: f64) -> String {
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss
    )]
    let full = (share * BAR as f64).ceil() as usize;
    "█".repeat(full.min(BAR)) + &"░".repeat(BAR.saturating_sub(full))
}

/// What went wrong, and what to do, below its row.
fn advice(row: &Row, now: Timestamp, room: Room) -> String {
    let silent = matches!(row.attention(now), Attention::NotReady | Attention::Overdue)
        && row.synced.status == "True";
    let advice = match &row.advice {
        Some(advice) => advice,
        None if silent => NOBODY_RENEWS,
        None => return String::new(),
    };
    let mut sentence = String::new();
    if let Some(failure) = &row.failure {
        let often = match failure.count {
            1 => "once".to_owned(),
            count => format!("{count} times"),
        };
        let next = match failure.retry_time.as_ref().map(|at| at.0) {
            Some(at) if at > now => format!("tried again in {}", brief(at.duration_since(now))),
            Some(_) => "tried again now".to_owned(),
            None => "tried again when something changes".to_owned(),
        };
        sentence = format!("Failed {often}, {next}. ");
    }
    // Control characters of whatever was written into a status end here.
    sentence.extend(advice.chars().map(|c| if c.is_control() { ' ' } else { c }));
    let mut lines = wrapped(
        &sentence,
        room.width.map(|width| width.saturating_sub(INDENT.len())),
    );
    if room.height.is_some() && lines.len() > ADVICE_LINES {
        lines.truncate(ADVICE_LINES);
        if let Some(last) = lines.last_mut() {
            last.pop();
            last.push('…');
        }
    }
    lines.iter().fold(String::new(), |mut text, line| {
        let _ = writeln!(text, "{INDENT}{line}");
        text
    })
}
