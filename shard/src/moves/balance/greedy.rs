//! The choice of moves: greedy, so that every step improves the balance by itself.
//!
//! Loads are fractions of all load. A step takes from the fullest shard that it can improve and gives to the emptiest one: a whole
//! range, or the beginning or the end of one, so that a range is cut into two pieces at most by one step. With a gap of `g`
//! between the two shards, moving a load of `l` lowers the fuller one's by `min(l, g - l)`: that is the step's gain, and steps that
//! gain less than a minimum are not taken. As far as it can, a step stops where one of the two shards has the mean load. What was moved is not moved again, so a plan ends.

use std::collections::BTreeMap;

use crate::ids::ShardName;
use crate::range::KeyRange;

/// A whole range is preferred to a part of one that gains up to this much more: each cut makes the map longer.
const WHOLE: f64 = 1.25;

/// A range, in small parts in the order of their keys, each with its load.
#[derive(Clone, Debug)]
pub(super) struct Holding {
    pub(super) shard: ShardName,
    pub(super) parts: Vec<(KeyRange, f64)>,
    pub(super) is_movable: bool,
}

/// What a plan may do.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// The least gain of a step, of the mean load.
    pub(super) min_gain: f64,
    /// Most steps.
    pub(super) steps: usize,
}

/// A move.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Step {
    pub(super) range: KeyRange,
    pub(super) source: ShardName,
    pub(super) target: ShardName,
    /// Of the mean load.
    pub(super) gain: f64,
}

/// The moves, and what they lead to. Loads are multiples of the mean load.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Chosen {
    pub(super) steps: Vec<Step>,
    pub(super) before: BTreeMap<ShardName, f64>,
    pub(super) after: BTreeMap<ShardName, f64>,
    /// Single keys that are too much for the shards to be level: the shard, the key, and its share of what the shard carries.
    pub(super) indivisible: Vec<(ShardName, u64, f64)>,
}

/// Part of a holding that is moved.
struct Cut {
    holding: usize,
    /// From and to which of its parts.
    parts: (usize, usize),
    load: f64,
    gain: f64,
}

/// Chooses moves between `shards`, each with whether it may get keys.
pub(super) fn choose(
    shards: &BTreeMap<ShardName, bool>,
    mut holdings: Vec<Holding>,
    limits: &Limits,
) -> Chosen {
    let total: f64 = holdings
        .iter()
        .flat_map(|it| &it.parts)
        .map(|part| part.1)
        .sum();
    let mut loads: BTreeMap<ShardName, f64> = shards.keys().map(|it| (it.clone(), 0.0)).collect();
    if total <= 0.0 || shards.len() < 2 {
        return Chosen {
            before: loads.clone(),
            after: loads,
            ..Chosen::default()
        };
    }
    #[expect(clippy::cast_precision_loss, reason = "a handful of shards")]
    let mean = total / shards.len() as f64;
    for holding in &mut holdings {
        holding.parts.iter_mut().for_each(|part| part.1 /= mean);
        let load: f64 = holding.parts.iter().map(|part| part.1).sum();
        *loads.entry(holding.shard.clone()).or_default() += load;
    }
    let mut chosen = Chosen {
        before: loads.clone(),
        ..Chosen::default()
    };
    while chosen.steps.len() < limits.steps {
        let Some((target, cut)) = next(shards, &holdings, &loads, limits) else {
            break;
        };
        let step = take(&mut holdings, &cut, target);
        *loads.entry(step.source.clone()).or_default() -= cut.load;
        *loads.entry(step.target.clone()).or_default() += cut.load;
        chosen.steps.push(step);
    }
    chosen.indivisible = indivisible(&holdings, &loads, limits);
    chosen.after = loads;
    chosen
}

/// The best step from the fullest shard that has one.
fn next(
    shards: &BTreeMap<ShardName, bool>,
    holdings: &[Holding],
    loads: &BTreeMap<ShardName, f64>,
    limits: &Limits,
) -> Option<(ShardName, Cut)> {
    let mut by_load: Vec<(&ShardName, f64)> = loads.iter().map(|(it, load)| (it, *load)).collect();
    by_load.sort_by(|one, other| one.1.total_cmp(&other.1));
    let emptiest = by_load
        .iter()
        .find(|(shard, _)| shards.get(*shard) == Some(&true))?;
    for (source, load) in by_load.iter().rev() {
        let gap = load - emptiest.1;
        if gap <= limits.min_gain || source == &emptiest.0 {
            return None;
        }
        let cut = best(holdings, source, gap, wanted(*load, emptiest.1));
        if let Some(cut) = cut.filter(|cut| cut.gain >= limits.min_gain.max(f64::EPSILON)) {
            return Some((emptiest.0.clone(), cut));
        }
    }
    None
}

/// How much to move at best: as much as takes the one shard down, or the other one up, to the mean, whichever is less. So nothing is
/// moved to a shard only to be moved on. Where one of them is past the mean already, half of the gap.
fn wanted(source: f64, target: f64) -> f64 {
    match (source - 1.0, 1.0 - target) {
        (above, below) if above > 0.0 && below > 0.0 => above.min(below),
        _ => (source - target) / 2.0,
    }
}

/// Of all that `source` may give, what is closest to `wanted`.
fn best(holdings: &[Holding], source: &ShardName, gap: f64, wanted: f64) -> Option<Cut> {
    let mut found: Option<(f64, Cut)> = None;
    let movable = holdings
        .iter()
        .enumerate()
        .filter(|(_, it)| it.is_movable && it.shard == *source);
    for (holding, it) in movable {
        let count = it.parts.len();
        let mut sum = 0.0;
        let whole: f64 = it.parts.iter().map(|part| part.1).sum();
        for upto in 1..=count {
            sum += it.parts[upto - 1].1;
            let is_whole = upto == count;
            let pieces = [((0, upto), sum), ((upto, count), whole - sum)];
            for (parts, load) in pieces.into_iter().take(if is_whole { 1 } else { 2 }) {
                let gain = load.min(gap - load);
                let nearness = load.min(2.0 * wanted - load);
                let value = if is_whole { nearness * WHOLE } else { nearness };
                if nearness > 0.0 && found.as_ref().is_none_or(|(best, _)| value > *best) {
                    let cut = Cut {
                        holding,
                        parts,
                        load,
                        gain,
                    };
                    found = Some((value, cut));
                }
            }
        }
    }
    found.map(|(_, cut)| cut)
}

/// Takes the parts out of their holding: what was moved is not moved again.
fn take(holdings: &mut [Holding], cut: &Cut, target: ShardName) -> Step {
    let holding = &mut holdings[cut.holding];
    let (first, end) = cut.parts;
    let taken: Vec<(KeyRange, f64)> = holding.parts.drain(first..end).collect();
    let range = KeyRange {
        start: taken.first().map_or(0, |part| part.0.start),
        end: taken.last().and_then(|part| part.0.end),
    };
    Step {
        range,
        source: holding.shard.clone(),
        target,
        gain: cut.gain,
    }
}

/// Keys that alone are so much that their shard stays fuller than the mean.
fn indivisible(
    holdings: &[Holding],
    loads: &BTreeMap<ShardName, f64>,
    limits: &Limits,
) -> Vec<(ShardName, u64, f64)> {
    let mut found = Vec::new();
    for holding in holdings {
        let load = loads.get(&holding.shard).copied().unwrap_or_default();
        if load - 1.0 <= limits.min_gain {
            continue;
        }
        let keys = holding.parts.iter();
        let large = keys.filter(|part| part.0.width() == 1 && part.1 > load - 1.0);
        found.extend(large.map(|part| (holding.shard.clone(), part.0.start, part.1 / load)));
    }
    found
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn shard(number: usize) -> ShardName {
        ShardName::new(format!("s{number}")).unwrap()
    }

    fn holding(owner: usize, first: u64, loads: &[f64]) -> Holding {
        let part = |(at, load): (u64, &f64)| (KeyRange::new(at, Some(at + 1)).unwrap(), *load);
        Holding {
            shard: shard(owner),
            parts: (first..).zip(loads).map(part).collect(),
            is_movable: true,
        }
    }

    fn shards(count: usize) -> BTreeMap<ShardName, bool> {
        (0..count).map(|it| (shard(it), true)).collect()
    }

    const LIMITS: Limits = Limits {
        min_gain: 0.05,
        steps: 20,
    };

    #[test]
    fn a_new_shard_gets_its_part() {
        let holdings = (0..3)
            .map(|it| holding(it, 100 * it as u64, &[1.0; 32]))
            .collect();
        let chosen = choose(&shards(4), holdings, &LIMITS);
        assert!(
            chosen.steps.iter().all(|it| it.target == shard(3)),
            "{chosen:?}"
        );
        for load in chosen.after.values() {
            assert!((load - 1.0).abs() < 0.1, "{chosen:?}");
        }
        assert_eq!(chosen.steps.len(), 3, "{chosen:?}");
        assert!(chosen.indivisible.is_empty(), "{chosen:?}");
    }

    #[test]
    fn whole_ranges_are_preferred_to_cuts() {
        let holdings = vec![holding(0, 0, &[1.0; 4]), holding(0, 100, &[1.0; 5])];
        let chosen = choose(&shards(2), holdings, &LIMITS);
        let ranges: Vec<_> = chosen.steps.iter().map(|it| it.range).collect();
        assert_eq!(ranges, [KeyRange::new(0, Some(4)).unwrap()]);
    }

    #[test]
    fn one_huge_key_is_named() {
        let chosen = choose(
            &shards(2),
            vec![holding(0, 7, &[0.01, 98.0, 0.01])],
            &LIMITS,
        );
        assert_eq!(chosen.steps, [], "moving it would only move the problem");
        let [(name, key, share)] = &chosen.indivisible[..] else {
            panic!("{chosen:?}")
        };
        assert_eq!((name, *key), (&shard(0), 8));
        assert!(*share > 0.99);
    }

    proptest! {
        #[test]
        fn every_step_improves_the_balance(
            sizes in prop::collection::vec((0usize..4, prop::collection::vec(0.0f64..10.0, 1..12), any::<bool>()), 1..8),
            well in prop::collection::vec(any::<bool>(), 4),
        ) {
            let mut holdings = Vec::new();
            for (number, (owner, loads, is_movable)) in sizes.iter().enumerate() {
                let mut it = holding(*owner, 100 * number as u64, loads);
                it.is_movable = *is_movable;
                holdings.push(it);
            }
            let names: BTreeMap<ShardName, bool> = well.iter().enumerate().map(|(it, well)| (shard(it), *well)).collect();
            let chosen = choose(&names, holdings.clone(), &LIMITS);
            let mut loads = chosen.before.clone();
            let mean = holdings.iter().flat_map(|it| &it.parts).map(|it| it.1).sum::<f64>() / 4.0;
            let mut moved: Vec<KeyRange> = Vec::new();
            for step in &chosen.steps {
                prop_assert!(names[&step.target], "never to a shard that is not well");
                prop_assert!(moved.iter().all(|it| !it.overlaps(&step.range)), "nothing is moved twice");
                moved.push(step.range);
                let from = holdings.iter().find(|it| it.parts.iter().any(|part| step.range.covers(&part.0))).unwrap();
                prop_assert!(from.is_movable && from.shard == step.source);
                let load: f64 = from.parts.iter().filter(|part| step.range.covers(&part.0)).map(|part| part.1 / mean).sum();
                let (source, target) = (loads[&step.source], loads[&step.target]);
                let fuller = (source - load).max(target + load);
                prop_assert!(source - fuller > LIMITS.min_gain - 1e-9, "{step:?}: {source} to {fuller}");
                prop_assert!((source - fuller - step.gain).abs() < 1e-9);
                *loads.get_mut(&step.source).unwrap() -= load;
                *loads.get_mut(&step.target).unwrap() += load;
            }
            for (name, load) in &loads {
                prop_assert!((load - chosen.after[name]).abs() < 1e-9);
            }
        }
    }
}
