//! The rules by which the API server refuses a spec, in CEL, each with the sentence that it
//! answers: what to write instead. [`validate`](super::validate) holds the same rules in Rust.
//!
//! Rules stand here rather than as attributes of the fields, so that the sentences can be shared
//! and the whole of what is refused is read in one place. Bounds and choices that the API server
//! explains well by itself (lengths, enumerations, required fields) are part of the schema;
//! `pattern`, `minimum` and `minProperties` are not used, because what they answer tells nobody
//! what to write.

/// A rule of the API server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Where in the schema the rule stands, such as `spec.target.labels`; `[]` means the items of
    /// a list, and an empty path the whole resource.
    pub path: &'static str,
    /// The CEL expression that must hold.
    pub rule: String,
    /// The sentence for the person whose spec does not satisfy it.
    pub message: &'static str,
    /// The field that the answer names, where it is not the one where the rule stands.
    pub field: Option<&'static str>,
}

/// The sentences, each a continuation of the field's name.
pub mod message {
    /// `spec.instance`: neither a name nor an origin.
    pub const INSTANCE: &str = "must be the instance's name, such as dev12345, or an https origin, such as https://itsm.example.com or https://itsm.example.com:8443, without user, path, query or fragment, not even a slash at the end";
    /// `spec.instance`: plain http.
    pub const PLAIN_HTTP: &str = "must not be plain http, which would send the client's secret unprotected: write https:// instead (only localhost and 127.0.0.1 may be http, for tests)";
    /// The name of a Secret, ConfigMap or workload.
    pub const NAME: &str = "must be the name of an object in this namespace, such as itsm-oauth-client: lower-case letters, digits, hyphens and dots, with a letter or digit at both ends and beside each dot";
    /// A key in a Secret or ConfigMap.
    pub const KEY: &str = "must be a key of a Secret or ConfigMap, such as client-id: letters, digits, hyphens, underscores and dots, not a single dot and not two at the beginning";
    /// `spec.grant`: two members.
    pub const GRANT: &str =
        "must have at most one member: write clientCredentials or password, not both";
    /// `spec.scopes`: not one scope.
    pub const SCOPE: &str = "must be one scope, of printable ASCII without spaces, double quotes and backslashes: write each scope as an entry of its own";
    /// `spec.target`: what `Merge` cannot have.
    pub const MERGE: &str = "must not have type, labels or annotations with creationPolicy Merge, which writes keys into a Secret that is somebody else's: leave them out, or write creationPolicy Owner or Orphan";
    /// `spec.target.type`: a type with a meaning of its own.
    pub const TARGET_TYPE: &str = "must not be kubernetes.io/service-account-token, nor begin with bootstrap.kubernetes.io/ or helm.sh/, because Kubernetes and Helm act upon such Secrets: leave type out, or write Opaque or a type of your own, such as example.com/token";
    /// `spec.target.labels`, `spec.target.annotations`: a reserved prefix.
    pub const RESERVED_PREFIX: &str = "must not have keys under kubernetes.io, k8s.io or snowcred.dev, or app.kubernetes.io/managed-by, which belong to Kubernetes and to the operator: write other keys of app.kubernetes.io, or a prefix of your own, such as example.com/team";
    /// `spec.target.labels`, `spec.target.annotations`: not a key.
    pub const METADATA_KEY: &str = "must have keys such as team or example.com/team: at most 63 letters, digits, hyphens, underscores and dots, with a letter or digit at both ends, after an optional DNS name in lower case and a slash";
    /// `spec.target.labels`: not a value.
    pub const LABEL_VALUE: &str = "must have values such as team-a: empty, or at most 63 letters, digits, hyphens, underscores and dots, with a letter or digit at both ends; write anything else as an annotation";
    /// `spec.target.data`: empty.
    pub const DATA_EMPTY: &str = "must have at least one key: write one, such as token with the template {{ token }}, or leave data out, which means the same";
    /// `spec.target.data`: not a key.
    pub const DATA_KEY: &str = "must have keys such as token or config.json: at most 253 letters, digits, hyphens, underscores and dots, not a single dot and not two at the beginning";
    /// `spec.renewal`: two fields.
    pub const RENEWAL: &str =
        "must have at most one field: write renewBefore or renewBeforePercentage, not both";
    /// `spec.renewal.renewBefore`: not a positive duration.
    pub const DURATION: &str = "must be a duration of more than zero and less than 100000h: write, for example, 90s, 10m or 1h30m";
    /// `spec.renewal.renewBeforePercentage`: out of range.
    pub const PERCENTAGE: &str = "must be from 10 to 80, the percentage of the lifetime that is left: write, for example, 25 to renew when a quarter is left";
    /// `spec.verify.path`: elsewhere.
    pub const VERIFY_API: &str = "must begin with /api/: write a path of the REST API, such as /api/now/table/sys_user?sysparm_limit=1";
    /// `spec.verify.path`: what would be read as something else.
    pub const VERIFY_PATH: &str = "must not have white space, control characters, backslashes or #, nor . or .. between slashes: write a space as %20, a backslash as %5C and # as %23, and the path without detours";
    /// `spec.target.type`: changed in place.
    pub const TYPE_CHANGE: &str = "must not change while the Secret's name stays, because Kubernetes never changes the type of a Secret: write another target.name as well, or the type as it was";
    /// `spec.target.creationPolicy`: changed in place.
    pub const POLICY_CHANGE: &str = "must not change while the Secret's name stays, because it says whose the Secret is: write another target.name as well, or creationPolicy as it was";
}

const LABEL: &str = "[A-Za-z0-9]([-A-Za-z0-9]{0,61}[A-Za-z0-9])?";
const OCTET: &str = "(25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])";
const PORT: &str =
    "(:([1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5]))?";
/// The forms of RFC 4291, section 2.2, without embedded IPv4.
const IPV6: &str = "(([0-9A-Fa-f]{1,4}:){7}[0-9A-Fa-f]{1,4}|([0-9A-Fa-f]{1,4}:){1,7}:|([0-9A-Fa-f]{1,4}:){1,6}(:[0-9A-Fa-f]{1,4})|([0-9A-Fa-f]{1,4}:){1,5}(:[0-9A-Fa-f]{1,4}){1,2}|([0-9A-Fa-f]{1,4}:){1,4}(:[0-9A-Fa-f]{1,4}){1,3}|([0-9A-Fa-f]{1,4}:){1,3}(:[0-9A-Fa-f]{1,4}){1,4}|([0-9A-Fa-f]{1,4}:){1,2}(:[0-9A-Fa-f]{1,4}){1,5}|[0-9A-Fa-f]{1,4}:(:[0-9A-Fa-f]{1,4}){1,6}|:((:[0-9A-Fa-f]{1,4}){1,7}|:))";
const SUBDOMAIN: &str = "[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*";

/// Where the name of an object stands.
const NAMES: [&str; 6] = [
    "spec.client.secretRef.name",
    "spec.grant.password.secretRef.name",
    "spec.target.name",
    "spec.tls.caBundleRef.name",
    "spec.tls.clientCertificateRef.name",
    "spec.restart[].name",
];

/// Where a key of an object stands.
const KEYS: [&str; 5] = [
    "spec.client.secretRef.clientIdKey",
    "spec.client.secretRef.clientSecretKey",
    "spec.grant.password.secretRef.usernameKey",
    "spec.grant.password.secretRef.passwordKey",
    "spec.tls.caBundleRef.key",
];

/// Every rule.
#[must_use]
pub fn rules() -> Vec<Rule> {
    let mut rules = instance();
    rules.extend(NAMES.map(|path| rule(path, matches(&format!("^{SUBDOMAIN}$")), message::NAME)));
    rules.extend(KEYS.map(|path| rule(path, data_key("self"), message::KEY)));
    rules.extend([
        rule(
            "spec.grant",
            "!(has(self.clientCredentials) && has(self.password))",
            message::GRANT,
        ),
        // RFC 6749, section 3.3.
        rule("spec.scopes[]", matches(r"^[!#-\[\]-~]+$"), message::SCOPE),
        rule(
            "spec.renewal",
            "!(has(self.renewBefore) && has(self.renewBeforePercentage))",
            message::RENEWAL,
        ),
        rule(
            "spec.renewal.renewBefore",
            positive_duration(),
            message::DURATION,
        ),
        rule(
            "spec.renewal.renewBeforePercentage",
            "self >= 10 && self <= 80",
            message::PERCENTAGE,
        ),
        rule(
            "spec.verify.path",
            "self.startsWith('/api/')",
            message::VERIFY_API,
        ),
        // What a URL parser drops, rewrites or resolves; `%2e` is a dot to it.
        rule(
            "spec.verify.path",
            r"!self.matches(r'[\p{Z}\p{Cc}\\#]|^[^?]*/(\.|%2[eE]){1,2}([/?]|$)')",
            message::VERIFY_PATH,
        ),
    ]);
    rules.extend(target());
    rules.extend(transitions());
    rules
}

fn instance() -> Vec<Rule> {
    let path = "spec.instance";
    let name = matches(&format!("^{LABEL}$"));
    let origin = matches(&format!(
        r"^https?://({LABEL}(\.{LABEL})*|\[{IPV6}\]){PORT}$"
    ));
    // URL parsers take a name whose last label is a number for an IPv4 address.
    let numeric = matches(r"^https?://([^/]*\.)?([0-9]+|0[xX][0-9A-Fa-f]*)(:[0-9]+)?$");
    let ipv4 = matches(&format!(r"^https?://{OCTET}(\.{OCTET}){{3}}(:[0-9]+)?$"));
    let too_long = matches("^https?://[^:]{254}");
    let local = matches("^http://(localhost|127[.]0[.]0[.]1)(:[0-9]+)?$");
    vec![
        rule(
            path,
            format!("{name} || ({origin} && (!{numeric} || {ipv4}) && !{too_long})"),
            message::INSTANCE,
        ),
        rule(
            path,
            format!("!self.startsWith('http://') || {local}"),
            message::PLAIN_HTTP,
        ),
    ]
}

fn target() -> Vec<Rule> {
    let metadata_key = format!(
        "self.all(k, k.matches(r'^(([^/]{{1,253}})/)?[A-Za-z0-9]([-A-Za-z0-9_.]{{0,61}}[A-Za-z0-9])?$') && (!k.contains('/') || k.matches(r'^{SUBDOMAIN}/')))"
    );
    let unreserved = r"self.all(k, !k.matches(r'^([^/]*\.)?(kubernetes\.io|k8s\.io|snowcred\.dev)/') || k.startsWith('app.kubernetes.io/') && k != 'app.kubernetes.io/managed-by')";
    let mut rules = vec![
        rule(
            "spec.target",
            "!has(self.creationPolicy) || self.creationPolicy != 'Merge' || !has(self.type) && (!has(self.labels) || size(self.labels) == 0) && (!has(self.annotations) || size(self.annotations) == 0)",
            message::MERGE,
        ),
        rule(
            "spec.target.type",
            "self != 'kubernetes.io/service-account-token' && !self.startsWith('bootstrap.kubernetes.io/') && !self.startsWith('helm.sh/')",
            message::TARGET_TYPE,
        ),
        rule(
            "spec.target.labels",
            "self.all(k, self[k].matches(r'^([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?$'))",
            message::LABEL_VALUE,
        ),
        rule("spec.target.data", "size(self) > 0", message::DATA_EMPTY),
        rule(
            "spec.target.data",
            format!("self.all(k, {})", data_key("k")),
            message::DATA_KEY,
        ),
    ];
    for path in ["spec.target.labels", "spec.target.annotations"] {
        rules.push(rule(path, metadata_key.clone(), message::METADATA_KEY));
        rules.push(rule(path, unreserved, message::RESERVED_PREFIX));
    }
    rules
}

/// What must not change: the rules stand at the root, because only there can the resource's name
/// be seen, which is the target's where it has none.
fn transitions() -> [Rule; 2] {
    // Spelled with `has` because the API server cannot bound the cost of `orValue`.
    let effective = |object: &str, field: &str, default: &str| {
        let target = format!("{object}.spec.target");
        format!("(has({target}) && has({target}.{field}) ? {target}.{field} : {default})")
    };
    let renamed = format!(
        "{} != {}",
        effective("self", "name", "self.metadata.name"),
        effective("oldSelf", "name", "self.metadata.name")
    );
    let kept = |field: &str, default: &str| {
        format!(
            "{renamed} || {} == {}",
            effective("self", field, default),
            effective("oldSelf", field, default)
        )
    };
    [
        Rule {
            field: Some(".spec.target.type"),
            ..rule("", kept("type", "'Opaque'"), message::TYPE_CHANGE)
        },
        Rule {
            field: Some(".spec.target.creationPolicy"),
            ..rule(
                "",
                kept("creationPolicy", "'Owner'"),
                message::POLICY_CHANGE,
            )
        },
    ]
}

/// Go's style. The expression comes first because `duration` fails on what it cannot read, which
/// would hide the sentence; it holds the digits within what 64 bits of nanoseconds can sum up.
fn positive_duration() -> String {
    let style = matches(
        r"^\+?(([0-9]{1,5}(\.[0-9]*)?|\.[0-9]+)h|([0-9]{1,7}(\.[0-9]*)?|\.[0-9]+)m|([0-9]{1,9}(\.[0-9]*)?|\.[0-9]+)s|([0-9]{1,12}(\.[0-9]*)?|\.[0-9]+)(ms|us|µs|μs|ns))+$",
    );
    format!("{style} && duration(self) > duration('0s')")
}

fn data_key(subject: &str) -> String {
    format!(
        "{subject}.matches(r'^[-._a-zA-Z0-9]{{1,253}}$') && {subject} != '.' && !{subject}.startsWith('..')"
    )
}

fn matches(pattern: &str) -> String {
    format!("self.matches(r'{pattern}')")
}

fn rule(path: &'static str, rule: impl Into<String>, message: &'static str) -> Rule {
    Rule {
        path,
        rule: rule.into(),
        message,
        field: None,
    }
}
