//! The admission rules once more, in Rust: the operator may meet an object that was admitted by
//! an older CustomResourceDefinition, or by none of these rules. Pure.
//!
//! The sentences are those of [`admission`](super::admission), so that the condition
//! `InvalidSpec` says what the API server would have said. Rules about a change (of the target's
//! type or policy) need the former spec, and are the API server's alone.

use std::collections::BTreeMap;

use super::{
    admission::message,
    duration,
    instance::Instance,
    spec::{
        CaBundleRef, Client, CreationPolicy, Grant, Renewal, ServiceNowCredentialSpec, Target,
        Verify,
    },
};

/// What is wrong and what to write instead, beginning with the field's path.
type Check = Result<(), String>;

impl ServiceNowCredentialSpec {
    /// Checks the spec by the rules of admission.
    ///
    /// # Errors
    /// The first rule that does not hold: the field, and a sentence that says what to write
    /// instead.
    pub fn validate(&self) -> Result<(), String> {
        Instance::parse(&self.instance).map_err(|error| format!("spec.instance: {error}"))?;
        self.client.validate()?;
        self.grant.as_ref().map_or(Ok(()), Grant::validate)?;
        for (index, scope) in self.scopes.iter().enumerate() {
            check(
                is_scope(scope),
                &format!("spec.scopes[{index}]"),
                message::SCOPE,
            )?;
        }
        self.target.as_ref().map_or(Ok(()), Target::validate)?;
        self.renewal.as_ref().map_or(Ok(()), Renewal::validate)?;
        self.verify.as_ref().map_or(Ok(()), Verify::validate)?;
        if let Some(tls) = &self.tls {
            tls.ca_bundle_ref
                .as_ref()
                .map_or(Ok(()), CaBundleRef::validate)?;
            if let Some(certificate) = &tls.client_certificate_ref {
                name("spec.tls.clientCertificateRef.name", &certificate.name)?;
            }
        }
        for (index, workload) in self.restart.iter().enumerate() {
            name(&format!("spec.restart[{index}].name"), &workload.name)?;
        }
        Ok(())
    }
}

impl Client {
    fn validate(&self) -> Check {
        let secret = &self.secret_ref;
        name("spec.client.secretRef.name", &secret.name)?;
        key("spec.client.secretRef.clientIdKey", secret.client_id_key())?;
        key(
            "spec.client.secretRef.clientSecretKey",
            secret.client_secret_key(),
        )
    }
}

impl Grant {
    fn validate(&self) -> Check {
        let both = self.client_credentials.is_some() && self.password.is_some();
        check(!both, "spec.grant", message::GRANT)?;
        let Some(password) = &self.password else {
            return Ok(());
        };
        let user = &password.secret_ref;
        name("spec.grant.password.secretRef.name", &user.name)?;
        key(
            "spec.grant.password.secretRef.usernameKey",
            user.username_key(),
        )?;
        key(
            "spec.grant.password.secretRef.passwordKey",
            user.password_key(),
        )
    }
}

impl Target {
    fn validate(&self) -> Check {
        if let Some(target) = &self.name {
            name("spec.target.name", target)?;
        }
        let bare = self.type_.is_none() && self.labels.is_empty() && self.annotations.is_empty();
        let merge = self.creation_policy == Some(CreationPolicy::Merge);
        check(!merge || bare, "spec.target", message::MERGE)?;
        let type_ = self.type_.as_deref().unwrap_or_default();
        check(
            !is_reserved_type(type_),
            "spec.target.type",
            message::TARGET_TYPE,
        )?;
        metadata("spec.target.labels", &self.labels)?;
        let labels = self.labels.values().all(|value| is_label_value(value));
        check(labels, "spec.target.labels", message::LABEL_VALUE)?;
        metadata("spec.target.annotations", &self.annotations)?;
        let Some(data) = &self.data else {
            return Ok(());
        };
        check(!data.is_empty(), "spec.target.data", message::DATA_EMPTY)?;
        let keys = data.keys().all(|key| is_data_key(key));
        check(keys, "spec.target.data", message::DATA_KEY)
    }
}

impl Renewal {
    fn validate(&self) -> Check {
        let both = self.renew_before.is_some() && self.renew_before_percentage.is_some();
        check(!both, "spec.renewal", message::RENEWAL)?;
        let before = self.renew_before.as_deref();
        check(
            before.is_none_or(|text| duration::parse(text).is_ok()),
            "spec.renewal.renewBefore",
            message::DURATION,
        )?;
        check(
            self.renew_before_percentage
                .is_none_or(|share| (10..=80).contains(&share)),
            "spec.renewal.renewBeforePercentage",
            message::PERCENTAGE,
        )
    }
}

impl Verify {
    fn validate(&self) -> Check {
        check(
            self.path.starts_with("/api/"),
            "spec.verify.path",
            message::VERIFY_API,
        )?;
        check(
            is_straight_path(&self.path),
            "spec.verify.path",
            message::VERIFY_PATH,
        )
    }
}

impl CaBundleRef {
    fn validate(&self) -> Check {
        name("spec.tls.caBundleRef.name", &self.name)?;
        key("spec.tls.caBundleRef.key", &self.key)
    }
}

fn check(holds: bool, path: &str, message: &str) -> Check {
    if holds {
        Ok(())
    } else {
        Err(format!("{path}: {message}"))
    }
}

fn name(path: &str, name: &str) -> Check {
    check(is_dns_subdomain(name), path, message::NAME)
}

fn key(path: &str, key: &str) -> Check {
    check(is_data_key(key), path, message::KEY)
}

fn metadata(path: &str, entries: &BTreeMap<String, String>) -> Check {
    let keys = entries.keys().all(|key| is_metadata_key(key));
    check(keys, path, message::METADATA_KEY)?;
    let unreserved = !entries.keys().any(|key| is_reserved(key));
    check(unreserved, path, message::RESERVED_PREFIX)
}

/// A DNS name as Kubernetes takes it for most objects.
pub(crate) fn is_dns_subdomain(text: &str) -> bool {
    let lower = text.bytes().all(|b| !b.is_ascii_uppercase());
    // Kubernetes bounds the whole, not each label.
    let label = |label: &str| {
        !label.is_empty()
            && label
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    text.len() <= 253 && lower && text.split('.').all(label)
}

/// A key in the data of a Secret or ConfigMap.
fn is_data_key(text: &str) -> bool {
    (1..=253).contains(&text.len())
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b))
        && text != "."
        && !text.starts_with("..")
}

/// A label's value: a name, or empty.
fn is_label_value(text: &str) -> bool {
    text.is_empty() || is_qualified_part(text)
}

/// The key of a label or annotation: a name, with an optional prefix.
fn is_metadata_key(text: &str) -> bool {
    match text.split_once('/') {
        Some((prefix, name)) => is_dns_subdomain(prefix) && is_qualified_part(name),
        None => is_qualified_part(text),
    }
}

fn is_qualified_part(text: &str) -> bool {
    let ends = |b: Option<&u8>| b.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = text.as_bytes();
    bytes.len() <= 63
        && ends(bytes.first())
        && ends(bytes.last())
        && bytes
            .iter()
            .all(|b| b.is_ascii_alphanumeric() || b"-._".contains(b))
}

/// Whether a label or annotation key belongs to Kubernetes or to the operator.
fn is_reserved(key: &str) -> bool {
    let Some((prefix, name)) = key.split_once('/') else {
        return false;
    };
    if prefix == "app.kubernetes.io" {
        return name == "managed-by";
    }
    ["kubernetes.io", "k8s.io", super::GROUP]
        .iter()
        .any(|domain| {
            prefix
                .strip_suffix(domain)
                .is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
        })
}

fn is_reserved_type(type_: &str) -> bool {
    type_ == "kubernetes.io/service-account-token"
        || type_.starts_with("bootstrap.kubernetes.io/")
        || type_.starts_with("helm.sh/")
}

/// A scope token of RFC 6749, section 3.3.
fn is_scope(text: &str) -> bool {
    !text.is_empty()
        && text
            .bytes()
            .all(|b| b.is_ascii_graphic() && b != b'"' && b != b'\\')
}

/// Whether a URL parser leaves the path as it is: nothing that it drops or rewrites, no `.` or
/// `..` to resolve (`%2e` is a dot to it).
fn is_straight_path(path: &str) -> bool {
    let odd = |c: char| c == '\\' || c == '#' || c.is_whitespace() || c.is_control();
    let (path_only, _) = path.split_once('?').unwrap_or((path, ""));
    let dots = |segment: &str| {
        matches!(
            segment.to_ascii_lowercase().replace("%2e", ".").as_str(),
            "." | ".."
        )
    };
    !path.contains(odd) && !path_only.split('/').any(dots)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dns_names_are_those_of_kubernetes() {
        for name in ["a", "itsm-token", "a.b-c.d1", &"a".repeat(253)] {
            assert!(is_dns_subdomain(name), "{name}");
        }
        for name in [
            "",
            "A",
            "-a",
            "a-",
            "a..b",
            ".a",
            "a.",
            "a_b",
            "a/b",
            &"a".repeat(254),
        ] {
            assert!(!is_dns_subdomain(name), "{name}");
        }
    }

    #[test]
    fn whose_prefix_it_is() {
        for key in [
            "kubernetes.io/x",
            "node.kubernetes.io/x",
            "k8s.io/x",
            "a.b.k8s.io/x",
            "snowcred.dev/x",
            "x.snowcred.dev/x",
            "app.kubernetes.io/managed-by",
            "x.app.kubernetes.io/name",
        ] {
            assert!(is_reserved(key), "{key}");
        }
        for key in [
            "app.kubernetes.io/name",
            "team",
            "kubernetes.io",
            "mykubernetes.io/x",
            "example.com/kubernetes.io",
            "xk8s.io/x",
            "kubernetes.io.example.com/x",
        ] {
            assert!(!is_reserved(key), "{key}");
        }
    }
}
