//! The metrics of this crate: names, units, meanings.

use std::sync::OnceLock;

use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};

/// Host streams served now.
pub(crate) const STREAMS: &str = "netstate_host_streams";
/// Frames sent to hosts since the start.
pub(crate) const FRAMES: &str = "netstate_host_frames_total";
/// Endpoints attached through this node since the start.
pub(crate) const ATTACHED: &str = "netstate_endpoints_attached_total";
/// Seconds from a command's arrival at this node to its outcome.
pub(crate) const COMMAND_SECONDS: &str = "netstate_command_seconds";
/// Resident memory of the process, in bytes. The name is Prometheus' own.
pub(crate) const RESIDENT_BYTES: &str = "process_resident_memory_bytes";
/// Data on disk, in bytes.
pub(crate) const DISK_BYTES: &str = "netstate_disk_bytes";
/// Groups that this node leads.
pub(crate) const GROUPS_LED: &str = "netstate_groups_led";

/// The process's recorder, installed when it is first asked for. `None`: somebody else has installed another one.
pub(crate) fn recorder() -> Option<&'static PrometheusHandle> {
    static RECORDER: OnceLock<Option<PrometheusHandle>> = OnceLock::new();
    let installed = RECORDER.get_or_init(|| {
        let handle = PrometheusBuilder::new().install_recorder().ok()?;
        metrics::describe_gauge!(STREAMS, metrics::Unit::Count, "host streams served now");
        metrics::describe_counter!(FRAMES, metrics::Unit::Count, "frames sent to hosts");
        metrics::describe_counter!(ATTACHED, metrics::Unit::Count, "endpoints attached through this node");
        metrics::describe_histogram!(
            COMMAND_SECONDS,
            metrics::Unit::Seconds,
            "from a command's arrival to its outcome"
        );
        metrics::describe_gauge!(RESIDENT_BYTES, metrics::Unit::Bytes, "resident memory of the process");
        metrics::describe_gauge!(DISK_BYTES, metrics::Unit::Bytes, "data on disk");
        metrics::describe_gauge!(GROUPS_LED, metrics::Unit::Count, "groups that this node leads");
        Some(handle)
    });
    installed.as_ref()
}
