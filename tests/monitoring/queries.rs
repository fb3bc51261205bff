//! What Prometheus is asked over its API.

use std::{collections::BTreeSet, time::Duration};

use serde_json::Value;
use testkit::prometheus::Prometheus;
use url::Url;

use crate::files::text;

pub(crate) struct Api {
    origin: String,
    http: reqwest::Client,
}

impl Api {
    pub(crate) fn of(prometheus: &Prometheus) -> Self {
        let http = reqwest::Client::builder()
            .no_proxy()
            .timeout(Duration::from_secs(10));
        Self {
            origin: format!("http://{}", prometheus.address().unwrap()),
            http: http.build().unwrap(),
        }
    }

    /// The data of an answer, or the error's sentence.
    async fn get(&self, path: &str, parameters: &[(&str, &str)]) -> Result<Value, String> {
        let url = format!("{}/api/v1/{path}", self.origin);
        let url = Url::parse_with_params(&url, parameters).unwrap();
        let answer = self.http.get(url).send().await.unwrap();
        let answer: Value = serde_json::from_str(&answer.text().await.unwrap()).unwrap();
        match answer["status"].as_str() {
            Some("success") => Ok(answer["data"].clone()),
            _ => Err(answer["error"].to_string()),
        }
    }

    /// The values of a query now, each with its labels.
    ///
    /// # Panics
    ///
    /// If it is not a query.
    pub(crate) async fn query(&self, query: &str) -> Vec<(Value, f64)> {
        let data = self.get("query", &[("query", query)]).await;
        let data = data.unwrap_or_else(|error| panic!("{query}: {error}"));
        let series = data["result"].as_array().unwrap();
        series
            .iter()
            .map(|series| {
                let value = text(&series["value"][1]).parse().unwrap();
                (series["metric"].clone(), value)
            })
            .collect()
    }

    /// The values of a label among the series of one metric, or of all.
    pub(crate) async fn values(&self, label: &str, metric: Option<&str>) -> BTreeSet<String> {
        let metric = metric.map(|metric| ("match[]", metric));
        let parameters: Vec<_> = metric.into_iter().collect();
        let path = format!("label/{label}/values");
        let values = self.get(&path, &parameters).await.unwrap();
        values.as_array().unwrap().iter().map(text).collect()
    }

    /// Every rule that was loaded.
    pub(crate) async fn rules(&self) -> Vec<Value> {
        let data = self.get("rules", &[]).await.unwrap();
        let groups = data["groups"].as_array().unwrap();
        groups
            .iter()
            .flat_map(|group| group["rules"].as_array().unwrap().clone())
            .collect()
    }

    /// The labels of what fires now, of this alert.
    pub(crate) async fn firing(&self, alert: &str) -> Vec<Value> {
        let data = self.get("alerts", &[]).await.unwrap();
        let alerts = data["alerts"].as_array().unwrap();
        alerts
            .iter()
            .filter(|a| a["labels"]["alertname"] == alert && a["state"] == "firing")
            .map(|a| a["labels"].clone())
            .collect()
    }
}
