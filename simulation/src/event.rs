//! What may happen in a run, and what is on its way meanwhile.

use std::sync::Arc;

use servicenow_credential_operator::{
    api::ServiceNowCredentialStatus,
    decide::{Credential, Failure, Name, observed::WriteOutcome, ownership::TargetWrite},
    servicenow::{SharingKey, TokenAnswer},
};

use crate::{
    operator::Watch,
    plan::Event as Befalls,
    run::{Done, Run},
    time::Micros,
};

/// Something that happens.
pub(crate) enum Event {
    /// Something befalls the fleet.
    Befalls(Befalls),
    /// A trouble or a deed is over.
    Over(Box<dyn FnOnce(&mut Run) -> Done>),
    /// A replica begins.
    Start(usize),
    /// A replica leads from now on.
    Lead(usize, u32),
    /// A list comes in.
    Relist(usize, u32, Watch),
    /// A watch tells its news.
    Tell(usize, u32, Watch),
    /// A replica looks at its timers.
    Tick(usize, u32),
    /// A token request reaches its instance.
    Arrive(usize, u32, Sent),
    /// An answer reaches the operator.
    Reply(usize, u32, Box<(Sent, Result<TokenAnswer, Failure>)>),
    /// A read is answered.
    Read(usize, u32, usize, Read),
    /// A write reaches the API server.
    Land(usize, u32, usize, Box<Landing>),
    /// The machines' clocks were set by so much, and the operator's loop goes round.
    ClockSet(Micros),
    /// A write is answered.
    Wrote(usize, u32, usize, Box<Outcome>),
    /// A token in a Secret is over: there should be another by now.
    Check(Name),
    /// Every resource is looked at.
    LookAtAll,
    /// Garbage collection.
    Collect(Name, String),
}

/// A token request on its way.
#[derive(Clone)]
pub(crate) struct Sent {
    pub(crate) key: Arc<SharingKey>,
    pub(crate) at: Micros,
}

/// What of the API is read.
#[derive(Clone, Copy)]
pub(crate) enum Read {
    Client,
    Target,
}

/// A call of the API that writes.
pub(crate) enum Call {
    Write(Box<TargetWrite>, bool),
    RemovePrevious(String, String),
    Status,
}

/// A write on its way: it may arrive when its sender is dead.
pub(crate) struct Landing {
    pub(crate) call: Call,
    pub(crate) fate: Fate,
    pub(crate) credential: Arc<Credential>,
    pub(crate) status: Option<Arc<ServiceNowCredentialStatus>>,
}

/// What becomes of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    Good,
    /// Refused by the API server.
    Refused,
    /// It takes effect, and nobody hears of it.
    Unheard,
    /// It is lost on the way.
    Lost,
    /// Somebody else was faster.
    Conflict,
}

/// What came of a write.
pub(crate) enum Outcome {
    Target(WriteOutcome, String, bool),
    Removed(String, Result<(), Failure>),
    Status(Result<Option<String>, Failure>),
}
