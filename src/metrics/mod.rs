//! What an operator sees of this server: counters, gauges and histograms in the text formats of Prometheus.
//!
//! Each part is given its handles at its start, and only counts. What is there rather than what happens (open
//! documents, say) is looked at when somebody asks.
//!
//! Invariants:
//! - counting is an atomic operation or two: no lock, and no look-up by name or label where requests pass;
//! - labels have few values, and all of them come from this program: never an id, a name or a token of a caller.
//!
//! Names and units: <https://prometheus.io/docs/practices/naming/>

mod histogram;
pub mod process;
mod requests;

use std::sync::Arc;

use prometheus_client::encoding::{prometheus_text, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

pub use prometheus_client::metrics::gauge::Gauge;

pub use self::histogram::Histogram;
pub use self::requests::{Method, Requests, Route};

/// Every name begins with this, but for those that all programs share.
const PREFIX: &str = "promptgrimoire";
const MICROSECOND: u64 = 1_000;
const MILLISECOND: u64 = 1_000 * MICROSECOND;
const SECOND: u64 = 1_000 * MILLISECOND;
/// Bounds of times, in nanoseconds: a memory store takes some microseconds, a patient client seconds.
const TIMES: &[u64] = &[
    100 * MICROSECOND,
    250 * MICROSECOND,
    500 * MICROSECOND,
    MILLISECOND,
    2_500 * MICROSECOND,
    5 * MILLISECOND,
    10 * MILLISECOND,
    25 * MILLISECOND,
    50 * MILLISECOND,
    100 * MILLISECOND,
    250 * MILLISECOND,
    SECOND,
    5 * SECOND,
];
/// Bounds of the number of changes in one commit.
const BATCHES: &[u64] = &[1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024];

/// A name and a value; both are words of this program.
type Label = (&'static str, &'static str);

/// All metrics of one server.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    pub requests: Requests,
    pub documents: Arc<Documents>,
    pub store: Arc<Store>,
    pub streams: Arc<Streams>,
    pub connections: Connections,
    pub runtime: Runtime,
    /// Requests that were refused before it was looked where they go.
    pub turned_away: TurnedAway,
    pub sandbox: Arc<Sandbox>,
    gauges: Gauges,
}

/// What happens to documents.
#[derive(Debug)]
pub struct Documents {
    /// Changes that were made durable.
    pub logged: Counter,
    pub unchanged: Counter,
    pub refused: Counter,
    /// Of the updates that were logged.
    pub update_bytes: Counter,
    /// From the moment in which changes are handed to the store until they are durable.
    pub append: Histogram,
    pub load: Histogram,
    pub compacted: Counter,
    pub compactions_failed: Counter,
    /// Documents that left memory, since nobody used them.
    pub evicted: Counter,
}

/// What the thread that writes does.
#[derive(Debug)]
pub struct Store {
    pub commit: Histogram,
    pub commit_changes: Histogram,
}

/// What event streams are sent.
#[derive(Debug)]
pub struct Streams {
    pub frames: Counter,
    /// Readers that were caught up from the log.
    pub lagged: Counter,
    /// From the moment in which an update was durable until a reader's frame of it is made.
    pub fan_out: Histogram,
}

/// What the runtime's threads keep waiting.
#[derive(Debug)]
pub struct Runtime {
    /// How much later than asked for a task is woken.
    pub lag: Histogram,
}

/// Requests that were refused early, by the code of the problem.
#[derive(Debug, Clone)]
pub struct TurnedAway(Family<[Label; 1], Counter>);

#[derive(Debug, Default, Clone)]
pub struct Connections {
    pub open: Gauge,
    /// For want of room in the server.
    pub refused_by_server: Counter,
    /// Where one address had too many.
    pub refused_by_address: Counter,
}

/// What becomes of the work that is done where it can be stopped, and of documents for it.
#[derive(Debug, Default)]
pub struct Sandbox {
    pub done: Counter,
    pub timed_out: Counter,
    pub died: Counter,
    pub not_begun: Counter,
    pub strikes: Counter,
    pub quarantined: Gauge,
}

/// What is there now, as somebody has just found it.
#[derive(Debug, Clone, Copy)]
pub struct Now {
    pub open_documents: usize,
    pub resident_bytes: usize,
    pub open_streams: usize,
    pub store_is_writable: bool,
    /// What the store holds, if it could be asked.
    pub stored: Option<Size>,
}

/// What the store holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Size {
    pub documents: u64,
    pub bytes: u64,
}

#[derive(Debug, Default)]
struct Gauges {
    open_documents: Gauge,
    resident_bytes: Gauge,
    open_streams: Gauge,
    store_is_writable: Gauge,
    stored_documents: Gauge,
    stored_bytes: Gauge,
}

/// How the metrics are written down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Prometheus' own text format, 0.0.4, which everybody reads.
    Prometheus,
    OpenMetrics,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(process::Process::default()));
        let own = registry.sub_registry_with_prefix(PREFIX);
        own.register("build", "The version that runs", Info::new([("version", env!("CARGO_PKG_VERSION"))]));
        Self {
            requests: Requests::registered(own),
            documents: Arc::new(Documents::registered(own)),
            store: Arc::new(Store::registered(own)),
            streams: Arc::new(Streams::registered(own)),
            connections: Connections::registered(own),
            runtime: Runtime::registered(own),
            turned_away: TurnedAway::registered(own),
            sandbox: Arc::new(Sandbox::registered(own)),
            gauges: Gauges::registered(own),
            registry,
        }
    }
}

impl Metrics {
    /// All of them as text, with what is there `now`.
    pub fn encode(&self, format: Format, now: Now) -> String {
        let Gauges { open_documents, resident_bytes, open_streams, store_is_writable, .. } = &self.gauges;
        let count = |number: usize| i64::try_from(number).unwrap_or(i64::MAX);
        open_documents.set(count(now.open_documents));
        resident_bytes.set(count(now.resident_bytes));
        open_streams.set(count(now.open_streams));
        store_is_writable.set(i64::from(now.store_is_writable));
        if let Some(Size { documents, bytes }) = now.stored {
            self.gauges.stored_documents.set(i64::try_from(documents).unwrap_or(i64::MAX));
            self.gauges.stored_bytes.set(i64::try_from(bytes).unwrap_or(i64::MAX));
        }
        let mut written = String::new();
        match format {
            Format::Prometheus => prometheus_text::encode(&mut written, &self.registry),
            Format::OpenMetrics => text::encode(&mut written, &self.registry),
        }
        .expect("a string takes everything that is written into it");
        written
    }
}

impl Default for Documents {
    fn default() -> Self {
        Self {
            logged: Counter::default(),
            unchanged: Counter::default(),
            refused: Counter::default(),
            update_bytes: Counter::default(),
            append: Histogram::of_times(TIMES),
            load: Histogram::of_times(TIMES),
            compacted: Counter::default(),
            compactions_failed: Counter::default(),
            evicted: Counter::default(),
        }
    }
}

impl Documents {
    fn registered(registry: &mut Registry) -> Self {
        let changes = counters(
            registry,
            "document_changes",
            "Changes that were asked for, by what became of them; those whose request could not be read are not among them",
        );
        let compactions = counters(registry, "document_compactions", "Snapshots that were due, by outcome");
        let documents = Self {
            logged: changes([("outcome", "logged")]),
            unchanged: changes([("outcome", "unchanged")]),
            refused: changes([("outcome", "refused")]),
            compacted: compactions([("outcome", "written")]),
            compactions_failed: compactions([("outcome", "failed")]),
            ..Self::default()
        };
        let help = "Bytes of the updates that were logged";
        registry.register_with_unit("document_update", help, Unit::Bytes, documents.update_bytes.clone());
        let help = "From handing changes to the store until they are durable";
        registry.register_with_unit("document_append", help, Unit::Seconds, documents.append.clone());
        let help = "Documents that left memory, since nobody used them";
        registry.register("document_evictions", help, documents.evicted.clone());
        let help = "Reading documents from the store into memory";
        registry.register_with_unit("document_load", help, Unit::Seconds, documents.load.clone());
        documents
    }
}

/// Makes the counters of one family.
fn counters<const LABELS: usize>(
    registry: &mut Registry,
    name: &str,
    help: &str,
) -> impl Fn([Label; LABELS]) -> Counter + use<LABELS> {
    let family = Family::<[Label; LABELS], Counter>::default();
    registry.register(name, help, family.clone());
    move |labels| family.get_or_create_owned(&labels)
}

impl Default for Store {
    fn default() -> Self {
        Self { commit: Histogram::of_times(TIMES), commit_changes: Histogram::of_numbers(BATCHES) }
    }
}

impl Store {
    fn registered(registry: &mut Registry) -> Self {
        let store = Self::default();
        let help = "Commits of changes to the database, sync included";
        registry.register_with_unit("store_commit", help, Unit::Seconds, store.commit.clone());
        registry.register("store_commit_changes", "Changes in one commit", store.commit_changes.clone());
        store
    }
}

impl Default for Streams {
    fn default() -> Self {
        let (frames, lagged) = (Counter::default(), Counter::default());
        Self { frames, lagged, fan_out: Histogram::of_times(TIMES) }
    }
}

impl Runtime {
    fn registered(registry: &mut Registry) -> Self {
        let lag = Histogram::of_times(TIMES);
        let help = "How much later than asked for a task is woken";
        registry.register_with_unit("runtime_lag", help, Unit::Seconds, lag.clone());
        Self { lag }
    }
}

impl TurnedAway {
    fn registered(registry: &mut Registry) -> Self {
        let by_code = Family::default();
        let help =
            "Requests that were refused before it was looked where they go, by the code of the problem";
        registry.register("http_turned_away", help, by_code.clone());
        Self(by_code)
    }

    /// `code`: of the problem that was answered.
    pub fn count(&self, code: &'static str) {
        self.0.get_or_create(&[("code", code)]).inc();
    }
}

impl Streams {
    fn registered(registry: &mut Registry) -> Self {
        let streams = Self::default();
        registry.register("stream_frames", "Frames sent to event streams", streams.frames.clone());
        let help = "Times that a reader fell behind and was caught up from the log";
        registry.register("stream_lags", help, streams.lagged.clone());
        let help =
            "From the moment in which an update was durable until a reader's frame of it is made, sampled";
        registry.register_with_unit("stream_fan_out", help, Unit::Seconds, streams.fan_out.clone());
        streams
    }
}

impl Connections {
    fn registered(registry: &mut Registry) -> Self {
        let refused =
            counters(registry, "connections_refused", "Connections that were one too many, by which limit");
        let connections = Self {
            refused_by_server: refused([("limit", "server")]),
            refused_by_address: refused([("limit", "address")]),
            ..Self::default()
        };
        registry.register("connections_open", "Connections that are open", connections.open.clone());
        connections
    }
}

impl Sandbox {
    fn registered(registry: &mut Registry) -> Self {
        let jobs = counters(
            registry,
            "sandbox_jobs",
            "Work on documents that was given to helper processes, by what became of it",
        );
        let sandbox = Self {
            done: jobs([("outcome", "done")]),
            timed_out: jobs([("outcome", "timed_out")]),
            died: jobs([("outcome", "died")]),
            not_begun: jobs([("outcome", "not_begun")]),
            ..Self::default()
        };
        let help = "Times that a document has killed a helper process, or run out its time";
        registry.register("document_strikes", help, sandbox.strikes.clone());
        let help = "Documents that are out of service for their strikes";
        registry.register("documents_quarantined", help, sandbox.quarantined.clone());
        sandbox
    }
}

impl Gauges {
    fn registered(registry: &mut Registry) -> Self {
        let gauges = Self::default();
        registry.register("documents_open", "Documents that are open", gauges.open_documents.clone());
        let help = "What the open documents take in memory, roughly";
        registry.register_with_unit("documents_resident", help, Unit::Bytes, gauges.resident_bytes.clone());
        registry.register("streams_open", "Event streams that are open", gauges.open_streams.clone());
        registry.register("documents_stored", "Documents in the store", gauges.stored_documents.clone());
        let help = "What the store takes on disk";
        registry.register_with_unit("store_size", help, Unit::Bytes, gauges.stored_bytes.clone());
        let help = "Whether the store takes writes, as in /readyz: 1 or 0";
        registry.register("store_writable", help, gauges.store_is_writable.clone());
        gauges
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Now = Now {
        open_documents: 3,
        resident_bytes: 4096,
        open_streams: 2,
        store_is_writable: true,
        stored: Some(Size { documents: 5, bytes: 8192 }),
    };

    #[test]
    fn what_was_counted_is_in_the_text() {
        let metrics = Metrics::default();
        metrics.documents.logged.inc();
        metrics.documents.update_bytes.inc_by(17);
        metrics.documents.append.observe_time(std::time::Duration::from_millis(3));
        let text = metrics.encode(Format::Prometheus, NOW);
        for line in [
            "# TYPE promptgrimoire_document_changes_total counter",
            "promptgrimoire_document_changes_total{outcome=\"logged\"} 1",
            "promptgrimoire_document_update_bytes_total 17",
            "# TYPE promptgrimoire_document_append_seconds histogram",
            "promptgrimoire_document_append_seconds_bucket{le=\"0.0025\"} 0",
            "promptgrimoire_document_append_seconds_bucket{le=\"0.005\"} 1",
            "promptgrimoire_document_append_seconds_bucket{le=\"+Inf\"} 1",
            "promptgrimoire_documents_open 3",
            "promptgrimoire_documents_resident_bytes 4096",
            "promptgrimoire_store_writable 1",
            "promptgrimoire_documents_stored 5",
            "promptgrimoire_store_size_bytes 8192",
            concat!("promptgrimoire_build_info{version=\"", env!("CARGO_PKG_VERSION"), "\"} 1"),
        ] {
            assert!(text.lines().any(|there| there == line), "no {line:?} in:\n{text}");
        }
        assert!(metrics.encode(Format::OpenMetrics, NOW).ends_with("# EOF\n"));
    }
}
