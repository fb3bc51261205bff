//! What an instance answers to a token in use, and what a person should do about it.

use super::answer::{RawAnswer, is_html};
use crate::{api::Reason, decide::Failure};

/// What came of using a token once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probed {
    /// The reason of the condition `Verified`.
    pub reason: Reason,
    /// What came back, its likely cause and the next step.
    pub message: String,
}

/// Judges the answer to `GET path` with a token. Nothing of a body is repeated.
pub fn judge_probe(path: &str, answer: Result<&RawAnswer, &Failure>) -> Probed {
    let (reason, message) = match answer {
        Ok(answer) => judged(answer),
        Err(failure) => (
            Reason::ProbeFailed,
            format!("it was not answered: {}", failure.message()),
        ),
    };
    Probed {
        reason,
        message: format!("GET {path}: {message}"),
    }
}

fn judged(answer: &RawAnswer) -> (Reason, String) {
    let status = answer.status;
    let body = answer.body.as_deref().unwrap_or_default();
    match status {
        200..=299 if is_html(answer, body) => (
            Reason::ProbeFailed,
            format!(
                "HTTP {status} with a web page, which no API of ServiceNow answers: a hibernating \
                 instance, or a login page in front of it. Check the path of spec.verify and what \
                 stands before the instance."
            ),
        ),
        200..=299 => (
            Reason::ProbeSucceeded,
            format!("HTTP {status}, the token works."),
        ),
        401 => (
            Reason::ProbeUnauthorized,
            "HTTP 401, the token is not accepted here. The instance gave it out just now, so the \
             likely cause is the API's access policy: where it has no authentication profile for \
             OAuth, valid tokens are refused (System Web Services, API Access Policies). Otherwise \
             the token was revoked."
                .to_owned(),
        ),
        403 => (Reason::ProbeForbidden, forbidden(body).to_owned()),
        404 => (
            Reason::ProbeFailed,
            "HTTP 404, the instance has no such path or record. Check the path of spec.verify."
                .to_owned(),
        ),
        429 => (
            Reason::ProbeFailed,
            "HTTP 429, the rate limit of this API is used up. The token says nothing about it; use a \
             cheaper path in spec.verify, or ask the administrator for the limit."
                .to_owned(),
        ),
        500.. => (
            Reason::ProbeFailed,
            format!(
                "HTTP {status}, the instance or the edge in front of it is down or overloaded. \
                 The next token is tried out again."
            ),
        ),
        _ => (
            Reason::ProbeFailed,
            format!("HTTP {status}, which no API of ServiceNow answers. Check the path of spec.verify."),
        ),
    }
}

/// ServiceNow's words for the three ways in which a valid token is not enough.
fn forbidden(body: &[u8]) -> &'static str {
    let body = String::from_utf8_lossy(body);
    if body.contains("Missing required api access scope") {
        "HTTP 403, the token is accepted but its scope is too narrow for this API: link the API's \
         scope to the client in ServiceNow and, if spec.scopes is used, name it there."
    } else if body.contains("API level ACL") {
        "HTTP 403, the token is accepted but the user it acts as may not use this API: give the \
         OAuth Application User the role that the API's ACL asks for."
    } else {
        "HTTP 403, the token is accepted but the user it acts as may not read this: give the OAuth \
         Application User the role that the table's ACL asks for."
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn probed(status: u16, content_type: &str, body: &str) -> Probed {
        let answer = RawAnswer {
            status,
            content_type: content_type.to_owned(),
            retry_after: None,
            body: Some(body.as_bytes().to_vec()),
        };
        judge_probe("/api/now/x", Ok(&answer))
    }

    #[test]
    fn each_answer_has_its_reason_and_its_advice() {
        let json = "application/json";
        let scope = r#"{"error":{"detail":"Missing required api access scope: x"}}"#;
        let acl = r#"{"error":{"detail":"Failed API level ACL Validation"}}"#;
        let rights = r#"{"error":{"detail":"Insufficient rights to query records"}}"#;
        for (status, content_type, body, reason, advice) in [
            (200, json, "{}", Reason::ProbeSucceeded, "works"),
            (200, "text/html", "<html>", Reason::ProbeFailed, "web page"),
            (401, json, "{}", Reason::ProbeUnauthorized, "access policy"),
            (
                403,
                json,
                scope,
                Reason::ProbeForbidden,
                "scope is too narrow",
            ),
            (
                403,
                json,
                acl,
                Reason::ProbeForbidden,
                "may not use this API",
            ),
            (
                403,
                json,
                rights,
                Reason::ProbeForbidden,
                "may not read this",
            ),
            (404, json, "{}", Reason::ProbeFailed, "path of spec.verify"),
            (429, json, "{}", Reason::ProbeFailed, "rate limit"),
            (
                503,
                "text/html",
                "<html>",
                Reason::ProbeFailed,
                "overloaded",
            ),
            (302, "", "", Reason::ProbeFailed, "HTTP 302"),
        ] {
            let probed = probed(status, content_type, body);
            assert_eq!(probed.reason, reason, "HTTP {status} {body}");
            assert!(probed.message.starts_with("GET /api/now/x: "));
            assert!(probed.message.contains(advice), "{}", probed.message);
        }
    }

    #[test]
    fn nothing_of_a_body_is_repeated() {
        let message = probed(403, "application/json", r#"{"error":"s3cr3t"}"#).message;
        assert!(!message.contains("s3cr3t"));
    }
}
