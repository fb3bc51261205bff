//! Takes secrets out of text that somebody else wrote.

/// Blanks every occurrence of a secret, whatever the case of its letters, and however much of it is
/// URL-encoded.
pub(crate) fn blank(text: &str, secret: &str) -> String {
    if secret.is_empty() {
        return text.to_owned();
    }
    let mut shown = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        if let Some(after) = after(rest, secret) {
            shown.push_str("***");
            rest = after;
        } else {
            shown.push(first);
            rest = &rest[first.len_utf8()..];
        }
    }
    shown
}

/// What comes after the secret where the text begins with it. Which bytes are percent-encoded is a
/// matter of taste (RFC 3986, section 2.1), and in a form a space is a plus.
fn after<'a>(text: &'a str, secret: &str) -> Option<&'a str> {
    if let Some((start, rest)) = text.split_at_checked(secret.len())
        && start.eq_ignore_ascii_case(secret)
    {
        return Some(rest);
    }
    let mut rest = text.as_bytes();
    for byte in secret.bytes() {
        rest = match rest {
            [b'%', high, low, rest @ ..]
                if encoded(*high, *low).is_some_and(|it| it.eq_ignore_ascii_case(&byte)) =>
            {
                rest
            }
            [b'+', rest @ ..] if byte == b' ' => rest,
            [first, rest @ ..] if first.eq_ignore_ascii_case(&byte) => rest,
            _ => return None,
        };
    }
    text.get(text.len() - rest.len()..)
}

fn encoded(high: u8, low: u8) -> Option<u8> {
    let digit = |byte: u8| char::from(byte).to_digit(16);
    u8::try_from(digit(high)? * 16 + digit(low)?).ok()
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
    fn a_secret_is_blanked_however_much_of_it_is_url_encoded() {
        for text in [
            "p@ss/W rd=%25é",
            "P%40SS%2Fw%20RD%3d%2525%C3%A9",
            "p@ss/W+rd=%2525%c3%A9",
            "p@ss/W%20rd=%2525é",
        ] {
            let said = format!("é{text}%4 {text}{text}");
            assert_eq!(blank(&said, "p@ss/W rd=%25é"), "é***%4 ******", "{text}");
        }
        assert_eq!(blank("secre", "secret"), "secre");
    }

    #[test]
    fn nothing_in_a_line_hides_breaks_it_or_turns_it_round() {
        let text = "a\u{202e}b\u{200b}c\u{2028}d\u{feff}e\u{2066}f\tg\u{ad}h";
        assert_eq!(one_line(text, 100), "a b c d e f g h");
        assert_eq!(one_line("トークン é ✓", 100), "トークン é ✓");
    }
}
