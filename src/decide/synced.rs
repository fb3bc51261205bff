//! The end that is a success: the Secret is as the spec says.

use jiff::SignedDuration;

use super::{
    end::End,
    observed::ClientRead,
    ownership::timestamp,
    probes::{Probe, record_probe},
    renewal::{self, plus},
    restarts::{record_restarts, restarts_told},
    settle::{Outcome, Settle},
    status::{self, Expiry, TRUE, Verdict, is_kept, validity_of},
    view::View,
};
use crate::{
    api::{Reason, TargetStatus, TokenStatus, condition},
    micro_time,
    servicenow::Held,
};

/// How long after a success the next renewal is at the soonest.
const SOONEST: SignedDuration = SignedDuration::from_millis(200);
/// Kubelets bring a Secret's change to files within about a minute.
const KUBELET_SYNC: SignedDuration = SignedDuration::from_mins(2);

/// The Secret is as the spec says, with the token on record or with a fresh one, which may have to
/// be tried out.
pub(super) fn succeeded(
    v: &View<'_>,
    fresh: Option<(&ClientRead, &Held)>,
    probe: Option<Probe>,
) -> Settle {
    let mut end = End::new(v, Outcome::Synced);
    if let Some((client, held)) = fresh {
        let token = token_status(v, held);
        if end.status.token.as_ref() != Some(&token) {
            end.status_mut().token = Some(token);
        }
        end.observe(client);
        end.handled();
    }
    let target = target_status(v, fresh);
    if end.status.target != target {
        end.status_mut().target = target;
    }
    if end.status.observed.is_empty() {
        end.observe_seen();
    }
    if end.status.failure.is_some() {
        end.status_mut().failure = None;
    }
    end.memory.failure = None;
    end.memory.shared = None;
    end.memory.refusals = 0;
    end.memory.waited = None;
    end.memory.judged_target = None;
    end.memory.basis = Some(v.basis);
    let trimmed = match fresh {
        Some((client, _)) => client.trimmed,
        None => status::get(&v.o.credential.status, condition::SYNCED)
            .is_some_and(|c| c.message.contains(TRIMMED)),
    };
    // A token that is due when it comes is not asked for in the same breath.
    let soonest = plus(v.o.now, SOONEST);
    let token = end.status.token.as_ref();
    end.wake = token.map(|token| View::due_at(token).max(soonest));
    let mut message = synced_message(v, token, trimmed);
    // For the token that is on record now.
    record_restarts(&mut end);
    message += &restarts_told(&mut end);
    end.probe = probe;
    record_probe(&mut end);
    end.conclude(
        Verdict::new(TRUE, Reason::TokenSynced, message),
        Expiry::Strict,
    );
    end.into_settle()
}

/// A renewal time is drawn once for each token, and again only when the margin wants it elsewhere.
pub(super) fn token_status(v: &View<'_>, held: &Held) -> TokenStatus {
    let mut token = TokenStatus {
        issued_at: micro_time(held.validity.issued_at),
        expires_at: micro_time(held.validity.expires_at),
        renewal_time: micro_time(held.validity.expires_at),
        scope: Some(held.scope.clone()).filter(|scope| !scope.is_empty()),
        sha256: Some(held.sha256.clone()),
    };
    let drawn = v.token.as_ref().filter(|old| {
        old.sha256 == token.sha256 && validity_of(old) == validity_of(&token) && !is_kept(old)
    });
    if !held.kept {
        token.renewal_time = match drawn {
            Some(old) if old.renewal_time.0 > v.o.now => old.renewal_time.clone(),
            // It was asked for when it was due, and nothing has moved.
            Some(_) => token.renewal_time,
            None => micro_time(v.draw(held.validity)),
        };
        if let Some(renewal_time) = v.refitted(&token) {
            token.renewal_time = renewal_time;
        }
    }
    token
}

fn target_status(v: &View<'_>, fresh: Option<(&ClientRead, &Held)>) -> Option<TargetStatus> {
    if let Some(written) = v.written_target() {
        return Some(written);
    }
    let Some(Some(read)) = v.o.target else {
        return v.last_target().cloned();
    };
    // It was found as it shall be: what was read is what is recorded.
    let rendered = fresh.and_then(|(client, held)| v.render(client, held).ok());
    let sha256 = rendered
        .map(|data| data.sha256().to_owned())
        .or_else(|| v.recorded_target().map(|target| target.sha256.clone()))?;
    Some(v.target_record(&read.version, sha256))
}

/// The note on a client id or secret that had whitespace around it.
const TRIMMED: &str = "had whitespace around it";

fn synced_message(v: &View<'_>, token: Option<&TokenStatus>, trimmed: bool) -> String {
    let Some(token) = token else {
        return String::new();
    };
    let validity = validity_of(token);
    let kept = is_kept(token);
    let mut message = if kept {
        format!(
            "The Secret is as the spec says. This instance hands out the same token until it \
             expires, so the next one is fetched at that moment, {}, and workloads see it shortly \
             after.",
            timestamp(token.expires_at.0)
        )
    } else {
        let at = timestamp(token.renewal_time.0);
        format!("The Secret is as the spec says; the token is renewed at {at}.")
    };
    let effective = renewal::effective(v.margin(), validity.lifetime());
    if effective.clamped {
        message += &format!(
            " The wanted renewal margin does not fit the token's lifetime of {} s; it is kept \
             within 10 to 80 % of it.",
            validity.lifetime().as_secs()
        );
    }
    if !kept && effective.margin < KUBELET_SYNC {
        message += &format!(
            " The margin is {} s, and kubelets take about a minute to bring a Secret's change to \
             files: give the client a longer token lifetime, or renew earlier with spec.renewal.",
            effective.margin.as_secs()
        );
    }
    if trimmed {
        message += &format!(
            " The client id or secret in the Secret {:?} {TRIMMED}, which was taken off.",
            v.spec.client.secret_ref.name
        );
    }
    message
}
