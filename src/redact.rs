//! Takes secrets out of text that somebody else wrote.

use memchr::memmem;
use zeroize::Zeroizing;

/// Blanks every occurrence of these secrets, whatever the case of their letters, and whichever of their
/// characters are URL-encoded. None hides a part of another, and what is not shown of a text hides none:
/// it is a space by then. Its time grows with the length of the text for each secret, whatever they hold.
pub(crate) fn blank(text: &str, secrets: &[Zeroizing<String>]) -> String {
    let text = &shown(text);
    // URL-encoded, a secret may be as it is.
    let as_shown = secrets.iter().map(|secret| Zeroizing::new(shown(secret)));
    let as_shown: Vec<_> = as_shown.collect();
    let others = as_shown.iter().zip(secrets);
    let others = others.filter(|(shown, secret)| shown != secret);
    let secrets: Vec<_> = secrets
        .iter()
        .chain(others.map(|(shown, _)| shown))
        .collect();
    let mut found = Vec::new();
    for spelling in [Spelling::Plain, Spelling::Url, Spelling::Form] {
        let (read, places) = decoded(text, spelling);
        for secret in secrets.iter().filter(|secret| !secret.is_empty()) {
            let secret = Zeroizing::new(secret.to_ascii_lowercase());
            // Both ends are ends of characters, as those of a secret are.
            let begin = |end: usize| (places[end - secret.len()], places[end]);
            found.extend(ends(&read, secret.as_bytes()).into_iter().map(begin));
        }
    }
    found.sort_unstable();
    let mut blanked = String::with_capacity(text.len());
    let mut from = 0;
    for (begin, end) in found {
        if begin >= from {
            blanked.push_str(text.get(from..begin).unwrap_or_default());
            blanked.push_str("***");
        }
        from = from.max(end);
    }
    blanked.push_str(text.get(from..).unwrap_or_default());
    blanked
}

/// Blanks these secrets, and each word that looks like one: as long as no name, number or UUID is, of the
/// characters of a token (RFC 6750, section 2.1) or of base64, as they are or URL-encoded.
pub(crate) fn blank_likely(text: &str, secrets: &[Zeroizing<String>]) -> String {
    const LEAST: usize = 40;
    let breaks = |c: char| !c.is_ascii_alphanumeric() && !"-._~+/=%".contains(c);
    let mut shown = String::with_capacity(text.len());
    for part in blank(text, secrets).split_inclusive(breaks) {
        let word = part.trim_end_matches(breaks);
        let has = |of: fn(&u8) -> bool| word.bytes().any(|byte| of(&byte));
        let likely = word.len() >= LEAST && has(u8::is_ascii_digit) && has(u8::is_ascii_alphabetic);
        shown.push_str(if likely { "***" } else { word });
        shown.push_str(&part[word.len()..]);
    }
    shown
}

/// Where each occurrence of a secret ends, those too that overlap: by its prefix function (the method of
/// Knuth, Morris and Pratt), which takes no longer for a secret that is like itself.
fn ends(text: &[u8], secret: &[u8]) -> Vec<usize> {
    if memmem::find(text, secret).is_none() {
        return Vec::new();
    }
    let mut borders = vec![0; secret.len()];
    let next = |borders: &[usize], mut matched: usize, byte: u8| {
        while matched > 0 && (matched == secret.len() || secret[matched] != byte) {
            matched = borders[matched - 1];
        }
        matched + usize::from(secret[matched] == byte)
    };
    for at in 1..secret.len() {
        borders[at] = next(&borders, borders[at - 1], secret[at]);
    }
    let mut matched = 0;
    let mut ends = Vec::new();
    for (at, byte) in text.iter().enumerate() {
        matched = next(&borders, matched, *byte);
        if matched == secret.len() {
            ends.push(at + 1);
        }
    }
    ends
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
    let mut line = shown(text.trim());
    if line.len() > limit {
        line.truncate(cut(&line, limit.saturating_sub('…'.len_utf8())).len());
        line.push('…');
    }
    line
}

/// A text with a space for each character that is not shown.
fn shown(text: &str) -> String {
    let shown = |c: char| if is_shown(c) { c } else { ' ' };
    text.chars().map(shown).collect()
}

/// The beginning of a text, of so many bytes at most.
pub(crate) fn cut(text: &str, limit: usize) -> &str {
    let ends = (0..=limit.min(text.len())).rev();
    let end = ends.into_iter().find(|at| text.is_char_boundary(*at));
    &text[..end.unwrap_or(0)]
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

    fn secrets<'a>(of: impl IntoIterator<Item = &'a str>) -> Vec<Zeroizing<String>> {
        let of = of.into_iter();
        of.map(|secret| Zeroizing::new(secret.to_owned())).collect()
    }

    #[test]
    fn a_secret_is_blanked_however_much_of_it_is_url_encoded() {
        for text in [
            "p@ss/W rd=%25é",
            "P%40SS%2Fw%20RD%3d%2525%C3%A9",
            "p@ss/W+rd=%2525%c3%A9",
            "p@ss/W%20rd=%2525é",
        ] {
            let said = format!("é{text}%4 {text}{text}");
            let secret = secrets(["p@ss/W rd=%25é"]);
            assert_eq!(blank(&said, &secret), "é***%4 ******", "{text}");
        }
        assert_eq!(blank("secre", &secrets(["secret", ""])), "secre");
        // However much of it is alike.
        let (text, secret) = ("a".repeat(65_536), "a".repeat(32_768) + "b");
        assert_eq!(blank(&text, &secrets([&*secret])), text);
    }

    #[test]
    fn no_secret_hides_a_part_of_another() {
        for of in [["abc", "bcde"], ["bcde", "abc"]] {
            assert_eq!(blank("-abcde%61bc-", &secrets(of)), "-******-");
        }
        assert_eq!(blank("p@ss/word", &secrets(["w", "p@ss/word"])), "***");
        assert_eq!(
            blank("-p4ss-W0rdP4ss-w0rdp-", &secrets(["p4ss-w0rdp"])),
            "-***-"
        );
        assert_eq!(blank("xaaaax", &secrets(["a"])), "x************x");
    }

    #[test]
    fn a_word_that_is_like_a_token_is_blanked_and_what_a_person_needs_is_left() {
        let token = "RFJq8-sHeHjqf2X1CtEHLfJ3NzeIcBTCbWxgGQWVJVHcOmvrL9ts8Dl4iVwMn0fQZ8pqFL3uVUBEGbg1Xg-cDw";
        let encoded = token.replace('-', "%2D");
        let said = format!("{token}, Bearer:{encoded} (é{token}é)");
        assert_eq!(blank_likely(&said, &[]), "***, Bearer:*** (é***é)");
        for said in [
            "See https://support.servicenow.com/kb?id=kb_article_view&sysparm_article=KB0725643",
            "transaction 8f14e45f-ceea-467f-a0e6-0c2b3c5d6e7f of 5c1d7a6ac0a8016400e1ec2d5e6f7a8b",
            "com.snc.platform.security.oauth.is.active is false",
        ] {
            assert_eq!(blank_likely(said, &[]), said);
        }
    }

    #[test]
    fn nothing_that_is_not_shown_hides_a_secret() {
        let words = secrets(["correct horse battery"]);
        assert_eq!(blank("-Correct horse\nbattery-", &words), "-***-");
        let lines = secrets(["a\nb\u{200b}c"]);
        for text in ["-a\nb\u{200b}c-", "-a b c-", "-a%0Ab%E2%80%8bc-"] {
            assert_eq!(blank(text, &lines), "-***-", "{text}");
        }
    }

    #[test]
    fn nothing_in_a_line_hides_breaks_it_or_turns_it_round() {
        let text = "a\u{202e}b\u{200b}c\u{2028}d\u{feff}e\u{2066}f\tg\u{ad}h";
        assert_eq!(one_line(text, 100), "a b c d e f g h");
        assert_eq!(one_line("トークン é ✓", 100), "トークン é ✓");
    }
}
