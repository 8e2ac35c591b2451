//! `backscroll rebalance status --watch`: a live picture of the ranges and of the moves, until nothing moves.
//!
//! On a terminal it is drawn anew every second; elsewhere a line is written whenever there is news of a move.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

use backscroll_shard::map::ShardMap;
use backscroll_shard::moves::{Move, MoveId, MoveState, Mover, Reason};

use super::out;

/// How often it is drawn.
const EVERY: Duration = Duration::from_secs(1);
/// How wide the pictures are, in characters.
const MAP: usize = 64;
const BAR: usize = 24;
/// How much of the last second's rate counts, against those before.
const NEWEST: f64 = 0.3;

/// What is known of a move that is watched.
#[derive(Debug, Default)]
struct Track {
    last: Option<(Instant, u64)>,
    /// Rows a second, lately.
    rate: f64,
    told: String,
}

/// A move at a moment.
struct Seen {
    job: Move,
    reason: Reason,
    rows: u64,
}

pub(super) async fn watch(mover: &Mover) -> anyhow::Result<()> {
    let mut tracks: BTreeMap<MoveId, Track> = BTreeMap::new();
    let is_terminal = std::io::stdout().is_terminal();
    let mut drawn = 0;
    loop {
        let map = mover.current_map().await?;
        let seen = look(mover).await?;
        for it in &seen {
            tracks.entry(it.job.id).or_default().count(it);
        }
        if is_terminal {
            drawn = draw(&picture(&map, &seen, &tracks), drawn)?;
        } else {
            for it in &seen {
                tell(it, tracks.entry(it.job.id).or_default())?;
            }
        }
        if !seen.iter().any(|it| is_under_way(&it.job)) {
            return Ok(out::line("no range is being moved")?);
        }
        tokio::time::sleep(EVERY).await;
    }
}

/// Whether more is to be done now than to keep rows for a while.
fn is_under_way(job: &Move) -> bool {
    let is_kept = job.keep_until.is_some_and(|until| until > job.now);
    !(job.state == MoveState::Draining && is_kept)
}

async fn look(mover: &Mover) -> anyhow::Result<Vec<Seen>> {
    let mut seen = Vec::new();
    for job in mover.unfinished().await? {
        seen.push(Seen {
            reason: mover.explain(&job).await?,
            rows: mover.copied(&job).await?.0,
            job,
        });
    }
    Ok(seen)
}

impl Track {
    /// Takes the rows of another moment into the rate.
    #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
    fn count(&mut self, seen: &Seen) {
        let now = Instant::now();
        if let Some((at, rows)) = self.last {
            let passed = (now - at).as_secs_f64().max(0.001);
            let rate = seen.rows.saturating_sub(rows) as f64 / passed;
            self.rate = if self.rate > 0.0 {
                NEWEST * rate + (1.0 - NEWEST) * self.rate
            } else {
                rate
            };
        }
        self.last = Some((now, seen.rows));
    }

    /// How fast, and how long still, while rows are copied.
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "figures for people"
    )]
    fn pace(&self, seen: &Seen) -> String {
        if seen.job.state != MoveState::Copying || self.rate < 1.0 {
            return String::new();
        }
        let mut words = format!(", {} rows/s", out::grouped(self.rate as u64));
        if let Some(of) = seen.job.expected_rows {
            let left = of.saturating_sub(seen.rows) as f64 / self.rate;
            write!(words, ", {} left", out::span(left as u64)).unwrap_or_default();
        }
        words
    }
}

/// A line about a move, if there is news.
fn tell(seen: &Seen, track: &mut Track) -> anyhow::Result<()> {
    let words = format!("{}{}", seen.reason, track.pace(seen));
    if words != track.told {
        out::line(format_args!("{} {words}", title(&seen.job)))?;
        track.told = words;
    }
    Ok(())
}

fn title(job: &Move) -> String {
    format!("{} {} {} > {}:", job.id, job.range, job.source, job.target)
}

/// Writes the picture over the last one, which had so many lines; says how many this one has.
fn draw(picture: &str, lines: usize) -> anyhow::Result<usize> {
    let mut stdout = out::stdout();
    if lines > 0 {
        write!(stdout, "\x1b[{lines}F\x1b[J")?;
    }
    write!(stdout, "{picture}")?;
    stdout.flush()?;
    Ok(picture.lines().count())
}

/// A line for each shard with its ranges, and two for each move.
fn picture(map: &ShardMap, seen: &[Seen], tracks: &BTreeMap<MoveId, Track>) -> String {
    let mut shards: Vec<&str> = map
        .assignments()
        .iter()
        .map(|it| it.shard.as_str())
        .collect();
    shards.extend(seen.iter().map(|it| it.job.target.as_str()));
    shards.sort_unstable();
    shards.dedup();
    let widest = shards.iter().map(|it| it.len()).max().unwrap_or_default();
    let moves: Vec<&Move> = seen
        .iter()
        .map(|it| &it.job)
        .filter(|it| is_under_way(it))
        .collect();
    let mut text = String::new();
    for shard in shards {
        text += &format!("{shard:widest$}  {}\n", ranges(map, &moves, shard));
    }
    text += "█ serves   ▓ being moved away   ░ arriving; each range has the same width\n";
    for it in seen {
        let pace = tracks.get(&it.job.id).map(|track| track.pace(it));
        let bar = bar(it.rows, it.job.expected_rows, it.job.state);
        text += &format!(
            "{}\n  {bar} {}{}\n",
            title(&it.job),
            it.reason,
            pace.unwrap_or_default()
        );
    }
    text
}

/// Which of the ranges a shard serves, and which move away from it or to it.
fn ranges(map: &ShardMap, moves: &[&Move], shard: &str) -> String {
    let all = map.assignments();
    let cell = |column: usize| {
        let range = &all[column * all.len() / MAP.max(all.len())];
        let moving = moves.iter().find(|it| it.range.overlaps(&range.range));
        match moving {
            Some(it) if it.target.as_str() == shard && range.shard.as_str() != shard => '░',
            Some(it) if it.source.as_str() == shard && range.shard.as_str() == shard => '▓',
            _ if range.shard.as_str() == shard => '█',
            _ => '·',
        }
    };
    (0..MAP.max(all.len())).map(cell).collect()
}

/// `[#######.......]  50 %`
fn bar(rows: u64, of: Option<u64>, state: MoveState) -> String {
    let percent = match (state, of) {
        (MoveState::Copying, Some(of)) if of > 0 => (rows.saturating_mul(100) / of).min(99),
        (MoveState::Copying, _) => 0,
        _ => 100,
    };
    let done = BAR * usize::try_from(percent).unwrap_or_default() / 100;
    format!(
        "[{}{}] {percent:3} %",
        "#".repeat(done),
        ".".repeat(BAR - done)
    )
}

#[cfg(test)]
mod tests {
    use backscroll_shard::ids::{Epoch, ShardName};
    use backscroll_shard::map::Assignment;
    use backscroll_shard::range::KeyRange;

    use super::*;

    #[test]
    fn a_bar_is_full_only_when_all_is_copied() {
        assert_eq!(
            bar(50, Some(100), MoveState::Copying),
            format!("[{}{}]  50 %", "#".repeat(12), ".".repeat(12))
        );
        assert!(bar(200, Some(100), MoveState::Copying).ends_with(" 99 %"));
        assert!(bar(5, None, MoveState::Copying).ends_with("  0 %"));
        assert!(bar(5, None, MoveState::CatchingUp).ends_with("100 %"));
    }

    #[test]
    fn every_range_has_its_place() {
        let assignment = |(at, shard): (u64, &&str)| Assignment {
            range: KeyRange::new(at, (at < 3).then_some(at + 1)).unwrap(),
            shard: ShardName::new(*shard).unwrap(),
            epoch: Epoch(1),
        };
        let owners = ["a", "b", "a", "b"];
        let map = ShardMap::new((0..).zip(&owners).map(assignment).collect()).unwrap();
        let (full, none) = ("█".repeat(16), "·".repeat(16));
        assert_eq!(
            ranges(&map, &[], "a"),
            [&full[..], &none, &full, &none].concat()
        );
        assert_eq!(
            ranges(&map, &[], "b"),
            [&none[..], &full, &none, &full].concat()
        );
    }
}
