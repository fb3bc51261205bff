//! The keys and certificates of one control plane: its own authority, valid nowhere else.
//!
//! Because every control plane has its own authority, a client never mistakes the API server of
//! another test, which took the same port a moment earlier, for its own.

use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};

use super::error::Error;
use super::servers::API_SERVICE;

/// A certificate and its private key, both in PEM.
pub(super) struct Identity {
    pub(super) certificate: String,
    pub(super) key: String,
}

impl Identity {
    /// Writes `NAME.crt` and `NAME.key`.
    pub(super) fn write(&self, folder: &Path, name: &str) -> Result<(), Error> {
        write(&folder.join(format!("{name}.crt")), &self.certificate)?;
        write(&folder.join(format!("{name}.key")), &self.key)
    }
}

/// The authority that both sides of every connection trust.
pub(super) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: String,
}

impl Authority {
    pub(super) fn new() -> Result<Self, Error> {
        let failed = |source| Error::Certificate {
            what: "certificate authority",
            source,
        };
        let key = KeyPair::generate().map_err(failed)?;
        let mut parameters = CertificateParams::default();
        parameters
            .distinguished_name
            .push(DnType::CommonName, "test control plane");
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let certificate = parameters.self_signed(&key).map_err(failed)?.pem();
        Ok(Self {
            issuer: Issuer::new(parameters, key),
            certificate,
        })
    }

    /// The authority's certificate, in PEM.
    pub(super) fn certificate(&self) -> &str {
        &self.certificate
    }

    /// For the API server, under every name that a client may call it by.
    pub(super) fn serving(&self, address: Ipv4Addr) -> Result<Identity, Error> {
        let names = vec![
            Ipv4Addr::LOCALHOST.to_string(),
            address.to_string(),
            API_SERVICE.to_string(),
            "localhost".to_owned(),
            "kubernetes.default.svc".to_owned(),
        ];
        let failed = |source| Error::Certificate {
            what: "serving certificate",
            source,
        };
        let mut parameters = CertificateParams::new(names).map_err(failed)?;
        parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        parameters
            .distinguished_name
            .push(DnType::CommonName, "kube-apiserver");
        self.sign(parameters).map_err(failed)
    }

    /// For a client. Kubernetes takes the common name for the user, the organization for the
    /// group ("X.509 client certificates" in its documentation of authentication).
    pub(super) fn client(&self, user: &str, group: Option<&str>) -> Result<Identity, Error> {
        let mut parameters = CertificateParams::default();
        parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        parameters.distinguished_name.push(DnType::CommonName, user);
        if let Some(group) = group {
            parameters
                .distinguished_name
                .push(DnType::OrganizationName, group);
        }
        self.sign(parameters).map_err(|source| Error::Certificate {
            what: "client certificate",
            source,
        })
    }

    fn sign(&self, mut parameters: CertificateParams) -> Result<Identity, rcgen::Error> {
        parameters.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        parameters.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate()?;
        let certificate = parameters.signed_by(&key, &self.issuer)?;
        Ok(Identity {
            certificate: certificate.pem(),
            key: key.serialize_pem(),
        })
    }
}

/// Writes the keys that sign and check the tokens of ServiceAccounts: `NAME.key`, `NAME.pub`.
/// The API server takes no private key in PKCS #8 for the public one, and so there are two files.
pub(super) fn write_service_account_keys(folder: &Path, name: &str) -> Result<(), Error> {
    let key = KeyPair::generate().map_err(|source| Error::Certificate {
        what: "key for the tokens of ServiceAccounts",
        source,
    })?;
    write(&folder.join(format!("{name}.key")), &key.serialize_pem())?;
    write(&folder.join(format!("{name}.pub")), &key.public_key_pem())
}

pub(super) fn write(path: &Path, text: &str) -> Result<(), Error> {
    fs::write(path, text).map_err(Error::io(format!("write {}", path.display())))
}
