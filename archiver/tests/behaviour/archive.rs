//! The archive's behaviour: jobs, cold reads and what becomes of messages, on SQLite with a folder and on a SQL server
//! with a bucket.

mod bed;
mod between;
mod clocks;
mod cold_reads;
mod copies;
mod deaths;
mod erasing;
mod files;
mod jobs;
mod logged;
mod matrix;
mod mends;
mod mentions;
mod moves;
mod pins;
mod previews;
mod receipts;
mod repairs;
mod repeats;
mod reports;
mod search;
mod syncing;
mod threads;
