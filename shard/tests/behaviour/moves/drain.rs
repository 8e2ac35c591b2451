//! All ranges of a shard go to others.

use backscroll_shard::error::Error;
use backscroll_shard::ids::ShardName;
use backscroll_shard::moves::{Drained, MoveState};
use backscroll_shard::range::KeyRange;
use backscroll_shard::settings::{RebalanceSettings, Span};

use super::contents::contents;
use super::{another_shard, fill, finish, home, mover, order, quick};
use crate::bed::Bed;

crate::on_every_backend!(a_shard_is_drained, what_cannot_be_moved_yet_is_said);

async fn a_shard_is_drained(bed: &Bed) {
    fill(bed).await;
    let before = contents(bed).await;
    let whole = home(bed).await;
    let mover = mover(bed, quick());
    // In two parts.
    let middle = whole.range.start + (1 << 61);
    let part = KeyRange::new(middle, whole.range.end).unwrap();
    let other = another_shard(bed, &whole.shard);
    for target in [&other, &whole.shard] {
        let job = mover.begin(part, target, &order()).await.unwrap();
        assert_eq!(finish(&mover, job.id).await.unwrap().state, MoveState::Done);
    }

    let shard = &whole.shard;
    let planned = mover.plan_drain(shard, &[]).await.unwrap();
    assert_eq!(planned.len(), 2, "{planned:?}");
    assert!(planned.iter().all(|it| it.target != *shard), "{planned:?}");
    assert_ne!(planned[0].target, planned[1].target, "{planned:?}");
    let asked = mover
        .plan_drain(shard, std::slice::from_ref(&other))
        .await
        .unwrap();
    assert!(asked.iter().all(|it| it.target == other), "{asked:?}");

    let mut moved = Vec::new();
    while let Some(job) = mover.drain(shard, &[], &order()).await.unwrap() {
        // Another run, as after a crash, goes on with the same move, whatever it was asked for.
        let again = mover
            .drain(shard, std::slice::from_ref(&other), &order())
            .await;
        assert_eq!(again.unwrap().unwrap().id, job.id);
        assert_eq!(finish(&mover, job.id).await.unwrap().state, MoveState::Done);
        moved.push((job.range, job.target));
    }
    let planned = planned.into_iter().map(|it| (it.range, it.target));
    assert_eq!(moved, planned.collect::<Vec<_>>());
    home(bed).await;
    assert_eq!(bed.store.map().ranges_of(shard).count(), 0);
    assert_eq!(mover.drained(shard).await.unwrap(), Drained::Empty);
    assert!(mover.plan_drain(shard, &[]).await.unwrap().is_empty());
    before.assert_eq(&contents(bed).await);
}

async fn what_cannot_be_moved_yet_is_said(bed: &Bed) {
    fill(bed).await;
    let from = home(bed).await;
    let keeps = RebalanceSettings {
        keep: Span::secs(3600),
        ..quick()
    };
    let mover = mover(bed, keeps);
    let to = another_shard(bed, &from.shard);
    for (shard, targets, words) in [
        (
            &from.shard,
            vec![from.shard.clone()],
            "is the shard that is drained",
        ),
        (
            &from.shard,
            vec![ShardName::new("nowhere").unwrap()],
            "no shard of this deployment",
        ),
        (
            &ShardName::new("nowhere").unwrap(),
            vec![],
            "no shard of this deployment",
        ),
    ] {
        for why in [
            mover.plan_drain(shard, &targets).await.map(drop),
            mover.drain(shard, &targets, &order()).await.map(drop),
        ] {
            let why = why.unwrap_err().to_string();
            assert!(why.contains(words), "{words} is not in: {why}");
        }
    }
    let targets = std::slice::from_ref(&to);
    let job = mover
        .drain(&from.shard, targets, &order())
        .await
        .unwrap()
        .unwrap();
    let job = finish(&mover, job.id).await.unwrap();
    assert_eq!(job.state, MoveState::Draining);
    assert!(
        mover
            .drain(&from.shard, targets, &order())
            .await
            .unwrap()
            .is_none()
    );
    let until = job.keep_until.unwrap();
    assert_eq!(
        mover.drained(&from.shard).await.unwrap(),
        Drained::KeepsRows(until)
    );
    // The other shard's own range goes; what it has got is still kept elsewhere.
    let first = mover.drain(&to, &[], &order()).await.unwrap().unwrap();
    assert_ne!(first.range, from.range);
    finish(&mover, first.id).await.unwrap();
    let blocked = mover.drain(&to, &[], &order()).await;
    let Err(Error::Busy(why)) = blocked else {
        panic!("{blocked:?}");
    };
    assert!(
        why.contains(&job.id.to_string()) && why.contains("draining"),
        "{why}"
    );
}
