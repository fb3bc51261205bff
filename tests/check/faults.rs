//! What an instance refuses or spoils has its cause named.

use serde_json::json;
use testkit::servicenow::{
    AuthMethod::{self, Basic, Body},
    Client, ExpiresIn, Fault, MissingUser, RetryAfter, Simulator,
};

use crate::question::{CLIENT_ID, Question, causes, instance};

/// A setup, or a bad day, and what is said of it.
struct Case {
    what: &'static str,
    set_up: fn(&Simulator),
    ask: fn(Question) -> Question,
    /// The causes, the first of them first.
    first: &'static [&'static str],
    /// Words of the first cause's explanation.
    says: &'static str,
    requests: usize,
}

fn takes(client: &mut Client, only: AuthMethod) {
    client.authentication = Some(only);
}

fn without_user(client: &mut Client) {
    client.application_user = None;
}

const CASES: &[Case] = &[
    Case {
        what: "the property is off",
        set_up: |instance| instance.set_property_enabled(false),
        ask: |question| question,
        first: &["GrantSwitchedOff", "ApplicationUser", "Client"],
        says: "glide.oauth.inbound.client.credential.grant_type.enabled",
        requests: 3,
    },
    Case {
        what: "the property is off, and a user to compare with",
        set_up: |instance| instance.set_property_enabled(false),
        ask: Question::with_user,
        first: &["GrantSwitchedOff", "ApplicationUser", "MachineIdentity"],
        says: "glide.oauth.inbound.client.credential.grant_type.enabled",
        requests: 4,
    },
    Case {
        what: "no application user, and a user to compare with",
        set_up: |instance| instance.update_client(CLIENT_ID, without_user),
        ask: Question::with_user,
        first: &["GrantSwitchedOff", "ApplicationUser"],
        says: "glide.oauth.inbound.client.credential.grant_type.enabled",
        requests: 4,
    },
    Case {
        what: "no application user, at an instance that says so",
        set_up: |instance| {
            instance.update_client(CLIENT_ID, without_user);
            instance.set_missing_user(MissingUser::UnauthorizedClient);
        },
        ask: Question::with_user,
        first: &["ApplicationUser"],
        says: "OAuth Application User",
        requests: 1,
    },
    Case {
        what: "a wrong secret",
        set_up: |instance| instance.update_client(CLIENT_ID, |client| client.secret.push('x')),
        ask: |question| question,
        first: &["GrantSwitchedOff", "ApplicationUser", "Client"],
        says: "glide.oauth.inbound.client.credential.grant_type.enabled",
        requests: 3,
    },
    Case {
        what: "a wrong secret, and a user to compare with",
        set_up: |instance| instance.update_client(CLIENT_ID, |client| client.secret.push('x')),
        ask: Question::with_user,
        first: &["Client", "User"],
        says: "client id or secret is wrong",
        requests: 5,
    },
    Case {
        what: "a wrong id, and a user to compare with",
        set_up: |instance| instance.remove_client(CLIENT_ID),
        ask: Question::with_user,
        first: &["Client", "User"],
        says: "client id or secret is wrong",
        requests: 5,
    },
    Case {
        what: "an unknown scope",
        set_up: |_| {},
        ask: Question::with_unknown_scope,
        first: &["Scope"],
        says: "leaving --scope out is always allowed",
        requests: 3,
    },
    Case {
        what: "an unknown scope, and the property is off",
        set_up: |instance| instance.set_property_enabled(false),
        ask: |question| question.with_user().with_unknown_scope(),
        first: &["GrantSwitchedOff"],
        says: "glide.oauth.inbound.client.credential.grant_type.enabled",
        requests: 5,
    },
    Case {
        what: "a grant that the instance does not have",
        set_up: |instance| {
            let body = r#"{"error":"unsupported_grant_type"}"#.to_owned();
            instance.set_fault(Some(Fault::InvalidRequest(400, body)));
        },
        ask: Question::with_user,
        first: &["Plugin"],
        says: "com.snc.platform.security.oauth",
        requests: 1,
    },
    Case {
        what: "an instance that takes the client in the form only",
        set_up: |instance| instance.update_client(CLIENT_ID, |client| takes(client, Body)),
        ask: |question| question,
        first: &["Authentication"],
        says: "change --authentication",
        requests: 3,
    },
    Case {
        what: "an instance that takes the client in the form only, and a user to compare with",
        set_up: |instance| {
            instance.update_client(CLIENT_ID, |client| takes(client, Body));
            instance.set_property_enabled(false);
        },
        ask: Question::with_user,
        first: &["Authentication", "GrantSwitchedOff"],
        says: "change --authentication",
        requests: 5,
    },
    Case {
        what: "an instance that takes the client in the header only",
        set_up: |instance| instance.update_client(CLIENT_ID, |client| takes(client, Basic)),
        ask: |question| question.with(&["--authentication", "Body"]),
        first: &["Authentication"],
        says: "change --authentication",
        requests: 3,
    },
    Case {
        what: "a hibernating instance",
        set_up: |instance| instance.set_fault(Some(Fault::HibernationPage)),
        ask: Question::with_user,
        first: &["InstanceHibernating"],
        says: "Wake it at the ServiceNow developer site",
        requests: 1,
    },
    Case {
        what: "a redirect",
        set_up: |instance| {
            let location = "https://sso.example/login".to_owned();
            instance.set_fault(Some(Fault::Redirect { location }));
        },
        ask: Question::with_user,
        first: &["InvalidResponse"],
        says: "redirect (HTTP 302)",
        requests: 1,
    },
    Case {
        what: "a login page",
        set_up: |instance| instance.set_fault(Some(Fault::LoginPage)),
        ask: Question::with_user,
        first: &["InvalidResponse"],
        says: "a login, SSO or maintenance page",
        requests: 1,
    },
    Case {
        what: "a rate limit",
        set_up: |instance| {
            let retry_after = Some(RetryAfter::Seconds(90));
            instance.set_fault(Some(Fault::RateLimited { retry_after }));
        },
        ask: Question::with_user,
        first: &["RateLimited"],
        says: "It asks to wait for 1m30s.",
        requests: 1,
    },
    Case {
        what: "maintenance",
        set_up: |instance| instance.set_fault(Some(Fault::Maintenance)),
        ask: Question::with_user,
        first: &["InstanceUnavailable"],
        says: "HTTP 503",
        requests: 1,
    },
    Case {
        what: "a bad gateway",
        set_up: |instance| instance.set_fault(Some(Fault::BadGateway)),
        ask: Question::with_user,
        first: &["InstanceUnavailable"],
        says: "HTTP 502",
        requests: 1,
    },
    Case {
        what: "a connection that is reset",
        set_up: |instance| instance.set_fault(Some(Fault::Reset)),
        ask: Question::with_user,
        first: &["InstanceUnavailable"],
        says: "this machine may reach it",
        requests: 1,
    },
    Case {
        what: "a token without a lifetime",
        set_up: |instance| instance.set_fault(Some(Fault::ExpiresIn(ExpiresIn::Missing))),
        ask: Question::with_user,
        first: &["InvalidResponse"],
        says: "Access Token Lifespan",
        requests: 1,
    },
    Case {
        what: "an instance that repeats what it was sent",
        set_up: |instance| instance.set_fault(Some(Fault::EchoAuthorization)),
        ask: Question::with_user,
        first: &["Client"],
        says: "client id or secret is wrong",
        requests: 5,
    },
];

#[tokio::test]
async fn each_fault_of_the_setup_and_each_bad_day_has_its_cause_named_first() {
    for case in CASES {
        let instance = instance().await;
        (case.set_up)(&instance);
        let report = (case.ask)(Question::new(&instance)).report().await;
        let what = format!("{}: {report:#}", case.what);
        assert_eq!(report["ok"], false, "{what}");
        assert!(causes(&report).starts_with(case.first), "{what}");
        let explanation = report["causes"][0]["explanation"].as_str().unwrap();
        assert!(explanation.contains(case.says), "{what}");
        assert_eq!(report["requests"], case.requests, "{what}");
        assert_eq!(instance.requests().len(), case.requests, "{what}");
    }
}

#[tokio::test]
async fn the_way_in_which_the_instance_takes_the_client_is_named() {
    let instance = instance().await;
    for (asked, taken) in [(Basic, Body), (Body, Basic)] {
        instance.update_client(CLIENT_ID, |client| takes(client, taken));
        let question = Question::new(&instance);
        let report = question
            .with(&["--authentication", &format!("{asked:?}")])
            .report()
            .await;
        assert_eq!(
            report["message"],
            format!(
                "No token: the instance refused the request. With --authentication {taken:?} it gives a \
                 token: use that."
            )
        );
        assert_eq!(
            report["causes"],
            json!([{
                "cause": "Authentication",
                "explanation": "The client's id and secret are sent in a way that the instance does not \
                                take: change --authentication.",
            }])
        );
    }
}

#[tokio::test]
async fn a_refusal_that_does_not_come_again_is_no_wrong_setup() {
    let instance = instance().await;
    instance.fault_times(Fault::AccessDenied, 1);
    let report = Question::new(&instance).with_user().report().await;
    assert_eq!(report["ok"], true);
    assert_eq!(report["requests"], 2);
    let message = report["message"].as_str().unwrap();
    assert!(
        message.contains("refused the same request just before"),
        "{message}"
    );
}

#[tokio::test]
async fn a_check_never_sends_more_than_six_requests() {
    let instance = instance().await;
    instance.set_fault(Some(Fault::AccessDenied));
    let question = Question::new(&instance).with_user().with_unknown_scope();
    let report = question
        .with(&["--verify-path", "/api/now/table/sys_user"])
        .report()
        .await;
    assert_eq!(report["requests"], 6);
    assert_eq!(instance.requests().len(), 6);
}

#[tokio::test]
async fn a_person_reads_every_step_and_then_the_checklist() {
    let instance = instance().await;
    instance.set_property_enabled(false);
    let came = Question::new(&instance).with_user().ask().await;
    assert_eq!((came.code, came.stderr.as_str()), (Some(1), ""));
    assert!(!came.stdout.contains('\x1b'), "colours are for terminals");
    let places: Vec<_> = [
        "✓ client      secret from the file ",
        "✓ DNS         127.0.0.1 is an address",
        "✓ TLS         none: plain http",
        "✓ HTTP        POST /oauth_token.do: HTTP 401 after ",
        "✗ answer      refused, HTTP 401 (server_error: access_denied)",
        "✗ comparison  the same request once more: refused",
        "✗ comparison  client id and secret in the form (Body): refused",
        "✓ comparison  the password grant with the user given: a token",
        "No token: the instance refused the request. The password grant works with this client",
        "Check in this order:",
        "  1. The system property glide.oauth",
        "  2. The client's Application Registry entry has no OAuth Application User",
        "Source = OAuth",
    ]
    .iter()
    .map(|part| {
        came.stdout
            .find(part)
            .unwrap_or_else(|| panic!("no {part}: {}", came.stdout))
    })
    .collect();
    assert!(places.is_sorted(), "{}", came.stdout);
}
