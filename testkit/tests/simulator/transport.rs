//! TLS.

use std::io::ErrorKind;

use testkit::servicenow::{ClientCertificates, Identity, Options, Simulator, Tls};

use crate::wire::{Answer, GRANT, ID, SECRET, client, connect_tls, converse, token_request};

async fn ask_over_tls(
    instance: &Simulator,
    ca: &str,
    identity: Option<&Identity>,
) -> std::io::Result<Answer> {
    let stream = connect_tls(instance, ca, identity).await?;
    converse(stream, &token_request(ID, SECRET, GRANT)).await
}

#[tokio::test]
async fn tls_is_trusted_through_its_own_authority_only() {
    let instance = Simulator::start_tls().await;
    instance.add_client(client());
    assert!(instance.origin().starts_with("https://localhost:"));
    let answer = ask_over_tls(&instance, instance.ca_pem().unwrap(), None)
        .await
        .unwrap();
    assert_eq!(answer.status, 200);
    assert!(
        answer
            .header("Set-Cookie")
            .unwrap()
            .ends_with("HttpOnly;Secure")
    );
    let stranger = Simulator::start_tls().await;
    let refused = ask_over_tls(&instance, stranger.ca_pem().unwrap(), None).await;
    assert_eq!(refused.unwrap_err().kind(), ErrorKind::InvalidData);
}

#[tokio::test]
async fn client_certificates_are_asked_for_where_it_says_so() {
    let options = Options {
        tls: Tls::Generated,
        client_certificates: ClientCertificates::Generated,
        ..Options::default()
    };
    let instance = Simulator::start_with(options).await.unwrap();
    instance.add_client(client());
    let ca = instance.ca_pem().unwrap();
    let identity = instance
        .issue_client_certificate("operator")
        .unwrap()
        .unwrap();
    assert_eq!(
        ask_over_tls(&instance, ca, Some(&identity))
            .await
            .unwrap()
            .status,
        200
    );
    assert!(ask_over_tls(&instance, ca, None).await.is_err());
    let stranger = Simulator::start_tls()
        .await
        .issue_client_certificate("operator")
        .unwrap()
        .unwrap();
    assert!(ask_over_tls(&instance, ca, Some(&stranger)).await.is_err());
    let seen = instance.requests();
    let shown: Vec<_> = seen.iter().map(|r| r.client_certificate.clone()).collect();
    assert_eq!(shown, [Some(identity.certificate_der().unwrap())]);
}

#[tokio::test]
async fn a_given_certificate_is_used_and_a_broken_one_refused() {
    let authority = Simulator::start_tls().await;
    let issued = authority
        .issue_client_certificate("not for servers")
        .unwrap()
        .unwrap();
    let given = Options {
        tls: Tls::Given(issued.clone()),
        ..Options::default()
    };
    let instance = Simulator::start_with(given).await.unwrap();
    assert_eq!(instance.ca_pem(), None);
    let seen = connect_tls(&instance, authority.ca_pem().unwrap(), None)
        .await
        .unwrap_err();
    assert!(
        seen.to_string().contains("certificate"),
        "the client must have seen the given one: {seen}"
    );
    let broken = Identity {
        key_pem: "no key".to_owned(),
        ..issued
    };
    let refused = Simulator::start_with(Options {
        tls: Tls::Given(broken),
        ..Options::default()
    })
    .await;
    assert_eq!(refused.err().unwrap().kind(), ErrorKind::InvalidInput);
}
