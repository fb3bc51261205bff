//! What a test tells the instance, and what it asks it.

use std::{pin::pin, time::Duration};

use jiff::Timestamp;

use super::{
    client::Client,
    clock::Clock,
    fault::{Fault, TableFault},
    instance::MissingUser,
    journal::RecordedRequest,
    simulator::Simulator,
    tokens::TokenMode,
};

/// Setup: what an administrator does on an instance.
impl Simulator {
    /// Adds the client, or replaces the one with the same id. Its tokens stay as they are.
    pub fn add_client(&self, client: Client) {
        self.instance
            .lock()
            .clients
            .insert(client.id.clone(), client);
    }

    /// Changes a client.
    ///
    /// # Panics
    /// Where there is no such client, for then the test is wrong.
    pub fn update_client(&self, id: &str, change: impl FnOnce(&mut Client)) {
        let mut instance = self.instance.lock();
        change(
            instance
                .clients
                .get_mut(id)
                .expect("the client should have been added before"),
        );
    }

    /// The client with this id.
    pub fn client(&self, id: &str) -> Option<Client> {
        self.instance.lock().clients.get(id).cloned()
    }

    /// Removes a client. Its tokens stay as they are.
    pub fn remove_client(&self, id: &str) {
        self.instance.lock().clients.remove(id);
    }

    /// Adds a user for the password grant, or changes the password.
    pub fn add_user(&self, username: impl Into<String>, password: impl Into<String>) {
        self.instance
            .lock()
            .users
            .insert(username.into(), password.into());
    }

    /// Sets `glide.oauth.inbound.client.credential.grant_type.enabled`. A real instance has it off by
    /// default, the simulator on.
    pub fn set_property_enabled(&self, enabled: bool) {
        self.instance.lock().property_enabled = enabled;
    }

    /// What is answered where a client has no application user.
    pub fn set_missing_user(&self, answer: MissingUser) {
        self.instance.lock().missing_user = answer;
    }

    /// What happens when a token is asked for again before its expiry.
    pub fn set_mode(&self, mode: TokenMode) {
        self.instance.lock().mode = mode;
    }

    /// The present [`TokenMode`].
    pub fn mode(&self) -> TokenMode {
        self.instance.lock().mode
    }
}

/// Trouble.
impl Simulator {
    /// Every token request meets this fault until the next call; every request at all, where
    /// [`Fault::is_everywhere`]. `None` ends it, and what [`Simulator::fault_times`] announced too.
    pub fn set_fault(&self, fault: Option<Fault>) {
        let faults = &mut self.instance.lock().faults;
        if fault.is_none() {
            faults.clear();
        }
        faults.set(fault);
    }

    /// The next `times` token requests meet this fault, after those announced before; requests to other
    /// paths do not. Then the fault of [`Simulator::set_fault`] is back.
    pub fn fault_times(&self, fault: Fault, times: usize) {
        self.instance.lock().faults.announce(fault, times);
    }

    /// The present fault of [`Simulator::set_fault`].
    pub fn fault(&self) -> Option<Fault> {
        self.instance.lock().faults.standing().cloned()
    }

    /// What the Table API answers instead of records, until changed.
    pub fn set_table_fault(&self, fault: Option<TableFault>) {
        self.instance.lock().table_fault = fault;
    }
}

/// Tokens.
impl Simulator {
    /// Whether the token is valid at the instance now.
    pub fn is_valid(&self, token: &str) -> bool {
        self.instance.lock().accepts(token)
    }

    /// When the token expires or has expired; none where it is unknown or revoked.
    pub fn expires_at(&self, token: &str) -> Option<Timestamp> {
        self.instance.lock().tokens.expires_at(token)
    }

    /// Revokes a token before its expiry.
    pub fn revoke(&self, token: &str) {
        self.instance.lock().tokens.revoke(token);
    }

    /// Revokes every token.
    pub fn revoke_all(&self) {
        self.instance.lock().tokens.revoke_all();
    }

    /// How many distinct tokens were issued.
    pub fn issued_tokens(&self) -> usize {
        self.instance.lock().tokens.issued()
    }

    /// How many tokens are valid now.
    pub fn valid_tokens(&self) -> usize {
        let instance = self.instance.lock();
        instance.tokens.count_valid(instance.clock.now())
    }
}

/// The clock.
impl Simulator {
    /// The instance's clock, which the code under test may share.
    pub fn clock(&self) -> Clock {
        self.instance.lock().clock.clone()
    }

    /// Moves the instance's clock forward.
    pub fn advance(&self, by: Duration) {
        self.clock().advance(by);
    }
}

/// What it was asked.
impl Simulator {
    /// How many requests the token endpoint received, answered or not.
    pub fn token_requests(&self) -> usize {
        self.instance.lock().journal.token_requests
    }

    /// Waits until the token endpoint has received so many requests in total; whether they are answered
    /// by then is another question.
    pub async fn wait_for_token_requests(&self, count: usize) {
        let arrival = self.instance.lock().journal.arrival.clone();
        loop {
            let mut next = pin!(arrival.notified());
            // Listening before looking, so that a request between the two is not missed.
            next.as_mut().enable();
            if self.token_requests() >= count {
                return;
            }
            next.await;
        }
    }

    /// Every request, oldest first; the last 10 000 of them.
    pub fn requests(&self) -> Vec<RecordedRequest> {
        self.instance.lock().journal.entries()
    }

    /// How many requests brought our session cookie back. Clients must keep none.
    pub fn cookies_returned(&self) -> usize {
        self.instance.lock().journal.cookies_returned
    }

    /// The refresh tokens that were handed out, the oldest first.
    pub fn refresh_tokens(&self) -> Vec<String> {
        let instance = self.instance.lock();
        instance
            .tokens
            .refresh_tokens()
            .map(str::to_owned)
            .collect()
    }

    /// How often one of them came back, in whatever part of a request.
    pub fn refresh_tokens_returned(&self) -> usize {
        self.instance.lock().journal.refresh_tokens_returned
    }

    /// How often a token was revoked over HTTP, which would break other users of the same client.
    pub fn revocations(&self) -> usize {
        self.instance.lock().journal.revocations
    }

    /// Forgets what it was asked and sets every count to 0, [`Simulator::issued_tokens`] too.
    pub fn reset_counters(&self) {
        let mut instance = self.instance.lock();
        instance.journal.reset();
        instance.tokens.reset_count();
    }
}
