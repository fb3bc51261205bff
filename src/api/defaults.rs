//! What a field that was left out means. The schema fills nothing in, so every reader of a spec
//! goes through these accessors.

use std::{collections::BTreeMap, sync::LazyLock};

use jiff::SignedDuration;

use super::{
    duration::{self, DurationError},
    instance::{Instance, InstanceError},
    spec::{
        CaBundleKind, ClientAuthentication, ClientSecretRef, CreationPolicy, PasswordGrant,
        Renewal, ServiceNowCredentialSpec, Target, UserSecretRef, WorkloadKind,
    },
};

/// The type of a target Secret whose type was left out.
pub const DEFAULT_TARGET_TYPE: &str = "Opaque";
/// The key of a target Secret whose data was left out.
pub const DEFAULT_DATA_KEY: &str = "token";
/// The template of that key.
pub const DEFAULT_DATA_TEMPLATE: &str = "{{ token }}";

static NO_ENTRIES: BTreeMap<String, String> = BTreeMap::new();

static DEFAULT_DATA: LazyLock<BTreeMap<String, String>> = LazyLock::new(|| {
    let entry = (
        DEFAULT_DATA_KEY.to_owned(),
        DEFAULT_DATA_TEMPLATE.to_owned(),
    );
    BTreeMap::from([entry])
});

impl ServiceNowCredentialSpec {
    /// The instance as an origin.
    ///
    /// # Errors
    /// `spec.instance` is neither a name nor an origin.
    pub fn parsed_instance(&self) -> Result<Instance, InstanceError> {
        Instance::parse(&self.instance)
    }

    /// How the client authenticates; `Basic` unless said otherwise.
    #[must_use]
    pub fn authentication(&self) -> ClientAuthentication {
        self.client.authentication.unwrap_or_default()
    }

    /// The password grant, if that is the one; otherwise it is client credentials.
    #[must_use]
    pub fn password_grant(&self) -> Option<&PasswordGrant> {
        self.grant.as_ref()?.password.as_ref()
    }

    /// The name of the target Secret; the resource's own unless said otherwise.
    #[must_use]
    pub fn target_name<'a>(&'a self, metadata_name: &'a str) -> &'a str {
        self.target_field(|target| target.name.as_deref())
            .unwrap_or(metadata_name)
    }

    /// What becomes of the target Secret; `Owner` unless said otherwise.
    #[must_use]
    pub fn creation_policy(&self) -> CreationPolicy {
        self.target_field(|target| target.creation_policy)
            .unwrap_or_default()
    }

    /// The type of the target Secret; `Opaque` unless said otherwise.
    #[must_use]
    pub fn target_type(&self) -> &str {
        self.target_field(|target| target.type_.as_deref())
            .unwrap_or(DEFAULT_TARGET_TYPE)
    }

    /// The keys of the target Secret and their templates; `token: "{{ token }}"` unless said
    /// otherwise.
    #[must_use]
    pub fn target_data(&self) -> &BTreeMap<String, String> {
        self.target_field(|target| target.data.as_ref())
            .unwrap_or(&DEFAULT_DATA)
    }

    /// The labels that the target Secret gets besides ours.
    #[must_use]
    pub fn labels(&self) -> &BTreeMap<String, String> {
        self.target
            .as_ref()
            .map_or(&NO_ENTRIES, |target| &target.labels)
    }

    /// The annotations that the target Secret gets besides ours.
    #[must_use]
    pub fn annotations(&self) -> &BTreeMap<String, String> {
        self.target
            .as_ref()
            .map_or(&NO_ENTRIES, |target| &target.annotations)
    }

    /// Whether the operator leaves the resource alone.
    #[must_use]
    pub fn suspended(&self) -> bool {
        self.suspend.unwrap_or(false)
    }

    fn target_field<'a, T>(&'a self, field: impl FnOnce(&'a Target) -> Option<T>) -> Option<T> {
        self.target.as_ref().and_then(field)
    }
}

impl ClientSecretRef {
    /// The key of the client's id; `client-id` unless said otherwise.
    #[must_use]
    pub fn client_id_key(&self) -> &str {
        self.client_id_key.as_deref().unwrap_or("client-id")
    }

    /// The key of the client's secret; `client-secret` unless said otherwise.
    #[must_use]
    pub fn client_secret_key(&self) -> &str {
        self.client_secret_key.as_deref().unwrap_or("client-secret")
    }
}

impl UserSecretRef {
    /// The key of the user's name; `username` unless said otherwise.
    #[must_use]
    pub fn username_key(&self) -> &str {
        self.username_key.as_deref().unwrap_or("username")
    }

    /// The key of the password; `password` unless said otherwise.
    #[must_use]
    pub fn password_key(&self) -> &str {
        self.password_key.as_deref().unwrap_or("password")
    }
}

impl Renewal {
    /// The margin in time, if that is how it was given.
    ///
    /// # Errors
    /// The text is not a positive duration.
    pub fn parsed_renew_before(&self) -> Result<Option<SignedDuration>, DurationError> {
        self.renew_before
            .as_deref()
            .map(duration::parse)
            .transpose()
    }
}

impl CreationPolicy {
    /// The word as it stands in a manifest.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Owner => "Owner",
            Self::Orphan => "Orphan",
            Self::Merge => "Merge",
        }
    }
}

impl ClientAuthentication {
    /// The word as it stands in a manifest.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Basic => "Basic",
            Self::Body => "Body",
        }
    }
}

impl CaBundleKind {
    /// The kind as it stands in a manifest.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ConfigMap => "ConfigMap",
            Self::Secret => "Secret",
        }
    }
}

impl WorkloadKind {
    /// The kind as it stands in a manifest.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Deployment => "Deployment",
            Self::StatefulSet => "StatefulSet",
            Self::DaemonSet => "DaemonSet",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spec_of_the_required_fields_alone_means_the_defaults() {
        let spec = ServiceNowCredentialSpec::default();
        assert_eq!(spec.authentication(), ClientAuthentication::Basic);
        assert_eq!(spec.client.secret_ref.client_id_key(), "client-id");
        assert_eq!(spec.client.secret_ref.client_secret_key(), "client-secret");
        assert_eq!(spec.password_grant(), None);
        assert_eq!(spec.target_name("itsm"), "itsm");
        assert_eq!(spec.creation_policy(), CreationPolicy::Owner);
        assert_eq!(spec.target_type(), "Opaque");
        assert_eq!(
            *spec.target_data(),
            BTreeMap::from([("token".to_owned(), "{{ token }}".to_owned())])
        );
        assert!(spec.labels().is_empty() && spec.annotations().is_empty());
        assert!(!spec.suspended());
        let user = UserSecretRef::default();
        assert_eq!(
            (user.username_key(), user.password_key()),
            ("username", "password")
        );
    }

    #[test]
    fn what_was_written_counts() {
        let spec: ServiceNowCredentialSpec = serde_json::from_value(serde_json::json!({
            "instance": "dev1",
            "client": {
                "secretRef": {"name": "c", "clientIdKey": "id", "clientSecretKey": "pw"},
                "authentication": "Body",
            },
            "grant": {"password": {"secretRef": {"name": "u", "usernameKey": "n"}}},
            "target": {
                "name": "t", "creationPolicy": "Orphan", "type": "x.example/y",
                "labels": {"a": "b"}, "annotations": {"c": "d"}, "data": {"k": "v"},
            },
            "suspend": true,
        }))
        .expect("a valid spec");
        assert_eq!(spec.authentication(), ClientAuthentication::Body);
        assert_eq!(spec.client.secret_ref.client_id_key(), "id");
        assert_eq!(spec.client.secret_ref.client_secret_key(), "pw");
        let user = &spec
            .password_grant()
            .expect("the password grant")
            .secret_ref;
        assert_eq!(
            (user.username_key(), user.password_key()),
            ("n", "password")
        );
        assert_eq!(spec.target_name("itsm"), "t");
        assert_eq!(spec.creation_policy(), CreationPolicy::Orphan);
        assert_eq!(spec.target_type(), "x.example/y");
        assert_eq!(
            *spec.target_data(),
            BTreeMap::from([("k".to_owned(), "v".to_owned())])
        );
        assert_eq!(spec.labels().get("a").map(String::as_str), Some("b"));
        assert_eq!(spec.annotations().get("c").map(String::as_str), Some("d"));
        assert!(spec.suspended());
    }
}
