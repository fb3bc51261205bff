//! Messages of failures are written for the condition of a resource, which an operator tries again
//! by itself. A person who checks from a workstation is told the same of what is at hand there.

/// Where what is checked was written down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Voice {
    /// In a resource of the cluster.
    Resource,
    /// In options.
    Options,
}

/// What is different on a workstation: nobody tries again by himself, and the way to the instance
/// is this machine's.
const HERE: &[(&str, &str)] = &[
    (
        "the cluster may reach it (firewall, NetworkPolicy, HTTPS_PROXY)",
        "this machine may reach it (firewall, VPN, HTTPS_PROXY)",
    ),
    (
        " No token is asked of this instance until the wait is over.",
        "",
    ),
    (
        "It is tried again until it recovers; if this lasts",
        "Try again later; if this lasts",
    ),
    ("It is tried again until it does.", "Try again later."),
    ("; it is tried again.", "."),
    (
        "; the token is fetched as soon as it is up.",
        "; then try again.",
    ),
    ("The next token is tried out again.", "Try again later."),
    ("; it is used as soon as it appears.", "; then try again."),
    ("The operator may not ", "You may not "),
    (
        "Give its ServiceAccount the verb",
        "Ask whoever runs the cluster for the verb",
    ),
    (
        ", or remove what forbids it (a quota, an admission policy); it is tried again from time to \
         time.",
        ".",
    ),
    (" It is tried again shortly.", " Try again."),
    ("This is a bug of the operator.", "This is a bug of check."),
    ("the path of spec.verify", "the path that was tried"),
    ("use a cheaper path in spec.verify", "try a cheaper path"),
];

/// The options that stand for fields of a resource.
const OPTIONS: &[(&str, &str)] = &[
    (
        "write each scope as an entry of its own",
        "write --scope once for each scope",
    ),
    ("spec.client.authentication", "--authentication"),
    ("spec.instance", "--instance"),
    ("spec.scopes", "--scope"),
    ("spec.verify.path", "--verify-path"),
    ("spec.verify", "--verify-path"),
    (
        "name that CA in spec.tls.caBundleRef",
        "give its file as --ca-file",
    ),
    (
        "name one that it accepts in spec.tls.clientCertificateRef",
        "check a resource that names one, by --from",
    ),
    ("spec.tls.caBundleRef", "--ca-file"),
    (
        "the certificates of spec.tls",
        "the certificates of --ca-file",
    ),
];

impl Voice {
    /// The message as this reader needs it.
    pub(super) fn say(self, message: &str) -> String {
        let options = match self {
            Self::Resource => &[],
            Self::Options => OPTIONS,
        };
        let mut said = message.to_owned();
        for (written, meant) in HERE.iter().chain(options) {
            if said.contains(written) {
                said = said.replace(written, meant);
            }
        }
        said
    }

    /// A clause as a sentence of its own.
    pub(super) fn sentence(self, clause: &str) -> String {
        let clause = self.say(clause);
        let mut letters = clause.chars();
        let first = letters
            .next()
            .map(|letter| letter.to_uppercase().to_string());
        format!("{}{}.", first.unwrap_or_default(), letters.as_str())
    }
}

#[cfg(test)]
mod tests {
    use zeroize::Zeroizing;

    use super::*;
    use crate::{
        api::{ClientAuthentication, Instance},
        servicenow::{Cause, RawAnswer, SharingKey, judge, judge_probe},
    };

    /// Every message that an answer can lead to.
    fn messages() -> Vec<String> {
        let mut messages = Vec::new();
        let key = SharingKey::client_credentials(
            &Instance::parse("dev1").unwrap(),
            ClientAuthentication::Basic,
            Zeroizing::new("id".to_owned()),
            Zeroizing::new("secret".to_owned()),
            &[],
        );
        let scope = r#"{"error":{"detail":"Missing required api access scope: x"}}"#;
        let bodies = ["", "<html>", "<html>hibernating", "{}", scope];
        for status in [200, 204, 302, 400, 401, 403, 404, 408, 429, 503] {
            for body in bodies {
                let answer = RawAnswer {
                    status,
                    body: Some(body.as_bytes().to_vec()),
                    ..RawAnswer::default()
                };
                let judged = judge(&answer, &key, &|_| Vec::new(), jiff::Timestamp::UNIX_EPOCH);
                messages.extend(judged.err().map(|failure| failure.message().to_owned()));
                messages.push(judge_probe("/api/now/x", Ok(&answer)).message);
            }
        }
        let causes = Cause::CLIENT_CREDENTIALS.into_iter().chain(Cause::PASSWORD);
        messages.extend(causes.map(|cause| cause.explain().to_owned()));
        messages
    }

    #[test]
    fn no_message_speaks_of_a_resource_or_of_an_operator_to_whoever_has_neither() {
        for message in messages() {
            let said = Voice::Options.say(&message);
            for word in ["spec.", "tried again", "tried out again", "as soon as"] {
                assert!(!said.contains(word), "{word}: {said}");
            }
        }
    }

    #[test]
    fn a_resource_is_spoken_of_by_its_fields() {
        let said = Voice::Resource.say("Check spec.instance; it is tried again.");
        assert_eq!(said, "Check spec.instance.");
        assert_eq!(
            Voice::Options.say("Check spec.instance."),
            "Check --instance."
        );
    }

    #[test]
    fn a_clause_becomes_a_sentence() {
        assert_eq!(
            Voice::Options.sentence("a scope is wrong"),
            "A scope is wrong."
        );
    }
}
