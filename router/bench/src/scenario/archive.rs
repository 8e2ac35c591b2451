//! `archive`: the archive job, with compression, upload and verification, against `pt-archiver` on the same rows and
//! server in turns; what the archive stores of them; then how long sends and reads of other conversations of the shard
//! take while the job runs, against how long they take without.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use backscroll_archiver::jobs::{ArchiveJobs, Progress};
use backscroll_archiver::settings::ArchiveSettings;
use serde::Serialize;
use tokio::time::sleep;

use crate::archived::{DATABASES, Rows, Stored, open_archive, run_job, store_settings};
use crate::harness::aside::Aside;
use crate::harness::bucket::Bucket;
use crate::harness::databases::{Databases, require_durable, with_databases};
use crate::harness::machine::Machine;
use crate::harness::router::Router;
use crate::harness::usage::{Meter, Usage, Watched};
use crate::imports::{Generated, History, OWNER};
use crate::ledger::{Findings, Ledger};
use crate::load::{Measured, open_loop};
use crate::out;
use crate::pages::{Depth, HttpReader, Log};
use crate::population::{Conversation, Size, User};
use crate::pt_archiver;
use crate::report::{Latency, Spread, Table, Verdict, milliseconds, thousands};
use crate::scenario::{
    Common, Report, check_number, check_seconds, numbered, publish, setup, watched,
};
use crate::sender::{Sender, World};
use crate::verify::verify;

/// How many times faster than `pt-archiver` the job shall be.
const GOAL_RATIO: f64 = 1.5;
/// How many times longer the slowest of a hundred answers may take while the job runs.
const GOAL_P99: f64 = 1.3;
/// How many bytes a message of a real chat may take in the archive, and the index of what the rows took.
const GOAL_BYTES: f64 = 36.0;
const GOAL_INDEX: f64 = 0.02;
/// The part of a loaded phase that the job must have been running.
const COVERED: f64 = 0.95;
/// Who sends and reads meanwhile, over how many connections each.
const FOREGROUND: Size = Size {
    users: 200,
    conversations: 50,
    members: 10,
};
const CONNECTIONS: usize = 16;
/// What is read: messages of the last days.
const RECENT_MESSAGES: u64 = 16_000;
const RECENT_MS: i64 = 10 * 86_400_000;
const PAGE: u64 = 50;
/// How long sends and reads go on before they are measured.
const LEAD_IN: Duration = Duration::from_secs(1);
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

/// One side's rounds.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Throughput {
    /// Messages a second, of each round.
    rounds: Vec<f64>,
    /// The same in short.
    rate: Spread,
}

/// Sends or reads, in all rounds of one kind.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Foreground {
    latency: Latency,
    /// The 99th percentile of each round, in milliseconds.
    p99: Spread,
    refused: u64,
}

/// What the foreground saw, without the job or with it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Seen {
    sends: Foreground,
    reads: Foreground,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct ArchiveReport {
    scenario: &'static str,
    machine: Machine,
    messages: u64,
    conversations: usize,
    segment_bytes: u64,
    ours: Throughput,
    theirs: Throughput,
    ratio: f64,
    /// Processor microseconds of the job's rounds for each message, by process; the job and the S3 server are in the
    /// generator.
    micros_each: Vec<(&'static str, f64)>,
    stored: Stored,
    rate: f64,
    without: Seen,
    with: Seen,
    /// The least part of a phase that the job was running, of those it should have.
    covered: f64,
    /// Messages a second that the job archived meanwhile.
    job_rate: Spread,
    findings: Findings,
    usage: Usage,
    verdicts: Vec<Verdict>,
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
    verdicts.extend(stored_verdicts(&stored, args));
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

/// Those who send and read.
struct Load {
    world: Arc<World>,
    senders: Vec<Sender>,
    readers: Vec<HttpReader>,
}

impl Load {
    async fn create(router: &Router) -> Result<Self> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis() as i64;
        let recent = Generated {
            messages: RECENT_MESSAGES,
            channels: CONNECTIONS as u64,
            name: "recent",
            begin: now - RECENT_MS,
            gap: RECENT_MS / 2 / RECENT_MESSAGES as i64,
        };
        let recent = History::of(None, recent)?.import(router, OWNER).await?;
        let world = World::create(router, FOREGROUND, rand::random()).await?;
        let senders = Sender::open_many(&world, CONNECTIONS, &world.conversations()).await?;
        let mut readers = Vec::with_capacity(CONNECTIONS);
        for conversation in &recent.conversations {
            let log = Log {
                address: router.address,
                conversation: Conversation {
                    id: conversation.id.clone(),
                    members: Vec::new(),
                },
                reader: User::new(OWNER.to_owned(), &router.secret)?,
                head: conversation.messages,
                limit: PAGE,
            };
            readers.push(HttpReader::open(&Arc::new(log), Depth::Deep).await?);
        }
        Ok(Self {
            world,
            senders,
            readers,
        })
    }

    /// Sends and reads for as long as a round takes; returns what each measured.
    async fn run(&mut self, args: &Args) -> Result<(Measured, Measured)> {
        self.run_for(args, Duration::from_secs_f64(args.round_seconds))
            .await
    }

    /// Sends and reads until the job has noticed.
    async fn lead_in(&mut self, args: &Args) -> Result<()> {
        self.run_for(args, LEAD_IN).await.map(drop)
    }

    async fn run_for(&mut self, args: &Args, duration: Duration) -> Result<(Measured, Measured)> {
        let measured = tokio::try_join!(
            open_loop(&mut self.senders, args.rate, duration),
            open_loop(&mut self.readers, args.rate, duration)
        )?;
        self.readers.iter().try_for_each(HttpReader::check)?;
        Ok(measured)
    }
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

fn foreground_verdicts(without: &Seen, with: &Seen, covered: f64) -> Vec<Verdict> {
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

fn stored_verdicts(stored: &Stored, args: &Args) -> Vec<Verdict> {
    let mut verdicts = vec![Verdict::new(
        format!(
            "the index takes at most {:.0} % of what the rows took",
            GOAL_INDEX * 100.0
        ),
        format!("{:.2} %", stored.index_share() * 100.0),
        stored.index_share() <= GOAL_INDEX,
    )];
    // Generated text is of random words: how small it gets says nothing.
    if args.corpus.is_some() {
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
        let mut table = Table::new(headings.into_iter().chain(Latency::COLUMNS));
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
