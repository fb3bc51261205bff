//! Values as people store them, and what of them is meant: an editor leaves a line break, a copied
//! id a space.

use zeroize::Zeroizing;

/// What a person should do about a value that cannot be what ServiceNow shows.
pub const AS_SHOWN: &str = "Store the value as ServiceNow shows it, on one line";

/// An id or a secret without the white space around it. The error fits after the value's name.
pub fn trimmed(text: &str) -> Result<Zeroizing<String>, &'static str> {
    one_line(text.trim())
}

/// A password: it may begin and end with a space, but not with the line break of an editor. The
/// error fits after the value's name.
pub fn password(text: &str) -> Result<Zeroizing<String>, &'static str> {
    one_line(text.trim_end_matches(['\r', '\n']))
}

fn one_line(value: &str) -> Result<Zeroizing<String>, &'static str> {
    if value.is_empty() {
        Err("is empty")
    } else if value.contains(char::is_control) {
        Err("has a line break or another control character in its middle")
    } else {
        Ok(Zeroizing::new(value.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn white_space_around_a_secret_is_not_meant_and_in_a_password_only_the_line_break() {
        let value = |result: Result<Zeroizing<String>, _>| result.map(|value| value.to_string());
        for (stored, secret, pass) in [
            ("s3cret", Ok("s3cret"), Ok("s3cret")),
            (" s3cret\r\n", Ok("s3cret"), Ok(" s3cret")),
            ("\n", Err("is empty"), Err("is empty")),
            (
                "a\nb",
                Err("has a line break or another control character in its middle"),
                Err("has a line break or another control character in its middle"),
            ),
        ] {
            assert_eq!(value(trimmed(stored)), secret.map(str::to_owned));
            assert_eq!(value(password(stored)), pass.map(str::to_owned));
        }
    }
}
