//! Why the instance refused, as far as comparing tells. Pure.
//!
//! A token that came of a changed request proves something; a refusal proves little, because an
//! instance refuses a right request now and then. So a token rules causes out, and a refusal only
//! changes their order.

use super::{
    attempt::{Answer, Attempt, Request, Situation},
    subject::other,
};
use crate::servicenow::{Cause, first, likely};

/// Why the instance refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Diagnosis {
    /// What comparing told, in a sentence.
    pub(super) finding: String,
    /// The causes that are left, the likeliest first.
    pub(super) causes: Vec<Cause>,
}

/// What is wrong where the client is known and the client-credentials grant is refused.
const GRANT: [Cause; 3] = [
    Cause::GrantSwitchedOff,
    Cause::ApplicationUser,
    Cause::MachineIdentity,
];

/// The causes of a refusal of the first attempt; none where it was no refusal, or was one that did
/// not come again.
pub(super) fn diagnose(situation: Situation, attempts: &[Attempt]) -> Option<Diagnosis> {
    let meant = match &attempts.first()?.answer {
        Answer::Refused(refusal) => refusal,
        _ => return None,
    };
    let mut causes = likely(situation.password, meant.named);
    if !situation.scopes {
        causes.retain(|cause| *cause != Cause::Scope);
    }
    // What the instance names may be no cause of this request.
    let named = meant.named.filter(|cause| causes.contains(cause));
    let left_by_grant: &[Cause] = if situation.password {
        &[Cause::User]
    } else {
        &GRANT
    };
    let other = other(situation.authentication).as_str();
    let granted = attempts
        .iter()
        .find(|attempt| attempt.answer == Answer::Granted);
    let finding = match granted.map(|attempt| attempt.request) {
        Some(Request::AsMeant | Request::Again) => return None,
        Some(Request::WithoutScopes) => {
            causes.retain(|cause| [Cause::Scope, Cause::Plugin].contains(cause));
            first(&mut causes, Cause::Scope);
            "Without scopes it gives a token, so the client is right and one of the scopes is not."
                .to_owned()
        }
        Some(Request::OtherAuthentication) => {
            causes = vec![Cause::Authentication];
            format!("With spec.client.authentication {other} it gives a token: use that.")
        }
        Some(Request::OtherGrant) => {
            causes.retain(|cause| left_by_grant.contains(cause));
            client_is_right(situation).to_owned()
        }
        Some(Request::OtherGrantAndAuthentication) => {
            causes.retain(|cause| left_by_grant.contains(cause));
            first(&mut causes, Cause::Authentication);
            format!(
                "{} But it takes them with spec.client.authentication {other} only: use that, too.",
                client_is_right(situation)
            )
        }
        None if refusal_of_the_user(situation, attempts) == Some(Some(Cause::User)) => {
            // RFC 6749, section 5.2: an invalid_grant is about the user, an invalid_client is not.
            causes.retain(|cause| left_by_grant.contains(cause));
            "With the password grant it refuses the user given and not the client, so the client's \
             id and secret are right."
                .to_owned()
        }
        None if refusal_of_the_user(situation, attempts).is_some() => {
            first(&mut causes, Cause::User);
            first(&mut causes, Cause::Client);
            "It refuses the password grant as well, and both grants share the client.".to_owned()
        }
        None if named == Some(Cause::Plugin) => format!(
            "It does not offer the {} grant: its release may have none, or a plugin is missing.",
            if situation.password {
                "password"
            } else {
                "client-credentials"
            }
        ),
        None if named.is_some() => "It names the cause.".to_owned(),
        None => "It does not say why.".to_owned(),
    };
    Some(Diagnosis { finding, causes })
}

fn client_is_right(situation: Situation) -> &'static str {
    if situation.password {
        "The client-credentials grant works with this client, so its id and secret are right."
    } else {
        "The password grant works with this client, so its id and secret are right."
    }
}

/// What the instance names where it refuses the password grant of the user given as well. The
/// client-credentials grant is off by default, so its refusal would tell nothing; nor does that of an
/// instance that has no password grant.
fn refusal_of_the_user(situation: Situation, attempts: &[Attempt]) -> Option<Option<Cause>> {
    let refused = |attempt: &Attempt| {
        let Answer::Refused(refusal) = &attempt.answer else {
            return None;
        };
        let tells = attempt.request == Request::OtherGrant && refusal.named != Some(Cause::Plugin);
        tells.then_some(refusal.named)
    };
    let refused = attempts.iter().find_map(refused);
    refused.filter(|_| !situation.password)
}
