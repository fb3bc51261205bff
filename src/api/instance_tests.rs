//! What is an instance, what is not, and that no path leads away from one.

use proptest::prelude::*;

use super::*;

fn origin(text: &str) -> Result<String, InstanceError> {
    Instance::parse(text).map(|instance| instance.origin().to_owned())
}

#[test]
fn names_and_origins_become_canonical_origins() {
    for (text, expected) in [
        ("dev12345", "https://dev12345.service-now.com"),
        ("DEV12345", "https://dev12345.service-now.com"),
        ("my-company-2", "https://my-company-2.service-now.com"),
        ("12345", "https://12345.service-now.com"),
        ("localhost", "https://localhost.service-now.com"),
        ("https://ITSM.Example.GOV", "https://itsm.example.gov"),
        ("https://itsm.example.gov:443", "https://itsm.example.gov"),
        (
            "https://itsm.example.gov:8443",
            "https://itsm.example.gov:8443",
        ),
        ("https://itsm", "https://itsm"),
        (
            "https://xn--bcher-kva.example",
            "https://xn--bcher-kva.example",
        ),
        ("https://10.0.0.7:8443", "https://10.0.0.7:8443"),
        ("https://[::1]:8443", "https://[::1]:8443"),
        ("https://[0:0:0:0:0:0:0:1]", "https://[::1]"),
        ("https://[2001:DB8::A]", "https://[2001:db8::a]"),
        ("https://localhost:8443", "https://localhost:8443"),
        ("http://localhost", "http://localhost"),
        ("http://localhost:80", "http://localhost"),
        ("http://localhost:443", "http://localhost:443"),
        ("http://127.0.0.1:41234", "http://127.0.0.1:41234"),
    ] {
        assert_eq!(origin(text).as_deref(), Ok(expected), "{text}");
    }
}

#[test]
fn everything_else_names_no_instance() {
    for text in [
        "",
        " ",
        "dev12345 ",
        "dev_12345",
        "-dev",
        "dev-",
        "dev12345.service-now.com",
        "dev12345:443",
        "//dev12345",
        "HTTPS://itsm.example.gov",
        "ftp://itsm.example.gov",
        "https://",
        "https:///",
        "https:itsm.example.gov",
        "https:/itsm.example.gov",
        "https:\\\\itsm.example.gov",
        "https://itsm.example.gov/",
        "https://itsm.example.gov/nav_to.do",
        "https://itsm.example.gov?x=1",
        "https://itsm.example.gov#top",
        "https://itsm.example.gov\\evil.example",
        "https://user@itsm.example.gov",
        "https://user:pw@itsm.example.gov",
        "https://@itsm.example.gov",
        "https://itsm.example.gov:",
        "https://itsm.example.gov:0",
        "https://itsm.example.gov:08443",
        "https://itsm.example.gov:65536",
        "https://itsm.example.gov:+1",
        "https://itsm.example.gov:443:443",
        "https://itsm.example.gov.",
        "https://.example.gov",
        "https://itsm..gov",
        "https://itsm_1.example.gov",
        "https://*.example.gov",
        "https://itsm%2eexample.gov",
        "https://b\u{fc}cher.example",
        "https://\u{ff49}tsm.example",
        "https://itsm.example.gov\n",
        "https://it\tsm.example.gov",
        "https://xn--a.example",
        "https://2130706433",
        "https://0x7f000001",
        "https://0x7f.0.0.1",
        "https://0177.0.0.1",
        "https://127.1",
        "https://127.0.0.256",
        "https://1.2.3.4.5",
        "https://example.0x",
        "https://[::1",
        "https://[::1]x",
        "https://[::1%25eth0]",
        "https://[::ffff:10.0.0.1]",
        "https://[v1.x]",
        "https://[]",
        "https://::1",
        "http://127.0.0.1/",
        "http://user@localhost",
    ] {
        assert_eq!(origin(text), Err(InstanceError::Malformed), "{text:?}");
    }
    let long_label = "a".repeat(64);
    assert_eq!(origin(&long_label), Err(InstanceError::Malformed));
    let long_host = format!("https://{}", vec!["a".repeat(49); 6].join("."));
    assert_eq!(origin(&long_host), Err(InstanceError::Malformed));
}

#[test]
fn plain_http_is_for_this_machine_only() {
    for text in [
        "http://itsm.example.gov",
        "http://itsm.example.gov:8080",
        "http://127.0.0.2",
        "http://[::1]",
        "http://LOCALHOST",
        "http://localhost.example",
        "http://foo.localhost",
    ] {
        assert_eq!(origin(text), Err(InstanceError::PlainHttp), "{text}");
    }
}

#[test]
fn the_parts_are_told() -> Result<(), InstanceError> {
    let named = Instance::parse("dev1")?;
    assert_eq!((named.host(), named.port()), ("dev1.service-now.com", 443));
    assert!(!named.is_ip() && !named.is_plain_http());
    let v6 = Instance::parse("https://[2001:db8::1]:8443")?;
    assert_eq!(
        (v6.host(), v6.port(), v6.is_ip()),
        ("[2001:db8::1]", 8443, true)
    );
    let local = Instance::parse("http://127.0.0.1:8080")?;
    assert_eq!((local.host(), local.port()), ("127.0.0.1", 8080));
    assert!(local.is_ip() && local.is_plain_http());
    assert_eq!(local.to_string(), "http://127.0.0.1:8080");
    Ok(())
}

#[test]
fn a_path_keeps_its_query() -> Result<(), InstanceError> {
    let instance = Instance::parse("dev1")?;
    for (path, expected) in [
        (
            "/oauth_token.do",
            "https://dev1.service-now.com/oauth_token.do",
        ),
        (
            "/api/now/table/incident?sysparm_query=active=true^ORDERBYnumber&sysparm_limit=1",
            "https://dev1.service-now.com/api/now/table/incident?sysparm_query=active=true^ORDERBYnumber&sysparm_limit=1",
        ),
        (
            "//evil.example/x",
            "https://dev1.service-now.com//evil.example/x",
        ),
        (
            "/@evil.example",
            "https://dev1.service-now.com/@evil.example",
        ),
        ("/:80/", "https://dev1.service-now.com/:80/"),
        (
            "/%5c%2fevil.example",
            "https://dev1.service-now.com/%5c%2fevil.example",
        ),
    ] {
        assert_eq!(instance.url(path)?.as_str(), expected);
    }
    for path in [
        "",
        "x",
        "@evil.example",
        ".evil.example",
        ":8443",
        "?x",
        "#x",
        "\\evil.example",
        "/\\evil.example",
        "/\t/evil.example",
        "/a b",
        "/a\u{a0}b",
        "/a#b",
        "/a\0",
        "https://evil.example/",
    ] {
        assert_eq!(instance.url(path), Err(InstanceError::Path), "{path:?}");
    }
    Ok(())
}

proptest! {
    #[test]
    fn no_path_leads_to_another_origin(
        instance in prop_oneof![Just("dev1"), Just("https://a.example:8443"), Just("https://[::1]"), Just("http://127.0.0.1:8080")],
        path in "\\PC{0,30}|[/\\\\@:.?#%a-f0-9\\[\\]\t\n ]{0,30}",
    ) {
        let instance = Instance::parse(instance).expect("a valid instance");
        if let Ok(url) = instance.url(&path) {
            prop_assert_eq!(url.origin().ascii_serialization(), instance.origin());
            prop_assert!(url.username().is_empty() && url.password().is_none());
            prop_assert_eq!(url.host_str(), Some(instance.host()));
        }
    }

    #[test]
    fn what_is_read_is_canonical(text in "(https?://)?[-a-zA-Z0-9.:\\[\\]]{1,24}|\\PC{0,30}") {
        if let Ok(instance) = Instance::parse(&text) {
            let again = Instance::parse(instance.origin()).expect("a canonical origin is an origin");
            prop_assert_eq!(&again, &instance);
            let url = Url::parse(instance.origin()).expect("an origin is a URL");
            prop_assert_eq!(url.host_str(), Some(instance.host()));
            prop_assert_eq!(url.port_or_known_default(), Some(instance.port()));
            prop_assert!(instance.host().is_ascii());
            prop_assert!(!instance.is_plain_http() || ["localhost", "127.0.0.1"].contains(&instance.host()));
        }
    }
}
