//! The other side of the wire: the token endpoint of a ServiceNow instance, what its answers mean,
//! and the broker that lets one request serve all who ask alike.

mod answer;
mod broker;
#[cfg(test)]
mod broker_tests;
mod causes;
mod exchange;
#[cfg(test)]
mod hostile_tests;
mod http;
mod key;
mod key_state;
mod line;
mod origin_state;
mod prepared;
mod probe;
mod refusal;
pub mod stored;
mod tls;
mod token;

pub use answer::{InHand, RawAnswer, judge, new_lifetime};
pub use broker::Broker;
pub use causes::{Cause, WHERE_MORE, first, likely};
pub use exchange::{Ask, Exchange, Held, Known, Limits, SharedFailure, Urgency};
pub use http::Endpoint;
pub use key::SharingKey;
pub use prepared::Prepared;
pub use probe::{Probed, judge_probe};
pub use refusal::Refusal;
pub use tls::Tls;
pub use token::{AccessToken, NotAToken, TokenAnswer};
