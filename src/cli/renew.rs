//! `renew`: asks for a renewal by the annotation, and waits for what comes of it.

use std::collections::{BTreeMap, BTreeSet};

use clap::Args;
use futures::{StreamExt as _, pin_mut};
use kube::{
    Client,
    api::{Patch, PatchParams},
    runtime::watcher,
};
use serde_json::json;
use tokio::time::{Duration, Instant, sleep_until};

use super::{CommandError, complain, names, note, reach, tell};
use crate::{
    Clock, RENEW_REQUESTED_AT, SystemClock,
    api::{Reason, condition},
    decide::{Credential, ownership::timestamp},
    kubernetes::watch,
};

/// Arguments of `renew`.
#[derive(Args, Debug)]
pub(super) struct RenewArgs {
    /// The resources.
    #[arg(required = true, value_name = "NAME", value_parser = names::resource)]
    names: Vec<String>,

    #[command(flatten)]
    reach: reach::Reach,

    /// Wait until the operator has acted, and say what came of it.
    #[arg(long)]
    wait: bool,
}

/// Whoever writes the annotation.
const FIELD_MANAGER: &str = "kubectl-snowcred";

/// An operator that runs acts at once; after so long somebody should look.
const SLOW: Duration = Duration::from_secs(20);

/// A request for a renewal.
struct Request {
    /// The value of the annotation.
    value: String,
    /// The token before, as its digest.
    before: Option<String>,
}

/// Asks for the renewals.
pub(super) async fn renew(args: RenewArgs) -> Result<(), CommandError> {
    let (client, namespace) = args.reach.connect().await?;
    let value = SystemClock.now().to_string();
    let mut requests = BTreeMap::new();
    let mut failed = false;
    for name in &args.names {
        match request(&client, &namespace, name, &value).await? {
            Ok(before) => {
                if !args.wait {
                    tell(&format!("{name}: renewal requested\n"))?;
                }
                let value = value.clone();
                requests.insert(name.clone(), Request { value, before });
            }
            Err(sentence) => {
                complain(&sentence);
                failed = true;
            }
        }
    }
    if args.wait {
        failed |= !follow(client, &namespace, requests).await?;
    }
    if failed {
        return Err(CommandError::silent());
    }
    Ok(())
}

/// Sets the annotation; returns the digest of the token there was, or a sentence about this one
/// resource.
async fn request(
    client: &Client,
    namespace: &str,
    name: &str,
    value: &str,
) -> Result<Result<Option<String>, String>, CommandError> {
    let api = watch::resources(client.clone(), Some(namespace));
    let patch = json!({"metadata": {"annotations": {RENEW_REQUESTED_AT: value}}});
    let manager = PatchParams {
        field_manager: Some(FIELD_MANAGER.to_owned()),
        ..PatchParams::default()
    };
    match api.patch(name, &manager, &Patch::Merge(&patch)).await {
        Ok(object) => {
            let credential = watch::credential(object, |_| None);
            let token = credential.status.token.as_ref();
            Ok(Ok(token.and_then(|token| token.sha256.clone())))
        }
        Err(error) if reach::is_unknown(&error, name) => Ok(Err(reach::nobody(namespace, name))),
        Err(error) => Err(reach::refused(&error)),
    }
}

/// Waits until each request has been acted on; returns whether all went well.
async fn follow(
    client: Client,
    namespace: &str,
    mut requests: BTreeMap<String, Request>,
) -> Result<bool, CommandError> {
    let events = watch::credentials(client, Some(namespace), None, |_| None);
    pin_mut!(events);
    let slow = Instant::now() + SLOW;
    let (mut all_well, mut warned, mut away) = (true, false, false);
    let mut listed = BTreeSet::new();
    while !requests.is_empty() {
        let event = tokio::select! {
            event = events.next() => event,
            () = sleep_until(slow), if !warned => {
                warned = true;
                note(if away {
                    "the Kubernetes API cannot be reached; this still waits"
                } else {
                    "the operator has not acted yet; this still waits. Does the operator run, and \
                     does it watch this namespace?"
                });
                continue;
            }
        };
        away = matches!(event, Some(Err(_)));
        let (credential, gone) = match event {
            Some(Ok(watcher::Event::Apply(one) | watcher::Event::InitApply(one))) => (one, false),
            Some(Ok(watcher::Event::Delete(one))) => (one, true),
            Some(Ok(watcher::Event::Init)) => {
                listed.clear();
                continue;
            }
            Some(Ok(watcher::Event::InitDone)) => {
                for name in requests.keys().filter(|name| !listed.contains(*name)) {
                    complain(&format!("{name}: it was deleted"));
                    all_well = false;
                }
                requests.retain(|name, _| listed.contains(name));
                continue;
            }
            // It is begun anew, but where it would be refused again.
            Some(Err(error)) => match reach::refused_watch(&error) {
                Some(refused) => return Err(refused),
                None => continue,
            },
            None => return Err(CommandError::failed("the watch of the resources ended")),
        };
        let name = credential.name.name.to_string();
        listed.insert(name.clone());
        let Some(request) = requests.get(&name) else {
            continue;
        };
        let said = if gone {
            Some(Err("it was deleted".to_owned()))
        } else {
            outcome(&credential, request)
        };
        match said {
            None => continue,
            Some(Ok(well)) => tell(&format!("{name}: {well}\n"))?,
            Some(Err(why)) => {
                complain(&format!("{name}: {why}"));
                all_well = false;
            }
        }
        requests.remove(&name);
    }
    Ok(all_well)
}

/// What came of a request, once something has.
fn outcome(credential: &Credential, request: &Request) -> Option<Result<String, String>> {
    let status = &credential.status;
    if credential.spec.as_ref().is_ok_and(|spec| spec.suspended()) {
        return Some(Err(
            "it is suspended (spec.suspend): the request waits until it is not".to_owned(),
        ));
    }
    let handled = status.handled_renew_request.as_ref()?;
    // Somebody else may have asked meanwhile: what answers him answers us.
    if *handled != request.value && Some(handled) != credential.renew_request.as_ref() {
        return None;
    }
    let synced = status
        .conditions
        .iter()
        .find(|c| c.type_ == condition::SYNCED)?;
    if synced.reason != Reason::TokenSynced.as_str() {
        return Some(Err(format!("{}: {}", synced.reason, synced.message)));
    }
    let token = status.token.as_ref()?;
    let which = if token.sha256 == request.before {
        "same token"
    } else {
        "new token"
    };
    let until = timestamp(token.expires_at.0);
    Some(Ok(format!("{which}, valid until {until}")))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use jiff::Timestamp;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, MicroTime, Time};

    use super::*;
    use crate::{
        api::{ServiceNowCredentialSpec, ServiceNowCredentialStatus, TokenStatus},
        decide::Name,
    };

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn handled(value: &str, sha256: &str, reason: &str) -> Credential {
        let synced = Condition {
            type_: condition::SYNCED.to_owned(),
            status: "True".to_owned(),
            reason: reason.to_owned(),
            message: "It says.".to_owned(),
            last_transition_time: Time(at(0)),
            observed_generation: Some(1),
        };
        let token = TokenStatus {
            issued_at: MicroTime(at(0)),
            expires_at: MicroTime(at(1800)),
            renewal_time: MicroTime(at(1200)),
            scope: None,
            sha256: Some(sha256.to_owned()),
        };
        let status = ServiceNowCredentialStatus {
            conditions: vec![synced],
            token: Some(token),
            handled_renew_request: Some(value.to_owned()),
            ..ServiceNowCredentialStatus::default()
        };
        Credential {
            name: Name::new("team-a", "itsm"),
            uid: "uid".to_owned(),
            generation: 1,
            resource_version: "1".to_owned(),
            created_at: at(0),
            deleting: false,
            finalizer: false,
            renew_request: Some("asked".to_owned()),
            spec: Ok(ServiceNowCredentialSpec::default().into()),
            status: Arc::new(status),
        }
    }

    fn request() -> Request {
        Request {
            value: "asked".to_owned(),
            before: Some("old".to_owned()),
        }
    }

    #[test]
    fn a_request_ends_when_it_was_acted_on_and_says_which_token_came_of_it() {
        let said = |value, sha256, reason| outcome(&handled(value, sha256, reason), &request());
        let until = "valid until 1970-01-01T00:30:00.000000Z";
        assert_eq!(
            said("asked", "new", "TokenSynced"),
            Some(Ok(format!("new token, {until}")))
        );
        assert_eq!(
            said("asked", "old", "TokenSynced"),
            Some(Ok(format!("same token, {until}")))
        );
        assert_eq!(
            said("asked", "old", "AccessDenied"),
            Some(Err("AccessDenied: It says.".to_owned()))
        );
        assert_eq!(said("an earlier one", "old", "TokenSynced"), None);
    }

    #[test]
    fn what_answers_a_later_request_answers_this_one() {
        let mut credential = handled("a later one", "new", "TokenSynced");
        credential.renew_request = Some("a later one".to_owned());
        assert!(matches!(outcome(&credential, &request()), Some(Ok(_))));
    }

    #[test]
    fn a_suspended_resource_is_not_waited_for() {
        let mut credential = handled("an earlier one", "old", "Suspended");
        let spec = ServiceNowCredentialSpec {
            suspend: Some(true),
            ..ServiceNowCredentialSpec::default()
        };
        credential.spec = Ok(spec.into());
        assert!(
            matches!(outcome(&credential, &request()), Some(Err(why)) if why.contains("suspend"))
        );
    }
}
