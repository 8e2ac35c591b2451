//! `backscroll rebalance plan`: which ranges to move so that the shards carry about the same.
//!
//! A plan changes nothing, and nothing is kept of it: it follows from what the shards hold now ([`weight`]), what was moved lately,
//! and which shards are well. The steps themselves are chosen by [`greedy`]; this module asks for what they are chosen from, and
//! says how long they will take ([`Forecast`]), by what the latest moves took.

mod greedy;
mod merge;
mod split;
mod weight;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde::Serialize;

use self::greedy::{Holding, Limits};
use self::weight::{Part, Weighed};
use super::job::{self, MoveState};
use super::mover::Mover;
use super::shard_of;
use super::{brakes, figures};
use crate::directory;
use crate::error::Result;
use crate::ids::ShardName;
use crate::map::{Assignment, ShardMap};
use crate::range::KeyRange;

pub use self::merge::Merged;
pub use self::weight::Weight;
pub(super) use self::weight::weigh;

/// How long weighing one range may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long a replica may take to answer.
const LOOK: Duration = Duration::from_secs(2);
/// What is assumed of the speed and the freeze of a move where none was measured yet.
const ASSUMED: Forecast = Forecast {
    rows_per_second: 5_000,
    freeze_ms: 100,
    measured_moves: 0,
};
/// So many of the latest moves are asked how long they took.
const MEASURED: i64 = 20;
/// Fewer writes than this within the time that they were counted say nothing about which range gets how many.
const WRITES_MIN: f64 = 100.0;

/// What a plan may do.
#[derive(Clone, Copy, Debug)]
pub struct PlanOptions {
    /// For how long writes are counted; zero leaves them out.
    pub observe: Duration,
    /// Most moves.
    pub steps: usize,
    /// Up to so many rows of a table are counted in each small part of a range; where there are more, the rest is estimated.
    pub counted: u32,
}

impl Default for PlanOptions {
    fn default() -> Self {
        Self {
            observe: Duration::from_secs(10),
            steps: 20,
            counted: 2_000,
        }
    }
}

/// How long moves will take, judged by the latest ones: medians.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Forecast {
    /// Rows a second, from the beginning of the copy to the commit.
    pub rows_per_second: u64,
    /// How long writers wait, in milliseconds.
    pub freeze_ms: u64,
    /// How many moves this was measured on; with 0 it is an assumption.
    pub measured_moves: usize,
}

/// A move that would improve the balance.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PlannedMove {
    /// The keys; part of a range of the map, or all of one.
    pub range: KeyRange,
    /// The shard that has them.
    pub source: ShardName,
    /// The shard that would get them.
    pub target: ShardName,
    /// What they hold.
    #[serde(flatten)]
    pub weight: Weight,
    /// How long the move would take, in seconds.
    pub seconds: u64,
    /// How long writers of these keys would wait at its end, in milliseconds.
    pub freeze_ms: u64,
    /// By how much the load of the fuller of the two shards falls, in percent of the mean load.
    pub gain: f64,
}

/// What a shard carries, before and after a plan.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ShardLoad {
    /// Its name.
    pub shard: ShardName,
    /// What its ranges hold.
    #[serde(flatten)]
    pub weight: Weight,
    /// In percent of the mean load of all shards.
    pub load: f64,
    /// The same when the plan is carried out.
    pub load_after: f64,
}

/// What would be done, and why not more.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Plan {
    /// The moves, in order. Each one improves the balance by itself, so a plan may be ended after any of them.
    pub steps: Vec<PlannedMove>,
    /// All shards that answered.
    pub shards: Vec<ShardLoad>,
    /// Whether every row was counted; else figures are estimates.
    pub is_counted: bool,
    /// What the times follow from.
    pub forecast: Forecast,
    /// What keeps the plan from more: shards that are not well, ranges that were moved lately, keys that cannot be split.
    pub remarks: Vec<String>,
}

/// A range with what it holds.
struct Held {
    assignment: Assignment,
    weighed: Weighed,
}

impl Mover {
    /// The moves that would bring the shards closer to carrying the same. Changes nothing; reads about 32 places of each range.
    ///
    /// # Errors
    /// When the directory is away.
    pub async fn plan(&self, options: PlanOptions) -> Result<Plan> {
        let mut remarks = Vec::new();
        let map = self.current_map().await?;
        let well = self.well_shards(&mut remarks).await?;
        let begun = Instant::now();
        let mut held = Vec::new();
        for assignment in map.assignments() {
            if well.contains_key(&assignment.shard) {
                held.push(self.held(assignment, options).await?);
            }
        }
        if options.observe > Duration::ZERO && self.settings().weight_writes > 0 {
            self.count_writes(&mut held, begun, options, &mut remarks)
                .await?;
        }
        let kept = self.unmovable(&map, &mut remarks).await?;
        let forecast = self.forecast().await?;
        Ok(self.decide((held, well, kept), options, (forecast, remarks)))
    }

    /// The shards that answer, each with whether it may get keys.
    async fn well_shards(&self, remarks: &mut Vec<String>) -> Result<BTreeMap<ShardName, bool>> {
        let busy = self.unfinished().await?;
        let mut well = BTreeMap::new();
        for (shard, _) in directory::joined(&mut self.reader().await?).await? {
            if let Err(why) = self.check_shard(&shard).await {
                remarks.push(format!("shard {shard} is left out: {why}"));
                continue;
            }
            let has = |it: &&job::Move| {
                it.state != MoveState::Draining && (it.source == shard || it.target == shard)
            };
            let why = match busy.iter().find(has) {
                Some(job) => Some(format!("move {} has it", job.id)),
                None => self
                    .unfit(&shard)
                    .await
                    .unwrap_or_else(|why| Some(why.to_string())),
            };
            if let Some(why) = &why {
                remarks.push(format!("shard {shard} gets no keys: {why}"));
            }
            well.insert(shard, why.is_none());
        }
        Ok(well)
    }

    /// Why a shard that answers should get no keys now.
    async fn unfit(&self, name: &ShardName) -> Result<Option<String>> {
        let shard = shard_of(self.router(), name)?;
        if !shard.takes_reads() || !shard.takes_writes() {
            return Ok(Some("its database refused work a moment ago".into()));
        }
        if let Some(brake) = brakes::load_of(self.settings(), shard).await? {
            return Ok(Some(brake.to_string()));
        }
        for (number, replica) in shard.replicas().enumerate() {
            if let Err(why) = replica.ping(Instant::now() + LOOK).await {
                return Ok(Some(format!("replica {number} does not answer: {why}")));
            }
        }
        Ok(None)
    }

    async fn held(&self, assignment: &Assignment, options: PlanOptions) -> Result<Held> {
        let shard = shard_of(self.router(), &assignment.shard)?;
        let mut connection = shard.reader(Instant::now() + PATIENCE).await?;
        let weighed = weigh(&mut connection, assignment.range, options.counted).await?;
        Ok(Held {
            assignment: assignment.clone(),
            weighed,
        })
    }

    /// Looks at all ranges once more: what was written to them since.
    async fn count_writes(
        &self,
        held: &mut [Held],
        begun: Instant,
        options: PlanOptions,
        remarks: &mut Vec<String>,
    ) -> Result<()> {
        tokio::time::sleep_until((begun + options.observe).into()).await;
        let mut seen = 0.0;
        for it in &mut *held {
            let shard = shard_of(self.router(), &it.assignment.shard)?;
            let mut connection = shard.reader(Instant::now() + PATIENCE).await?;
            for part in &mut it.weighed.parts {
                seen += part.count_writes(&mut connection).await?;
            }
        }
        if seen < WRITES_MIN {
            remarks.push(format!(
                "writes are left out: only {seen:.0} were seen within {:.0} s",
                begun.elapsed().as_secs_f64()
            ));
            let parts = held.iter_mut().flat_map(|it| &mut it.weighed.parts);
            parts.for_each(|part| part.weight.writes_per_second = 0.0);
        }
        Ok(())
    }

    /// Ranges that were moved within `rebalance.cool_down`, or are being moved.
    async fn unmovable(&self, map: &ShardMap, remarks: &mut Vec<String>) -> Result<Vec<KeyRange>> {
        let cool_down = self.settings().cool_down.0;
        let lately = job::under_way(&mut self.reader().await?, cool_down).await?;
        let touched = |it: &&Assignment| lately.iter().any(|range| range.overlaps(&it.range));
        let kept: Vec<KeyRange> = map
            .assignments()
            .iter()
            .filter(touched)
            .map(|it| it.range)
            .collect();
        if !kept.is_empty() {
            remarks.push(format!(
                "{} of {} ranges stay where they are: they were moved within the last {} (rebalance.cool_down), or are being moved",
                kept.len(),
                map.assignments().len(),
                self.settings().cool_down
            ));
        }
        Ok(kept)
    }

    /// How long moves take, by the latest ones.
    ///
    /// # Errors
    /// When the directory is away.
    pub async fn forecast(&self) -> Result<Forecast> {
        let measured = figures::measured(&mut self.reader().await?, MEASURED).await?;
        let median = |mut figures: Vec<u64>| {
            figures.sort_unstable();
            figures.get(figures.len() / 2).copied()
        };
        let speeds = measured.iter().filter_map(|it| it.rows_per_second);
        let freezes = measured.iter().map(|it| it.freeze_ms);
        Ok(Forecast {
            rows_per_second: median(speeds.collect()).unwrap_or(ASSUMED.rows_per_second),
            freeze_ms: median(freezes.collect()).unwrap_or(ASSUMED.freeze_ms),
            measured_moves: measured.len(),
        })
    }

    fn decide(
        &self,
        (held, well, kept): (Vec<Held>, BTreeMap<ShardName, bool>, Vec<KeyRange>),
        options: PlanOptions,
        (forecast, mut remarks): (Forecast, Vec<String>),
    ) -> Plan {
        let settings = self.settings();
        let total = held
            .iter()
            .fold(Weight::default(), |sum, it| sum.plus(&it.weighed.total()));
        let factors = (
            settings.weight_rows,
            settings.weight_bytes,
            settings.weight_writes,
        );
        let load = |part: &Part| part.weight.load(&total, factors);
        let holdings: Vec<Holding> = held
            .iter()
            .map(|it| Holding {
                shard: it.assignment.shard.clone(),
                parts: it
                    .weighed
                    .parts
                    .iter()
                    .map(|part| (part.range, load(part)))
                    .collect(),
                is_movable: !kept.contains(&it.assignment.range),
            })
            .collect();
        let limits = Limits {
            min_gain: f64::from(settings.min_gain) / 100.0,
            steps: options.steps,
        };
        let chosen = greedy::choose(&well, holdings, &limits);
        remarks.extend(chosen.indivisible.iter().map(|(shard, key, share)| {
            format!(
                "key {key} alone is {:.0} % of what shard {shard} carries; a key, which is one user with the conversations that the user owns, \
                 cannot be split",
                100.0 * share
            )
        }));
        let within = |range: &KeyRange| {
            let parts = held.iter().flat_map(|it| &it.weighed.parts);
            parts
                .filter(|part| range.covers(&part.range))
                .fold(Weight::default(), |sum, part| sum.plus(&part.weight))
        };
        let steps = chosen.steps.into_iter().map(|step| {
            let weight = within(&step.range);
            PlannedMove {
                seconds: weight.rows.div_ceil(forecast.rows_per_second.max(1)),
                freeze_ms: forecast.freeze_ms,
                gain: 100.0 * step.gain,
                range: step.range,
                source: step.source,
                target: step.target,
                weight,
            }
        });
        let of_shard = |shard: &ShardName| {
            held.iter()
                .filter(|it| it.assignment.shard == *shard)
                .fold(Weight::default(), |sum, it| sum.plus(&it.weighed.total()))
        };
        let shards = well.keys().map(|shard| ShardLoad {
            shard: shard.clone(),
            weight: of_shard(shard),
            load: 100.0 * chosen.before.get(shard).unwrap_or(&0.0),
            load_after: 100.0 * chosen.after.get(shard).unwrap_or(&0.0),
        });
        Plan {
            steps: steps.collect(),
            shards: shards.collect(),
            is_counted: held.iter().all(|it| it.weighed.is_counted()),
            forecast,
            remarks,
        }
    }
}
