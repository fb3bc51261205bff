//! The way to the instance: name, proxy and certificate.

use testkit::servicenow::Simulator;

use crate::question::{
    CLIENT_ID, CLIENT_SECRET, Question, causes, command, instance, run, set_up, steps,
};

#[tokio::test]
async fn a_certificate_of_an_unknown_authority_is_told_and_is_trusted_when_its_file_is_named() {
    let instance = set_up(Simulator::start_tls().await);
    let report = Question::new(&instance).report().await;
    assert_eq!(causes(&report), ["TlsFailed"]);
    let explanation = report["causes"][0]["explanation"].as_str().unwrap();
    assert!(explanation.contains("--ca-file"), "{explanation}");
    let expected = [("client", true), ("DNS", true), ("TLS", false)];
    assert_eq!(steps(&report), expected);

    let other = Simulator::start_tls().await;
    let question = Question::new(&instance).with_file("--ca-file", other.ca_pem().unwrap());
    assert_eq!(causes(&question.report().await), ["TlsFailed"]);

    let question = Question::new(&instance).with_file("--ca-file", instance.ca_pem().unwrap());
    assert_eq!(question.report().await["ok"], true);
}

#[tokio::test]
async fn an_instance_that_is_not_in_dns_is_told_as_such() {
    let mut question = Question::new(&instance().await);
    question.instance = "https://nobody.invalid".to_owned();
    let report = question.report().await;
    assert_eq!(causes(&report), ["InstanceUnavailable"]);
    let explanation = report["causes"][0]["explanation"].as_str().unwrap();
    assert!(
        explanation.contains("could not be found in DNS"),
        "{explanation}"
    );
    let expected = [("client", true), ("DNS", false), ("HTTP", false)];
    assert_eq!(steps(&report), expected);
}

#[tokio::test]
async fn a_name_is_left_to_the_proxy_where_there_is_one() {
    let instance = instance().await;
    let mut command = command();
    let proxy = instance.address();
    command
        .env("SNOWCRED_CLIENT_SECRET", CLIENT_SECRET)
        .env("HTTPS_PROXY", format!("http://user:hidden-pass@{proxy}"))
        .args(["check", "--instance", "https://nobody.invalid"])
        .args(["--client-id", CLIENT_ID]);
    let came = run(command).await;
    assert_eq!(came.code, Some(1));
    let expected = format!("left to the proxy {proxy}, which looks nobody.invalid up");
    assert!(came.stdout.contains(&expected), "{}", came.stdout);
    assert!(!came.stdout.contains("hidden-pass"), "{}", came.stdout);
}
