//! `cold`: a page of archived messages, read through the store: how many requests of the object store it takes, how much
//! longer than a bare read of the same bytes, how it compares with a hot page once its frame is in the cache, and what
//! many readers of one frame cost.
//!
//! The store is opened in this process, as the router opens it, so that what is measured is not HTTP.

mod replaceable;
mod report;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use backscroll_archiver::jobs::Progress;
use backscroll_archiver::object_store::faults::Faults;
use backscroll_archiver::object_store::{ObjectStore, Operation};
use backscroll_archiver::segment::object_key;
use backscroll_archiver::settings::ArchiveSettings;
use backscroll_shard::archive::{ArchivedRun, Copies, Hold, place_hold};
use backscroll_shard::commit_event::NoListener;
use backscroll_shard::ids::{ConversationId, Seq, UserId};
use backscroll_shard::model::{Caller, HistoryPage, Position, Timestamp};
use backscroll_shard::node::Shard;
use backscroll_shard::store::Store;
use backscroll_shard::tasks::Supervisor;
use hdrhistogram::Histogram;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use self::replaceable::{ReadAhead, Replaceable};
use self::report::{ColdReport, Figures, Requests, verdicts};
use crate::archived::{open_archive, run_job, store_settings};
use crate::harness::aside::Aside;
use crate::harness::bucket::Bucket;
use crate::harness::databases::{Databases, with_databases};
use crate::harness::machine::Machine;
use crate::harness::router::Router;
use crate::harness::usage::{Meter, Watched, generator, listener};
use crate::imports::{Generated, History, ImportedConversation, OWNER};
use crate::out;
use crate::report::{Latency, Reading, Spread};
use crate::scenario::{Common, check_number, publish, setup};

/// Who owns the conversation that is not archived.
const HELD_OWNER: &str = "bench-held";
/// How long a page may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// A page of archived messages: requests, time beside a bare read and beside a hot page, many readers of one frame
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// How many messages the conversation has
    #[arg(long, default_value_t = 300_000)]
    messages: u64,
    /// Archive this history instead, JSON Lines, plain or compressed with zstd, and read its longest conversation
    #[arg(long, value_name = "FILE")]
    corpus: Option<PathBuf>,
    /// How many messages a page has
    #[arg(long, default_value_t = 50)]
    limit: u32,
    /// How many rounds there are
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// How many pages of each kind are read in a round
    #[arg(long, default_value_t = 300)]
    pages: usize,
    /// How many read one frame at once
    #[arg(long, default_value_t = 200)]
    readers: usize,
}

/// Runs it; returns whether the goals were met.
///
/// # Errors
/// When it cannot be measured.
pub async fn run(common: &Common, args: &Args) -> Result<bool> {
    check_number("--messages", args.messages as usize, 1000, 100_000_000)?;
    check_number("--limit", args.limit as usize, 1, 200)?;
    check_number("--rounds", args.rounds, 1, 1000)?;
    check_number("--pages", args.pages, 1, 100_000)?;
    check_number("--readers", args.readers, 1, 200)?;
    let binary = common.binary()?;
    let names = ["directory", "shard1"].map(str::to_owned);
    let report = with_databases(&common.mysql_url, &names, async |databases| {
        let router = Router::start(&setup(binary, databases, 1)).await?;
        let history = History::of(args.corpus.as_deref(), Generated::long_ago(args.messages))?;
        let cold = history.import(&router, OWNER).await?;
        let hot = history.import(&router, HELD_OWNER).await?;
        router.stop().await?;
        measure(databases, args, (cold.longest()?, hot.longest()?)).await
    })
    .await?;
    publish(&report, common.json)
}

async fn measure(
    databases: &Databases,
    args: &Args,
    (cold, hot): (&ImportedConversation, &ImportedConversation),
) -> Result<ColdReport> {
    let machine = Machine::describe(&mut databases.connect_to_server().await?).await?;
    let bucket = Bucket::start().await?;
    let (objects, faults) = bucket.open().await?;
    let settings = store_settings(databases);
    let bench = BenchSetup {
        args: args.clone(),
        cold: id_of(cold)?,
        hot: id_of(hot)?,
        head: cold.messages,
        watched: [
            Some(generator()),
            listener("database", databases.server().1),
        ]
        .into_iter()
        .flatten()
        .collect(),
    };
    let aside = Aside::start(2)?;
    let figures = aside
        .run(async move || {
            let tier = Arc::new(Replaceable::new(objects.clone()));
            let supervisor = Supervisor::default();
            let listener = Arc::new(NoListener);
            let store = Store::open(&settings, tier.clone(), listener, &supervisor).await?;
            let bench = Bench {
                store,
                tier,
                objects,
                faults,
                setup: bench,
            };
            bench.archive(&settings).await?;
            let figures = bench.measure().await?;
            bench.store.close(Instant::now() + PATIENCE).await;
            Ok(figures)
        })
        .await?;
    let verdicts = verdicts(&figures, args.readers);
    Ok(ColdReport {
        scenario: "cold",
        machine,
        messages: cold.messages,
        limit: args.limit,
        figures,
        verdicts,
    })
}

fn id_of(conversation: &ImportedConversation) -> Result<ConversationId> {
    let id = conversation.id.parse();
    id.ok().context("a conversation id cannot be read")
}

/// What is read.
struct BenchSetup {
    args: Args,
    cold: ConversationId,
    hot: ConversationId,
    head: u64,
    watched: Vec<Watched>,
}

struct Bench {
    store: Arc<Store>,
    tier: Arc<Replaceable>,
    objects: Arc<dyn ObjectStore>,
    faults: Faults,
    setup: BenchSetup,
}

/// Times of one round, in nanoseconds.
struct Times {
    hot: Histogram<u64>,
    warm: Histogram<u64>,
    cold: Histogram<u64>,
    bare: Histogram<u64>,
}

impl Bench {
    fn shard(&self) -> Result<Arc<Shard>> {
        let shard = self.store.router().shards().next();
        Ok(shard.context("there is no shard")?.clone())
    }

    /// Archives the one conversation and not the other, which is held.
    async fn archive(&self, settings: &backscroll_shard::settings::StoreSettings) -> Result<()> {
        out::progress("archiving");
        let hold = &Hold {
            conversation_id: self.setup.hot,
            placed_at: Timestamp::now(),
            actor: "bench".into(),
            reason: "stays hot".into(),
        };
        self.shard()?
            .transaction(Instant::now() + PATIENCE, |mut transaction| async move {
                place_hold(&mut transaction, hold).await
            })
            .await?;
        let archive_settings = ArchiveSettings::default();
        let archive = open_archive(settings, self.objects.clone(), archive_settings).await?;
        let (_, figures) = run_job(&archive, Timestamp::now().0, &Progress::default()).await?;
        ensure!(
            figures.deleted >= self.setup.head,
            "{} messages were archived of {}",
            figures.deleted,
            self.setup.head
        );
        Ok(())
    }

    async fn measure(&self) -> Result<Figures> {
        let meter = Meter::start(&self.setup.watched)?;
        let mut rng = SmallRng::seed_from_u64(rand::random());
        let mut rounds = Vec::with_capacity(self.setup.args.rounds);
        let [mut within, mut across, mut apart] = [Requests::default(); 3];
        // The first round warms up and does not count.
        for round in 0..=self.setup.args.rounds {
            let requests = (&mut within, &mut across, &mut apart);
            let times = self.round(&mut rng, requests).await?;
            if round > 0 {
                let p50 = |times: &Histogram<u64>| times.value_at_quantile(0.5) / 1000;
                out::progress(format_args!(
                    "round {round}: p50 {} µs hot, {} µs warm, {} µs cold, {} µs bare",
                    p50(&times.hot),
                    p50(&times.warm),
                    p50(&times.cold),
                    p50(&times.bare)
                ));
                rounds.push(times);
            }
        }
        Ok(Figures {
            hot: reading(rounds.iter().map(|times| &times.hot))?,
            warm: reading(rounds.iter().map(|times| &times.warm))?,
            cold: reading(rounds.iter().map(|times| &times.cold))?,
            bare: reading(rounds.iter().map(|times| &times.bare))?,
            walk: self.walk().await?,
            within,
            across,
            apart,
            crowd: self.crowd(&mut rng).await?,
            usage: meter.stop()?,
        })
    }

    /// Pages of each kind in turns, each in another place.
    async fn round(
        &self,
        rng: &mut SmallRng,
        (within, across, apart): (&mut Requests, &mut Requests, &mut Requests),
    ) -> Result<Times> {
        let new = || Histogram::new(3);
        let mut times = Times {
            hot: new()?,
            warm: new()?,
            cold: new()?,
            bare: new()?,
        };
        let limit = u64::from(self.setup.args.limit);
        let shard = self.shard()?;
        for n in 0..self.setup.args.pages {
            let last = rng.random_range(limit..self.setup.head);
            let range = (Seq(last + 1 - limit), Seq(last));
            let mut connection = shard.reader(Instant::now() + PATIENCE).await?;
            let copies = Copies::find(&mut connection, self.setup.cold, range).await?;
            let runs = copies.runs();
            drop(connection);

            // Which of the two goes first alternates.
            if n.is_multiple_of(2) {
                self.bare(runs, &mut times.bare).await?;
            }
            self.tier.replace(ReadAhead::Off);
            let before = self.faults.requests(Operation::GetRange);
            self.timed(self.setup.cold, last, &mut times.cold).await?;
            let gets = self.faults.requests(Operation::GetRange) - before;
            let in_one = runs
                .windows(2)
                .all(|pair| pair[0].segment == pair[1].segment);
            let requests = match (runs.len(), in_one) {
                (1, _) => &mut *within,
                (_, true) => &mut *across,
                (_, false) => &mut *apart,
            };
            requests.pages += 1;
            requests.gets += u64::from(gets);
            if !n.is_multiple_of(2) {
                self.bare(runs, &mut times.bare).await?;
            }
            // Its frame is in the cache now.
            if n.is_multiple_of(2) {
                self.timed(self.setup.hot, last, &mut times.hot).await?;
                self.timed(self.setup.cold, last, &mut times.warm).await?;
            } else {
                self.timed(self.setup.cold, last, &mut times.warm).await?;
                self.timed(self.setup.hot, last, &mut times.hot).await?;
            }
        }
        Ok(times)
    }

    /// Reads the page that ends with `last`, and checks it.
    async fn timed(
        &self,
        conversation: ConversationId,
        last: u64,
        times: &mut Histogram<u64>,
    ) -> Result<()> {
        let begin = Instant::now();
        let page = self
            .page(conversation, Position::Before(Seq(last + 1)))
            .await?;
        times.record(begin.elapsed().as_nanos() as u64)?;
        let first = last + 1 - u64::from(self.setup.args.limit);
        let numbers = page.messages.iter().map(|message| message.seq.0);
        ensure!(numbers.eq(first..=last), "a page is not {first} to {last}");
        Ok(())
    }

    async fn page(&self, conversation: ConversationId, position: Position) -> Result<HistoryPage> {
        let owner = if conversation == self.setup.hot {
            HELD_OWNER
        } else {
            OWNER
        };
        let owner = UserId::new(owner).ok().context("a user id is wrong")?;
        let caller = Caller::new(owner, PATIENCE);
        let limit = self.setup.args.limit;
        Ok(self
            .store
            .history(&caller, conversation, position, limit)
            .await?)
    }

    /// Reads the bytes that a page of `runs` needs, one frame after the other.
    async fn bare(&self, runs: &[ArchivedRun], times: &mut Histogram<u64>) -> Result<()> {
        let begin = Instant::now();
        for run in runs {
            let key = object_key(run.segment.context("a run without a segment")?);
            let range = run.offset..run.offset + u64::from(run.length);
            self.objects.get_range(&key, range).await?;
        }
        times.record(begin.elapsed().as_nanos() as u64)?;
        Ok(())
    }

    /// Reads the whole conversation page by page, backwards.
    async fn walk(&self) -> Result<Requests> {
        out::progress("walking");
        self.tier.replace(ReadAhead::On);
        let before = self.faults.requests(Operation::GetRange);
        let mut pages = 0;
        let mut seen = 0;
        let mut position = Position::Latest;
        loop {
            let page = self.page(self.setup.cold, position).await?;
            pages += 1;
            seen += page.messages.len() as u64;
            match page.messages.first() {
                Some(first) if page.has_more_before => position = Position::Before(first.seq),
                _ => break,
            }
        }
        ensure!(
            seen == self.setup.head,
            "a walk saw {seen} messages of {}",
            self.setup.head
        );
        let gets = self.faults.requests(Operation::GetRange) - before;
        Ok(Requests {
            pages,
            gets: gets.into(),
        })
    }

    /// Many readers of a random message's frame at once, with nothing in the cache.
    async fn crowd(&self, rng: &mut SmallRng) -> Result<Requests> {
        let seq = Seq(rng.random_range(1..=self.setup.head));
        self.tier.replace(ReadAhead::Off);
        let before = self.faults.requests(Operation::GetRange);
        let owner = UserId::new(OWNER).ok().context("a user id is wrong")?;
        let caller = Caller::new(owner, PATIENCE);
        let reads = (0..self.setup.args.readers).map(|_| {
            self.store
                .history(&caller, self.setup.cold, Position::Around(seq), 1)
        });
        for page in futures_util::future::join_all(reads).await {
            let found = page?.messages.first().map(|message| message.seq);
            ensure!(found == Some(seq), "a reader got another message");
        }
        let gets = self.faults.requests(Operation::GetRange) - before;
        Ok(Requests {
            pages: self.setup.args.readers as u64,
            gets: gets.into(),
        })
    }
}

fn reading<'a>(rounds: impl Iterator<Item = &'a Histogram<u64>>) -> Result<Reading> {
    let mut total = Histogram::new(3)?;
    let mut medians = Vec::new();
    for round in rounds {
        total.add(round)?;
        medians.push(round.value_at_quantile(0.5) as f64 / 1e6);
    }
    Ok(Reading {
        p50: Spread::of(&medians),
        latency: Latency::of_nanoseconds(&total),
    })
}
