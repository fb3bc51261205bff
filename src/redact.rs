//! Takes secrets out of text that somebody else wrote.

/// Blanks every occurrence of a secret, whatever the case of its letters (percent-encoding has
/// two).
pub(crate) fn blank(text: &str, secret: &str) -> String {
    if secret.is_empty() {
        return text.to_owned();
    }
    let (lower, needle) = (text.to_ascii_lowercase(), secret.to_ascii_lowercase());
    let mut shown = String::with_capacity(text.len());
    let mut from = 0;
    while let Some(at) = lower[from..].find(&needle) {
        shown.push_str(&text[from..from + at]);
        shown.push_str("***");
        from += at + needle.len();
    }
    shown.push_str(&text[from..]);
    shown
}

/// Text fit for one line of a message: nothing that breaks the line, hides in it or turns it round,
/// and not longer than `limit` bytes.
pub(crate) fn one_line(text: &str, limit: usize) -> String {
    let clean = |c: char| if is_shown(c) { c } else { ' ' };
    let mut line: String = text.trim().chars().map(clean).collect();
    if line.len() > limit {
        let end = limit.saturating_sub('…'.len_utf8());
        let end = (0..=end).rev().find(|at| line.is_char_boundary(*at));
        line.truncate(end.unwrap_or(0));
        line.push('…');
    }
    line
}

/// Neither a control character nor one of Unicode's that format: line breaks, marks of direction
/// (Unicode Technical Report 36, "Bidirectional Text Spoofing") and characters without width.
fn is_shown(c: char) -> bool {
    let formats = ['\u{ad}', '\u{61c}', '\u{feff}'];
    let ranges = [
        '\u{200b}'..='\u{200f}',
        '\u{2028}'..='\u{202e}',
        '\u{2060}'..='\u{206f}',
    ];
    !c.is_control() && !formats.contains(&c) && !ranges.iter().any(|range| range.contains(&c))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_in_a_line_hides_breaks_it_or_turns_it_round() {
        let text = "a\u{202e}b\u{200b}c\u{2028}d\u{feff}e\u{2066}f\tg\u{ad}h";
        assert_eq!(one_line(text, 100), "a b c d e f g h");
        assert_eq!(one_line("トークン é ✓", 100), "トークン é ✓");
    }
}
