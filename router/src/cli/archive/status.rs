//! `backscroll archive status`

use backscroll_archiver::jobs::ArchiveJobs;
use backscroll_archiver::jobs::status::ShardStatus;
use backscroll_shard::archive::JobRecord;
use backscroll_shard::model::Timestamp;

use super::{Scope, Why, order, out};

/// Show the archive of each shard: what is in it, what waits to be archived, collected or erased, and the last run
///
/// WAITING is the number of conversations with messages old enough, LAG how long the oldest of them has been. UNSETTLED
/// objects are archived, but their rows are not deleted yet. `gc` deletes those TO COLLECT after their grace period.
/// Below the table is who works on a shard, and until when; `backscroll lease clear` frees the lease of a job that died.
/// --json also has the latest jobs, with who started them, why, and what came of them.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  backscroll archive status
  backscroll archive status --json | jq '.[].jobs[0]'")]
pub(in crate::cli) struct Args {
    #[command(flatten)]
    pub(super) scope: Scope,
}

pub(super) async fn run(archive: &ArchiveJobs, args: Args) -> anyhow::Result<()> {
    let Scope { shard, json } = args.scope;
    let why = Why {
        reason: String::new(),
    };
    let shards = archive.status(&order(shard, why)).await?;
    if json {
        out::json(&shards)?;
    } else {
        show(&shards)?;
    }
    let away = shards.iter().filter(|shard| shard.error.is_some()).count();
    anyhow::ensure!(
        away == 0,
        "{away} of {} could not be asked",
        out::counted(shards.len() as u64, "shard")
    );
    Ok(())
}

fn show(shards: &[ShardStatus]) -> anyhow::Result<()> {
    let rows: Vec<[String; 12]> = shards.iter().map(row).collect();
    let header = [
        "SHARD",
        "OLDEST HOT",
        "WAITING",
        "LAG",
        "ARCHIVED",
        "BYTES",
        "B/MESSAGE",
        "UNSETTLED",
        "TO COLLECT",
        "ERASURES",
        "HOLDS",
        "LAST RUN",
    ];
    out::table(header, &rows)?;
    for shard in shards {
        for lease in &shard.leases {
            out::line(format_args!(
                "{} is being worked on by {}; its lease ends at {} by the clock of the shard's database, {} s from now",
                shard.shard,
                lease.holder,
                lease.expires_at,
                (lease.left_millis + 999) / 1000
            ))?;
        }
        if let Some(error) = &shard.error {
            out::note(format_args!("{}: {error}", shard.shard));
        }
    }
    Ok(())
}

fn row(status: &ShardStatus) -> [String; 12] {
    if status.error.is_some() {
        let mut row: [String; 12] = std::array::from_fn(|_| "-".into());
        row[0] = status.shard.to_string();
        row[11] = "AWAY".into();
        return row;
    }
    let last = status.jobs.iter().find(|job| job.kind == "run");
    [
        status.shard.to_string(),
        status.oldest_hot_at.map_or("-".into(), day),
        out::grouped(status.waiting_conversations),
        lag(status.lag_millis),
        out::grouped(status.archived.messages),
        out::grouped(status.archived.bytes),
        status
            .bytes_per_message
            .map_or("-".into(), |bytes| format!("{bytes:.1}")),
        out::grouped(status.unsettled.segments),
        out::grouped(status.to_collect.segments),
        out::grouped(status.open_erasures),
        out::grouped(status.holds),
        last.map_or("never".into(), told),
    ]
}

fn told(job: &JobRecord) -> String {
    let outcome = job.outcome.as_deref().unwrap_or("under way, or died");
    format!("{} {outcome}", job.started_at)
}

/// The day of a time.
fn day(time: Timestamp) -> String {
    let mut text = time.to_string();
    text.truncate("2026-01-01".len());
    text
}

/// As the largest unit that it has one of.
fn lag(millis: i64) -> String {
    let minutes = millis / 60_000;
    match minutes {
        0 => "-".into(),
        1..60 => format!("{minutes} min"),
        60..2880 => format!("{} h", minutes / 60),
        _ => format!("{} days", minutes / 1440),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lag_in_words() {
        assert_eq!(lag(59_999), "-");
        assert_eq!(lag(60_000), "1 min");
        assert_eq!(lag(3_600_000), "1 h");
        assert_eq!(lag(47 * 3_600_000), "47 h");
        assert_eq!(lag(48 * 3_600_000), "2 days");
    }
}
