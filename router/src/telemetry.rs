//! Logs and metrics.
//!
//! Logs go to standard error: for people on a terminal, one JSON object a line elsewhere. A line that cannot be written is
//! counted and lost, nothing else (`lines`). Libraries log at `debug` at most, whatever is asked for: at `trace` they print what
//! they send and receive, users' tokens and words included. Metrics are collected in the process and shown, in Prometheus' text format, at
//! `/metrics`; their names begin with `backscroll_`.

mod lines;

use std::backtrace::{Backtrace, BacktraceStatus};
use std::fmt::Display;
use std::fs::File;
use std::io::{IsTerminal as _, Write as _};
use std::os::fd::AsFd as _;
use std::panic::PanicHookInfo;
use std::sync::OnceLock;
use std::time::Duration;

use anyhow::Context as _;
use backscroll_shard::settings::check::{Check, Problem};
use backscroll_shard::tasks::TaskGroup;
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;
use tracing::{Level, Metadata};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

use lines::Lines;

/// Upper bounds of the latency histograms' buckets, in seconds.
const LATENCY_BUCKETS: [f64; 14] = [
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
];
/// How often what was recorded is summed up. Until then it takes memory.
const UPKEEP_INTERVAL: Duration = Duration::from_secs(1);
/// How long the end of the process waits for log lines to be written.
const LAST_LINES: Duration = Duration::from_secs(2);

/// What is logged, and how: section `telemetry`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TelemetrySettings {
    /// What is logged: a level, and exceptions to it by module or target. `info,backscroll::access=debug` adds a line
    /// for every request. At `trace`, libraries log as at `debug`.
    pub log: String,
    /// How it is written.
    pub format: LogFormat,
}

impl Default for TelemetrySettings {
    fn default() -> Self {
        Self {
            log: "info".into(),
            format: LogFormat::Auto,
        }
    }
}

impl TelemetrySettings {
    /// What is wrong with these settings; empty when nothing is.
    #[must_use]
    pub fn check(&self) -> Vec<Problem> {
        let mut check = Check::of("telemetry");
        match EnvFilter::builder().parse(&self.log) {
            Ok(_) if !self.log.trim().is_empty() => {}
            Ok(_) => check.report("log", "must not be empty; write for example \"info\""),
            Err(error) => check.report(
                "log",
                format!("{error}; write for example \"info,backscroll::access=debug\""),
            ),
        }
        check.finish()
    }
}

/// How log lines are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// `human` on a terminal, `json` otherwise.
    #[default]
    Auto,
    /// For people.
    Human,
    /// One JSON object a line.
    Json,
}

/// The lines of the log, once logging has started.
static LINES: OnceLock<Lines> = OnceLock::new();

/// Starts logging to standard error, for the life of the process. To be called once, before anything is logged.
///
/// # Errors
/// When the filter cannot be read (see [`TelemetrySettings::check`]), or logging was started before.
pub fn init(settings: &TelemetrySettings) -> anyhow::Result<()> {
    let filter = EnvFilter::builder()
        .parse(&settings.log)
        .context("telemetry.log")?;
    let terminal = std::io::stderr().is_terminal();
    let json = match settings.format {
        LogFormat::Auto => !terminal,
        LogFormat::Human => false,
        LogFormat::Json => true,
    };
    let cannot = "logging cannot be started";
    // A descriptor of its own, so that a write that stands still holds no lock that others wait for.
    let stderr = std::io::stderr().as_fd().try_clone_to_owned();
    let lines = Lines::start(File::from(stderr.context(cannot)?)).context(cannot)?;
    let lines = LINES.get_or_init(|| lines).clone();
    let events = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(lines)
        .log_internal_errors(false); // it would print them, and panic when that fails
    let started = if json {
        let events = events.json().flatten_event(true).with_span_list(false);
        events.finish().with(filter_fn(is_loggable)).try_init()
    } else {
        let events = events.with_ansi(terminal);
        events.finish().with(filter_fn(is_loggable)).try_init()
    };
    started.map_err(|error| anyhow::anyhow!("{cannot}: {error}"))
}

/// Whether it can be logged without telling what users send.
fn is_loggable(metadata: &Metadata<'_>) -> bool {
    *metadata.level() <= Level::DEBUG || metadata.target().starts_with("backscroll")
}

/// Puts a line for people on standard error, in its order among the log's lines. It is lost when it cannot be written.
pub fn note(text: impl Display) {
    match LINES.get() {
        Some(lines) => {
            lines.put(format!("{text}\n").as_bytes());
            lines.flush(LAST_LINES);
        }
        None => _ = writeln!(std::io::stderr().lock(), "{text}"),
    }
}

/// Waits until the log's lines are written, but not for long: to be called before the process ends.
pub fn flush() {
    if let Some(lines) = LINES.get() {
        lines.flush(LAST_LINES);
    }
}

/// Logs panics instead of printing them, for the life of the process.
pub fn log_panics() {
    std::panic::set_hook(Box::new(|panic: &PanicHookInfo<'_>| {
        let thread = std::thread::current();
        let thread = thread.name().unwrap_or("unnamed");
        if LINES.get().is_none() {
            return note(format_args!("thread {thread}: {panic}"));
        }
        let place = panic.location().map(ToString::to_string);
        let text = panic.payload_as_str().unwrap_or("without a text");
        let backtrace = Backtrace::capture();
        let backtrace =
            (backtrace.status() == BacktraceStatus::Captured).then(|| backtrace.to_string());
        tracing::error!(text, place, thread, backtrace, "panicked");
    }));
}

static METRICS: OnceLock<PrometheusHandle> = OnceLock::new();

/// Starts collecting metrics, for the life of the process. May be called again.
///
/// # Errors
/// When something else in the process collects them already.
pub fn init_metrics() -> anyhow::Result<()> {
    if METRICS.get().is_some() {
        return Ok(());
    }
    let recorder = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".into()), &LATENCY_BUCKETS)?
        .build_recorder();
    // Of several that start at once, one installs its own; the others use that.
    let handle = recorder.handle();
    let mut installed = Ok(());
    METRICS.get_or_init(|| {
        installed = metrics::set_global_recorder(recorder)
            .map_err(|error| anyhow::anyhow!("metrics: {error}"));
        handle
    });
    installed?;
    crate::metrics::describe();
    if let Some(lines) = LINES.get() {
        lines.report();
    }
    Ok(())
}

/// Starts a task of `tasks` that keeps the collected metrics small until `stop`.
pub fn maintain_metrics(tasks: &TaskGroup, stop: &CancellationToken) {
    let stopping = stop.clone();
    tasks.supervise("metrics-upkeep", stop, move || sum_up(stopping.clone()));
}

/// All metrics in Prometheus' text format; empty before [`init_metrics`].
#[must_use]
pub fn render_metrics() -> String {
    METRICS
        .get()
        .map(PrometheusHandle::render)
        .unwrap_or_default()
}

async fn sum_up(stop: CancellationToken) {
    while stop
        .run_until_cancelled(tokio::time::sleep(UPKEEP_INTERVAL))
        .await
        .is_some()
    {
        if let Some(handle) = METRICS.get() {
            handle.run_upkeep();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_are_checked() {
        let check = |log: &str| {
            TelemetrySettings {
                log: log.into(),
                ..TelemetrySettings::default()
            }
            .check()
        };
        assert_eq!(check("info"), []);
        assert_eq!(check("info,backscroll::access=debug,sqlx=warn"), []);
        for wrong in ["", " ", "info,=debug", "backscroll=loud", "a=b=c"] {
            assert_eq!(check(wrong).len(), 1, "{wrong:?}");
        }
    }

    #[derive(Clone, Default)]
    struct Written(std::sync::Arc<std::sync::Mutex<Vec<u8>>>);

    impl std::io::Write for Written {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn libraries_do_not_log_at_trace() {
        let written = Written::default();
        let sink = written.clone();
        let events = tracing_subscriber::fmt()
            .with_max_level(Level::TRACE)
            .with_writer(move || sink.clone());
        let subscriber = events.finish().with(filter_fn(is_loggable));
        tracing::subscriber::with_default(subscriber, || {
            tracing::trace!(target: "tungstenite::protocol", "the words of a user");
            tracing::debug!(target: "tungstenite::protocol", "a connection");
            tracing::trace!(target: "backscroll::access", "a step");
        });
        let bytes = written.0.lock().unwrap().clone();
        let text = String::from_utf8(bytes).unwrap();
        assert!(!text.contains("the words of a user"), "{text}");
        assert!(
            text.contains("a connection") && text.contains("a step"),
            "{text}"
        );
    }

    #[test]
    fn metrics_are_shown_in_prometheus_text_format() {
        init_metrics().unwrap();
        init_metrics().unwrap();
        let seconds = &crate::metrics::HTTP_REQUEST_SECONDS;
        seconds.with(["GET", "/test"]).record(0.003);
        let (text, name) = (render_metrics(), seconds.name());
        for part in [
            format!("# HELP {name} {}\n", seconds.description().help),
            format!("# TYPE {name} histogram\n"),
            format!(r#"{name}_bucket{{method="GET",route="/test",le="0.005"}} 1"#),
        ] {
            assert!(text.contains(&part), "{part}: {text}");
        }
    }
}
