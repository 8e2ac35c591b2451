//! The metrics of the archive and of its object store.

backscroll_shard::metric_table! {
    Counter JOBS = "backscroll_archive_jobs_total" [kind, outcome] Count,
        "Archive jobs that ended on a shard, by their kind and outcome: `done` or `failed`.",
        alert "any rise of `outcome=\"failed\"`";
    Counter MESSAGES = "backscroll_archive_messages_total" [shard] Count,
        "Messages that this process has archived.";
    Counter BYTES = "backscroll_archive_bytes_total" [shard] Bytes,
        "Bytes of the segments that this process has written.";
    Counter THROTTLED_SECONDS = "backscroll_archive_throttled_seconds_total" [shard] Seconds,
        "Time that jobs waited because the shard's database was overloaded.";
    Gauge LAG_SECONDS = "backscroll_archive_lag_seconds" [shard] Seconds,
        "For how long the oldest message that is not archived has been old enough for it.",
        alert "above two days";
    Gauge OLDEST_HOT_AGE_SECONDS = "backscroll_archive_oldest_hot_age_seconds" [shard] Seconds,
        "Age of the oldest message in the shard's database.";
    Gauge WAITING_CONVERSATIONS = "backscroll_archive_waiting_conversations" [shard] Count,
        "Conversations with messages that the next run will archive, counted up to about 10,000.";
    Gauge STORED_MESSAGES = "backscroll_archive_stored_messages" [shard] Count,
        "Messages in the segments of the archive.";
    Gauge STORED_BYTES = "backscroll_archive_stored_bytes" [shard] Bytes,
        "Size of the segments of the archive.";
    Gauge UNCOLLECTED_SEGMENTS = "backscroll_archive_uncollected_segments" [shard] Count,
        "Segments in the bucket that are not part of the archive, and that `gc` will delete.";
    Gauge OPEN_ERASURES = "backscroll_archive_open_erasures" [shard] Count,
        "Deleted messages whose content may still be in a segment.";
    Gauge OLDEST_ERASURE_SECONDS = "backscroll_archive_oldest_erasure_seconds" [shard] Seconds,
        "Time since the oldest of the open erasures was asked for.",
        alert "above `archive.erase_within`";
    Counter COLLECTED = "backscroll_archive_collected_total" [] Count,
        "Segments deleted because nothing refers to them.";
    Counter VERIFY_FAILURES = "backscroll_archive_verify_failures_total" [] Count,
        "Faults of the archive that `verify` found.",
        alert "any rise";
    Counter READS = "backscroll_archive_reads_total" [from] Count,
        "Frames wanted for pages, by where they came from: `cache`, `flight` (a fetch for another page was under way), `store`, or `refused` (too many fetches at once).";
    Histogram READ_SECONDS = "backscroll_archive_read_seconds" [] Seconds,
        "Time to fetch and unpack frames that lie side by side.";
    Gauge CACHE_BYTES = "backscroll_archive_cache_bytes" [] Bytes,
        "Size of the unpacked frames that are kept.";
    Counter TERMS_READS = "backscroll_archive_terms_reads_total" [from] Count,
        "Parts of terms of segments wanted by searches, by where they came from: `cache`, `store`, or `directory` (the directory of a segment's terms was read).";
    Gauge TERMS_CACHE_BYTES = "backscroll_archive_terms_cache_bytes" [] Bytes,
        "Size of the unpacked terms that are kept.";
    Counter MEDIA_CHECKED = "backscroll_media_checked_total" [outcome] Count,
        "Uploads that were checked, by outcome: `ready`, or the reason for which they were rejected.";
    Counter MEDIA_SCANNED = "backscroll_media_scanned_total" [outcome] Count,
        "Virus scans of uploads, by outcome: `clean`, `infected`, `too_large` (for `media.scan_bytes` or clamd's own limit) or `failed` (clamd did not answer, or reported an error).",
        alert "any rise of `outcome=\"failed\"`: uploads are not completed meanwhile, unless `media.scan_required` is off";
    Counter MEDIA_BYTES = "backscroll_media_bytes_total" [kind] Bytes,
        "Bytes of the files that became ready, by kind.";
    Counter MEDIA_COLLECTED = "backscroll_media_collected_total" [why] Count,
        "Files whose objects were deleted: `unused`, `deleted` (with the last message), or `orphan` (an object that no row names).";
    Counter MEDIA_PROCESSED = "backscroll_media_processed_total" [outcome] Count,
        "Pictures whose smaller forms were to be made, by outcome: `ready`, the reason for which it failed, or `postponed` (something else failed: the log says what).",
        alert "a steady rise of `outcome=\"postponed\"`, or of `timed_out` and `crashed`";
    Histogram MEDIA_PROCESS_SECONDS = "backscroll_media_process_seconds" [] Seconds,
        "Time in which a worker decoded a picture and made its smaller forms, or failed to.";
    Gauge MEDIA_QUEUE = "backscroll_media_queue" [] Count,
        "Pictures in this process's memory that wait for a worker; more may wait in the databases.",
        alert "at `media.queue` for a minute: more workers are needed";
    Counter MEDIA_VARIANT_BYTES = "backscroll_media_variant_bytes_total" [] Bytes,
        "Bytes of the smaller forms of pictures that were made.";
    Counter MEDIA_WORKERS_ENDED = "backscroll_media_workers_ended_total" [how] Count,
        "Processes that were ended by a picture, by how: `timed_out`, `out_of_memory` or `crashed`.";
    Gauge MEDIA_ORPHANS = "backscroll_media_orphans" [] Count,
        "Objects of files that no row names, as the last collection of this process found them and before it deleted them.";
    Counter OBJECT_REQUESTS = "backscroll_object_store_requests_total" [operation, outcome] Count,
        "Requests to the object store, each attempt by itself, by outcome: `ok` or the kind of the error.",
        alert "a steady rise of `outcome` `unavailable`, `timeout`, `denied` or `damaged`";
    Histogram OBJECT_REQUEST_SECONDS = "backscroll_object_store_request_seconds" [operation] Seconds,
        "Time of a request to the object store.";
    Counter OBJECT_BYTES = "backscroll_object_store_bytes_total" [operation] Bytes,
        "Bytes of objects that were written or read by requests that succeeded.";
    Counter OBJECT_RETRIES = "backscroll_object_store_retries_total" [operation, reason] Count,
        "Requests to the object store that were made again, by the kind of the error.";
    Counter OBJECT_LIMITED = "backscroll_object_store_limited_total" [] Count,
        "Requests to the object store that were refused because `object_store.max_requests` were under way for too long.";
    Counter OBJECT_SHARED_READS = "backscroll_object_store_shared_reads_total" [] Count,
        "Reads that took the answer of the same read, which was under way for another caller.";
}
