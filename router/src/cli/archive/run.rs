//! `backscroll archive run`

use std::io::IsTerminal as _;

use backscroll_archiver::jobs::erase::EraseFigures;
use backscroll_archiver::jobs::run::{Plan, RunFigures};
use backscroll_archiver::jobs::{ArchiveJobs, Progress as Jobs, ShardOutcome};
use backscroll_archiver::settings::Age;
use backscroll_shard::model::Timestamp;
use serde::Serialize;

use crate::config::Config;

use super::{Scope, Why, order, out, ratio, require_all, watch};

/// Archive what is old enough, then erase from the archive what was deleted
///
/// Shard by shard: messages are compressed and uploaded, read back and compared, and only then deleted from the database.
/// Readers do not notice. It waits while a database is busy, as the section `archive` of the configuration says.
///
/// If it is interrupted, run it again: it goes on where it stopped, once the lease of the dead job has ended
/// (`archive.lease`). On a terminal the messages are counted first, for the time left.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  backscroll archive run --dry-run
  backscroll archive run --older-than 1year --reason 'disk of db2 is full'
  backscroll archive run --shard db2 --json")]
pub(in crate::cli) struct Args {
    /// Only say what would be done: conversations, messages, bytes, objects, time
    #[arg(long)]
    pub(super) dry_run: bool,
    /// Archive what is older than this, as 6months, 90days or 1year, instead of archive.after; at least limits.idempotency
    #[arg(long, value_name = "AGE")]
    pub(super) older_than: Option<Age>,
    #[command(flatten)]
    pub(super) why: Why,
    #[command(flatten)]
    pub(super) scope: Scope,
}

impl Args {
    /// Whether the configuration lets messages of that age go.
    pub(super) fn check(&self, config: &Config) -> anyhow::Result<()> {
        let promised = config.store.limits.idempotency;
        if let Some(age) = self.older_than.filter(|age| !age.is_at_least(promised)) {
            anyhow::bail!(
                "--older-than {age} is below limits.idempotency, {promised}: for so long a message must not be archived, or \
                 its repeat would be stored again. Name a greater age, or shorten that promise first; nothing was archived"
            );
        }
        Ok(())
    }
}

/// The outcome, as `--json` prints it.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Report<'a> {
    /// Messages sent before this were old enough.
    cutoff: Timestamp,
    #[serde(flatten)]
    outcome: Outcome<'a>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Outcome<'a> {
    Planned {
        plan: &'a [Plan],
    },
    Done {
        run: &'a [ShardOutcome<RunFigures>],
        erase: &'a [ShardOutcome<EraseFigures>],
    },
}

pub(super) async fn run(archive: &ArchiveJobs, args: Args) -> anyhow::Result<()> {
    let Scope { shard, json } = args.scope;
    let order = order(shard, args.why);
    let now = archive.now(&order).await?;
    let cutoff = match &args.older_than {
        Some(age) => archive.cutoff_of(age, now),
        None => archive.cutoff(now),
    };
    let jobs = Jobs::default();
    let mut total = None;
    if args.dry_run || std::io::stderr().is_terminal() {
        let counting = watch("counting", &jobs, None);
        let plan = counting.until(archive.plan(&order, cutoff)).await?;
        if args.dry_run {
            return show_plan(cutoff, &plan, json);
        }
        total = Some(plan.iter().map(|plan| plan.messages).sum());
    }
    let work = async {
        let run = archive.run(&order, cutoff, &jobs).await?;
        let erase = archive.erase(&order, &jobs).await?;
        anyhow::Ok((run, erase))
    };
    let (run, erase) = watch("archiving", &jobs, total).until(work).await?;
    if json {
        let outcome = Outcome::Done {
            run: &run,
            erase: &erase,
        };
        out::json(&Report { cutoff, outcome })?;
    } else {
        show(&run, &erase)?;
    }
    require_all(&run)?;
    require_all(&erase)
}

fn show_plan(cutoff: Timestamp, plans: &[Plan], json: bool) -> anyhow::Result<()> {
    if json {
        let outcome = Outcome::Planned { plan: plans };
        return out::json(&Report { cutoff, outcome });
    }
    out::line(format_args!(
        "messages sent before {cutoff} would be archived; nothing was done"
    ))?;
    let rows: Vec<[String; 7]> = plans
        .iter()
        .map(|plan| {
            let time = plan.seconds.map_or("-".into(), |s| format!("{s} s"));
            [
                plan.shard.to_string(),
                out::grouped(plan.conversations),
                out::grouped(plan.messages),
                out::grouped(plan.text_bytes),
                out::grouped(plan.archived_bytes),
                out::grouped(plan.segments),
                time,
            ]
        })
        .collect();
    let header = [
        "SHARD",
        "CONVERSATIONS",
        "MESSAGES",
        "BYTES OF TEXT",
        "BYTES ARCHIVED",
        "OBJECTS",
        "TIME",
    ];
    Ok(out::table(header, &rows)?)
}

fn show(
    run: &[ShardOutcome<RunFigures>],
    erase: &[ShardOutcome<EraseFigures>],
) -> anyhow::Result<()> {
    let mut sum = RunFigures::default();
    let mut rows = Vec::new();
    for ShardOutcome { shard, figures, .. } in run {
        rows.push(row(shard.to_string(), figures));
        sum.conversations += figures.conversations;
        sum.messages += figures.messages;
        sum.bytes += figures.bytes;
        sum.segments += figures.segments;
        sum.deleted += figures.deleted;
        sum.millis += figures.millis;
    }
    if run.len() > 1 {
        rows.push(row("all".into(), &sum));
    }
    let header = [
        "SHARD",
        "CONVERSATIONS",
        "MESSAGES",
        "BYTES",
        "B/MESSAGE",
        "OBJECTS",
        "ROWS DELETED",
        "TIME",
        "MESSAGES/S",
    ];
    out::table(header, &rows)?;
    let resumed: u64 = run.iter().map(|shard| shard.figures.resumed).sum();
    if resumed > 0 {
        let objects = out::counted(resumed, "object");
        out::line(format_args!(
            "went on with {objects} of an earlier run: their rows are deleted now"
        ))?;
    }
    let count = |figure: fn(&EraseFigures) -> u64| -> u64 {
        erase.iter().map(|shard| figure(&shard.figures)).sum()
    };
    let (erased, held) = (count(|it| it.erasures), count(|it| it.held));
    if erased > 0 || held > 0 {
        out::line(format_args!(
            "erased: {}, {} written anew; waiting for a legal hold to end: {}",
            out::counted(erased, "deletion"),
            out::counted(count(|it| it.rewritten), "object"),
            out::grouped(held)
        ))?;
    }
    let undone = count(|it| it.undone);
    if undone > 0 {
        let messages = out::counted(undone, "deleted message");
        out::line(format_args!(
            "not erased, since something has brought the content back: {messages}"
        ))?;
    }
    let dropped = count(|it| it.dropped_runs);
    if dropped > 0 {
        let runs = out::counted(dropped, "stretch of messages");
        out::line(format_args!("dropped, as archive.retain says: {runs}"))?;
    }
    Ok(())
}

fn row(shard: String, figures: &RunFigures) -> [String; 9] {
    [
        shard,
        out::grouped(figures.conversations),
        out::grouped(figures.messages),
        out::grouped(figures.bytes),
        ratio(figures.bytes, figures.messages),
        out::grouped(figures.segments),
        out::grouped(figures.deleted),
        format!("{} s", ratio(figures.millis, 1000)),
        if figures.messages == 0 {
            "-".into()
        } else {
            out::grouped(figures.messages * 1000 / figures.millis.max(1))
        },
    ]
}
