//! The metrics of the service itself, and the list of all metrics of the process.

use backscroll_shard::metrics::Description;

backscroll_shard::metric_table! {
    Counter HTTP_REQUESTS = "backscroll_http_requests_total" [method, route, status] Count,
        "Requests answered. The route is its pattern, or `unmatched`.",
        alert "a rise of `status=~\"5..\"`";
    Histogram HTTP_REQUEST_SECONDS = "backscroll_http_request_seconds" [method, route] Seconds,
        "Time to answer a request.",
        alert "a 99 % quantile above one second";
    Gauge HTTP_REQUESTS_IN_FLIGHT = "backscroll_http_requests_in_flight" [] Count,
        "Requests in work.";
    Gauge HTTP_CONNECTIONS = "backscroll_http_connections" [] Count,
        "Open connections.";
    Counter TOKEN_CHECKS = "backscroll_token_checks_total" [outcome] Count,
        "Tokens that were presented: `known` to be valid, `valid` as a check found, or `refused`.",
        alert "a rise of `outcome=\"refused\"`";
    Gauge PROCESS_CPU_SECONDS = "backscroll_process_cpu_seconds" [] Seconds,
        "Time that the process's threads have run since it started.";
    Gauge PROCESS_MEMORY_BYTES = "backscroll_process_memory_bytes" [] Bytes,
        "Memory that the process has in use (resident).";
    Gauge PROCESS_FILES = "backscroll_process_files" [] Count,
        "Open files of the process, connections included.",
        alert "near the limit of open files of the service";
    Counter JWKS_REFRESHES = "backscroll_jwks_refreshes_total" [outcome] Count,
        "Attempts to read the token issuer's keys: `ok` or `error`.",
        alert "a rise of `outcome=\"error\"` for an hour: new keys of the issuer are not known";
    Counter LOG_LINES_LOST = "backscroll_log_lines_lost_total" [reason] Count,
        "Lines of the log that found no room (`full`) or could not be written (`unwritable`).",
        alert "any rise";
}

/// The metrics of every crate, crate by crate.
#[must_use]
pub fn by_crate() -> [(&'static str, &'static [&'static Description]); 4] {
    [
        ("Service", ALL),
        ("Store", backscroll_shard::metrics::ALL),
        ("Sessions and bus", backscroll_realtime::metrics::ALL),
        (
            "Archive and object store",
            backscroll_archiver::metrics::ALL,
        ),
    ]
}

/// Gives the unit and the meaning of every metric to the process's recorder. To be called once that is installed.
pub fn describe() {
    for (_, metrics) in by_crate() {
        metrics.iter().for_each(|metric| metric.describe());
    }
}
