//! What a failed call of the Kubernetes API means for a resource.

use kube::Error;

use crate::{api::Reason, decide::Failure, redact::one_line};

/// The call that failed, in the words of RBAC.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Call<'a> {
    pub(crate) verb: &'static str,
    pub(crate) resource: &'static str,
    pub(crate) namespace: &'a str,
    pub(crate) name: &'a str,
}

/// The HTTP status of a refusal by the API server.
pub(crate) fn code(error: &Error) -> Option<u16> {
    match error {
        Error::Api(status) => Some(status.code),
        _ => None,
    }
}

/// The sentence that the API server gave. Only for logs and messages that show no secret: what
/// was sent is blanked by the caller.
pub(crate) fn said(error: &Error) -> String {
    match error {
        Error::Api(status) => one_line(&status.message, 400),
        // A decoding error may quote what could not be decoded.
        Error::SerdeError(_) | Error::FromUtf8(_) => "its answer could not be read".to_owned(),
        Error::HyperError(_) | Error::Service(_) | Error::ReadEvents(_) => {
            "the connection failed".to_owned()
        }
        _ => "the request could not be made".to_owned(),
    }
}

/// The failure that a resource shows for a failed call.
pub(crate) fn failure(error: &Error, call: Call<'_>) -> Failure {
    let Call {
        verb,
        resource,
        namespace,
        name,
    } = call;
    let what = format!("{verb} {resource} {name:?} in namespace {namespace:?}");
    let said = said(error);
    if matches!(code(error), Some(401 | 403)) {
        return Failure::new(
            Reason::PermissionDenied,
            format!(
                "The operator may not {what}: {said}. Give its ServiceAccount the verb {verb:?} on \
                 {resource}, or remove what forbids it (a quota, an admission policy); it is tried \
                 again from time to time."
            ),
        );
    }
    Failure::new(
        Reason::InternalError,
        format!("The Kubernetes API did not {what}: {said}. It is tried again shortly."),
    )
}

/// The failure of a call that got no answer in time.
pub(crate) fn timed_out(call: Call<'_>) -> Failure {
    let Call {
        verb,
        resource,
        namespace,
        name,
    } = call;
    Failure::new(
        Reason::InternalError,
        format!(
            "The Kubernetes API did not answer in time to {verb} {resource} {name:?} in namespace \
             {namespace:?}. It is tried again shortly."
        ),
    )
}
