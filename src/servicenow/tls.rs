//! What a connection to an instance is made with besides the public certificate authorities.

use std::{
    fmt,
    hash::{Hash, Hasher},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use reqwest::{Certificate, ClientBuilder};
use rustls::{
    RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    sign::CertifiedKey,
};
use zeroize::Zeroizing;

/// Certificate authorities that are trusted besides the public ones, and the certificate that is
/// shown to the instance.
#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub struct Tls {
    authorities: Vec<CertificateDer<'static>>,
    identity: Option<Identity>,
}

/// A certificate chain and its key.
#[derive(Clone, PartialEq, Eq)]
struct Identity {
    pem: Zeroizing<String>,
}

impl Hash for Identity {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.pem.as_bytes().hash(state);
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls")
            .field("authorities", &self.authorities.len())
            .field("identity", &self.identity.is_some())
            .finish()
    }
}

impl Tls {
    /// Trusts the certificates of a PEM bundle, too. The error fits after the bundle's name.
    pub fn trusting(mut self, bundle: &[u8]) -> Result<Self, String> {
        let mut certificates = certificates(bundle)?;
        // Large bundles hold odd certificates, which stand in nobody's way.
        certificates.retain(|certificate| RootCertStore::empty().add(certificate.clone()).is_ok());
        if certificates.is_empty() {
            return Err("holds no certificate that can be used".to_owned());
        }
        self.authorities = certificates;
        Ok(self)
    }

    /// Shows this certificate chain, both it and its key in PEM. The error fits after the name of
    /// what holds the two.
    pub fn showing(mut self, chain: &[u8], key: &[u8]) -> Result<Self, String> {
        let chain = certificates(chain)?;
        let key = PrivateKeyDer::from_pem_slice(key)
            .map_err(|_| "holds no private key in PEM".to_owned())?;
        let pem = Zeroizing::new(pem(&chain, &key));
        CertifiedKey::from_der(chain, key, &ring::default_provider()).map_err(|error| {
            format!("holds a certificate and a key that do not go together: {error}")
        })?;
        self.identity = Some(Identity { pem });
        Ok(self)
    }

    /// Has a client connect so.
    pub(super) fn configure(
        &self,
        builder: ClientBuilder,
    ) -> Result<ClientBuilder, reqwest::Error> {
        let authorities = self
            .authorities
            .iter()
            .map(|certificate| Certificate::from_der(certificate))
            .collect::<Result<Vec<_>, _>>()?;
        let builder = builder.tls_certs_merge(authorities);
        Ok(match &self.identity {
            Some(identity) => {
                builder.identity(reqwest::Identity::from_pem(identity.pem.as_bytes())?)
            }
            None => builder,
        })
    }
}

fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<_, _>>()
        .map_err(|_| "is not PEM".to_owned())?;
    if certificates.is_empty() {
        return Err("holds no certificate in PEM".to_owned());
    }
    Ok(certificates)
}

/// One file of both, with nothing else in it (RFC 7468): the HTTP client takes no other.
fn pem(chain: &[CertificateDer<'_>], key: &PrivateKeyDer<'_>) -> String {
    let label = match key {
        PrivateKeyDer::Pkcs1(_) => "RSA PRIVATE KEY",
        PrivateKeyDer::Sec1(_) => "EC PRIVATE KEY",
        _ => "PRIVATE KEY",
    };
    let certificates = chain
        .iter()
        .map(|certificate| ("CERTIFICATE", &**certificate));
    let sections = certificates.chain([(label, key.secret_der())]);
    let section = |(label, der): (&str, &[u8])| {
        let text = Zeroizing::new(STANDARD.encode(der));
        format!(
            "-----BEGIN {label}-----\n{}\n-----END {label}-----\n",
            *text
        )
    };
    sections.map(section).collect()
}
