//! The archive's behaviour: jobs, cold reads and what becomes of messages, on SQLite with a folder and on a SQL server
//! with a bucket.

mod bed;
mod cold_reads;
mod deaths;
mod erasing;
mod jobs;
mod repairs;
