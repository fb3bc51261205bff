//! Bad input and bad days: each has its reason, the last good token stays, and nothing is retried
//! faster than it should be.

use std::{collections::BTreeMap, time::Duration};

use futures::{StreamExt as _, stream};
use jiff::{SignedDuration, Timestamp};
use serde_json::json;
use testkit::{
    operator::Operator,
    servicenow::{Client, ExpiresIn, Fault, RetryAfter, Simulator, TokenMode},
};

use crate::support::{CLIENT, CLIENT_ID, CLIENT_SECRET, Scene, eventually};

pub(crate) const LIFETIME: Duration = Duration::from_secs(1800);

/// What a day does to the instance, the reason that a renewal then fails for, and what its message says.
type Day = (Fault, &'static str, &'static str);

/// The days on which an instance cannot be reached, or answers for nobody.
fn days_of_the_instance() -> Vec<Day> {
    let drip = Fault::SlowDrip {
        pause: Duration::from_millis(100),
    };
    let limited = |retry_after| Fault::RateLimited { retry_after };
    let date = RetryAfter::HttpDate(Duration::from_secs(600));
    vec![
        (Fault::HibernationPage, "InstanceHibernating", "hibernating"),
        (Fault::BadGateway, "InstanceUnavailable", "HTTP 502"),
        (Fault::Maintenance, "InstanceUnavailable", "HTTP 503"),
        (
            Fault::Hang,
            "InstanceUnavailable",
            "did not answer within 2 s",
        ),
        // Each byte comes in time, and all of them do not.
        (drip, "InstanceUnavailable", "did not answer within 2 s"),
        (Fault::Reset, "InstanceUnavailable", "without an answer"),
        (Fault::TruncatedBody, "InstanceUnavailable", "broke off"),
        (
            limited(Some(RetryAfter::Seconds(1))),
            "RateLimited",
            "HTTP 429",
        ),
        (limited(Some(date)), "RateLimited", "HTTP 429"),
        (limited(None), "RateLimited", "HTTP 429"),
    ]
}

/// The days on which an instance gives an answer that is none, or refuses.
fn days_of_the_answer() -> Vec<Day> {
    let redirect = Fault::Redirect {
        location: "https://evil.example/".to_owned(),
    };
    let no_bearer_token = Fault::AccessToken("two words".to_owned());
    let invalid = |fault, says| (fault, "InvalidResponse", says);
    vec![
        invalid(Fault::LoginPage, "web page"),
        invalid(Fault::TruncatedJson, "not the JSON"),
        invalid(Fault::HugeBody(10 << 20), "64 KiB"),
        invalid(redirect, "redirect"),
        invalid(Fault::NoAccessToken, "no access_token"),
        invalid(Fault::ExpiresIn(ExpiresIn::Missing), "expires_in"),
        invalid(Fault::ExpiresIn(ExpiresIn::Zero), "expires_in"),
        invalid(Fault::ExpiresIn(ExpiresIn::Negative), "expires_in"),
        invalid(Fault::TokenType("mac".to_owned()), "token_type"),
        invalid(no_bearer_token, "bearer token"),
        (
            Fault::UnauthorizedClient,
            "AccessDenied",
            "1) the client's Application Registry entry",
        ),
    ]
}

/// A scene, its operator, and instances that all know its client: a resource for each.
pub(crate) struct World {
    pub(crate) scene: Scene,
    operator: Operator,
}

impl World {
    pub(crate) async fn new() -> Self {
        let scene = Scene::new(LIFETIME).await;
        let options = scene.options(&["--min-renew-interval=1ms", "--request-timeout=2s"]);
        let operator = Operator::start(&options).await;
        Self { scene, operator }
    }

    /// An instance of this mode, and a resource for it that is synced.
    pub(crate) async fn instance(
        &self,
        name: &str,
        mode: TokenMode,
        lifetime: Duration,
    ) -> Simulator {
        let instance = Simulator::start().await;
        instance.set_mode(mode);
        instance.add_client(Client::new(CLIENT_ID, CLIENT_SECRET).with_lifetime(lifetime));
        let spec = json!({
            "instance": instance.origin(),
            "client": {"secretRef": {"name": CLIENT}},
        });
        self.scene.create(name, spec).await;
        self.scene.await_synced(name).await;
        instance
    }

    /// How often requests to this instance have ended how, as the metrics count them.
    pub(crate) fn results(&self, instance: &Simulator) -> BTreeMap<String, usize> {
        let host = instance.address();
        let of_host = format!("snowcred_token_requests_total{{host=\"{host}\",result=\"");
        let metrics = self.operator.metrics();
        let counts = metrics
            .lines()
            .filter_map(|line| line.strip_prefix(&of_host)?.split_once("\"} "));
        counts
            .map(|(result, count)| (result.to_owned(), count.parse().unwrap()))
            .collect()
    }

    /// Every request to this instance but the first good one is counted under this reason.
    async fn all_but_one_are_counted_as(&self, instance: &Simulator, reason: &str, day: &str) {
        let (counted, asked) = eventually("no request is under way", async || {
            let (counted, asked) = (self.results(instance), instance.token_requests());
            (counted.values().sum::<usize>() == asked).then_some((counted, asked))
        })
        .await;
        let expected = [("Success".to_owned(), 1), (reason.to_owned(), asked - 1)];
        assert_eq!(counted, BTreeMap::from(expected), "{day}");
    }

    /// One day, from the last good token to the next one.
    async fn live_through(&self, name: &str, (fault, reason, says): Day) {
        let scene = &self.scene;
        let day = format!("{fault:?}");
        let instance = self.instance(name, TokenMode::AlwaysNew, LIFETIME).await;
        let token = scene.token(name).await;
        instance.set_fault(Some(fault));
        scene.renew(name, "on the bad day").await;
        let message = scene.await_failure(name, reason).await;
        assert!(message.contains(says), "{day}: {message}");
        assert_eq!(scene.token(name).await, token, "{day}");
        scene
            .await_condition(name, "Ready", "True", "TokenValid")
            .await;
        self.all_but_one_are_counted_as(&instance, reason, &day)
            .await;
        instance.set_fault(None);
        scene.renew(name, "well again").await;
        let next = scene.await_synced(name).await;
        assert!(instance.is_valid(&next) && Some(next) != token, "{day}");
        let news = [("Warning", reason), ("Normal", "TokenSynced")];
        scene.await_events(name, &news).await;
        assert_eq!(instance.cookies_returned(), 0, "{day}");
    }
}

#[tokio::test]
async fn each_bad_day_has_its_reason_its_metric_and_its_event_and_the_last_good_token_stays() {
    let world = World::new().await;
    let days = days_of_the_instance()
        .into_iter()
        .chain(days_of_the_answer());
    // Some at a time: most of a day is waiting.
    stream::iter(days.enumerate())
        .for_each_concurrent(6, async |(number, day)| {
            world.live_through(&format!("itsm-{number}"), day).await;
        })
        .await;
}

#[tokio::test]
async fn one_event_tells_of_each_change_of_reason_and_one_of_the_recovery() {
    let world = World::new().await;
    let scene = &world.scene;
    scene.create("itsm", scene.spec()).await;
    scene.await_synced("itsm").await;
    let limited = Fault::RateLimited {
        retry_after: Some(RetryAfter::Seconds(1)),
    };
    let days = [
        (Fault::HibernationPage, "InstanceHibernating"),
        (Fault::BadGateway, "InstanceUnavailable"),
        (Fault::Maintenance, "InstanceUnavailable"),
        (limited, "RateLimited"),
        (Fault::LoginPage, "InvalidResponse"),
        (Fault::TruncatedJson, "InvalidResponse"),
        (Fault::UnauthorizedClient, "AccessDenied"),
    ];
    for (fault, reason) in days {
        let day = format!("{fault:?}");
        scene.instance.set_fault(Some(fault));
        scene.renew("itsm", &day).await;
        scene.await_failure("itsm", reason).await;
    }
    scene.instance.set_fault(None);
    scene.renew("itsm", "well again").await;
    scene.await_synced("itsm").await;
    let news = [
        ("Warning", "InstanceHibernating"),
        ("Warning", "InstanceUnavailable"),
        ("Warning", "RateLimited"),
        ("Warning", "InvalidResponse"),
        ("Warning", "AccessDenied"),
        ("Normal", "TokenSynced"),
    ];
    scene.await_events("itsm", &news).await;
}

#[tokio::test]
async fn a_rate_limit_is_waited_out_as_the_instance_says_and_for_half_a_minute_if_it_says_nothing()
{
    let world = World::new().await;
    let scene = &world.scene;
    let seconds = SignedDuration::from_secs;
    let in_ten_minutes = RetryAfter::HttpDate(Duration::from_secs(600));
    // A date has whole seconds, so that it may be up to one earlier.
    for (name, retry_after, at_least, at_most) in [
        ("nothing", None, seconds(30), seconds(30)),
        (
            "seconds",
            Some(RetryAfter::Seconds(120)),
            seconds(120),
            seconds(120),
        ),
        ("date", Some(in_ten_minutes), seconds(599), seconds(600)),
        (
            "no-time",
            Some(RetryAfter::Raw("soon".to_owned())),
            seconds(30),
            seconds(30),
        ),
    ] {
        let instance = world.instance(name, TokenMode::AlwaysNew, LIFETIME).await;
        instance.set_fault(Some(Fault::RateLimited { retry_after }));
        let before = Timestamp::now();
        scene.renew(name, "1").await;
        scene.await_failure(name, "RateLimited").await;
        let failure = scene.get(name).await.status.unwrap().failure.unwrap();
        let waits = before + at_least..=Timestamp::now() + at_most;
        let retry = failure.retry_time.unwrap().0;
        assert!(
            waits.contains(&retry),
            "{name}: {retry} is not in {waits:?}"
        );
        assert_eq!(instance.token_requests(), 2, "{name}");
    }
}

#[tokio::test]
async fn an_instance_that_is_down_is_unavailable_and_noticed_when_it_is_back() {
    let scene = Scene::new(Duration::from_secs(1800)).await;
    scene.instance.go_down().await;
    let _operator = scene.operator().await;
    scene.create("itsm", scene.spec()).await;
    let message = scene.await_failure("itsm", "InstanceUnavailable").await;
    assert!(message.contains(&scene.instance.origin()), "{message}");
    scene.instance.come_up().await;
    scene.await_synced("itsm").await;
}

#[tokio::test]
async fn an_instance_that_answers_nobody_slows_no_other_down() {
    let scene = Scene::new(Duration::from_secs(1800)).await;
    let dead = Simulator::start().await;
    dead.set_fault(Some(Fault::Hang));
    // Fewer hands than resources that wait, and a wait that nothing in this test outlasts.
    let options = scene.options(&["--concurrency=2", "--request-timeout=10m"]);
    let _operator = Operator::start(&options).await;
    for number in 0..12 {
        let client = format!("client-{number}");
        let data = json!({"client-id": client, "client-secret": "secret"});
        scene.put_secret(&client, json!({"stringData": data})).await;
        let spec = json!({
            "instance": dead.origin(),
            "client": {"secretRef": {"name": client}},
        });
        scene.create(&format!("held-{number}"), spec).await;
    }
    eventually("as many requests as may be are under way", async || {
        (dead.token_requests() == 4).then_some(())
    })
    .await;
    scene.create("itsm", scene.spec()).await;
    scene.await_synced("itsm").await;
    scene.renew("itsm", "and again").await;
    scene.await_synced("itsm").await;
    assert_eq!(dead.token_requests(), 4);
}

#[tokio::test]
async fn setup_faults_are_refused_with_the_checklist() {
    let scene = Scene::new(Duration::from_secs(1800)).await;
    scene.instance.set_property_enabled(false);
    let _operator = scene.operator().await;
    scene.create("itsm", scene.spec()).await;
    let message = scene.await_failure("itsm", "AccessDenied").await;
    assert!(
        message.contains("HTTP 401 (server_error: access_denied)"),
        "{message}"
    );
    scene
        .await_condition("itsm", "Ready", "False", "AccessDenied")
        .await;
    assert!(scene.secret("itsm").await.is_none());
}

#[tokio::test]
async fn a_one_off_refusal_among_good_answers_is_tried_once_more_and_nobody_is_told() {
    let scene = Scene::new(Duration::from_secs(1800)).await;
    let _operator = Operator::start(&scene.options(&["--min-renew-interval=1ms"])).await;
    scene.create("itsm", scene.spec()).await;
    let first = scene.await_synced("itsm").await;
    scene.instance.fault_times(Fault::AccessDenied, 1);
    scene.renew("itsm", "1").await;
    assert_ne!(scene.token("itsm").await.unwrap(), first);
    assert_eq!(scene.instance.token_requests(), 3);
    assert_eq!(scene.events("itsm").await, []);
}

#[tokio::test]
async fn a_host_that_is_not_allowed_gets_nothing() {
    let scene = Scene::new(Duration::from_secs(1800)).await;
    let _operator = scene.operator().await;
    let mut spec = scene.spec();
    spec["instance"] = json!("https://evil.example");
    scene.create("itsm", spec).await;
    let message = scene.await_failure("itsm", "HostNotAllowed").await;
    assert!(
        message.contains("https://evil.example") && message.contains("--allowed-hosts"),
        "{message}"
    );
}

#[tokio::test]
async fn plain_http_is_refused_without_the_flag_for_tests() {
    let scene = Scene::new(Duration::from_secs(1800)).await;
    let mut options = scene.options(&[]);
    options
        .arguments
        .retain(|argument| argument != "--allow-insecure-http");
    let _operator = Operator::start(&options).await;
    scene.create("itsm", scene.spec()).await;
    scene.await_failure("itsm", "HostNotAllowed").await;
    assert_eq!(scene.instance.token_requests(), 0);
}

#[tokio::test]
async fn a_broken_template_is_named_by_key_and_position_and_nothing_is_asked() {
    let scene = Scene::new(Duration::from_secs(1800)).await;
    let _operator = scene.operator().await;
    let mut spec = scene.spec();
    spec["target"] = json!({"data": {"good": "{{ token }}", "bad": "a\n{{ tokn }}"}});
    scene.create("itsm", spec).await;
    let message = scene.await_failure("itsm", "TemplateInvalid").await;
    assert!(
        message.contains("\"bad\"") && message.contains("line 2, column 4"),
        "{message}"
    );
    scene
        .change(
            "itsm",
            json!({"spec": {"target": {"data": {"bad": "{{ token }}"}}}}),
        )
        .await;
    scene
        .await_condition("itsm", "Synced", "True", "TokenSynced")
        .await;
    assert_eq!(scene.instance.token_requests(), 1);
}

#[tokio::test]
async fn an_instance_with_an_unknown_certificate_is_not_trusted() {
    let scene = Scene::with_instance(
        testkit::servicenow::Simulator::start_tls().await,
        Duration::from_secs(1800),
    )
    .await;
    let origin = scene.instance.origin();
    let allowed = format!("--allowed-hosts={}", origin.trim_start_matches("https://"));
    let operator = Operator::start(&scene.options(&[&allowed])).await;
    scene.create("itsm", scene.spec()).await;
    let message = scene.await_failure("itsm", "TlsFailed").await;
    assert!(message.contains(&origin), "{message}");
    assert!(!operator.log().contains(CLIENT_ID));
    // With the CA among the trusted ones, it is.
    drop(operator);
    let folder = tempfile::tempdir().unwrap();
    let bundle = folder.path().join("ca.pem");
    std::fs::write(&bundle, scene.instance.ca_pem().unwrap()).unwrap();
    let mut options = scene.options(&[&allowed]);
    let bundle = bundle.display().to_string();
    options
        .environment
        .push(("SSL_CERT_FILE".to_owned(), bundle));
    let _operator = Operator::start(&options).await;
    scene.await_synced("itsm").await;
}
