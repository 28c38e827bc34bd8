//! Where the long-running commands say what happens: standard error, filtered by `NETSTATE_LOG`.

use tracing_subscriber::EnvFilter;

use crate::failure::Failure;

/// What is said unless `NETSTATE_LOG` says otherwise. Raft's own chatter is of use only to whoever hunts a bug in it.
const DEFAULT: &str = "info,openraft=error";

/// Starts logging.
pub(crate) fn start() -> Result<(), Failure> {
    tracing_subscriber::fmt().with_env_filter(filter()?).with_writer(std::io::stderr).with_ansi(ansi()).init();
    Ok(())
}

/// Starts logging, and handing over of requests' spans.
#[cfg(feature = "otel")]
pub(crate) fn start_exporting(exporting: &crate::otel::Exporting) -> Result<(), Failure> {
    use tracing_subscriber::{Layer as _, layer::SubscriberExt as _, util::SubscriberInitExt as _};
    let said = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(ansi()).with_filter(filter()?);
    tracing_subscriber::registry().with(exporting.layer()).with(said).init();
    Ok(())
}

fn filter() -> Result<EnvFilter, Failure> {
    let wanted = std::env::var("NETSTATE_LOG").ok().filter(|text| !text.is_empty());
    EnvFilter::try_new(wanted.as_deref().unwrap_or(DEFAULT)).map_err(|error| {
        Failure::usage(format!("NETSTATE_LOG refused: {error}; write a level such as debug, or target=level,…"))
    })
}

fn ansi() -> bool {
    std::io::IsTerminal::is_terminal(&std::io::stderr())
}
