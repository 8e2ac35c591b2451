//! What `archive` came to, and how it is printed.

use serde::Serialize;

use crate::archived::Stored;
use crate::harness::machine::Machine;
use crate::harness::usage::Usage;
use crate::ledger::Findings;
use crate::out;
use crate::report::{Latency, Spread, Table, Verdict, milliseconds, thousands};
use crate::scenario::Report;

/// How many times longer the slowest of a hundred answers may take while the job runs.
const GOAL_P99: f64 = 1.3;
/// How many bytes a message of a real chat may take in the archive, and the index of what the rows took.
const GOAL_BYTES: f64 = 36.0;
const GOAL_INDEX: f64 = 0.02;
/// The part of a loaded phase that the job must have been running.
const COVERED: f64 = 0.95;

/// One side's rounds.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Throughput {
    /// Messages a second, of each round.
    pub(super) rounds: Vec<f64>,
    /// The same in short.
    pub(super) rate: Spread,
}

/// Sends or reads, in all rounds of one kind.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Foreground {
    pub(super) latency: Latency,
    /// The 99th percentile of each round, in milliseconds.
    pub(super) p99: Spread,
    pub(super) refused: u64,
}

/// What the foreground saw, without the job or with it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Seen {
    pub(super) sends: Foreground,
    pub(super) reads: Foreground,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ArchiveReport {
    pub(super) scenario: &'static str,
    pub(super) machine: Machine,
    pub(super) messages: u64,
    pub(super) conversations: usize,
    pub(super) segment_bytes: u64,
    pub(super) ours: Throughput,
    pub(super) theirs: Throughput,
    pub(super) ratio: f64,
    /// Processor microseconds of the job's rounds for each message, by process; the job and the S3 server are in the
    /// generator.
    pub(super) micros_each: Vec<(&'static str, f64)>,
    pub(super) stored: Stored,
    pub(super) rate: f64,
    pub(super) without: Seen,
    pub(super) with: Seen,
    /// The least part of a phase that the job was running, of those it should have.
    pub(super) covered: f64,
    /// Messages a second that the job archived meanwhile.
    pub(super) job_rate: Spread,
    pub(super) findings: Findings,
    pub(super) usage: Usage,
    pub(super) verdicts: Vec<Verdict>,
}

pub(super) fn foreground_verdicts(without: &Seen, with: &Seen, covered: f64) -> Vec<Verdict> {
    let verdict = |what: &str, without: &Foreground, with: &Foreground| {
        let factor = with.p99.median / without.p99.median;
        Verdict::new(
            format!("{what}: p99 while the job runs is at most {GOAL_P99} times that without"),
            format!(
                "{factor:.2} times ({} ms, {} ms without, {} refused; the job ran for {:.0} % of each phase)",
                milliseconds(with.p99.median),
                milliseconds(without.p99.median),
                with.refused,
                covered.min(1.0) * 100.0
            ),
            factor <= GOAL_P99 && with.refused == 0 && covered >= COVERED,
        )
    };
    vec![
        verdict("sends", &without.sends, &with.sends),
        verdict("reads", &without.reads, &with.reads),
    ]
}

pub(super) fn stored_verdicts(stored: &Stored, is_real: bool) -> Vec<Verdict> {
    let mut verdicts = vec![Verdict::new(
        format!(
            "the index takes at most {:.0} % of what the rows took",
            GOAL_INDEX * 100.0
        ),
        format!("{:.2} %", stored.index_share() * 100.0),
        stored.index_share() <= GOAL_INDEX,
    )];
    // Generated text is of random words: how small it gets says nothing.
    if is_real {
        verdicts.push(Verdict::new(
            format!("at most {GOAL_BYTES:.0} bytes are stored for a message"),
            format!("{:.1} bytes", stored.bytes_each()),
            stored.bytes_each() <= GOAL_BYTES,
        ));
    }
    verdicts
}

impl Report for ArchiveReport {
    fn machine(&self) -> &Machine {
        &self.machine
    }

    fn verdicts(&self) -> &[Verdict] {
        &self.verdicts
    }

    fn others_share(&self) -> f64 {
        self.usage.others_share(self.machine.cores)
    }

    fn print(&self) {
        out::line(format_args!(
            "load:    {} messages in {} conversations of one shard, segments of {} bytes; {} sends/s and {} page reads/s of others\n",
            thousands(self.messages as f64),
            self.conversations,
            thousands(self.segment_bytes as f64),
            thousands(self.rate),
            thousands(self.rate)
        ));
        let mut table = Table::new(["messages a second", "median", "lowest", "highest"]);
        for (name, rate) in [
            ("archive job", &self.ours.rate),
            ("pt-archiver", &self.theirs.rate),
            ("archive job, with sends and reads", &self.job_rate),
        ] {
            table.row(name, [rate.median, rate.min, rate.max].map(thousands));
        }
        out::line(&table);
        let micros = self.micros_each.iter();
        let micros: Vec<String> = micros
            .map(|(name, micros)| format!("{name} {micros:.1}"))
            .collect();
        out::line(format_args!(
            "the job's processor µs a message (job and S3 server are in the generator): {}\n",
            micros.join(", ")
        ));
        let stored = &self.stored;
        out::line(format_args!(
            "stored:  {:.2} bytes a message in {} frames, the longest of {} bytes; index of {} rows, {} bytes; rows took {} bytes\n",
            stored.bytes_each(),
            thousands(stored.frames as f64),
            thousands(stored.longest_frame as f64),
            thousands(stored.runs as f64),
            thousands(stored.index_bytes as f64),
            thousands(stored.hot_bytes as f64)
        ));
        let headings = ["", "count", "refused"];
        let mut table = Table::with_latencies(headings);
        for (name, seen) in [
            ("sends, without the job", &self.without.sends),
            ("sends, with the job", &self.with.sends),
            ("reads, without the job", &self.without.reads),
            ("reads, with the job", &self.with.reads),
        ] {
            let mut cells = vec![
                thousands(seen.latency.count as f64),
                seen.refused.to_string(),
            ];
            cells.extend(seen.latency.cells());
            table.row(name, cells);
        }
        out::line(&table);
    }
}
