//! `archive`: the archive job, with compression, upload and verification, against `pt-archiver` on the same rows and
//! server in turns; what the archive stores of them; then how long sends and reads of other conversations of the shard
//! take while the job runs, against how long they take without.

mod load;
mod report;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use backscroll_archiver::jobs::{ArchiveJobs, Progress};
use backscroll_archiver::settings::ArchiveSettings;
use tokio::time::sleep;

use self::load::Load;
use self::report::{
    ArchiveReport, Foreground, Seen, Throughput, foreground_verdicts, stored_verdicts,
};
use crate::archived::{DATABASES, Rows, Stored, open_archive, run_job, store_settings};
use crate::harness::aside::Aside;
use crate::harness::bucket::Bucket;
use crate::harness::databases::{Databases, require_durable, with_databases};
use crate::harness::machine::Machine;
use crate::harness::router::Router;
use crate::harness::usage::{Meter, Usage, Watched};
use crate::imports::{Generated, History, OWNER};
use crate::ledger::{Findings, Ledger};
use crate::load::Measured;
use crate::out;
use crate::pt_archiver;
use crate::report::{Latency, Spread, Verdict, milliseconds, thousands};
use crate::scenario::{Common, check_number, check_seconds, numbered, publish, setup, watched};
use crate::verify::verify;

/// How many times faster than `pt-archiver` the job shall be.
const GOAL_RATIO: f64 = 1.5;
/// How often it is looked how far the job is.
const LOOK: Duration = Duration::from_millis(5);

/// The archive job against pt-archiver on the same rows; what it stores; and what it costs those who send and read
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// How many messages are archived
    #[arg(long, default_value_t = 300_000)]
    messages: u64,
    /// In how many conversations they are
    #[arg(long, default_value_t = 1)]
    conversations: u64,
    /// Archive this history instead, JSON Lines, plain or compressed with zstd
    #[arg(long, value_name = "FILE")]
    corpus: Option<PathBuf>,
    /// How many times the history is imported, each time for another owner
    #[arg(long, default_value_t = 1)]
    copies: usize,
    /// Compressed bytes after which a segment is full [default: the setting's]
    #[arg(long, value_name = "BYTES")]
    segment_bytes: Option<u64>,
    /// How many rounds there are
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// How many messages are sent and how many pages are read a second, each, while the job runs
    #[arg(long, default_value_t = 200.0)]
    rate: f64,
    /// How long sends and reads are measured in each round, in seconds; the job must take longer
    #[arg(long, default_value_t = 3.0)]
    round_seconds: f64,
}

/// Runs it; returns whether the goals were met.
///
/// # Errors
/// When it cannot be measured.
pub async fn run(common: &Common, args: &Args) -> Result<bool> {
    check_number("--messages", args.messages as usize, 1000, 100_000_000)?;
    check_number("--conversations", args.conversations as usize, 1, 100_000)?;
    check_number("--copies", args.copies, 1, 100)?;
    check_number("--rounds", args.rounds, 1, 1000)?;
    check_number("--rate", args.rate as usize, 1, 100_000)?;
    check_seconds(&[args.round_seconds])?;
    pt_archiver::require().await?;
    let binary = common.binary()?;
    let mut names = vec!["directory".to_owned()];
    names.extend(DATABASES.map(str::to_owned));
    let report = with_databases(&common.mysql_url, &names, async |databases| {
        let router = Router::start(&setup(binary, databases, 1)).await?;
        let report = measure(databases, &router, args).await?;
        router.stop().await?;
        Ok(report)
    })
    .await?;
    publish(&report, common.json)
}

/// Where the job runs: on threads beside the generator's.
struct Job {
    aside: Aside,
    archive: ArchiveJobs,
    _bucket: Bucket,
}

impl Job {
    async fn open(databases: &Databases, archive_settings: ArchiveSettings) -> Result<Self> {
        let aside = Aside::start(2)?;
        let bucket = Bucket::start().await?;
        let (objects, _) = bucket.open().await?;
        let settings = store_settings(databases);
        let archive = aside
            .run(async move || open_archive(&settings, objects, archive_settings).await)
            .await?;
        Ok(Self {
            aside,
            archive,
            _bucket: bucket,
        })
    }
}

async fn measure(databases: &Databases, router: &Router, args: &Args) -> Result<ArchiveReport> {
    let machine = Machine::describe(&mut databases.connect_to_server().await?).await?;
    require_durable(machine.durable)?;
    let watched = watched(databases, router)?;
    let generated = Generated {
        channels: args.conversations,
        ..Generated::long_ago(args.messages)
    };
    let old = History::of(args.corpus.as_deref(), generated)?;
    let mut conversations = 0;
    for owner in numbered(OWNER, args.copies) {
        conversations += old.import(router, &owner).await?.conversations.len();
    }
    let mut rows = Rows::copy(databases).await?;
    let settings = ArchiveSettings {
        segment_bytes: args
            .segment_bytes
            .unwrap_or(ArchiveSettings::default().segment_bytes),
        ..ArchiveSettings::default()
    };
    let job = Job::open(databases, settings).await?;

    let (ours, theirs, stored, mut usage) = rounds(&mut rows, &job, &watched, args).await?;
    let micros_each = usage.micros_each(rows.count * args.rounds as u64);

    let load = Load::create(router).await?;
    let phases = phases(&mut rows, &job, load, &watched, args).await?;
    usage.add(&phases.usage);
    let ratio = ours.rate.median / theirs.rate.median;
    let (without, with) = (phases.without.finish()?, phases.with.finish()?);
    let mut verdicts = vec![Verdict::new(
        format!(
            "archiving, compressed, uploaded and verified, is at least {GOAL_RATIO} times as fast as pt-archiver"
        ),
        format!("{ratio:.2} times"),
        ratio >= GOAL_RATIO,
    )];
    verdicts.extend(foreground_verdicts(&without, &with, phases.covered));
    verdicts.extend(stored_verdicts(&stored, args.corpus.is_some()));
    verdicts.push(phases.findings.verdict());
    Ok(ArchiveReport {
        scenario: "archive",
        machine,
        messages: rows.count,
        conversations,
        segment_bytes: job.archive.settings().segment_bytes,
        ours,
        theirs,
        ratio,
        micros_each,
        stored,
        rate: args.rate,
        without,
        with,
        covered: phases.covered,
        job_rate: Spread::of(&phases.job_rates),
        findings: phases.findings,
        usage,
        verdicts,
    })
}

/// Both sides in turns, each round with all rows brought back.
async fn rounds(
    rows: &mut Rows<'_>,
    job: &Job,
    watched: &[Watched],
    args: &Args,
) -> Result<(Throughput, Throughput, Stored, Usage)> {
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    let mut usage = Usage::default();
    let mut stored = None;
    for round in 1..=args.rounds {
        // Who goes first alternates, so that neither side always follows the other.
        if round.is_multiple_of(2) {
            theirs.push(rows.theirs().await?.as_secs_f64());
        }
        rows.prepare_ours().await?;
        let meter = Meter::start(watched)?;
        let (archive, cutoff) = (job.archive.clone(), rows.cutoff);
        let (elapsed, figures) = job
            .aside
            .run(async move || run_job(&archive, cutoff, &Progress::default()).await)
            .await?;
        usage.add(&meter.stop()?);
        rows.check_archived(&figures).await?;
        stored = Some(rows.stored().await?);
        ours.push(elapsed.as_secs_f64());
        if !round.is_multiple_of(2) {
            theirs.push(rows.theirs().await?.as_secs_f64());
        }
        if let (Some(ours), Some(theirs)) = (ours.last(), theirs.last()) {
            let rate = |seconds: &f64| thousands(rows.count as f64 / seconds);
            out::progress(format_args!(
                "round {round}: {} messages/s archived, {} by pt-archiver",
                rate(ours),
                rate(theirs)
            ));
        }
    }
    let throughput = |seconds: Vec<f64>| {
        let rounds: Vec<f64> = seconds.iter().map(|s| rows.count as f64 / s).collect();
        Throughput {
            rate: Spread::of(&rounds),
            rounds,
        }
    };
    let stored = stored.context("there was no round")?;
    Ok((throughput(ours), throughput(theirs), stored, usage))
}

/// Phases of one kind so far.
#[derive(Default)]
struct Kind {
    sends: Vec<Measured>,
    reads: Vec<Measured>,
}

impl Kind {
    fn finish(&self) -> Result<Seen> {
        let finish = |phases: &[Measured]| {
            let (first, others) = phases.split_first().context("no phase was run")?;
            let mut total = first.clone();
            others.iter().try_for_each(|phase| total.add(phase))?;
            let p99 = phases.iter().map(|phase| Latency::of(&phase.latency).p99);
            Ok::<_, anyhow::Error>(Foreground {
                latency: Latency::of(&total.latency),
                p99: Spread::of(&p99.collect::<Vec<_>>()),
                refused: total.refused(),
            })
        };
        Ok(Seen {
            sends: finish(&self.sends)?,
            reads: finish(&self.reads)?,
        })
    }
}

/// What all phases came to.
struct Phases {
    without: Kind,
    with: Kind,
    covered: f64,
    job_rates: Vec<f64>,
    findings: Findings,
    usage: Usage,
}

/// Phases without the job and with it, in turns, each after the rows were brought back.
async fn phases(
    rows: &mut Rows<'_>,
    job: &Job,
    mut load: Load,
    watched: &[Watched],
    args: &Args,
) -> Result<Phases> {
    let (mut without, mut with) = (Kind::default(), Kind::default());
    let (mut covered, mut job_rates) = (1.0_f64, Vec::new());
    let mut usage = Usage::default();
    for phase in 0..2 * args.rounds {
        // Without, with, with, without: neither kind always follows the other.
        let is_with = matches!(phase % 4, 1 | 2);
        rows.bring_back().await?;
        let meter = Meter::start(watched)?;
        if is_with {
            let (archive, cutoff) = (job.archive.clone(), rows.cutoff);
            let progress = Progress::default();
            let seen = progress.clone();
            let work = job.aside.run(async move || {
                let (_, figures) = run_job(&archive, cutoff, &progress).await?;
                Ok((Instant::now(), figures))
            });
            // Each time somewhere else in the job: while it reads, while it deletes.
            let first_step = 2 * rows.count * with.sends.len() as u64 / args.rounds as u64;
            let measure = async {
                while steps(&seen) < first_step {
                    sleep(LOOK).await;
                }
                load.lead_in(args).await?;
                let (begin, before) = (Instant::now(), steps(&seen));
                let measured = load.run(args).await?;
                let done = (steps(&seen) - before) as f64 / 2.0;
                Ok((measured, begin, Instant::now(), done))
            };
            let ((ended, figures), ((sends, reads), begin, loaded, done)) =
                tokio::try_join!(work, measure)?;
            rows.check_archived(&figures).await?;
            let span = (loaded - begin).as_secs_f64();
            covered = covered.min((ended - begin).as_secs_f64() / span);
            job_rates.push(done / span);
            with.sends.push(sends);
            with.reads.push(reads);
        } else {
            load.lead_in(args).await?;
            let (sends, reads) = load.run(args).await?;
            without.sends.push(sends);
            without.reads.push(reads);
        }
        usage.add(&meter.stop()?);
        let last = if is_with { &with } else { &without };
        let p99 = |phases: &[Measured]| {
            let last = phases.last().map(|phase| Latency::of(&phase.latency).p99);
            milliseconds(last.unwrap_or(0.0))
        };
        out::progress(format_args!(
            "{} the job: p99 {} ms of sends, {} ms of reads",
            if is_with { "with" } else { "without" },
            p99(&last.sends),
            p99(&last.reads)
        ));
    }
    let mut ledger = Ledger::default();
    for sender in &mut load.senders {
        ledger.append(sender.take_ledger());
    }
    Ok(Phases {
        without,
        with,
        covered,
        job_rates,
        findings: verify(&load.world, ledger).await?,
        usage,
    })
}

/// How far a job is: messages read, and messages deleted.
fn steps(progress: &Progress) -> u64 {
    let now = progress.snapshot();
    now.messages + now.deleted
}
