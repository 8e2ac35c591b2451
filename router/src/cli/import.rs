//! `backscroll import`: another system's history, from JSON Lines into conversations.
//!
//! One thread reads, decompresses and checks lines and cuts each conversation's into batches; a handful of writers put
//! the batches into the store, each conversation always by the same writer, so that its order is the input's (INV-SEQ).
//! The queues between them are short and counted in bytes, so a fast disk waits for a slow database (INV-BOUND).
//!
//! How many messages of a conversation are stored is moved in the transaction that stores them. After a crash the same
//! command reads the input from its beginning, skips that many of each conversation, and goes on: nothing twice, nothing
//! left out. What was stored before must be what the input begins with; that is checked by its digest, not assumed.
//!
//! A file is read twice: all its lines are checked before the first is stored.
//!
//! Notifications come another way, which is [`notifications`].
//!
//! Exports of other systems are read by [`mod@format`], and come to the same writers by [`foreign`].
//!
//! What `export --all` wrote is recognised by its first line, and imported by [`deployment`].

mod deployment;
mod feed;
mod foreign;
mod format;
mod line;
mod members;
mod notifications;
mod order;
mod patience;
mod people;
mod recognise;
mod source;
mod table;
mod understood;
mod unpacked;
mod writer;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use anyhow::Context as _;
use backscroll_shard::ids::UserId;
use backscroll_shard::model::ConversationKind;
use backscroll_shard::tasks::Supervisor;
use clap::ValueEnum;
use jiff::tz::TimeZone;
use serde::Serialize;
use tokio::sync::mpsc::Receiver;

use crate::boot;
use crate::config::Config;

use super::progress::{Progress, Tally};
use super::{BadInput, out};
use feed::{Batch, Feed, Rejected};
use format::{DateOrder, Format};
use line::LineReader;
use members::Members;
use source::Source;
use table::Columns;
use writer::Imported;

/// How many conversations, and how many bad lines, are named in what is printed for people.
const NAMED: usize = 20;

/// Bring in the history of another system
///
/// The input is JSON Lines, plain or compressed with zstd: {"channel":"general","user":"alice","at":1507466702000,"text":"hello"}, in the
/// order of each conversation; `at` is in milliseconds since 1970. What `backscroll export` writes is accepted, too:
/// replyTo, reactions, attachments, metadata, type, editedAt, deletedAt; and `status` (sent, delivered, read), up to which the
/// others have read.
///
/// Times and order are kept. If it is interrupted, run the same command again: it goes on where it stopped, and nothing is
/// stored twice. Every line of a file is checked before the first is stored; standard input is checked as it comes, and
/// what precedes a bad line is kept.
///
/// What `backscroll export --all` wrote is recognised, and comes in with everything that it has, under the same ids, into
/// a deployment of any kind of database; an export with --since adds to that. Conversations that people have changed here
/// meanwhile are left alone, and named.
#[derive(Debug, clap::Args)]
#[command(after_long_help = MOVING_A_TABLE, after_help = "Example:\n  backscroll import history.jsonl.zst")]
pub(super) struct Args {
    /// The file, or - for standard input; with --format also a folder
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// The input is the export of another system
    ///
    /// People keep the ids that the export has for them (see --people), and who is named there is a member without having
    /// written. Direct messages become direct conversations. Messages are put in the order of time; for that, a conversation, or
    /// a file that has several, is held in memory, and may have 1 GiB.
    #[arg(long, value_name = "SYSTEM", value_enum, conflicts_with_all = ["owner", "members", "columns"])]
    format: Option<Format>,
    /// The input is what another system has told its users apart from messages, in the order of time
    ///
    /// As JSON Lines: {"user":"bob","at":1551441600000,"type":"offer","title":"A new offer"}, and if wanted body, priority, actionUrl,
    /// metadata, and read (true or false, 1 or 0). Of each user the newest are kept (limits.notifications). What is older than a
    /// user's newest notification is left out: import before the new system sends any.
    #[arg(long, conflicts_with_all = ["format", "owner", "members", "columns", "kind", "time_zone", "skip_bad", "dry_run"])]
    notifications: bool,
    /// Show what would be imported, and what would be left out and why; write nothing
    #[arg(long)]
    dry_run: bool,
    /// What becomes a conversation
    #[arg(long, value_name = "WHAT", value_enum, default_value_t = ConversationPer::Channel)]
    conversation_per: ConversationPer,
    /// What each channel of the input becomes
    ///
    /// A direct conversation is the one that its two people find when they write to each other; each line names the other
    /// person in `to`, and needs no channel.
    ///
    /// By default a channel. With --format only of whatsapp, whose export does not say it: by default a group.
    #[arg(long = "as", value_name = "KIND", value_enum)]
    kind: Option<As>,
    /// Who owns the conversations, and so where they are stored; by default the first in each who wrote by themselves, not
    /// a message of the type `system`
    #[arg(long, value_name = "USER")]
    owner: Option<UserId>,
    /// Members who may never have written, as JSON Lines: {"channel":"general","user":"carol","role":"admin"}; a role is
    /// `member`, `admin` or `owner`
    #[arg(long, value_name = "FILE")]
    members: Option<PathBuf>,
    /// The input is a table with a header, CSV or as `mysql --batch` writes it: which column is which field
    ///
    /// Fields are channel, user, to, at, text and status; `is_read` columns of 0 and 1 are a status. Times are in milliseconds
    /// since 1970 or as MySQL writes them.
    #[arg(long, value_name = "FIELD=COLUMN,…")]
    columns: Option<Columns>,
    /// The zone of times of a table, or of an export, that name none, as UTC or Europe/Berlin
    #[arg(long, value_name = "ZONE", value_parser = zone)]
    time_zone: Option<TimeZone>,
    /// In which order the dates of a whatsapp export have their parts, where the dates themselves do not show it
    #[arg(long, value_name = "ORDER", value_enum, requires = "format")]
    date_order: Option<DateOrder>,
    /// The name of the conversation of a whatsapp export; by default from the name of the file
    #[arg(long, value_name = "NAME", requires = "format")]
    channel: Option<String>,
    /// Which users the people of the export are, as JSON Lines: {"from":"U024BE7LH","user":"alice"}
    #[arg(long, value_name = "FILE", requires = "format")]
    people: Option<PathBuf>,
    /// Leave out bad lines and say at the end which; without it, a bad line ends the import
    #[arg(long)]
    skip_bad: bool,
    /// Print the outcome as JSON
    #[arg(long)]
    json: bool,
}

const MOVING_A_TABLE: &str = r#"Examples:
  backscroll import history.jsonl.zst
  zcat history.jsonl.gz | backscroll import - --owner archive

Moving an old `messages` table with rooms out of MySQL or MariaDB, without a file in between:

  mysql --batch --raw --skip-column-names --quick --default-character-set=utf8mb4 -e "
    SET time_zone = '+00:00';
    SELECT JSON_OBJECT(
      'channel', CAST(room_id AS CHAR),
      'user',    CAST(sender_id AS CHAR),
      'at',      CAST(ROUND(UNIX_TIMESTAMP(created_at) * 1000) AS UNSIGNED),
      'text',    body)
    FROM messages ORDER BY room_id, created_at, id" olddb | backscroll import -

A table of two people in each row, which becomes their direct conversations:

  mysql --batch --raw --skip-column-names --quick --default-character-set=utf8mb4 -e "
    SET time_zone = '+00:00';
    SELECT JSON_OBJECT(
      'user',   CAST(sender_id AS CHAR),
      'to',     CAST(receiver_id AS CHAR),
      'at',     CAST(ROUND(UNIX_TIMESTAMP(created_at) * 1000) AS UNSIGNED),
      'text',   body,
      'status', IF(is_read, 'read', 'sent'))
    FROM messages ORDER BY created_at, id" olddb | backscroll import - --as direct

The same from a dump of the table, or of another database, with a header:

  mysql --batch -e "SELECT * FROM messages ORDER BY created_at, id" olddb > messages.tsv
  backscroll import messages.tsv --as direct --time-zone UTC \
    --columns user=sender_id,to=receiver_id,at=created_at,text=body,status=is_read

An old `notifications` table:

  mysql --batch --raw --skip-column-names --quick --default-character-set=utf8mb4 -e "
    SET time_zone = '+00:00';
    SELECT JSON_OBJECT(
      'user',  CAST(user_id AS CHAR),
      'at',    CAST(ROUND(UNIX_TIMESTAMP(created_at) * 1000) AS UNSIGNED),
      'type',  type,
      'title', title,
      'body',  COALESCE(message, ''),
      'read',  is_read)
    FROM notifications ORDER BY created_at, id" olddb | backscroll import - --notifications

--raw and JSON_OBJECT belong together: JSON has escaped line ends already. --quick streams instead of holding the result in memory. SET time_zone says what a DATETIME column is in; leave it out for a TIMESTAMP column. Ties in created_at are broken by id, so that a second run gives the same order, which resuming relies on."#;

#[derive(Clone, Copy, Debug, ValueEnum)]
enum ConversationPer {
    /// Each value of `channel`
    Channel,
}

fn zone(name: &str) -> Result<TimeZone, String> {
    TimeZone::get(name).map_err(|_| "write UTC or a name of the IANA list, as Europe/Berlin".into())
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum As {
    /// A conversation of two people, without a title
    Direct,
    /// A group; `limits.group_members` holds
    Group,
    /// A channel
    Channel,
}

impl From<As> for ConversationKind {
    fn from(kind: As) -> Self {
        match kind {
            As::Direct => Self::Direct,
            As::Group => Self::Group,
            As::Channel => Self::Channel,
        }
    }
}

/// The outcome, as `--json` prints it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Summary {
    /// Messages stored by this run.
    messages: u64,
    /// Messages that an earlier run had stored.
    already_stored: u64,
    seconds: f64,
    messages_per_second: u64,
    #[serde(skip_serializing_if = "is_zero")]
    bad_lines: u64,
    /// By title.
    conversations: Vec<Imported>,
}

pub(super) async fn run(config: Config, args: Args) -> anyhow::Result<()> {
    super::log_for_people(&config)?;
    if args.time_zone.is_some() && args.columns.is_none() && args.format.is_none() {
        return Err(BadInput("--time-zone is for --columns and --format".into()).into());
    }
    if let Some(format) = args.format {
        return foreign::run(config, args, format).await;
    }
    if args.notifications {
        return notifications::run(config, &args).await;
    }
    let file = args.file.clone();
    let open = move || -> anyhow::Result<_> {
        let mut source = Source::open(&file)?;
        let is_deployment = source.begins_with(deployment::BEGINNING)?;
        Ok((source, is_deployment))
    };
    let (source, is_deployment) = tokio::task::spawn_blocking(open).await??;
    if is_deployment {
        return deployment::run(config, &args, source).await;
    }
    let ConversationPer::Channel = args.conversation_per;
    let kind = ConversationKind::from(args.kind.unwrap_or(As::Channel));
    if kind == ConversationKind::Direct && args.owner.is_some() {
        return Err(
            BadInput("a direct conversation has no owner: leave out --owner".into()).into(),
        );
    }
    let members = match args.members.clone() {
        None => Members::default(),
        Some(path) => {
            let keys = config.store.keyspace.function;
            tokio::task::spawn_blocking(move || Members::read(&path, keys)).await??
        }
    };
    let columns = args
        .columns
        .clone()
        .map(|columns| (columns, args.time_zone.clone()));
    let rules = line::Rules::new(&config.store, args.owner.as_ref(), (kind, members), columns)?;
    let rules = Arc::new(rules);
    if args.dry_run {
        return understood::dry_run(&args, source, rules).await;
    }
    let total = check_file(&args, &rules).await?;

    let deployment = boot::open(&config, &Supervisor::default()).await?;
    let (feed, queues) = Feed::new(args.owner.clone(), rules.clone(), args.skip_bad);
    let read = move || feed.run(&mut LineReader::new(source, rules));
    let outcome = import(&deployment.store, &args, (read, queues), total).await;
    boot::close(&deployment).await;
    report(&args, outcome?)
}

/// Refuses an input with bad lines, unless they are left out.
fn refuse_bad(args: &Args, (rejected, good): (&Rejected, u64), lines: &str) -> anyhow::Result<()> {
    if rejected.count == 0 || args.skip_bad {
        return Ok(());
    }
    let (bad, all) = (
        out::grouped(rejected.count),
        out::grouped(rejected.count + good),
    );
    Err(BadInput(format!(
        "{bad} of {all} {lines} of {} cannot be imported; nothing was stored:\n{rejected}\nMend them, or leave them out with --skip-bad.",
        args.file.display()
    ))
    .into())
}

/// Reads the whole of a file and stores nothing: how many messages it has, `None` for standard input.
async fn check_file(args: &Args, rules: &Arc<line::Rules>) -> anyhow::Result<Option<u64>> {
    if !source::can_be_read_twice(&args.file) {
        return Ok(None);
    }
    let tally = Arc::new(Tally::default());
    let progress = Progress::start("checking", "lines", tally.clone(), None);
    let (file, rules) = (args.file.clone(), rules.clone());
    let check = tokio::task::spawn_blocking(move || -> anyhow::Result<_> {
        let mut lines = LineReader::new(Source::open(&file)?, rules);
        let mut rejected = Rejected::default();
        let mut good = 0;
        while let Some(line) = lines.next()? {
            match line.record {
                Ok(_) => good += 1,
                Err(what) => rejected.add(line.number, &what),
            }
            tally.add_done(1);
        }
        lines.check_order()?;
        Ok((good, rejected))
    });
    let (good, rejected) = progress.until(async { check.await? }).await?;
    if rejected.count + good == 0 {
        return Err(empty(args));
    }
    refuse_bad(args, (&rejected, good), "lines")?;
    Ok(Some(good))
}

/// Nothing came: what should have written the input has failed, most likely.
fn empty(args: &Args) -> anyhow::Error {
    let file = args.file.display();
    BadInput(format!(
        "{file}: the input is empty; look whether what was to write it has failed"
    ))
    .into()
}

/// Everything that one run has to say.
struct Outcome {
    summary: Summary,
    rejected: Rejected,
}

async fn import(
    store: &writer::StoreRef,
    args: &Args,
    (read, queues): (
        impl FnOnce() -> anyhow::Result<Rejected> + Send + 'static,
        Vec<Receiver<Batch>>,
    ),
    total: Option<u64>,
) -> anyhow::Result<Outcome> {
    let started = Instant::now();
    let tally = Arc::new(Tally::default());
    let progress = Progress::start("importing", "messages", tally.clone(), total);
    let stdin_name = args.file.display().to_string();
    let read = tokio::task::spawn_blocking(read);
    let read = async { read.await.context("the reader failed")? };
    let write = writer::write_all(store, queues, &tally);
    let (rejected, conversations) = progress
        .until(async { futures_util::future::try_join(read, write).await })
        .await?;
    if let Some(stopped_at) = rejected.stopped_at.filter(|_| !args.skip_bad) {
        return Err(BadInput(format!(
            "{stdin_name}: cannot be imported:\n{rejected}\nThe lines before line {stopped_at} are stored. Mend it and import the whole again: what is stored is skipped."
        ))
        .into());
    }
    if rejected.count + tally.done() == 0 {
        return Err(empty(args));
    }
    let seconds = started.elapsed().as_secs_f64();
    let messages = tally.stored();
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a rate for people"
    )]
    let messages_per_second = (messages as f64 / seconds.max(0.001)).round() as u64;
    let summary = Summary {
        messages,
        already_stored: tally.done() - messages,
        seconds: (seconds * 1000.0).round() / 1000.0,
        messages_per_second,
        bad_lines: rejected.count,
        conversations,
    };
    Ok(Outcome { summary, rejected })
}

fn report(args: &Args, outcome: Outcome) -> anyhow::Result<()> {
    let Outcome { summary, rejected } = outcome;
    if rejected.count > 0 {
        let bad = out::counted(rejected.count, "bad line");
        out::note(format_args!("left out {bad}:\n{rejected}"));
    }
    if args.json {
        return out::json(&summary);
    }
    let conversations = summary.conversations.len();
    out::line(format_args!(
        "{} in {}, {:.1} s, {} messages/s",
        out::counted(summary.messages, "message"),
        out::counted(conversations as u64, "conversation"),
        summary.seconds,
        out::grouped(summary.messages_per_second)
    ))?;
    if summary.already_stored > 0 {
        let already = out::counted(summary.already_stored, "message");
        out::line(format_args!("{already} stored already"))?;
    }
    for Imported {
        id,
        title,
        messages,
    } in summary.conversations.iter().take(NAMED)
    {
        let messages = out::counted(*messages, "message");
        let title = out::inline(title);
        out::line(format_args!("  {id}  {title} ({messages})"))?;
    }
    if conversations > NAMED {
        out::line(format_args!(
            "  … and {} more; --json lists all",
            conversations - NAMED
        ))?;
    }
    Ok(())
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn is_zero(count: &u64) -> bool {
    *count == 0
}
