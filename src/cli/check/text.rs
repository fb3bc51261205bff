//! What a check has found, as people read it. Pure.

use std::fmt::Write as _;

use anstyle::Style;

use super::report::{Report, Step};
use crate::cli::terminal::{BAD, GOOD, wrapped};

/// Columns of a step's name.
const NAME: usize = 10;
/// Columns before what came of a step: the mark, the name, and the gaps behind them.
const BEFORE: usize = 1 + 1 + NAME + 2;

/// One step.
pub(super) fn step(step: &Step, width: Option<usize>) -> String {
    let (mark, mood) = if step.ok { ("✓", GOOD) } else { ("✗", BAD) };
    let begin = format!("{mood}{mark}{mood:#} {:NAME$}  ", step.step);
    block(&begin, BEFORE, &step.detail, width, Style::new())
}

/// What it all came to.
pub(super) fn ending(report: &Report, width: Option<usize>) -> String {
    let mood = if report.ok { GOOD } else { BAD };
    let mut text = "\n".to_owned();
    text += &block("", 0, &report.message, width, mood.bold());
    match report.causes.as_slice() {
        [] => {}
        [only] => text += &block("", 0, &only.explanation, width, Style::new()),
        several => {
            text += "Check in this order:\n";
            for (index, cause) in several.iter().enumerate() {
                let begin = format!("{:3}. ", index + 1);
                text += &block(&begin, begin.len(), &cause.explanation, width, Style::new());
            }
        }
    }
    if let Some(see_also) = &report.see_also {
        text += &block("", 0, see_also, width, Style::new());
    }
    if let Some(token) = &report.token {
        let _ = writeln!(text, "\n{token}");
    }
    text
}

/// Wrapped text behind a beginning, each further line indented as far.
fn block(begin: &str, indent: usize, text: &str, width: Option<usize>, style: Style) -> String {
    let lines = wrapped(text, width.map(|width| width.saturating_sub(indent)));
    let mut block = begin.to_owned();
    for (index, line) in lines.iter().enumerate() {
        if index > 0 {
            let _ = write!(block, "{:indent$}", "");
        }
        let _ = writeln!(block, "{style}{line}{style:#}");
    }
    block
}
