//! Follows the looks, tells each change, and knows when the promise is kept or broken.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use jiff::{SignedDuration, Timestamp};

use super::{
    Failed, LIFETIME, RENEWALS,
    look::{Look, Observer, Shown},
    screen::Screen,
    stage::{NAMESPACE, Stage},
    table_api,
};

/// How often everything is looked at.
const PERIOD: Duration = Duration::from_millis(200);
/// How long a first token may take, and a status after its Secret.
const FIRST_TOKEN_WITHIN: Duration = Duration::from_secs(30);
const STATUS_WITHIN: Duration = Duration::from_secs(5);
/// The renewals need this long at most: each comes before its token expires.
const TOLD_WITHIN: Duration = Duration::from_secs(LIFETIME.as_secs() * RENEWALS as u64 + 30);

/// The view, from the first look to the end.
pub(super) struct Story<'a> {
    stage: &'a Stage,
    resources: BTreeMap<String, Told>,
    begun: Instant,
    looks: usize,
    told: bool,
}

/// What was told of one resource.
#[derive(Default)]
struct Told {
    shown: Option<Shown>,
    failure: Option<String>,
    digests: BTreeSet<String>,
    unsettled_since: Option<Instant>,
}

impl Told {
    fn renewals(&self) -> usize {
        self.digests.len().saturating_sub(1)
    }
}

impl<'a> Story<'a> {
    pub(super) fn new(stage: &'a Stage) -> Self {
        Self {
            stage,
            resources: BTreeMap::new(),
            begun: Instant::now(),
            looks: 0,
            told: false,
        }
    }

    /// Whether everything was shown.
    pub(super) fn is_told(&self) -> bool {
        self.told
    }

    /// Tells every change until each resource was renewed often enough; with `keep`, for ever.
    pub(super) async fn tell(&mut self, screen: &mut Screen, keep: bool) -> Result<(), Failed> {
        let client = self.stage.control_plane.admin().await;
        let observer = Observer::new(client, NAMESPACE);
        screen.heading(&format!(
            "Now watch: one line for each change, until every token was renewed {RENEWALS} times"
        ));
        screen.quote(
            "SHA-256 is the beginning of the digest of the token in the Secret, and Table API what \
             the instance answers\nto a request with that token.",
        );
        screen.line(&format!(
            "  {:8}  {:13} {:15} {:16} {:>10} {:>9}  {:12}  {:9}",
            "UTC", "resource", "Ready", "Synced", "expires in", "renews in", "SHA-256", "Table API"
        ));
        let mut all_have_tokens = false;
        loop {
            match observer.look().await {
                Ok(looks) => self.follow(screen, &looks).await?,
                Err(error) => return Err(Failed::new(format!("the API server failed: {error}"))),
            }
            let fewest = self.resources.values().map(Told::renewals).min();
            let have_tokens = self.resources.values().all(|r| !r.digests.is_empty());
            if !std::mem::replace(&mut all_have_tokens, have_tokens) && have_tokens {
                self.stage
                    .show(screen, &["-n", NAMESPACE, "get", "snc", "-o", "wide"])
                    .await?;
            }
            if !self.told && fewest.is_some_and(|fewest| fewest >= RENEWALS) {
                self.told = true;
                self.conclude(screen);
                if !keep {
                    return Ok(());
                }
                self.invite(screen);
            }
            self.check_time()?;
            tokio::time::sleep(PERIOD).await;
        }
    }

    /// Tells what has changed, and holds the operator to its promise.
    async fn follow(&mut self, screen: &mut Screen, looks: &[Look]) -> Result<(), Failed> {
        self.looks += 1;
        let now = self.stage.instance.clock().now();
        for look in looks {
            self.hold_to_promise(look)?;
            let told = self.resources.entry(look.name.clone()).or_default();
            if look.is_settled {
                told.unsettled_since = None;
            } else {
                let since = *told.unsettled_since.get_or_insert_with(Instant::now);
                if since.elapsed() < STATUS_WITHIN {
                    continue;
                }
                if !self.told && look.token.is_some() {
                    return Err(Failed::new(format!(
                        "the status of {} has not followed its Secret within {} s",
                        look.name,
                        STATUS_WITHIN.as_secs()
                    )));
                }
            }
            if told.shown.as_ref() != Some(&look.shown) {
                let news = news(told, look);
                let is_known = told.failure == look.failure;
                told.failure.clone_from(&look.failure);
                told.digests.extend(look.shown.sha256.clone());
                told.shown = Some(look.shown.clone());
                self.tell_one(screen, look, now, &news).await?;
                if let Some(message) = look.failure.as_ref().filter(|_| !is_known) {
                    screen.quote(&format!("          {message}"));
                }
            }
        }
        screen.pass(&countdown(looks, now));
        Ok(())
    }

    /// From its first token on, every Secret holds a valid one at every look.
    fn hold_to_promise(&self, look: &Look) -> Result<(), Failed> {
        let has_begun = self
            .resources
            .get(&look.name)
            .is_some_and(|told| !told.digests.is_empty());
        let is_valid = |token: &String| self.stage.instance.is_valid(token);
        if !self.told && has_begun && !look.token.as_ref().is_some_and(is_valid) {
            return Err(Failed::new(format!(
                "the Secret of {} holds no valid token any more; the resource says Ready: {}, \
                 Synced: {}",
                look.name, look.shown.ready, look.shown.synced
            )));
        }
        Ok(())
    }

    async fn tell_one(
        &self,
        screen: &mut Screen,
        look: &Look,
        now: Timestamp,
        news: &str,
    ) -> Result<(), Failed> {
        let used = match &look.token {
            Some(token) => match table_api::status(self.stage.instance.address(), token).await {
                Ok(status) => status.to_string(),
                Err(error) => error.to_string(),
            },
            None => "-".to_owned(),
        };
        let left = |at: Option<Timestamp>| {
            at.map_or_else(|| "-".to_owned(), |at| format!("{} s", seconds(at, now)))
        };
        screen.line(&format!(
            "  {}  {:13} {:15} {:16} {:>10} {:>9}  {:12}  {:9}  {news}",
            now.strftime("%H:%M:%S"),
            look.name,
            look.shown.ready,
            look.shown.synced,
            left(look.expires_at),
            left(look.renews_at),
            look.shown
                .sha256
                .as_deref()
                .map_or("-", |digest| &digest[..12]),
            used,
        ));
        if !self.told && look.token.is_some() && used != "200" {
            return Err(Failed::new(format!(
                "the Table API did not take the token of {}: {used}",
                look.name
            )));
        }
        Ok(())
    }

    fn check_time(&self) -> Result<(), Failed> {
        if self.told {
            return Ok(());
        }
        let late = |within: Duration| self.begun.elapsed() > within;
        let waiting: Vec<_> = self
            .resources
            .iter()
            .filter(|(_, told)| told.digests.is_empty())
            .map(|(name, _)| name.as_str())
            .collect();
        if late(FIRST_TOKEN_WITHIN) && (!waiting.is_empty() || self.resources.is_empty()) {
            return Err(Failed::new(format!(
                "there is no token after {} s for: {}",
                FIRST_TOKEN_WITHIN.as_secs(),
                waiting.join(", ")
            )));
        }
        if late(TOLD_WITHIN) {
            return Err(Failed::new(format!(
                "after {} s not every resource was renewed {RENEWALS} times",
                TOLD_WITHIN.as_secs()
            )));
        }
        Ok(())
    }

    fn conclude(&self, screen: &mut Screen) {
        screen.heading("That was it");
        screen.quote(&format!(
            "{} resources, each renewed {RENEWALS} times or more before its token expired",
            self.resources.len()
        ));
        screen.quote(&format!(
            "{} looks in {} s: each found a valid token in every Secret",
            self.looks,
            self.begun.elapsed().as_secs()
        ));
        screen.quote(&format!(
            "{} token requests: resources with the same client and scopes share them",
            self.stage.instance.token_requests()
        ));
    }

    fn invite(&self, screen: &mut Screen) {
        screen.heading("Everything stays up until Ctrl-C. In another terminal:");
        screen.line(&self.stage.access());
        screen.heading("and watch what happens here on:");
        screen.quote(&format!(
            "kubectl -n {NAMESPACE} delete secret itsm\n\
             kubectl -n {NAMESPACE} annotate snc itsm --overwrite snowcred.dev/renew-requested-at=\"$(date)\"\n\
             kubectl -n {NAMESPACE} patch secret itsm-oauth-client -p '{{\"stringData\":{{\"client-secret\":\"wrong\"}}}}'\n\
             kubectl -n {NAMESPACE} apply -f examples/client-secret.yaml\n\
             kubectl -n {NAMESPACE} patch snc itsm --type merge -p '{{\"spec\":{{\"suspend\":true}}}}'\n\
             kubectl explain snc.spec --recursive"
        ));
        screen.line("");
    }
}

/// What the reader can do now.
pub(super) fn suggest(screen: &mut Screen) {
    screen.heading("What to try next");
    screen.quote(
        "make demo KEEP=1    everything stays up, with a kubeconfig to try things by hand\n\
         README.md           setting up a real instance, and running the operator for it\n\
         examples/           the manifests that you have seen at work",
    );
}

/// What is new about a resource, in two words.
fn news(told: &Told, look: &Look) -> String {
    let Some(sha256) = &look.shown.sha256 else {
        return "no token".to_owned();
    };
    if told.digests.is_empty() {
        return "first token".to_owned();
    }
    if !told.digests.contains(sha256) {
        return format!("renewal {}", told.digests.len());
    }
    let last = told.shown.as_ref();
    if last.is_some_and(|last| last.secret_uid != look.shown.secret_uid) {
        return "put back".to_owned();
    }
    String::new()
}

/// The passing line: how long until the next renewals.
fn countdown(looks: &[Look], now: Timestamp) -> String {
    let next: Vec<_> = looks
        .iter()
        .filter_map(|look| Some(format!("{} {} s", look.name, seconds(look.renews_at?, now))))
        .collect();
    format!("  next renewal: {}", next.join(", "))
}

fn seconds(at: Timestamp, now: Timestamp) -> i64 {
    let left = at.duration_since(now).max(SignedDuration::ZERO);
    left.as_secs_f64().round() as i64
}
