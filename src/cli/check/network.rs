//! The way to the instance, as far as it can be looked at before a request goes out.

use std::{collections::BTreeSet, net::IpAddr, time::Duration};

use http::Uri;
use hyper_util::client::proxy::matcher::Matcher;
use tokio::{net::lookup_host, time::timeout};

use super::report::Step;
use crate::api::Instance;

/// More addresses than these are counted.
const SHOWN: usize = 4;

/// Looks the instance's name up, as the request will. Its failure is only shown: whether the
/// request fails, too, is the request's to say.
pub(super) async fn look_up(instance: &Instance, patience: Duration) -> Step {
    let step = |ok, detail: String| Step::new("DNS", ok, detail);
    let host = instance.host();
    if let Some(proxy) = proxy(instance) {
        return step(
            true,
            format!("left to the proxy {proxy}, which looks {host} up"),
        );
    }
    if instance.is_ip() {
        return step(
            true,
            format!("{host} is an address, there is nothing to look up"),
        );
    }
    match timeout(patience, lookup_host((host, instance.port()))).await {
        Err(_) => step(
            false,
            format!("{host} was not found within {} s", patience.as_secs_f64()),
        ),
        Ok(Err(error)) => step(false, format!("{host} was not found: {error}")),
        Ok(Ok(found)) => {
            let found: BTreeSet<_> = found.map(|address| address.ip()).collect();
            step(true, format!("{host} is {}", listed(&found)))
        }
    }
}

/// Host and port of the proxy that requests to the instance go through, by the rules of the HTTP
/// client itself. A user or password in its URL is left out.
fn proxy(instance: &Instance) -> Option<String> {
    let origin: Uri = instance.origin().parse().ok()?;
    // Plain http is for this machine only, and goes through no proxy.
    if origin.scheme_str() == Some("http") {
        return None;
    }
    let proxy = Matcher::from_system().intercept(&origin)?;
    let host = proxy.uri().host()?;
    Some(match proxy.uri().port() {
        Some(port) => format!("{host}:{port}"),
        None => host.to_owned(),
    })
}

fn listed(addresses: &BTreeSet<IpAddr>) -> String {
    let shown = addresses.iter().take(SHOWN).map(ToString::to_string);
    let shown = shown.collect::<Vec<_>>().join(", ");
    match addresses.len().saturating_sub(SHOWN) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_addresses_are_counted() {
        let address = |last: u8| IpAddr::from([192, 0, 2, last]);
        assert_eq!(listed(&BTreeSet::from([address(1)])), "192.0.2.1");
        let six = (1..=6).map(address).collect();
        assert_eq!(
            listed(&six),
            "192.0.2.1, 192.0.2.2, 192.0.2.3, 192.0.2.4 and 2 more"
        );
    }
}
