//! Makes the requests of a check, and tells each step as it is made.

use std::time::{Duration, Instant};

use jiff::SignedDuration;

use super::{
    attempt::{Answer, Attempt, Request, next},
    diagnosis::diagnose,
    network::look_up,
    report::{Finding, Report, Step},
    subject::Subject,
};
use crate::{
    Clock as _, SystemClock,
    api::Reason,
    cli::{CommandError, terminal::brief},
    decide::Failure,
    servicenow::{
        Endpoint, RawAnswer, Refusal, SharingKey, TokenAnswer, WHERE_MORE, judge, judge_probe,
        new_lifetime,
    },
};

/// What the operator gives a request, unless it is started otherwise.
const PATIENCE: Duration = Duration::from_secs(15);

/// What a request for a token came to.
type Judged = Result<(TokenAnswer, SignedDuration), Failure>;

/// Checks the subject. `tell` is called with each step.
pub(super) async fn ask(
    subject: &Subject,
    tell: impl FnMut(&Step) -> Result<(), CommandError>,
) -> Result<Report, CommandError> {
    let endpoint = Endpoint::new(PATIENCE).map_err(|error| {
        CommandError::failed(format!(
            "cannot set up the HTTP client: {error}; check the certificate authorities of this \
             machine"
        ))
    })?;
    let check = Check {
        subject,
        endpoint,
        tell,
        steps: Vec::new(),
        attempts: Vec::new(),
    };
    check.run().await
}

struct Check<'a, Tell> {
    subject: &'a Subject,
    endpoint: Endpoint,
    tell: Tell,
    steps: Vec<Step>,
    attempts: Vec<Attempt>,
}

impl<Tell: FnMut(&Step) -> Result<(), CommandError>> Check<'_, Tell> {
    async fn run(mut self) -> Result<Report, CommandError> {
        let subject = self.subject;
        self.told(Step::new(
            "client",
            true,
            format!("secret from {}", subject.source),
        ))?;
        self.told(look_up(&subject.instance, PATIENCE).await)?;
        let mut meant = None;
        let situation = subject.situation();
        while let Some(request) = next(situation, &self.attempts) {
            let key = subject.key_of(request);
            let sent = Instant::now();
            let answer = self.endpoint.answer(&key).await;
            let took = sent.elapsed();
            let judged = judged(&answer, &key);
            let came = came(&answer, &judged, &key);
            if request == Request::AsMeant {
                for step in steps(&answer, took, &came, subject) {
                    self.told(step)?;
                }
            } else {
                let words = request.words(situation);
                let step = Step::new(
                    "comparison",
                    came == Answer::Granted,
                    format!("{words}: {}", outcome(&came)),
                );
                self.told(step)?;
            }
            self.attempts.push(Attempt {
                request,
                answer: came,
            });
            match request {
                Request::AsMeant => meant = Some(judged),
                Request::Again if judged.is_ok() => meant = Some(judged),
                _ => {}
            }
        }
        match meant {
            Some(Ok((token, lifetime))) => self.obtained(token, lifetime).await,
            Some(Err(failure)) => Ok(self.not_obtained(&failure)),
            None => Err(CommandError::failed(
                "nothing was tried; this is a bug of check",
            )),
        }
    }

    fn told(&mut self, step: Step) -> Result<(), CommandError> {
        (self.tell)(&step)?;
        self.steps.push(step);
        Ok(())
    }

    /// There is a token; perhaps it is to be used.
    async fn obtained(
        mut self,
        token: TokenAnswer,
        lifetime: SignedDuration,
    ) -> Result<Report, CommandError> {
        let once_refused = self.attempts.len() > 1;
        let scope = match token.scope.as_str() {
            "" => "no scope named".to_owned(),
            scope => format!("scope {scope}"),
        };
        let mut message = format!("Token obtained: valid for {}, {scope}.", brief(lifetime));
        if once_refused {
            message += " The instance refused the same request just before, as instances do now \
                        and then when requests of one client meet.";
        }
        let mut report = Report {
            ok: true,
            reason: None,
            message,
            steps: Vec::new(),
            causes: Vec::new(),
            see_also: None,
            expires_in: Some(lifetime.as_secs()),
            scope: Some(token.scope.clone()),
            requests: self.attempts.len(),
            token: Some(token.token.expose().to_owned()),
        };
        if let Some(path) = &self.subject.verify_path {
            report.requests += 1;
            self.probe(path, &token, &mut report).await?;
        }
        report.steps = self.steps;
        Ok(report)
    }

    async fn probe(
        &mut self,
        path: &str,
        token: &TokenAnswer,
        report: &mut Report,
    ) -> Result<(), CommandError> {
        let key = &self.subject.key;
        let answer = self
            .endpoint
            .get(key.origin(), key.tls(), path, &token.token)
            .await;
        let probed = judge_probe(path, answer.as_ref());
        let message = self.subject.voice.say(&probed.message);
        if probed.reason == Reason::ProbeSucceeded {
            return self.told(Step::new("probe", true, message));
        }
        let reason = probed.reason.to_string();
        report.ok = false;
        report.message = format!("Token obtained, but it does not work: {reason}.");
        report.causes = vec![Finding {
            cause: reason.clone(),
            explanation: message,
        }];
        self.told(Step::new("probe", false, format!("GET {path}: {reason}")))?;
        report.reason = Some(reason);
        Ok(())
    }

    /// There is no token.
    fn not_obtained(self, failure: &Failure) -> Report {
        let voice = self.subject.voice;
        let reason = failure.reason().to_string();
        let (message, causes, see_also) = match diagnose(self.subject.situation(), &self.attempts) {
            Some(diagnosis) => {
                let finding = voice.say(&diagnosis.finding);
                let causes = diagnosis.causes.into_iter().map(|cause| Finding {
                    cause: cause.as_str().to_owned(),
                    explanation: voice.sentence(cause.explain()),
                });
                (
                    format!("No token: the instance refused the request. {finding}"),
                    causes.collect(),
                    Some(WHERE_MORE.to_owned()),
                )
            }
            None => {
                let mut explanation = voice.say(failure.message());
                if let Some(wait) = failure.retry_after() {
                    explanation += &format!(" It asks to wait for {}.", brief(wait));
                }
                let cause = reason.clone();
                let only = Finding { cause, explanation };
                (format!("No token: {reason}."), vec![only], None)
            }
        };
        Report {
            ok: false,
            reason: Some(reason),
            message,
            causes,
            see_also,
            expires_in: None,
            scope: None,
            requests: self.attempts.len(),
            steps: self.steps,
            token: None,
        }
    }
}

fn judged(answer: &Result<RawAnswer, Failure>, key: &SharingKey) -> Judged {
    let answer = answer.as_ref().map_err(Clone::clone)?;
    let token = judge(answer, key, &|_| Vec::new(), SystemClock.now())?;
    let lifetime = new_lifetime(&token, key.origin())?;
    Ok((token, lifetime))
}

fn came(answer: &Result<RawAnswer, Failure>, judged: &Judged, key: &SharingKey) -> Answer {
    match (judged, answer) {
        (Ok(_), _) => Answer::Granted,
        (Err(failure), Ok(answer)) if failure.reason() == Reason::AccessDenied => {
            Answer::Refused(Refusal::of(answer, key, &|_| Vec::new()))
        }
        (Err(failure), _) => Answer::Failed(failure.reason()),
    }
}

/// What an answer came to, in few words: the advice comes at the end.
fn outcome(answer: &Answer) -> String {
    match answer {
        Answer::Granted => "a token".to_owned(),
        Answer::Refused(refusal) => format!("refused, {refusal}"),
        Answer::Failed(reason) => format!("no token, {reason}"),
    }
}

/// The steps of the request that is checked.
fn steps(
    answer: &Result<RawAnswer, Failure>,
    took: Duration,
    came: &Answer,
    subject: &Subject,
) -> Vec<Step> {
    let instance = &subject.instance;
    let untrusted = matches!(answer, Err(failure) if failure.reason() == Reason::TlsFailed);
    let mut steps = Vec::new();
    if instance.is_plain_http() {
        steps.push(Step::new("TLS", true, "none: plain http, to this machine"));
    } else if untrusted {
        steps.push(Step::new("TLS", false, "no trusted connection"));
    } else if answer.is_ok() {
        steps.push(Step::new(
            "TLS",
            true,
            format!("the certificate of {} is trusted", instance.host()),
        ));
    }
    if untrusted {
        return steps;
    }
    let took = match took.as_millis() {
        short @ ..1000 => format!("{short} ms"),
        _ => format!("{:.1} s", took.as_secs_f64()),
    };
    match answer {
        Ok(answer) => {
            let status = answer.status;
            let detail = format!("POST /oauth_token.do: HTTP {status} after {took}");
            steps.push(Step::new("HTTP", true, detail));
            steps.push(Step::new("answer", *came == Answer::Granted, outcome(came)));
        }
        Err(_) => {
            let detail = format!("POST /oauth_token.do: no answer after {took}");
            steps.push(Step::new("HTTP", false, detail));
        }
    }
    steps
}
