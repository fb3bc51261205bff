//! The `ServiceNowCredential` resource: what a person writes, what the operator answers, and what
//! the API server refuses. No I/O.
//!
//! | module | subject |
//! |---|---|
//! | [`spec`] | what a person writes; the documentation of `kubectl explain` |
//! | [`status`] | what the operator answers |
//! | [`defaults`] | what a field that was left out means |
//! | [`admission`] | the rules by which the API server refuses a spec, in CEL |
//! | [`validate`] | the same rules in Rust, for objects that were admitted by older rules |
//! | [`crd`] | the CustomResourceDefinition, put together from the above |
//! | [`instance`] | the origin of a ServiceNow instance, and URLs that stay there |
//! | [`allowed_hosts`] | which hosts credentials may be sent to |
//! | [`duration`] | durations in Go's style |
//! | [`reason`] | the condition types and their reasons |
//!
//! The schema carries no defaults: a default that the API server fills in would belong to nobody
//! and collide with a later apply. Defaults are applied by the accessors of these types and are
//! named in the field descriptions.

pub mod admission;
pub mod allowed_hosts;
pub mod crd;
pub mod defaults;
pub mod duration;
pub mod instance;
pub mod reason;
mod schema;
pub mod spec;
pub mod status;
pub mod validate;

pub use self::{
    allowed_hosts::{AllowedHosts, AllowedHostsError, DEFAULT_ALLOWED_HOSTS},
    crd::crd_yaml,
    instance::{Instance, InstanceError},
    reason::{Reason, condition},
    spec::*,
    status::*,
};

/// The group of the resource, and the prefix of every annotation of ours.
pub const GROUP: &str = "snowcred.dev";
