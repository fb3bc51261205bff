//! Names of Kubernetes objects as a person writes them (Kubernetes documentation, "Object Names and
//! IDs"): what is none never becomes part of a URL.

/// The name of a resource.
pub(super) fn resource(text: &str) -> Result<String, String> {
    if text.len() <= 253 && text.split('.').all(is_label) {
        return Ok(text.to_owned());
    }
    Err(match text.split_once('/') {
        Some(_) => "write the name alone, as in itsm; its namespace goes to --namespace".to_owned(),
        None => "a name has small letters, digits, hyphens and dots only, as in itsm".to_owned(),
    })
}

/// The name of a namespace.
pub(super) fn namespace(text: &str) -> Result<String, String> {
    if text.len() <= 63 && is_label(text) {
        return Ok(text.to_owned());
    }
    Err("a namespace has small letters, digits and hyphens only, as in team-a".to_owned())
}

fn is_label(text: &str) -> bool {
    let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    !text.is_empty() && text.chars().all(inner) && !text.starts_with('-') && !text.ends_with('-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_name_is_refused() {
        for good in ["itsm", "a-1.b", "0"] {
            assert_eq!(resource(good), Ok(good.to_owned()));
        }
        for bad in [
            "",
            "team-a/itsm",
            "itsm?dryRun=All",
            "Itsm",
            "-a",
            "a..b",
            "a b",
            "a%2f",
        ] {
            assert!(resource(bad).is_err(), "{bad:?}");
            assert!(namespace(bad).is_err(), "{bad:?}");
        }
        assert!(resource("team-a/itsm").unwrap_err().contains("--namespace"));
        assert!(namespace("a.b").is_err());
    }
}
