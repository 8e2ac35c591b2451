//! A model of a move between two shards, searched through every interleaving (INV-OWNER, INV-ACK).
//!
//! Two writers with maps of their own, two processes that may run the move, die and be overtaken between any two statements, a
//! process that settles what others left, an operator who gives the move up, and the directory's clock. Each step is one
//! statement or one transaction of `shard/src/moves`; what a process remembers in between may be out of date.
//!
//! The model begins when all rows are copied: from there on the order of the steps decides. The range is one conversation, its
//! log is the number of its changes.
//!
//! Each flaw of [`Flaw`](moving::Flaw) is a mistake that the protocol avoids; with it the search has to find a history that breaks a promise,
//! so the model can fail.

mod moving;
mod world;

use stateright::{Checker, Model};

use moving::{Bounds, Flaw, Moving};

fn search(flaw: Flaw, bounds: Bounds) -> impl Checker<Moving> {
    let model = Moving { flaw, bounds };
    model.checker().threads(2).spawn_bfs().join()
}

/// Every history within bounds that are a few of everything.
#[test]
fn a_move_keeps_its_promises_whatever_happens_when() {
    let bounds = Bounds {
        ticks: 3,
        writes: 2,
        attempts: 2,
        runs: 3,
    };
    let checker = search(Flaw::None, bounds);
    checker.assert_properties();
    println!("{} states", checker.unique_state_count());
    assert!(
        checker.unique_state_count() > 100_000,
        "the search is too small to say anything"
    );
}

#[test]
fn each_mistake_is_found() {
    let bounds = Bounds {
        ticks: 3,
        writes: 2,
        attempts: 2,
        runs: 2,
    };
    for flaw in [
        Flaw::CommitsLate,
        Flaw::CommitsForOthers,
        Flaw::GivesUpLate,
        Flaw::UnfreezesFirst,
        Flaw::ClearsNewMarks,
        Flaw::ReadsRowFirst,
        Flaw::StoresForOthers,
        Flaw::DoesNotMark,
        Flaw::WritesUnasked,
    ] {
        let checker = search(flaw, bounds);
        let broken: Vec<&str> = checker
            .discoveries()
            .into_keys()
            .filter(|name| {
                !["the target serves", "a second attempt", "a move is given"]
                    .iter()
                    .any(|some| name.starts_with(some))
            })
            .collect();
        println!("{flaw:?}: {broken:?}");
        assert!(!broken.is_empty(), "{flaw:?} breaks nothing");
    }
}
