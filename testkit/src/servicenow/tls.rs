//! Certificates and the TLS side of the server.

use std::{fmt, io, sync::Arc};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose,
};
use rustls::{
    RootCertStore, ServerConfig,
    crypto::{CryptoProvider, ring},
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::{WebPkiClientVerifier, danger::ClientCertVerifier},
};
use tokio_rustls::TlsAcceptor;

use super::options::{ClientCertificates, Options, Tls};

/// A certificate chain and its private key, in PEM.
#[derive(Clone)]
pub struct Identity {
    /// The certificate, then what leads to its authority.
    pub certificate_pem: String,
    /// The private key.
    pub key_pem: String,
}

impl Identity {
    /// The certificate as DER.
    ///
    /// # Errors
    /// Where it is not PEM.
    pub fn certificate_der(&self) -> io::Result<Vec<u8>> {
        let der = CertificateDer::from_pem_slice(self.certificate_pem.as_bytes());
        der.map(|der| der.to_vec()).map_err(invalid)
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity")
            .field("certificate_pem", &self.certificate_pem)
            .field("key_pem", &"<redacted>")
            .finish()
    }
}

/// A certificate authority made for one simulator.
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    pem: String,
}

impl Authority {
    /// A new one, which nobody trusts yet.
    ///
    /// # Errors
    /// Where no key can be made.
    pub fn generate() -> io::Result<Self> {
        let mut params = CertificateParams::default();
        params
            .distinguished_name
            .push(DnType::CommonName, "ServiceNow simulator CA");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().map_err(io::Error::other)?;
        let issuer = CertifiedIssuer::self_signed(params, key).map_err(io::Error::other)?;
        Ok(Self {
            pem: issuer.pem(),
            issuer,
        })
    }

    /// The authority's certificate.
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// For a server that is reached by these names or addresses.
    ///
    /// # Errors
    /// Where a name is none.
    pub fn issue_for_server(&self, host_names: Vec<String>) -> io::Result<Identity> {
        self.issue(
            host_names,
            "ServiceNow simulator",
            ExtendedKeyUsagePurpose::ServerAuth,
        )
    }

    pub(super) fn issue_for_client(&self, common_name: &str) -> io::Result<Identity> {
        self.issue(Vec::new(), common_name, ExtendedKeyUsagePurpose::ClientAuth)
    }

    fn issue(
        &self,
        host_names: Vec<String>,
        common_name: &str,
        purpose: ExtendedKeyUsagePurpose,
    ) -> io::Result<Identity> {
        let mut params = CertificateParams::new(host_names).map_err(io::Error::other)?;
        params
            .distinguished_name
            .push(DnType::CommonName, common_name);
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![purpose];
        let key = KeyPair::generate().map_err(io::Error::other)?;
        let certificate = params
            .signed_by(&key, &self.issuer)
            .map_err(io::Error::other)?;
        Ok(Identity {
            certificate_pem: certificate.pem(),
            key_pem: key.serialize_pem(),
        })
    }
}

/// The authority, where one is generated, and the acceptor, where TLS is on.
pub(super) fn prepare(options: &Options) -> io::Result<(Option<Authority>, Option<TlsAcceptor>)> {
    let (authority, identity) = match &options.tls {
        Tls::Off => return Ok((None, None)),
        Tls::Given(identity) => (None, identity.clone()),
        Tls::Generated => {
            let authority = Authority::generate()?;
            let mut names = options.host_names.clone();
            names.extend(["localhost".to_owned(), "127.0.0.1".to_owned()]);
            let identity = authority.issue_for_server(names)?;
            (Some(authority), identity)
        }
    };
    let provider = Arc::new(ring::default_provider());
    let verifier = match (&options.client_certificates, &authority) {
        (ClientCertificates::NotAsked, _) => WebPkiClientVerifier::no_client_auth(),
        (ClientCertificates::Given(pem), _) => client_verifier(pem, &provider)?,
        (ClientCertificates::Generated, Some(authority)) => {
            client_verifier(authority.pem(), &provider)?
        }
        (ClientCertificates::Generated, None) => {
            return Err(invalid(
                "client certificates of the generated authority need a generated authority",
            ));
        }
    };
    let chain = certificates(&identity.certificate_pem, "server certificate")?;
    let key = PrivateKeyDer::from_pem_slice(identity.key_pem.as_bytes())
        .map_err(|error| invalid(format!("the private key is not a key in PEM: {error}")))?;
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .and_then(|builder| {
            builder
                .with_client_cert_verifier(verifier)
                .with_single_cert(chain, key)
        })
        .map_err(|error| invalid(format!("the certificate cannot be used: {error}")))?;
    Ok((authority, Some(TlsAcceptor::from(Arc::new(config)))))
}

fn client_verifier(
    authorities_pem: &str,
    provider: &Arc<CryptoProvider>,
) -> io::Result<Arc<dyn ClientCertVerifier>> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(authorities_pem, "authority for client certificates")? {
        roots.add(certificate).map_err(invalid)?;
    }
    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider))
        .build()
        .map_err(invalid)
}

fn certificates(pem: &str, what: &str) -> io::Result<Vec<CertificateDer<'static>>> {
    let chain: Vec<_> = CertificateDer::pem_slice_iter(pem.as_bytes())
        .collect::<Result<_, _>>()
        .map_err(|error| invalid(format!("the {what} is not a certificate in PEM: {error}")))?;
    if chain.is_empty() {
        return Err(invalid(format!("the {what} holds no certificate")));
    }
    Ok(chain)
}

fn invalid(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, error)
}
