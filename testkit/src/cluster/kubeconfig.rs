//! Kubeconfig files, and clients made from them.

use std::path::Path;
use std::sync::Once;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use kube::config::{KubeConfigOptions, Kubeconfig};

use super::certificates::{Identity, write};
use super::error::Error;

/// Where an API server is, and how a client knows that it is the right one.
#[derive(Debug, Clone)]
pub(super) struct Endpoint {
    pub(super) url: String,
    /// The authority's certificate, in PEM.
    pub(super) authority: String,
}

/// How a client proves who it is.
pub(super) enum Credential<'a> {
    Certificate(&'a Identity),
    Token(&'a str),
}

/// Writes a kubeconfig that needs no other file, so that it can be copied and mounted.
pub(super) fn save(
    path: &Path,
    endpoint: &Endpoint,
    user: &str,
    credential: &Credential<'_>,
) -> Result<(), Error> {
    let user_fields = match credential {
        Credential::Certificate(identity) => format!(
            "client-certificate-data: {}\n    client-key-data: {}",
            STANDARD.encode(&identity.certificate),
            STANDARD.encode(&identity.key)
        ),
        Credential::Token(token) => format!("token: {token}"),
    };
    let text = format!(
        "apiVersion: v1
kind: Config
current-context: test
clusters:
- name: test
  cluster:
    server: {url}
    certificate-authority-data: {authority}
users:
- name: {user:?}
  user:
    {user_fields}
contexts:
- name: test
  context:
    cluster: test
    user: {user:?}
",
        url = endpoint.url,
        authority = STANDARD.encode(&endpoint.authority),
    );
    write(path, &text)
}

/// A client for a kubeconfig file, tied to the runtime that calls this.
///
/// # Errors
///
/// Where the file cannot be read or is no kubeconfig.
pub async fn client(kubeconfig: &Path) -> Result<kube::Client, Error> {
    client_of(configuration(kubeconfig).await?)
}

/// As [`client`], and a refused request is passed on as it is: kube repeats some by itself.
pub(super) async fn client_without_retries(kubeconfig: &Path) -> Result<kube::Client, Error> {
    let mut config = configuration(kubeconfig).await?;
    config.default_retry = false;
    client_of(config)
}

fn client_of(config: kube::Config) -> Result<kube::Client, Error> {
    kube::Client::try_from(config).map_err(Error::api("make a client of the kubeconfig"))
}

async fn configuration(kubeconfig: &Path) -> Result<kube::Config, Error> {
    install_crypto_provider();
    let failed = |source| Error::Kubeconfig {
        path: kubeconfig.to_owned(),
        source: Box::new(source),
    };
    let file = Kubeconfig::read_from(kubeconfig).map_err(failed)?;
    let mut config = kube::Config::from_custom_kubeconfig(file, &KubeConfigOptions::default())
        .await
        .map_err(failed)?;
    // The API server is on the loopback interface, where no proxy of the environment reaches.
    config.proxy_url = None;
    Ok(config)
}

/// rustls has no provider of its own; whichever the process chose already is as good.
fn install_crypto_provider() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let _ = rustls::crypto::ring::default_provider().install_default();
    });
}
