//! What the API server was asked, by its own count.

use std::collections::BTreeMap;

use kube::Client;

/// Requests by verb and resource, such as `GET secrets`.
pub(crate) type Requests = BTreeMap<String, u64>;

/// The resources that an operator has to do with. What the others are asked for is the control
/// plane's own business.
const RESOURCES: [&str; 4] = ["secrets", "configmaps", "servicenowcredentials", "events"];

/// All requests that the API server has answered so far for what an operator has to do with.
pub(crate) async fn requests(client: &Client) -> Requests {
    let request = http::Request::get("/metrics").body(Vec::new()).unwrap();
    let metrics = client.request_text(request).await.unwrap();
    let mut requests = Requests::new();
    let counts = metrics
        .lines()
        .filter_map(|line| line.strip_prefix("apiserver_request_total{"));
    for line in counts {
        let (labels, count) = line.rsplit_once("} ").unwrap();
        let label = |name: &str| {
            let start = format!("{name}=\"");
            let mut labels = labels.split("\",");
            let value = labels.find_map(|label| label.strip_prefix(&start));
            value.unwrap_or_default().trim_end_matches('"').to_owned()
        };
        let resource = label("resource");
        if !RESOURCES.contains(&resource.as_str()) {
            continue;
        }
        let subresource = match label("subresource") {
            none if none.is_empty() => none,
            some => format!("/{some}"),
        };
        let what = format!("{} {resource}{subresource}", label("verb"));
        *requests.entry(what).or_default() += count.parse::<f64>().unwrap() as u64;
    }
    requests
}

/// What was asked between two counts, but for lists and watches.
pub(crate) fn between(before: &Requests, after: &Requests) -> Requests {
    let mut asked = after.clone();
    for (what, count) in &mut asked {
        *count -= before.get(what).copied().unwrap_or_default();
    }
    asked.retain(|what, count| {
        *count > 0 && !what.starts_with("LIST") && !what.starts_with("WATCH")
    });
    asked
}

/// How many they are.
pub(crate) fn total(requests: &Requests) -> u64 {
    requests.values().sum()
}
