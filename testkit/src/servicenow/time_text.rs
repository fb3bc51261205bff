//! Durations and moments as people write them: `30s`, `1m 30s`, `250ms`; `2030-01-01T00:00:00Z`.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Deserializer, Serializer};

/// Reads `30s`, `1m 30s`, `250ms` or `PT30S`.
///
/// # Errors
/// A sentence for the person who wrote it, where it is no duration or a negative one.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    text.parse::<SignedDuration>()
        .ok()
        .and_then(|duration| Duration::try_from(duration).ok())
        .ok_or_else(|| {
            format!("{text:?} is not a duration such as \"30s\", \"250ms\" or \"1m 30s\"")
        })
}

/// The duration in the form that [`parse_duration`] reads.
pub fn duration_text(duration: Duration) -> String {
    format!(
        "{:#}",
        SignedDuration::try_from(duration).unwrap_or(SignedDuration::MAX)
    )
}

/// For `#[serde(with = "time_text")]` on a [`Duration`].
pub(super) fn serialize<S: Serializer>(
    duration: &Duration,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&duration_text(*duration))
}

/// For `#[serde(with = "time_text")]` on a [`Duration`].
pub(super) fn deserialize<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Duration, D::Error> {
    let text = String::deserialize(deserializer)?;
    parse_duration(&text).map_err(serde::de::Error::custom)
}

/// For `#[serde(deserialize_with = …)]` on an optional [`Duration`] that defaults to none.
pub(super) fn deserialize_some<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Duration>, D::Error> {
    deserialize(deserializer).map(Some)
}

/// For `#[serde(serialize_with = …)]` on a [`Timestamp`].
pub(super) fn serialize_timestamp<S: Serializer>(
    moment: &Timestamp,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.collect_str(moment)
}
