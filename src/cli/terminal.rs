//! How text for people looks: colours and lines that suit the terminal, and none elsewhere unless
//! the environment forces colours (bixense.com/clicolors).

use std::io::IsTerminal as _;

use anstream::{AutoStream, ColorChoice, adapter::strip_str};
use anstyle::{AnsiColor, Style};
use jiff::SignedDuration;
use terminal_size::{Height, Width, terminal_size};
use unicode_width::{UnicodeWidthChar as _, UnicodeWidthStr as _};

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

/// Whether standard output is a terminal on which a table can be drawn again in its place.
pub(super) fn can_redraw() -> bool {
    std::io::stdout().is_terminal() && !is_dumb()
}

/// A dumb terminal knows no escape sequence (terminfo), whatever else the environment says.
fn is_dumb() -> bool {
    std::env::var_os("TERM").is_some_and(|term| term == "dumb")
}

/// The text with its colours, where they are wanted.
pub(super) fn coloured(text: &str) -> String {
    match AutoStream::choice(&std::io::stdout()) {
        ColorChoice::Never => strip_str(text).to_string(),
        _ if is_dumb() => strip_str(text).to_string(),
        _ => text.to_owned(),
    }
}

/// Lines of words, none wider than the width: a word that does not fit in a line is broken.
pub(super) fn wrapped(text: &str, width: Option<usize>) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        let fits =
            |line: &String| width.is_none_or(|width| line.width() + 1 + word.width() <= width);
        match lines.last_mut() {
            Some(line) if fits(line) => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.extend(broken(word, width)),
        }
    }
    lines
}

/// A word in pieces that fit.
fn broken(word: &str, width: Option<usize>) -> Vec<String> {
    let mut pieces = vec![String::new()];
    for letter in word.chars() {
        let fits = |piece: &String| {
            let wide = piece.width() + letter.width().unwrap_or(0);
            width.is_none_or(|width| piece.is_empty() || wide <= width)
        };
        match pieces.last_mut() {
            Some(piece) if fits(piece) => piece.push(letter),
            _ => pieces.push(letter.to_string()),
        }
    }
    pieces
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
        (..1000, ..) => format!("{days}d{hours}h"),
        _ => format!("{days}d"),
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
    fn no_line_is_wider_than_the_width_whatever_its_words_are() {
        let text = "see https://a-host-with-a-long-name.example トークンが無効です now";
        let lines = wrapped(text, Some(12));
        assert!(lines.iter().all(|line| line.width() <= 12), "{lines:?}");
        let joined = lines.concat().replace(' ', "");
        assert_eq!(joined, text.replace(' ', ""));
    }

    #[test]
    fn durations_have_two_units() {
        let cases = [
            (0, "0s"),
            (45, "45s"),
            (750, "12m30s"),
            (3900, "1h05m"),
            (183_600, "2d3h"),
            (86_400 * 36_500 + 3600, "36500d"),
            (-5, "0s"),
        ];
        for (seconds, text) in cases {
            assert_eq!(brief(SignedDuration::from_secs(seconds)), text);
        }
    }
}
