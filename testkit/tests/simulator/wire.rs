//! A client that hides nothing: it writes the bytes of a request and reads the bytes of the answer.

use std::{io, sync::Arc};

use base64::{Engine, engine::general_purpose::STANDARD};
use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
};
use serde_json::Value;
use testkit::servicenow::{Client, Identity, Simulator};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

pub(crate) const ID: &str = "0123456789abcdef";
pub(crate) const SECRET: &str = "s3cr/t+with =odd:signs";
pub(crate) const GRANT: &str = "grant_type=client_credentials";

/// An instance with one client that is set up right.
pub(crate) async fn instance() -> Simulator {
    let instance = Simulator::start().await;
    instance.add_client(client());
    instance
}

pub(crate) fn client() -> Client {
    Client::new(ID, SECRET)
}

/// What came back.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    head: String,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head
            .lines()
            .filter_map(|line| line.split_once(": "))
            .find(|(header, _)| header.eq_ignore_ascii_case(name))
            .map(|(_, value)| value)
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error} in {self:?}"))
    }

    pub(crate) fn token(&self) -> String {
        self.json()["access_token"]
            .as_str()
            .unwrap_or_else(|| panic!("no access_token in {self:?}"))
            .to_owned()
    }

    pub(crate) fn expires_in(&self) -> Value {
        self.json()["expires_in"].clone()
    }

    /// Whether it is the answer that nearly every wrong setup gets.
    pub(crate) fn is_access_denied(&self) -> bool {
        let body = r#"{"error":"server_error","error_description":"access_denied"}"#;
        self.status == 401 && self.json() == serde_json::from_str::<Value>(body).unwrap()
    }
}

/// A client credentials request of the client of [`instance`].
pub(crate) async fn ask(instance: &Simulator) -> Answer {
    ask_as(instance, ID, SECRET, GRANT).await
}

/// A token request with HTTP Basic.
pub(crate) async fn ask_as(instance: &Simulator, id: &str, secret: &str, form: &str) -> Answer {
    exchange(instance, &token_request(id, secret, form))
        .await
        .expect("an answer")
}

/// A token request with the credentials in the form only.
pub(crate) async fn ask_by_form(instance: &Simulator, form: &str) -> Answer {
    exchange(instance, &post("/oauth_token.do", &[], form))
        .await
        .expect("an answer")
}

pub(crate) fn token_request(id: &str, secret: &str, form: &str) -> String {
    post("/oauth_token.do", &[&basic(id, secret)], form)
}

pub(crate) fn basic(id: &str, secret: &str) -> String {
    format!(
        "Authorization: Basic {}",
        STANDARD.encode(format!("{id}:{secret}"))
    )
}

pub(crate) fn post(target: &str, headers: &[&str], form: &str) -> String {
    let content_type = "Content-Type: application/x-www-form-urlencoded";
    request("POST", target, &[&[content_type], headers].concat(), form)
}

pub(crate) fn request(method: &str, target: &str, headers: &[&str], body: &str) -> String {
    let headers: String = headers
        .iter()
        .map(|header| format!("{header}\r\n"))
        .collect();
    let length = body.len();
    format!(
        "{method} {target} HTTP/1.1\r\nHost: instance\r\nConnection: close\r\n{headers}Content-Length: {length}\r\n\r\n{body}"
    )
}

/// Sends to an instance of plain HTTP.
pub(crate) async fn exchange(instance: &Simulator, request: &str) -> io::Result<Answer> {
    converse(TcpStream::connect(instance.address()).await?, request).await
}

/// Sends to any address, as to the control API.
pub(crate) async fn exchange_at(origin: &str, request: &str) -> io::Result<Answer> {
    let address = origin
        .split_once("://")
        .map_or(origin, |(_, address)| address);
    converse(TcpStream::connect(address).await?, request).await
}

/// Sends one request and reads until the other side closes.
pub(crate) async fn converse<S: AsyncRead + AsyncWrite + Unpin>(
    mut stream: S,
    request: &str,
) -> io::Result<Answer> {
    stream.write_all(request.as_bytes()).await?;
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).await?;
    let text = String::from_utf8(bytes).map_err(io::Error::other)?;
    let (head, body) = text
        .split_once("\r\n\r\n")
        .ok_or(io::ErrorKind::UnexpectedEof)?;
    let status = head
        .split(' ')
        .nth(1)
        .and_then(|status| status.parse().ok());
    let mut answer = Answer {
        status: status.ok_or(io::ErrorKind::InvalidData)?,
        head: head.to_owned(),
        body: body.to_owned(),
    };
    if answer.header("Transfer-Encoding") == Some("chunked") {
        answer.body = dechunked(body);
    }
    Ok(answer)
}

fn dechunked(mut chunks: &str) -> String {
    let mut body = String::new();
    while let Some((length, rest)) = chunks.split_once("\r\n") {
        let length = usize::from_str_radix(length, 16).expect("a chunk's length");
        body.push_str(&rest[..length]);
        chunks = rest[length..].trim_start_matches("\r\n");
    }
    body
}

/// A TLS connection that trusts `ca_pem` and shows `identity`.
pub(crate) async fn connect_tls(
    instance: &Simulator,
    ca_pem: &str,
    identity: Option<&Identity>,
) -> io::Result<TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(ca_pem.as_bytes()) {
        roots.add(certificate.unwrap()).unwrap();
    }
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    let config = match identity {
        None => builder.with_no_client_auth(),
        Some(identity) => {
            let chain = CertificateDer::pem_slice_iter(identity.certificate_pem.as_bytes());
            let key = PrivateKeyDer::from_pem_slice(identity.key_pem.as_bytes()).unwrap();
            builder
                .with_client_auth_cert(chain.collect::<Result<_, _>>().unwrap(), key)
                .unwrap()
        }
    };
    let name = ServerName::try_from("localhost").unwrap();
    let tcp = TcpStream::connect(instance.address()).await?;
    TlsConnector::from(Arc::new(config))
        .connect(name, tcp)
        .await
}
