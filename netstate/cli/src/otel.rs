//! Spans of requests to an OpenTelemetry collector. Only in a build with the feature `otel`.
//!
//! Must hold: only spans of requests are sent, never what is logged nor what the exporter itself does; of those, the share
//! that was asked for, and whatever a client says is sampled.
//!
//! Left to others: making the spans (`kv-node`, `netstate-server`).

use kv_node::TRACE_TARGET;
use netstate_server::HeaderMap;
use opentelemetry::{
    KeyValue,
    propagation::{Extractor, TextMapPropagator},
    trace::{TraceContextExt as _, TracerProvider as _},
};
use opentelemetry_otlp::WithExportConfig as _;
use opentelemetry_sdk::{
    Resource,
    propagation::TraceContextPropagator,
    trace::{Sampler, SdkTracerProvider, TracerProviderBuilder},
};
use tracing::{Span, Subscriber, level_filters::LevelFilter};
use tracing_opentelemetry::OpenTelemetrySpanExt as _;
use tracing_subscriber::{Layer, filter::Targets, registry::LookupSpan};

use crate::{failure::Failure, settings::Collector};

/// What is under way to a collector.
pub(crate) struct Exporting(SdkTracerProvider);

impl Exporting {
    /// Begins. Called in the runtime, which the exporter's connection needs.
    pub(crate) fn start(collector: &Collector, node: &str) -> Result<Self, Failure> {
        let exporter =
            opentelemetry_otlp::SpanExporter::builder().with_tonic().with_endpoint(&collector.endpoint).build();
        let exporter = exporter.map_err(|error| Failure::usage(format!("--otel-endpoint refused: {error}")))?;
        let builder = SdkTracerProvider::builder().with_batch_exporter(exporter);
        Ok(Exporting(provider(builder, collector.sample, node)))
    }

    /// What hands spans of requests over to it.
    pub(crate) fn layer<S>(&self) -> impl Layer<S> + use<S>
    where
        S: Subscriber + for<'span> LookupSpan<'span>,
    {
        layer(&self.0)
    }

    /// Sends what is left. Blocks, for some seconds if the collector does not answer.
    pub(crate) fn end(self) {
        if let Err(error) = self.0.shutdown() {
            tracing::warn!(%error, "the last spans were not sent");
        }
    }
}

fn provider(builder: TracerProviderBuilder, sample: f64, node: &str) -> SdkTracerProvider {
    let resource = Resource::builder_empty().with_service_name("netstate");
    let version = KeyValue::new("service.version", env!("CARGO_PKG_VERSION"));
    let resource = resource.with_attributes([KeyValue::new("service.instance.id", node.to_owned()), version]);
    let sampler = Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(sample)));
    builder.with_sampler(sampler).with_resource(resource.build()).build()
}

fn layer<S>(provider: &SdkTracerProvider) -> impl Layer<S> + use<S>
where
    S: Subscriber + for<'span> LookupSpan<'span>,
{
    let requests = Targets::new().with_target(TRACE_TARGET, LevelFilter::DEBUG);
    tracing_opentelemetry::layer().with_tracer(provider.tracer("netstate")).with_filter(requests)
}

struct Headers<'a>(&'a HeaderMap);

impl Extractor for Headers<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key)?.to_str().ok()
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(AsRef::as_ref).collect()
    }
}

/// Makes a request's span part of the trace that its client names in `traceparent`, if it names one.
pub(crate) fn adopt(headers: &HeaderMap, span: &Span) {
    let context = TraceContextPropagator::new().extract(&Headers(headers));
    if context.span().span_context().is_valid() {
        // A span that is not sampled has nothing to be a part of it.
        let _ = span.set_parent(context);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use opentelemetry_sdk::{
        error::OTelSdkResult,
        trace::{SpanData, SpanExporter},
    };
    use tracing_subscriber::layer::SubscriberExt as _;

    use super::*;

    #[derive(Clone, Debug, Default)]
    struct Kept(Arc<Mutex<Vec<SpanData>>>);

    impl SpanExporter for Kept {
        async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
            self.0.lock().unwrap().extend(batch);
            Ok(())
        }
    }

    /// Spans as `name < parent`, and the trace that they are of.
    fn told(sample: f64, traceparent: Option<&str>) -> Vec<(String, String)> {
        let kept = Kept::default();
        let provider = provider(SdkTracerProvider::builder().with_simple_exporter(kept.clone()), sample, "n1");
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer(&provider)), || {
            let span = tracing::debug_span!(target: TRACE_TARGET, "request");
            let mut headers = HeaderMap::new();
            if let Some(value) = traceparent {
                headers.insert("traceparent", value.parse().unwrap());
            }
            adopt(&headers, &span);
            let _entered = span.enter();
            let _inner = tracing::debug_span!(target: TRACE_TARGET, "transact").entered();
            let _other = tracing::info_span!("not a request's").entered();
        });
        let spans = kept.0.lock().unwrap();
        spans.iter().map(|span| (span.name.to_string(), span.span_context.trace_id().to_string())).collect()
    }

    #[test]
    fn a_request_is_part_of_the_trace_that_its_client_names() {
        let trace = "0af7651916cd43dd8448eb211c80319c";
        let both =
            |trace: &str| vec![("transact".to_owned(), trace.to_owned()), ("request".to_owned(), trace.to_owned())];
        assert_eq!(told(0.0, Some(&format!("00-{trace}-b7ad6b7169203331-01"))), both(trace), "it is sampled there");
        assert_eq!(told(1.0, Some(&format!("00-{trace}-b7ad6b7169203331-00"))), Vec::new(), "it is not");
        assert_eq!(told(0.0, None), Vec::new());
        let own = told(1.0, Some("nonsense"));
        assert_eq!(own, both(&own[0].1));
        assert_ne!(own[0].1, trace);
    }

    async fn server(dir: &std::path::Path) -> netstate_server::Server {
        let local = std::net::SocketAddr::from(([127, 0, 0, 1], 0));
        let node = kv_node::Config {
            name: "n1".into(),
            data_dir: dir.into(),
            listen_peer: local,
            initial_cluster: vec![kv_node::Member { name: "n1".into(), peer: "127.0.0.1:1".into() }],
            join: Vec::new(),
            advertise_peer: None,
            zone: String::new(),
            relay: false,
            groups: 1,
            timing: kv_node::Timing::default(),
            disk_reserve_bytes: 0,
            store: kv_node::StoreOptions::default(),
        };
        let config = netstate_server::ServerConfig {
            node,
            listen_client: local,
            listen_http: local,
            etcd: kv_etcd::Config::new(kv_core::Keyspace::new("default").unwrap()),
            listen_etcd: Vec::new(),
            trace: Some(adopt),
        };
        netstate_server::Server::start(config).await.unwrap()
    }

    #[tokio::test]
    async fn a_write_is_seen_from_the_port_to_log_and_state() {
        let kept = Kept::default();
        let provider = provider(SdkTracerProvider::builder().with_simple_exporter(kept.clone()), 0.0, "n1");
        let subscriber = tracing_subscriber::registry().with(layer(&provider));
        // For all threads: the log's own ends spans too. Nothing else in these tests is sampled.
        tracing::subscriber::set_global_default(subscriber).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let server = server(dir.path()).await;
        let url = format!("http://{}", server.client_address());
        let channel = tonic::transport::Endpoint::from_shared(url).unwrap().connect().await.unwrap();
        let mut client = etcd_proto::etcdserverpb::kv_client::KvClient::new(channel);
        let trace = "0af7651916cd43dd8448eb211c80319c";
        let put = etcd_proto::etcdserverpb::PutRequest { key: "k".into(), value: "v".into(), ..Default::default() };
        let mut request = tonic::Request::new(put);
        let parent = format!("00-{trace}-b7ad6b7169203331-01");
        request.metadata_mut().insert("traceparent", parent.parse().unwrap());
        client.put(request).await.unwrap();
        server.shutdown().await;
        let spans = kept.0.lock().unwrap();
        let of_trace = spans.iter().filter(|span| span.span_context.trace_id().to_string() == trace);
        let mut names: Vec<_> = of_trace.map(|span| span.name.to_string()).collect();
        names.sort_unstable();
        assert_eq!(names, ["/etcdserverpb.KV/Put", "append", "apply", "log entry", "propose", "transact"]);
        assert_eq!(names.len(), spans.len(), "what nobody traces makes no spans: {spans:#?}");
    }
}
