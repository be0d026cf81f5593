//! Figures for Prometheus. One registry for a program: the transport's own metrics are in it, other rooms add theirs.

use std::{fmt, sync::Arc, time::Duration};

use http::{HeaderValue, Response, header};
use parking_lot::RwLock;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::{Registry, Unit},
};

use crate::Body;

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub(crate) struct RequestLabels {
    pub method: &'static str,
    pub route: &'static str,
    pub status: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub(crate) struct RouteLabels {
    pub route: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub(crate) struct ListenerLabels {
    pub listener: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub(crate) struct LimitLabels {
    pub limit: &'static str,
}

/// The registry and the transport's own metrics.
pub struct Metrics {
    registry: RwLock<Registry>,
    pub(crate) requests: Family<RequestLabels, Counter>,
    pub(crate) duration: Family<RouteLabels, Histogram, fn() -> Histogram>,
    pub(crate) in_flight: Gauge,
    pub(crate) connections: Family<ListenerLabels, Gauge>,
    pub(crate) received: Counter,
    pub(crate) sent: Counter,
    pub(crate) refused: Family<LimitLabels, Counter>,
    pub(crate) panics: Counter,
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Metrics(..)")
    }
}

/// From half a millisecond, a cached manifest, to minutes, a large layer.
fn durations() -> Histogram {
    Histogram::new([
        0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
        60.0, 300.0,
    ])
}

impl Metrics {
    /// A registry with the transport's metrics in it.
    pub fn new() -> Arc<Self> {
        let made = Self {
            registry: RwLock::default(),
            requests: Family::default(),
            duration: Family::new_with_constructor(durations),
            in_flight: Gauge::default(),
            connections: Family::default(),
            received: Counter::default(),
            sent: Counter::default(),
            refused: Family::default(),
            panics: Counter::default(),
        };
        let mut r = made.registry.write();
        r.register(
            "http_requests",
            "Requests answered, by method, route and status class",
            made.requests.clone(),
        );
        r.register_with_unit(
            "http_request_duration",
            "From a request's head to the end of its response, by route",
            Unit::Seconds,
            made.duration.clone(),
        );
        r.register("http_requests_in_flight", "Requests being answered", made.in_flight.clone());
        r.register("http_connections", "Open connections, by listener", made.connections.clone());
        r.register_with_unit(
            "http_received",
            "Content received in request bodies",
            Unit::Bytes,
            made.received.clone(),
        );
        r.register_with_unit(
            "http_sent",
            "Content sent in response bodies",
            Unit::Bytes,
            made.sent.clone(),
        );
        r.register(
            "http_refused",
            "Connections and requests refused or cut because of a limit",
            made.refused.clone(),
        );
        r.register(
            "http_panics",
            "Requests whose handler failed unexpectedly",
            made.panics.clone(),
        );
        drop(r);
        Arc::new(made)
    }

    /// Adds metrics of another room. Names should begin with the room's.
    pub fn register(&self, add: impl FnOnce(&mut Registry)) {
        add(&mut self.registry.write());
    }

    /// Everything in the OpenMetrics text form.
    pub fn encode(&self) -> String {
        let mut text = String::with_capacity(8 * 1024);
        // Writing into a string cannot fail; a metric that cannot be encoded leaves what came before it.
        if prometheus_client::encoding::text::encode(&mut text, &self.registry.read()).is_err() {
            tracing::warn!("a metric could not be written");
        }
        text
    }

    /// The answer of `/metrics`.
    pub fn response(&self) -> Response<Body> {
        let mut response = Response::new(Body::from(self.encode()));
        response.headers_mut().insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8"),
        );
        response
    }

    pub(crate) fn finished(&self, labels: &RequestLabels, took: Duration) {
        self.requests.get_or_create(labels).inc();
        self.duration
            .get_or_create(&RouteLabels { route: labels.route })
            .observe(took.as_secs_f64());
    }

    pub(crate) fn refuse(&self, limit: &'static str) {
        self.refused.get_or_create(&LimitLabels { limit }).inc();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_rooms_register_theirs() {
        let metrics = Metrics::new();
        let uploads: Gauge = Gauge::default();
        metrics.register(|r| r.register("registry_uploads", "Open uploads", uploads.clone()));
        uploads.set(3);
        let labels = RequestLabels { method: "GET", route: "manifests", status: "2xx" };
        metrics.finished(&labels, Duration::from_millis(3));
        let text = metrics.encode();
        assert!(text.contains("registry_uploads 3"), "{text}");
        let line = r#"http_requests_total{method="GET",route="manifests",status="2xx"} 1"#;
        assert!(text.contains(line), "{text}");
        assert!(text.contains("http_request_duration_seconds_bucket"), "{text}");
    }
}
