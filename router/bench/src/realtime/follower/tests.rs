use crate::realtime::door::Door;

use super::*;

#[test]
fn whoever_loses_a_node_goes_to_one_that_is_left() {
    let nodes: Vec<SocketAddr> = (1..=5).map(|n| ([127, 0, 0, 1], n).into()).collect();
    let target = Target {
        nodes: nodes.clone(),
        door: Door::Native,
        greets: true,
    };
    let world = World::new(target, 2);
    let lost: Vec<usize> = (0..5000).filter(|n| world.target.home(*n) < 2).collect();
    assert_eq!(lost.len(), 2000);
    for (node, address) in nodes.iter().enumerate() {
        let at = |number: &&usize| world.refuge(**number).unwrap() == *address;
        let count = lost.iter().filter(at).count();
        let fair = if node < 2 { 0..=0 } else { 600..=700 };
        assert!(fair.contains(&count), "{count} went to node {node}");
    }
}

#[test]
fn what_several_have_noted_is_added_up() {
    let noted = |head, why: &str| Notes {
        heads: [(7, head)].into(),
        acknowledged: 2,
        failed: [(why.to_owned(), 1)].into(),
        recovered: 3,
        ..Notes::default()
    };
    let mut notes = noted(5, "late");
    notes.add(noted(4, "late"));
    notes.add(noted(6, "full"));
    assert_eq!(notes.heads, [(7, 6)].into());
    assert_eq!((notes.acknowledged, notes.recovered), (6, 9));
    let failed = [("full".to_owned(), 1), ("late".to_owned(), 2)].into();
    assert_eq!(notes.failed, failed);
}

#[test]
fn a_log_knows_what_is_missing_whatever_the_order() {
    let mut log = Log {
        room: 0,
        conversation: String::new(),
        rev: 3,
        next: 4,
        ahead: BTreeSet::new(),
    };
    let mut has = |seq, rev| log.has(&Stored { seq, rev });
    assert!(has(4, 4) && has(7, 7) && has(6, 6));
    assert!(!has(7, 8) && !has(2, 2), "these were there");
    assert_eq!((log.missing(7), log.missing(8), log.rev), (1, 2, 8));
    assert!(log.has(&Stored { seq: 5, rev: 5 }));
    assert_eq!((log.missing(7), log.next), (0, 8));
}
