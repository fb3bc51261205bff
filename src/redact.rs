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

/// Text fit for one line of a message: no control characters, and not longer than `limit`
/// characters.
pub(crate) fn one_line(text: &str, limit: usize) -> String {
    let mut line: String = text
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(limit)
        .collect();
    if text.chars().nth(limit).is_some() {
        line.push('…');
    }
    line.trim().to_owned()
}
