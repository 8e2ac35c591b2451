//! What is explored: every pair of actors in every state, and samples of triples.

use crate::actors::{Action, Actor};
use crate::sample::Random;
use crate::schedule::Scenario;
use crate::scheduler::StreamOrder;
use crate::states;

/// Jobs on the archive.
const JOBS: [&str; 12] = [
    "run",
    "run:read-back",
    "run:deleted",
    "ahead/run",
    "resume",
    "erase",
    "erase,gc",
    "retain",
    "gc",
    "restore",
    "rebuild",
    "verify",
];

/// Calls of users. Messages 1 to 3 are old enough to be archived, message 4 is not.
const CALLS: [&str; 18] = [
    "page",
    "walk",
    "message:2",
    "message:3",
    "sync",
    "sync-pages",
    "export",
    "edit:2",
    "edit:3",
    "edit:4",
    "react:2",
    "delete:2",
    "delete:3",
    "delete:4",
    "drop",
    "send",
    "again:2",
    "again:4",
];

/// Several actions one after the other, all of which another process can meet between two of its steps. `again:9` sends
/// what was never sent: of two of them one makes the message, and the other finds it.
const SCRIPTS: [&str; 9] = [
    "edit:3,erase,gc",
    "delete:3,erase,gc",
    "restore,erase,gc",
    "drop,erase,gc",
    "edit:1,edit:2,edit:3,run,gc",
    "run,erase,gc",
    "again:2,edit:2",
    "edit:2,react:3",
    "again:9",
];

/// The pairs that every run of the tests explores: those that have lost something, and their neighbours.
const USUAL: [&str; 56] = [
    "hot run edit:2",
    "hot run edit:3",
    "hot run delete:2",
    "hot run delete:3",
    "hot run react:2 newest-first",
    "hot run edit:2,react:3",
    "hot run delete:3,erase,gc short-lease",
    "hot run page",
    "hot run sync",
    "hot run sync-pages",
    "hot run again:2",
    "hot run drop",
    "hot run run short-lease",
    "hot run gc short-lease",
    "hot run rebuild short-lease",
    "hot run:deleted run short-lease",
    "hot ahead/run edit:2",
    "hot again:9 again:9",
    "archived edit:2 page",
    "archived edit:2 react:2",
    "archived delete:2 edit:2",
    "archived edit:2 sync-pages",
    "archived again:2 edit:2",
    "archived restore edit:2",
    "archived restore page",
    "archived edit:3 edit:1,edit:2,edit:3,run,gc",
    "archived page edit:1,edit:2,edit:3,run,gc",
    "archived delete:3,erase,gc page",
    "archived retain edit:2",
    "archived restore drop",
    "archived page drop,erase,gc",
    "archived sync drop,erase,gc",
    "thawed message:3 drop,erase,gc",
    "archived verify drop,erase",
    "archived export drop,erase,gc",
    "thawed run edit:2",
    "thawed run page",
    "thawed run sync-pages",
    "thawed run delete:2",
    "overtaken run edit:3",
    "overtaken run sync",
    "overtaken run delete:3,erase,gc short-lease",
    "twice run edit:3",
    "twice restore delete:3",
    "deleted erase edit:3",
    "deleted ahead/erase,gc edit:3",
    "deleted erase,gc page",
    "deleted page edit:3,erase,gc",
    "deleted message:3 edit:3,erase,gc",
    "deleted export restore,erase,gc",
    "deleted erase,gc restore short-lease",
    "tombstone erase,gc rebuild short-lease",
    "tombstone restore page",
    "unsettled run delete:3",
    "superseded gc page",
    "superseded gc rebuild short-lease",
];

fn scenario(text: &str) -> Scenario {
    text.parse().expect("a scenario in its written form")
}

/// The pairs that every run of the tests explores.
pub(crate) fn usual() -> Vec<Scenario> {
    USUAL.iter().copied().map(scenario).collect()
}

/// Every pair of actors in every state; those with a run in both orders of its streams, and two jobs also with leases that
/// end at once.
pub(crate) fn all() -> Vec<Scenario> {
    let actors: Vec<&str> = JOBS.iter().chain(&CALLS).chain(&SCRIPTS).copied().collect();
    let mut all = Vec::new();
    for state in states::names() {
        for (place, first) in actors.iter().enumerate() {
            for second in &actors[place..] {
                all.extend(variants(scenario(&format!("{state} {first} {second}"))));
            }
        }
    }
    all
}

fn variants(pair: Scenario) -> Vec<Scenario> {
    let mut variants = Vec::new();
    if pair.actors.iter().any(|actor| actor.does(archives)) {
        let stream_order = StreamOrder::NewestFirst;
        variants.push(Scenario {
            stream_order,
            ..pair.clone()
        });
    }
    if pair.actors.iter().all(takes_lease) {
        let short_lease = true;
        variants.push(Scenario {
            short_lease,
            ..pair.clone()
        });
    }
    variants.push(pair);
    variants
}

fn archives(action: &Action) -> bool {
    matches!(action, Action::Run | Action::RunUntil(_))
}

fn takes_lease(actor: &Actor) -> bool {
    actor.does(|action| {
        archives(action)
            || matches!(
                action,
                Action::Resume
                    | Action::Erase
                    | Action::Retain
                    | Action::Collect
                    | Action::Restore
                    | Action::Rebuild
            )
    })
}

/// A job, a call, and any third actor, in any state.
pub(crate) fn random_triple(random: &mut Random) -> Scenario {
    let names: Vec<&str> = states::names().collect();
    let state = random.one_of(&names);
    let (job, call) = (random.one_of(&JOBS), random.one_of(&CALLS));
    let third = match random.below(3) {
        0 => random.one_of(&JOBS),
        1 => random.one_of(&CALLS),
        _ => random.one_of(&SCRIPTS),
    };
    let triple = scenario(&format!("{state} {job} {call} {third}"));
    let leases = triple.actors.iter().filter(|actor| takes_lease(actor));
    let short_lease = leases.count() > 1 && random.below(2) == 0;
    Scenario {
        stream_order: random.one_of(&[StreamOrder::OldestFirst, StreamOrder::NewestFirst]),
        short_lease,
        ..triple
    }
}
