//! Which requests a check makes, what it concludes, and how it says so.

use super::{
    attempt::{Answer, Attempt, Request, Situation, next},
    diagnosis::diagnose,
    report::{Finding, Report, Step},
    text,
    voice::Voice,
};
use crate::{
    api::{ClientAuthentication, Reason},
    servicenow::{Cause, Refusal, WHERE_MORE},
};

const ORDINARY: Situation = Situation {
    scopes: false,
    password: false,
    other_grant: false,
    authentication: ClientAuthentication::Basic,
};
const WITH_SCOPES: Situation = Situation {
    scopes: true,
    ..ORDINARY
};
const WITH_USER: Situation = Situation {
    other_grant: true,
    ..ORDINARY
};
const WITH_BOTH: Situation = Situation {
    scopes: true,
    other_grant: true,
    ..ORDINARY
};
const OF_PASSWORD: Situation = Situation {
    password: true,
    other_grant: true,
    ..ORDINARY
};

fn refused(named: Option<Cause>) -> Answer {
    Answer::Refused(Refusal {
        status: 401,
        said: "server_error: access_denied".to_owned(),
        named,
    })
}

/// What a check comes to at an instance that grants these requests, and answers all others so.
fn attempts(situation: Situation, granted: &[Request], otherwise: &Answer) -> Vec<Attempt> {
    let mut attempts = Vec::new();
    while let Some(request) = next(situation, &attempts) {
        let answer = if granted.contains(&request) {
            Answer::Granted
        } else {
            otherwise.clone()
        };
        attempts.push(Attempt { request, answer });
    }
    attempts
}

fn requests(situation: Situation, granted: &[Request], otherwise: &Answer) -> Vec<Request> {
    let attempts = attempts(situation, granted, otherwise);
    attempts.iter().map(|attempt| attempt.request).collect()
}

#[test]
fn a_refusal_is_compared_with_requests_that_differ_in_one_thing_and_never_with_more_than_five() {
    use Request::{
        Again, AsMeant, OtherAuthentication, OtherGrant, OtherGrantAndAuthentication, WithoutScopes,
    };
    let denied = refused(None);
    for (situation, granted, otherwise, expected) in [
        (ORDINARY, vec![AsMeant], &denied, vec![AsMeant]),
        (WITH_BOTH, vec![Again], &denied, vec![AsMeant, Again]),
        (
            ORDINARY,
            vec![],
            &denied,
            vec![AsMeant, Again, OtherAuthentication],
        ),
        (
            WITH_SCOPES,
            vec![WithoutScopes],
            &denied,
            vec![AsMeant, Again, WithoutScopes],
        ),
        (
            WITH_BOTH,
            vec![],
            &denied,
            vec![
                AsMeant,
                Again,
                WithoutScopes,
                OtherAuthentication,
                OtherGrant,
                OtherGrantAndAuthentication,
            ],
        ),
        (
            OF_PASSWORD,
            vec![OtherGrant],
            &denied,
            vec![AsMeant, Again, OtherAuthentication, OtherGrant],
        ),
        (
            WITH_BOTH,
            vec![],
            &Answer::Failed(Reason::RateLimited),
            vec![AsMeant],
        ),
        (
            WITH_BOTH,
            vec![],
            &refused(Some(Cause::ApplicationUser)),
            vec![AsMeant],
        ),
        (
            WITH_BOTH,
            vec![],
            &refused(Some(Cause::Plugin)),
            vec![AsMeant],
        ),
        (
            ORDINARY,
            vec![],
            &refused(Some(Cause::Client)),
            vec![AsMeant, Again, OtherAuthentication],
        ),
    ] {
        assert_eq!(requests(situation, &granted, otherwise), expected);
    }
}

#[test]
fn comparing_ends_where_an_instance_does_not_answer_it() {
    let attempt = |request, answer| Attempt { request, answer };
    let attempts = [
        attempt(Request::AsMeant, refused(None)),
        attempt(Request::Again, Answer::Failed(Reason::RateLimited)),
    ];
    assert_eq!(next(WITH_BOTH, &attempts), None);
    let diagnosis = diagnose(WITH_BOTH, &attempts).unwrap();
    assert_eq!(diagnosis.causes, Cause::CLIENT_CREDENTIALS);
}

#[test]
fn each_comparison_puts_the_cause_that_it_shows_first() {
    use Cause::{
        ApplicationUser, Authentication, Client, GrantSwitchedOff, MachineIdentity, Plugin, Scope,
        User,
    };
    let denied = refused(None);
    for (situation, granted, otherwise, expected) in [
        (
            WITH_SCOPES,
            None,
            &denied,
            vec![
                GrantSwitchedOff,
                ApplicationUser,
                Client,
                Scope,
                Plugin,
                MachineIdentity,
            ],
        ),
        (
            ORDINARY,
            None,
            &denied,
            vec![
                GrantSwitchedOff,
                ApplicationUser,
                Client,
                Plugin,
                MachineIdentity,
            ],
        ),
        (
            WITH_SCOPES,
            Some(Request::WithoutScopes),
            &denied,
            vec![Scope, Plugin],
        ),
        (
            WITH_BOTH,
            Some(Request::OtherAuthentication),
            &denied,
            vec![Authentication],
        ),
        (
            WITH_BOTH,
            Some(Request::OtherGrant),
            &denied,
            vec![GrantSwitchedOff, ApplicationUser, MachineIdentity],
        ),
        (
            WITH_USER,
            Some(Request::OtherGrantAndAuthentication),
            &denied,
            vec![
                Authentication,
                GrantSwitchedOff,
                ApplicationUser,
                MachineIdentity,
            ],
        ),
        (
            WITH_USER,
            None,
            &denied,
            vec![
                Client,
                User,
                GrantSwitchedOff,
                ApplicationUser,
                Plugin,
                MachineIdentity,
            ],
        ),
        (OF_PASSWORD, None, &denied, vec![User, Client, Plugin]),
        (OF_PASSWORD, Some(Request::OtherGrant), &denied, vec![User]),
        (
            ORDINARY,
            None,
            &refused(Some(ApplicationUser)),
            vec![
                ApplicationUser,
                GrantSwitchedOff,
                Client,
                Plugin,
                MachineIdentity,
            ],
        ),
        (
            ORDINARY,
            None,
            &refused(Some(Plugin)),
            vec![
                Plugin,
                GrantSwitchedOff,
                ApplicationUser,
                Client,
                MachineIdentity,
            ],
        ),
    ] {
        let granted: Vec<_> = granted.into_iter().collect();
        let attempts = attempts(situation, &granted, otherwise);
        let diagnosis = diagnose(situation, &attempts).unwrap();
        assert_eq!(
            diagnosis.causes, expected,
            "{granted:?} {}",
            diagnosis.finding
        );
    }
}

#[test]
fn a_token_and_a_failure_that_is_no_refusal_have_no_checklist() {
    for (granted, otherwise) in [
        (vec![Request::AsMeant], refused(None)),
        (vec![Request::Again], refused(None)),
        (vec![], Answer::Failed(Reason::InstanceHibernating)),
    ] {
        let attempts = attempts(WITH_BOTH, &granted, &otherwise);
        assert_eq!(diagnose(WITH_BOTH, &attempts), None);
    }
}

fn refusal(voice: Voice) -> Report {
    let attempts = attempts(WITH_USER, &[], &refused(None));
    let diagnosis = diagnose(WITH_USER, &attempts).unwrap();
    let causes = diagnosis.causes.into_iter().map(|cause| Finding {
        cause: cause.as_str().to_owned(),
        explanation: voice.sentence(cause.explain()),
    });
    Report {
        ok: false,
        reason: Some("AccessDenied".to_owned()),
        message: format!(
            "No token: the instance refused the request. {}",
            voice.say(&diagnosis.finding)
        ),
        steps: vec![
            Step::new("client", true, "secret from SNOWCRED_CLIENT_SECRET"),
            Step::new(
                "DNS",
                true,
                "dev12345.service-now.com is 192.0.2.1, 192.0.2.2",
            ),
            Step::new(
                "answer",
                false,
                "refused, HTTP 401 (server_error: access_denied)",
            ),
            Step::new(
                "comparison",
                false,
                "the password grant with the user given, client id and secret in the form (Body): \
                 refused, HTTP 401 (server_error: access_denied)",
            ),
        ],
        causes: causes.collect(),
        see_also: Some(WHERE_MORE.to_owned()),
        expires_in: None,
        scope: None,
        requests: 5,
        token: None,
    }
}

fn hibernating() -> Report {
    let message = "https://dev12345.service-now.com is a hibernating developer instance: it answers \
                   every request with its hibernation page. Wake it at the ServiceNow developer site \
                   (sign in, \"Wake instance\"); the token is fetched as soon as it is up.";
    let reason = "InstanceHibernating".to_owned();
    Report {
        reason: Some(reason.clone()),
        message: format!("No token: {reason}."),
        steps: vec![Step::new("answer", false, "no token, InstanceHibernating")],
        causes: vec![Finding {
            cause: reason,
            explanation: Voice::Options.say(message),
        }],
        see_also: None,
        requests: 1,
        ..refusal(Voice::Options)
    }
}

fn obtained() -> Report {
    Report {
        ok: true,
        reason: None,
        message: "Token obtained: valid for 29m59s, scope useraccount.".to_owned(),
        steps: vec![
            Step::new("answer", true, "a token"),
            Step::new("probe", true, "GET /api/now/x: HTTP 200, the token works."),
        ],
        causes: Vec::new(),
        see_also: None,
        expires_in: Some(1799),
        scope: Some("useraccount".to_owned()),
        requests: 2,
        token: Some("a-token-that-was-asked-for".to_owned()),
    }
}

fn shown(report: &Report, width: usize) -> String {
    let steps = report
        .steps
        .iter()
        .map(|step| text::step(step, Some(width)));
    let whole = steps.collect::<String>() + &text::ending(report, Some(width));
    let plain = anstream::adapter::strip_str(&whole).to_string();
    let longest = plain.lines().map(|line| line.chars().count()).max();
    assert!(longest <= Some(width), "{plain}");
    plain
}

#[test]
fn a_refusal_is_readable_in_80_and_in_120_columns() {
    insta::assert_snapshot!("refusal_80", shown(&refusal(Voice::Options), 80));
    insta::assert_snapshot!("refusal_120", shown(&refusal(Voice::Resource), 120));
}

#[test]
fn a_failure_and_a_token_are_readable_in_80_and_in_120_columns() {
    insta::assert_snapshot!("hibernating_80", shown(&hibernating(), 80));
    insta::assert_snapshot!("hibernating_120", shown(&hibernating(), 120));
    insta::assert_snapshot!("obtained_80", shown(&obtained(), 80));
    insta::assert_snapshot!("obtained_120", shown(&obtained(), 120));
}

#[test]
fn a_program_finds_every_field_whatever_the_outcome() {
    let keys = |report: &Report| {
        let report = serde_json::to_value(report).unwrap();
        let keys = report.as_object().unwrap().keys().cloned();
        keys.collect::<Vec<_>>().join(" ")
    };
    let always = "causes expiresIn message ok reason requests scope seeAlso steps";
    assert_eq!(keys(&refusal(Voice::Options)), always);
    assert_eq!(keys(&obtained()), format!("{always} token"));
}
