//! Whatever stands in a template or a path: nothing panics, nothing leaks, everything is bounded,
//! and no path leads away from the instance.

use std::collections::BTreeMap;

use jiff::Timestamp;
use proptest::{collection::vec, prelude::*, test_runner::RngSeed};

use super::scene::*;
use crate::{
    api::{Instance, Verify},
    decide::template::{Variables, check, render},
    servicenow::AccessToken,
};

const TOKEN: &str = "marked-token-7d3a";
const CLIENT_ID: &str = "marked-client-id-5f0e";

/// Pieces of the template language, of the one that it is cut from, and anything.
fn templates() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        prop::sample::select(vec![
            "{{ token }}",
            "{{ token | b64encode }}",
            "{{",
            "}}",
            "{%",
            "%}",
            "{#",
            "#}",
            "{{ client_id ~ \":\" ~ token }}",
            "{{ (token) }}",
            "{{ token[0] }}",
            "{{ token.x }}",
            "{{ token * 9999 }}",
            "{{ \"a\" * 99999999 }}",
            "{{ undefined }}",
            "{% for c in token %}{{ c }}{% endfor %}",
            "{{ range(99999999) }}",
            "{{ token | e }}",
            "{{ token | b64encode | b64encode | b64encode | b64encode }}",
            "{{ 1 // 0 }}",
            "{{ \"\\u0000\" }}",
            "{{ self }}",
            "{{ expires_at_unix }}",
            "{{ instance_url }}",
            "{% set x = token %}",
            "{{ token ~ token }}",
            "((((((((((((((((((((((((((",
        ])
        .prop_map(str::to_owned),
        "\\PC{0,20}",
        "[{}%#()~|\"' a-z]{0,30}",
    ];
    vec(piece, 0..8).prop_map(|pieces| pieces.concat())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, rng_seed: RngSeed::Fixed(5), cases: 1500, ..ProptestConfig::default() })]

    #[test]
    fn no_template_panics_leaks_or_grows(template in templates()) {
        let templates = BTreeMap::from([("key".to_owned(), template.clone())]);
        let token = AccessToken::parse(TOKEN).unwrap();
        let variables = Variables {
            token: &token,
            scope: "useraccount",
            expires_at: Timestamp::UNIX_EPOCH,
            instance_url: "https://dev1.service-now.com",
            client_id: CLIENT_ID,
        };
        let checked = check(&templates);
        match render(&templates, &variables) {
            Ok(rendered) => {
                prop_assert!(checked.is_ok(), "what is written was checked before: {template:?}");
                let size: usize = rendered.encoded().map(|(_, value)| value.len()).sum();
                prop_assert!(size <= 64 * 1024 * 4 / 3 + 4, "{size} bytes");
                let printed = format!("{rendered:?}");
                prop_assert!(!printed.contains(TOKEN), "{}", printed);
            }
            Err(failure) => {
                let message = failure.message();
                prop_assert!(!message.contains(TOKEN) && !message.contains(CLIENT_ID), "{message}");
                prop_assert!(message.len() < 2000, "{} bytes", message.len());
            }
        }
    }

    #[test]
    fn no_path_that_is_accepted_leads_away_from_the_interfaces_of_the_instance(
        head in prop::sample::select(vec![
            "/api/", "/api", "//evil.example", "/\\evil.example", "/api/..", "/api/%2e%2e/", "/api//",
            "/api/\\", "https://evil.example/api/", "/%2fevil.example/api/", "@evil.example/api/",
            "/api/\t/", "/api/now/table/sys_user?x=",
        ]),
        tail in "\\PC{0,20}|[/\\\\@:.?#%a-f0-9\t\n ]{0,20}",
    ) {
        let path = format!("{head}{tail}");
        let mut spec = spec();
        spec.verify = Some(Verify { path: path.clone() });
        if spec.validate().is_ok() {
            let instance = Instance::parse("https://a.example:8443").unwrap();
            let url = instance.url(&path).expect("an accepted path is one of the instance");
            prop_assert_eq!(url.origin().ascii_serialization(), instance.origin());
            prop_assert!(url.path().starts_with("/api/"), "{url}");
            prop_assert!(!url.path().to_lowercase().contains("%2e%2e"), "{url}");
        }
    }
}
