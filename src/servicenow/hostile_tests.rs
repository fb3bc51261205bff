//! Whatever an instance answers: nothing panics, nothing leaks, everything is bounded.

use std::collections::BTreeSet;

use jiff::{SignedDuration, Timestamp};
use proptest::{collection::vec, prelude::*, test_runner::RngSeed};
use url::form_urlencoded;
use zeroize::Zeroizing;

use super::{RawAnswer, SharingKey, judge};
use crate::{
    api::{ClientAuthentication, Instance},
    decide::backoff::{Attempt, LONGEST_WAIT, retry_at},
};

/// Marked, so that a leak is found by a search.
const CLIENT_ID: &str = "marked id+5f0e";
const CLIENT_SECRET: &str = "marked/p@ss+9b1c";

fn key() -> SharingKey {
    SharingKey::client_credentials(
        &Instance::parse("dev1").unwrap(),
        ClientAuthentication::Basic,
        Zeroizing::new(CLIENT_ID.to_owned()),
        Zeroizing::new(CLIENT_SECRET.to_owned()),
        &[],
    )
}

fn now() -> Timestamp {
    Timestamp::from_second(1_800_000_000).unwrap()
}

/// The credentials raw, in base64 and URL-encoded.
fn spellings(key: &SharingKey) -> Vec<String> {
    let credentials = key.credentials([]);
    let urls = credentials.iter().flat_map(|credential| {
        let url: String = form_urlencoded::byte_serialize(credential.as_bytes()).collect();
        [url.replace('+', "%20"), url]
    });
    let plain = credentials.iter().map(|credential| credential.to_string());
    plain.chain(urls).collect()
}

/// The credentials in every spelling, and words around them.
fn words() -> impl Strategy<Value = String> {
    let spellings: Vec<String> = spellings(&key());
    let word = prop_oneof![
        prop::sample::select(spellings),
        "\\PC{0,40}",
        "[\u{0}-\u{1f}\u{7f}\u{202e}]{0,10}",
        Just("access_denied".to_owned()),
    ];
    vec(word, 0..6).prop_map(|words| words.join(" "))
}

fn value() -> impl Strategy<Value = serde_json::Value> {
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(Into::into),
        any::<i64>().prop_map(Into::into),
        any::<f64>().prop_map(Into::into),
        words().prop_map(Into::into),
        "[-a-zA-Z0-9._~+/]{0,90}=?".prop_map(Into::into),
        "-?[0-9]{1,30}(\\.[0-9]{1,9})?".prop_map(Into::into),
        prop::sample::select(vec!["Bearer", "bearer", "BEARER", "mac", ""]).prop_map(Into::into),
    ];
    leaf.prop_recursive(3, 16, 4, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..4).prop_map(Into::into),
            prop::collection::btree_map("[a-z_]{1,12}", inner, 0..4)
                .prop_map(|map| map.into_iter().collect::<serde_json::Map<_, _>>().into()),
        ]
    })
}

/// Objects with the fields that a token answer has, more than once and of any type, and anything.
fn bodies() -> impl Strategy<Value = Vec<u8>> {
    let field = prop::sample::select(vec![
        "access_token",
        "token_type",
        "expires_in",
        "scope",
        "error",
        "error_description",
        "refresh_token",
    ]);
    let object = vec((field, value()), 0..9).prop_map(|fields| {
        let fields: Vec<_> = fields
            .iter()
            .map(|(name, value)| format!("{name:?}:{value}"))
            .collect();
        format!("{{{}}}", fields.join(",")).into_bytes()
    });
    let nested = (1usize..4000).prop_map(|depth| "[".repeat(depth).into_bytes());
    let types = prop::sample::select(vec!["Bearer", "bearer", "BEARER"]);
    let nearly_good = ("[-a-zA-Z0-9._~+/]{8,90}=?", types, any::<i64>(), value()).prop_map(
        |(token, type_, seconds, scope)| {
            let body = serde_json::json!({
                "access_token": token, "token_type": type_, "expires_in": seconds, "scope": scope,
            });
            body.to_string().into_bytes()
        },
    );
    let refusal = (words(), words()).prop_map(|(error, description)| {
        let body = serde_json::json!({"error": error, "error_description": description});
        body.to_string().into_bytes()
    });
    prop_oneof![
        6 => object,
        3 => nearly_good,
        3 => refusal,
        1 => vec(any::<u8>(), 0..300),
        1 => words().prop_map(String::into_bytes),
        1 => nested,
    ]
}

/// An answer in parts: put together it holds what may not be printed.
type Parts = (u16, &'static str, Option<String>, Option<Vec<u8>>);

fn answer((status, content_type, retry_after, body): Parts) -> RawAnswer {
    RawAnswer {
        status,
        content_type: content_type.to_owned(),
        retry_after,
        body,
    }
}

fn answers() -> impl Strategy<Value = Parts> {
    let retry_after = prop_oneof![
        "[0-9]{1,30}",
        "-?[0-9.]{0,12}",
        words(),
        Just("Fri, 15 Jan 2027 08:30:00 GMT".to_owned()),
        Just("Friday, 15-Jan-27 08:30:00 GMT".to_owned()),
        Just("Fri Jan 15 08:30:00 2027".to_owned()),
        Just("Mon, 01 Jan 9999 00:00:00 GMT".to_owned()),
        Just("Thu, 01 Jan 1970 00:00:00 GMT".to_owned()),
    ];
    let status = prop_oneof![
        4 => Just(200u16), 2 => Just(401), 1 => Just(429), 1 => 100u16..600,
    ];
    let types = prop::sample::select(vec![
        "application/json",
        "application/json",
        "text/html",
        "",
        "\u{0}",
    ]);
    let retry_after = prop::option::of(retry_after);
    let body = prop::option::weighted(0.95, bodies());
    (status, types, retry_after, body)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, rng_seed: RngSeed::Fixed(4), cases: 1500, ..ProptestConfig::default() })]

    #[test]
    fn no_answer_panics_leaks_or_grows(parts in answers()) {
        let (key, answer) = (key(), answer(parts));
        match judge(&answer, &key, &|_| Vec::new(), now()) {
            Ok(good) => {
                prop_assert_eq!(answer.status, 200);
                let token = good.token.expose();
                let allowed = |c: char| c.is_ascii_alphanumeric() || "-._~+/=".contains(c);
                prop_assert!(!token.is_empty() && token.chars().all(allowed), "{token:?}");
                let printed = format!("{good:?}");
                prop_assert!(!printed.contains(token) || token.len() < 8, "{}", printed);
            }
            Err(failure) => {
                let message = failure.message();
                for spelling in spellings(&key) {
                    prop_assert!(!message.contains(&spelling), "{spelling:?} in {message:?}");
                }
                prop_assert!(message.len() < 4000, "{} bytes", message.len());
                prop_assert!(!message.contains(char::is_control), "{message:?}");
                prop_assert!(message.starts_with("https://dev1.service-now.com") || message.contains("dev1.service-now.com"));
            }
        }
    }

    #[test]
    fn no_retry_after_makes_anybody_wait_longer_than_an_hour_or_not_at_all(
        parts in answers(), count in 1u32..1000, random in 0.0f64..1.0,
    ) {
        let answer = RawAnswer { status: 429, ..answer(parts) };
        if let Err(failure) = judge(&answer, &key(), &|_| Vec::new(), now()) {
            let attempt = Attempt {
                class: failure.class(),
                count,
                retry_after: failure.retry_after(),
                expires_at: None,
                random,
            };
            let wait = retry_at(&attempt, now()).unwrap().duration_since(now());
            let bounds = SignedDuration::from_millis(800)..=LONGEST_WAIT;
            prop_assert!(bounds.contains(&wait), "{wait:#}");
        }
    }
}

#[test]
fn the_answers_are_of_every_kind() {
    use proptest::{strategy::ValueTree as _, test_runner::TestRunner};
    let mut runner = TestRunner::deterministic();
    let kinds: BTreeSet<_> = (0..1500)
        .map(|_| {
            let parts = answers().new_tree(&mut runner).unwrap().current();
            match judge(&answer(parts), &key(), &|_| Vec::new(), now()) {
                Ok(_) => "Success",
                Err(failure) => failure.reason().as_str(),
            }
        })
        .collect();
    for kind in ["Success", "AccessDenied", "RateLimited", "InvalidResponse"] {
        assert!(kinds.contains(kind), "{kinds:?}");
    }
}
