//! The metrics of the store.
//!
//! The tables of all crates are documented in `router/METRICS.md`.

mod kinds;

pub use metrics::{SharedString, Unit};

pub use self::kinds::{Counter, Description, Gauge, Histogram, Kind};

crate::metric_table! {
    Gauge TASK_UP = "backscroll_task_up" [task] Count,
        "Whether a supervised task runs (1), or has ended and is about to be started again (0).",
        alert "0 for a minute";
    Counter TASK_ENDS = "backscroll_task_ends_total" [task, how] Count,
        "Ends of supervised tasks that should have gone on, by how: `panic` or `return`.",
        alert "any rise";
    Counter TASKS_REFUSED = "backscroll_tasks_refused_total" [task] Count,
        "One-shot tasks that were not started because as many of their kind ran as may run at once.";
    Counter DATABASE_FAILURES = "backscroll_database_failures_total" [shard, doing] Count,
        "Failures of a shard's databases, by what was being done: `connecting`, `reading` or `writing`. Deadlocks and lock waits are not among them.",
        alert "a steady rise";
    Counter TRANSACTION_RETRIES = "backscroll_transaction_retries_total" [shard] Count,
        "Transactions that were run again after a deadlock or a lock wait.";
    Histogram WRITE_BATCH_MESSAGES = "backscroll_write_batch_messages" [shard] Count,
        "Messages in one transaction of a write lane.";
    Counter MESSAGES_SENT = "backscroll_messages_sent_total" [shard] Count,
        "Messages that this node has stored; those of imports left out.";
    Counter LIMITED = "backscroll_limited_total" [rule, how] Count,
        "Actions of users beyond a rule of the section `guard`, by what became of them: `refused`, or done in `shadow`.";
    Counter BUDGETS_FORGOTTEN = "backscroll_budgets_forgotten_total" [] Count,
        "Rate limit budgets in use that began anew because there was no room for them.",
        alert "a steady rise: raise `guard.memory`";
    Gauge WRITE_QUEUE_MESSAGES = "backscroll_write_queue_messages" [shard] Count,
        "Messages that wait for a write lane.",
        alert "near `write.queue`: sends are about to be refused";
    Counter MEMBERSHIP_LOOKUPS = "backscroll_membership_lookups_total" [shard, outcome] Count,
        "Memberships that write lanes needed: `known` from a transaction before, or `read`.";
    Gauge DATABASE_CONNECTIONS = "backscroll_database_connections" [shard, state] Count,
        "Connections to a shard's primary: `used` or `idle`.",
        alert "`used` at `pool.max_connections` for a minute";
    Gauge SHARD_TAKES = "backscroll_shard_takes" [shard, what] Count,
        "Whether a shard's `reads` and `writes` are let through (1), or refused at once because the latest ones failed (0).",
        alert "0 for a minute";
    Counter UNPREPARED_STATEMENTS = "backscroll_unprepared_statements_total" [] Count,
        "Statements that were sent as text because the MySQL server had no room for another prepared one; the connection gave back those that it held.",
        alert "a steady rise: raise `max_prepared_stmt_count` on the server";
    Counter REPLICA_READS = "backscroll_replica_reads_total" [outcome] Count,
        "Reads for which a replica was asked: `used`, or `passed_over` because it did not answer or was not current enough.";
    Counter STALE_MAP = "backscroll_stale_map_total" [] Count,
        "Calls that a shard refused because this process's map of ranges was old; it then asks the directory.";
    Counter MOVE_ROWS = "backscroll_move_rows_copied_total" [] Count,
        "Rows of moving ranges that this node has copied.";
    Gauge MOVE_MARKS = "backscroll_move_marks" [] Count,
        "Conversations and users that were written to while their range moves, and are still to be copied again; counted up to 10,000 of each.";
    Histogram MOVE_FREEZE_SECONDS = "backscroll_move_freeze_seconds" [] Seconds,
        "How long writers of a range waited at the end of its move.",
        alert "a 99 % quantile above one second";
    Counter MOVE_FREEZES_ENDED = "backscroll_move_freezes_ended_total" [] Count,
        "Freezes that were ended without a commit; the move goes on catching up.",
        alert "a steady rise: the range is written to faster than it is copied, or a shard is slow";
    Counter MOVE_BRAKED_SECONDS = "backscroll_move_braked_seconds_total" [reason] Seconds,
        "Seconds that this node's moves waited because of a brake: `load`, `replica_lag` or `latency`.";
    Counter STORED_VALUES_LEFT_OUT = "backscroll_stored_values_left_out_total" [field] Count,
        "Values of messages, conversations and notifications that were left out of answers because they do not have the form that their field must have; an import of an older version may have stored them.";
    Counter SEARCHED_MESSAGES = "backscroll_searched_messages_total" [] Count,
        "Messages that searches have looked at.";
    Counter SEARCHED_BYTES = "backscroll_searched_bytes_total" [] Bytes,
        "Bytes of the texts that searches have looked at.";
    Counter SEARCH_RULED_OUT = "backscroll_search_ruled_out_messages_total" [] Count,
        "Archived messages that searches did not have to read, because an index of terms rules them out.";
    Gauge SEARCHES = "backscroll_searches" [] Count,
        "Searches that are worked on, and those that wait for that.",
        alert "a long time far above `search.at_once`: raise it, or add nodes";
    Counter ARCHIVE_DAMAGED_READS = "backscroll_archive_damaged_reads_total" [] Count,
        "Reads that needed archived messages which are damaged.",
        alert "any rise: run `backscroll archive verify`";
}
