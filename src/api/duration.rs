//! Durations as people write them in Kubernetes manifests: Go's style, `90s`, `10m`, `1h30m`.
//!
//! `kube::core::Duration` reads the same style but takes negative values, computes in floating
//! point, and panics on an overflow; a spec must not be able to do that to the operator.

use jiff::SignedDuration;

/// Why a text is not a duration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DurationError {
    /// It does not follow the style.
    #[error(
        "`{0}` is not a duration: write numbers with a unit of h, m, s, ms, us or ns, such as 90s, 10m or 1h30m"
    )]
    Malformed(String),
    /// It is zero, or negative.
    #[error("`{0}` is not a positive duration: write more than zero, such as 10m")]
    NotPositive(String),
    /// It does not fit into 64 bits of nanoseconds (about 292 years), as in Go.
    #[error("`{0}` is longer than any token lives: write a duration such as 10m")]
    TooLong(String),
}

/// Reads a positive duration in the style of Go's `time.ParseDuration`.
///
/// # Errors
/// The text is malformed, not positive, or too long; the error says what to write instead.
pub fn parse(text: &str) -> Result<SignedDuration, DurationError> {
    if text.starts_with('-') {
        return Err(DurationError::NotPositive(text.to_owned()));
    }
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    if rest.is_empty() {
        return Err(DurationError::Malformed(text.to_owned()));
    }
    // Go knows one number without a unit.
    if rest == "0" {
        return Err(DurationError::NotPositive(text.to_owned()));
    }
    let mut nanos: u64 = 0;
    while !rest.is_empty() {
        let (part, after) =
            next_part(rest).ok_or_else(|| DurationError::Malformed(text.to_owned()))?;
        nanos = part
            .nanos()
            .and_then(|part| nanos.checked_add(part))
            .ok_or_else(|| DurationError::TooLong(text.to_owned()))?;
        rest = after;
    }
    match i64::try_from(nanos) {
        Ok(0) => Err(DurationError::NotPositive(text.to_owned())),
        Ok(nanos) => Ok(SignedDuration::from_nanos(nanos)),
        Err(_) => Err(DurationError::TooLong(text.to_owned())),
    }
}

/// One number with its unit, such as `1.5h`.
struct Part<'a> {
    whole: &'a str,
    fraction: &'a str,
    unit_nanos: u64,
}

fn next_part(text: &str) -> Option<(Part<'_>, &str)> {
    let (whole, rest) = split_digits(text);
    let (fraction, rest) = match rest.strip_prefix('.') {
        Some(rest) => split_digits(rest),
        None => ("", rest),
    };
    if whole.is_empty() && fraction.is_empty() {
        return None;
    }
    let unit_end = rest
        .find(|c: char| c == '.' || c.is_ascii_digit())
        .unwrap_or(rest.len());
    let (unit, after) = rest.split_at(unit_end);
    let unit_nanos = match unit {
        "ns" => 1,
        // The micro sign and the Greek letter mu, as in Go.
        "us" | "\u{b5}s" | "\u{3bc}s" => 1_000,
        "ms" => 1_000_000,
        "s" => 1_000_000_000,
        "m" => 60 * 1_000_000_000,
        "h" => 3_600 * 1_000_000_000,
        _ => return None,
    };
    let part = Part {
        whole,
        fraction,
        unit_nanos,
    };
    Some((part, after))
}

fn split_digits(text: &str) -> (&str, &str) {
    let end = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    text.split_at(end)
}

impl Part<'_> {
    /// The part's length; `None` when it does not fit.
    fn nanos(&self) -> Option<u64> {
        let whole = match self.whole {
            "" => 0,
            digits => digits.parse::<u64>().ok()?.checked_mul(self.unit_nanos)?,
        };
        // Eighteen digits are finer than a nanosecond of the longest unit, and fit into 64 bits.
        let digits = &self.fraction[..self.fraction.len().min(18)];
        let fraction = match digits {
            "" => 0,
            digits => {
                let scale = 10_u128.pow(u32::try_from(digits.len()).ok()?);
                let scaled = u128::from(digits.parse::<u64>().ok()?) * u128::from(self.unit_nanos);
                u64::try_from(scaled / scale).ok()?
            }
        };
        whole.checked_add(fraction)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_styles_that_go_reads_are_read() {
        for (text, nanos) in [
            ("90s", 90_000_000_000),
            ("10m", 600_000_000_000),
            ("1h30m", 5_400_000_000_000),
            ("1.5h", 5_400_000_000_000),
            (".5m", 30_000_000_000),
            ("1.m", 60_000_000_000),
            ("+10s", 10_000_000_000),
            ("1h1m1s1ms1us1ns", 3_661_001_001_001),
            ("3\u{b5}s", 3_000),
            ("3\u{3bc}s", 3_000),
            ("0h5s", 5_000_000_000),
            ("10s10s", 20_000_000_000),
            ("0.000000001s", 1),
            ("2562047h47m16.854775807s", i64::MAX),
        ] {
            assert_eq!(parse(text), Ok(SignedDuration::from_nanos(nanos)), "{text}");
        }
    }

    #[test]
    fn everything_else_is_refused_with_a_sentence() {
        for text in [
            "", "+", "10", "10 m", " 10m", "10m ", "m", ".m", "10d", "1w", "ten", "1h-30m", "1e3s",
            "++1s", "1H", "1,5h", "infs", "NaNs", "1..5h", "\u{661}s",
        ] {
            assert_eq!(parse(text), Err(DurationError::Malformed(text.to_owned())));
        }
        for text in ["0", "0s", "+0s", "-0", "-10m", "0h0m", "0.1ns"] {
            assert_eq!(
                parse(text),
                Err(DurationError::NotPositive(text.to_owned()))
            );
        }
        for text in [
            "2562047h47m16.854775808s",
            "99999999h",
            "99999999999999999999s",
        ] {
            assert_eq!(parse(text), Err(DurationError::TooLong(text.to_owned())));
        }
    }

    proptest! {
        #[test]
        fn no_text_panics_and_what_is_read_is_positive(text in "[-+.0-9hmsunµ ]{0,40}|\\PC{0,20}") {
            if let Ok(duration) = parse(&text) {
                prop_assert!(duration.is_positive());
            }
        }

        #[test]
        fn whole_seconds_read_back(seconds in 1_i64..9_000_000_000) {
            prop_assert_eq!(parse(&format!("{seconds}s")), Ok(SignedDuration::from_secs(seconds)));
        }
    }
}
