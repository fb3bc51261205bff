//! How a simulator is started.

use std::net::{Ipv4Addr, SocketAddr};

use super::{clock::Clock, instance::MissingUser, tls::Identity, tokens::TokenMode};

/// How to start a simulator. The default is plain HTTP on a free port of 127.0.0.1.
#[derive(Clone, Debug)]
pub struct Options {
    /// The address to listen on; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Plain HTTP, or whose certificate.
    pub tls: Tls,
    /// Whether clients must show a certificate; only with TLS.
    pub client_certificates: ClientCertificates,
    /// Names beside `localhost` by which clients reach it. The origin has the first of them, and a
    /// generated certificate has all.
    pub host_names: Vec<String>,
    /// The instance's clock.
    pub clock: Clock,
    /// What happens when a token is asked for again before its expiry.
    pub mode: TokenMode,
    /// What is answered where a client has no application user.
    pub missing_user: MissingUser,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            tls: Tls::Off,
            client_certificates: ClientCertificates::NotAsked,
            host_names: Vec::new(),
            clock: Clock::system(),
            mode: TokenMode::default(),
            missing_user: MissingUser::default(),
        }
    }
}

/// Whether the server speaks TLS.
#[derive(Clone, Debug, Default)]
pub enum Tls {
    /// Plain HTTP.
    #[default]
    Off,
    /// TLS with a certificate of an authority made for this simulator.
    Generated,
    /// TLS with this certificate chain and key.
    Given(Identity),
}

/// Which certificate a client must show.
#[derive(Clone, Debug, Default)]
pub enum ClientCertificates {
    /// None.
    #[default]
    NotAsked,
    /// One of the generated authority, by `Simulator::issue_client_certificate`.
    Generated,
    /// One of these authorities, in PEM.
    Given(String),
}
