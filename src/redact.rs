//! Takes secrets out of text that somebody else wrote.

use memchr::memmem;

/// Blanks every occurrence of a secret, whatever the case of its letters, and whichever of its
/// characters are URL-encoded. Its time grows with the length of the text, whatever both hold.
pub(crate) fn blank(text: &str, secret: &str) -> String {
    let ways = [Spelling::Plain, Spelling::Url, Spelling::Form];
    ways.into_iter().fold(text.to_owned(), |text, spelling| {
        blank_as(&text, secret, spelling)
    })
}

/// How a text is read.
#[derive(Clone, Copy, PartialEq)]
enum Spelling {
    /// As it stands.
    Plain,
    /// Percent-encoded (RFC 3986, section 2.1).
    Url,
    /// Likewise, with a plus for each space.
    Form,
}

fn blank_as(text: &str, secret: &str, spelling: Spelling) -> String {
    if secret.is_empty() || text.len() < secret.len() {
        return text.to_owned();
    }
    let (read, places) = decoded(text, spelling);
    let secret = secret.to_ascii_lowercase();
    let mut shown = String::with_capacity(text.len());
    let mut from = 0;
    for at in memmem::find_iter(&read, secret.as_bytes()) {
        // Both ends are ends of characters, as those of a secret are.
        shown.push_str(text.get(from..places[at]).unwrap_or_default());
        shown.push_str("***");
        from = places[at + secret.len()];
    }
    shown.push_str(text.get(from..).unwrap_or_default());
    shown
}

/// The bytes of a text in lower case, and where in it each begins, and the last one ends.
fn decoded(text: &str, spelling: Spelling) -> (Vec<u8>, Vec<usize>) {
    let (mut read, mut places) = (Vec::new(), Vec::new());
    let mut rest = text.as_bytes();
    loop {
        places.push(text.len() - rest.len());
        let (byte, after) = match rest {
            [] => return (read, places),
            [b'%', high, low, after @ ..] if spelling != Spelling::Plain => {
                match encoded(*high, *low) {
                    Some(byte) => (byte, after),
                    None => (b'%', &rest[1..]),
                }
            }
            [b'+', after @ ..] if spelling == Spelling::Form => (b' ', after),
            [byte, after @ ..] => (*byte, after),
        };
        read.push(byte.to_ascii_lowercase());
        rest = after;
    }
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
        // However much of it is alike.
        let (text, secret) = ("a".repeat(65_536), "a".repeat(32_768) + "b");
        assert_eq!(blank(&text, &secret), text);
    }

    #[test]
    fn nothing_in_a_line_hides_breaks_it_or_turns_it_round() {
        let text = "a\u{202e}b\u{200b}c\u{2028}d\u{feff}e\u{2066}f\tg\u{ad}h";
        assert_eq!(one_line(text, 100), "a b c d e f g h");
        assert_eq!(one_line("トークン é ✓", 100), "トークン é ✓");
    }
}
