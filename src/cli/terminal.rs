//! How text for people looks: colours and lines that suit the terminal, and none elsewhere.

use std::io::IsTerminal as _;

use anstream::{AutoStream, ColorChoice, adapter::strip_str};
use anstyle::{AnsiColor, Style};
use jiff::SignedDuration;
use terminal_size::{Height, Width, terminal_size};

use super::CommandError;

pub(super) const HEAD: Style = Style::new().bold();
pub(super) const GOOD: Style = AnsiColor::Green.on_default();
pub(super) const WORRYING: Style = AnsiColor::Yellow.on_default();
pub(super) const BAD: Style = AnsiColor::Red.on_default();
pub(super) const FAINT: Style = Style::new().dimmed();

/// Columns and lines of the terminal that standard output is; elsewhere nothing has to fit.
pub(super) fn size() -> Option<(usize, usize)> {
    let terminal = std::io::stdout().is_terminal();
    let (Width(width), Height(height)) = terminal.then(terminal_size).flatten()?;
    Some((width.into(), height.into()))
}

/// The text with its colours, where they are wanted.
pub(super) fn coloured(text: &str) -> String {
    match AutoStream::choice(&std::io::stdout()) {
        ColorChoice::Never => strip_str(text).to_string(),
        _ => text.to_owned(),
    }
}

/// Lines of words, none longer than the width but where a word is.
pub(super) fn wrapped(text: &str, width: Option<usize>) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        let fits = |line: &String| {
            let length = line.chars().count() + 1 + word.chars().count();
            width.is_none_or(|width| length <= width)
        };
        match lines.last_mut() {
            Some(line) if fits(line) => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

/// A duration in its two largest units: `2d3h`, `1h05m`, `12m30s`, `45s`.
pub(super) fn brief(duration: SignedDuration) -> String {
    let seconds = duration.as_secs().max(0);
    let (days, hours) = (seconds / 86_400, seconds / 3600 % 24);
    let (minutes, rest) = (seconds / 60 % 60, seconds % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{rest}s"),
        (0, 0, _) => format!("{minutes}m{rest:02}s"),
        (0, ..) => format!("{hours}h{minutes:02}m"),
        _ => format!("{days}d{hours}h"),
    }
}

/// A value for programs, in lines for people to read or in one.
pub(super) fn json(value: &impl serde::Serialize, pretty: bool) -> Result<String, CommandError> {
    let written = if pretty {
        serde_json::to_string_pretty(value)
    } else {
        serde_json::to_string(value)
    };
    written.map_err(|error| CommandError::failed(format!("cannot write JSON: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_two_units() {
        let cases = [
            (0, "0s"),
            (45, "45s"),
            (750, "12m30s"),
            (3900, "1h05m"),
            (183_600, "2d3h"),
            (-5, "0s"),
        ];
        for (seconds, text) in cases {
            assert_eq!(brief(SignedDuration::from_secs(seconds)), text);
        }
    }
}
