//! Which moves are planned, where a range is cut, and how neighbours become one.

use std::time::Duration;

use backscroll_shard::db::explain;
use backscroll_shard::error::Error;
use backscroll_shard::fence;
use backscroll_shard::ids::{ConversationId, KeyFunction, UserKey};
use backscroll_shard::moves::{MoveState, PlanOptions, Step};
use backscroll_shard::range::KeyRange;
use backscroll_shard::settings::{RebalanceSettings, Span, StoreSettings};

use super::{
    another_shard, connect, contents, dying_at, fill, finish, home, mover, order, quick, url_of,
};
use crate::bed::{Bed, caller, text, user};
use crate::plans::LARGE;

crate::on_every_backend!(
    a_plan_is_carried_out_and_levels_the_shards,
    rows_are_counted_or_estimated_well,
    one_key_cannot_be_split,
    writes_count,
    neighbours_become_one,
);

fn now() -> PlanOptions {
    PlanOptions {
        observe: Duration::ZERO,
        ..PlanOptions::default()
    }
}

fn any_time() -> RebalanceSettings {
    RebalanceSettings {
        cool_down: Span::secs(0),
        ..quick()
    }
}

/// Conversations of many users, one message each or more.
async fn many(bed: &Bed, users: usize) -> Vec<ConversationId> {
    let mut ids = Vec::new();
    for n in 0..users {
        let name = format!("user{n}");
        let id = bed.group(&name, &["bob"]).await;
        for i in 0..3 {
            bed.say(&name, id, &format!("message {i}")).await;
        }
        ids.push(id);
    }
    bed.settle().await;
    ids
}

/// Everything is moved to one shard, then planned to be everywhere again.
async fn a_plan_is_carried_out_and_levels_the_shards(bed: &Bed) {
    many(bed, 60).await;
    let mover = mover(bed, any_time());
    let full = &bed.settings.shards[0].name;
    for range in bed.store.map().assignments() {
        if range.shard != *full {
            let job = mover.begin(range.range, full, &order()).await.unwrap();
            finish(&mover, job.id).await.unwrap();
        }
    }
    home(bed).await;
    let before = contents(bed).await;
    let plan = mover.plan(now()).await.unwrap();
    assert!(plan.is_counted, "{plan:#?}");
    assert!(plan.steps.len() >= 3, "{plan:#?}");
    for shard in &plan.shards {
        let is_full = shard.shard == *full;
        assert!((shard.load > 399.0) == is_full, "{plan:#?}");
        assert!((80.0..120.0).contains(&shard.load_after), "{plan:#?}");
    }
    assert!(
        plan.steps
            .iter()
            .all(|it| it.source == *full && it.gain >= 5.0),
        "{plan:#?}"
    );
    let planned: u64 = plan.steps.iter().map(|it| it.weight.rows).sum();
    for step in &plan.steps {
        let job = mover
            .begin(step.range, &step.target, &order())
            .await
            .unwrap();
        assert_eq!(finish(&mover, job.id).await.unwrap().state, MoveState::Done);
    }
    home(bed).await;
    before.assert_eq(&contents(bed).await);
    let again = mover.plan(now()).await.unwrap();
    for shard in &again.shards {
        assert!((80.0..120.0).contains(&shard.load), "level: {again:#?}");
    }
    let moved = again.shards.iter().filter(|it| it.shard != *full);
    assert_eq!(moved.map(|it| it.weight.rows).sum::<u64>(), planned);
    assert!(again.forecast.measured_moves > 0, "{again:#?}");

    // What was moved lately stays.
    let cool = super::mover(bed, quick());
    let job = mover
        .begin(plan.steps[0].range, full, &order())
        .await
        .unwrap();
    finish(&mover, job.id).await.unwrap();
    let kept = cool.plan(now()).await.unwrap();
    let is_moved = |it: &KeyRange| plan.steps.iter().any(|step| step.range.overlaps(it));
    assert!(
        kept.steps.iter().all(|it| !is_moved(&it.range)),
        "{kept:#?}"
    );
    let words = kept.remarks.join("\n");
    assert!(words.contains("rebalance.cool_down"), "{words}");
}

/// With few rows looked at, the figures are those of a count, give or take a third.
async fn rows_are_counted_or_estimated_well(bed: &Bed) {
    many(bed, 150).await;
    let mover = mover(bed, any_time());
    let counted = mover.plan(now()).await.unwrap();
    let few = PlanOptions {
        counted: 2,
        ..now()
    };
    let estimated = mover.plan(few).await.unwrap();
    assert!(counted.is_counted && !estimated.is_counted);
    let mut rows = 0;
    for shard in &bed.settings.shards {
        let mut connection = connect(bed, &shard.primary).await;
        for table in [
            "conversations",
            "messages",
            "members",
            "list_entries",
            "users",
            "notifications",
            "last_seen",
        ] {
            let statement = format!("SELECT COUNT(*) FROM {table}");
            let row = connection
                .fetch_optional(&statement, &[])
                .await
                .unwrap()
                .unwrap();
            rows += row.int(0).unwrap();
        }
    }
    let sum = |plan: &backscroll_shard::moves::Plan| {
        i64::try_from(plan.shards.iter().map(|it| it.weight.rows).sum::<u64>()).unwrap()
    };
    assert_eq!(sum(&counted), rows);
    let off = (sum(&estimated) - rows).abs();
    assert!(3 * off < rows, "{} for {rows}", sum(&estimated));
}

async fn one_key_cannot_be_split(bed: &Bed) {
    let id = bed.group("alice", &["bob"]).await;
    for n in 0..200 {
        bed.say("alice", id, &format!("message {n}")).await;
    }
    bed.settle().await;
    let mover = mover(bed, any_time());
    let whole = home(bed).await;
    let refused = mover.upper_half(whole.range).await.unwrap_err();
    let key = KeyFunction::Hashed.key(&user("alice")).unwrap().0;
    let words = refused.to_string();
    assert!(
        words.contains("cannot be split") && words.contains(&key.to_string()),
        "{words}"
    );
    let plan = mover.plan(now()).await.unwrap();
    let words = plan.remarks.join("\n");
    assert!(
        words.contains("cannot be split") && words.contains(&key.to_string()),
        "{plan:#?}"
    );

    // With others beside it, about half of the rows are above.
    many(bed, 120).await;
    let whole = home(bed).await;
    let half = mover.upper_half(whole.range).await.unwrap();
    assert!(whole.range.covers(&half) && half.end == whole.range.end);
    let rows = async |range: KeyRange| {
        let mut connection = connect(bed, url_of(bed, &whole.shard)).await;
        let (start, end) = (
            UserKey(range.start).to_bytes(),
            range.end.map(|end| UserKey(end).to_bytes()),
        );
        let end = end.map_or(vec![u8::MAX; 17], |end| end.to_vec());
        let args = [(&start).into(), backscroll_shard::db::Value::Bytes(&end)];
        let statement =
            "SELECT COUNT(*) FROM messages WHERE conversation_id >= ? AND conversation_id < ?";
        connection
            .fetch_optional(statement, &args)
            .await
            .unwrap()
            .unwrap()
            .int(0)
            .unwrap()
    };
    let (all, upper) = (rows(whole.range).await, rows(half).await);
    assert!(upper * 5 > all && upper * 5 < all * 4, "{upper} of {all}");
    let empty = KeyRange::new(key + 1, Some(key + 2)).unwrap();
    let refused = mover.upper_half(empty).await.unwrap_err();
    assert!(refused.to_string().contains("has no rows"), "{refused}");
}

async fn writes_count(bed: &Bed) {
    let ids = many(bed, 40).await;
    let busy = ids[0];
    let mover = mover(bed, any_time());
    let observing = PlanOptions {
        observe: Duration::from_secs(2),
        ..now()
    };
    let writing = async {
        for n in 0.. {
            let sends = (0..20).map(|i| async move {
                let new = text(&format!("{n} {i}"));
                bed.store.send(&caller("user0"), busy, new).await
            });
            futures_util::future::try_join_all(sends).await.unwrap();
        }
    };
    let plan = tokio::select! {
        plan = mover.plan(observing) => plan.unwrap(),
        () = writing => unreachable!(),
    };
    let owner = bed.store.map().locate(busy.owner_key()).shard.clone();
    for shard in &plan.shards {
        let writes = shard.weight.writes_per_second;
        assert!(
            (writes > 10.0) == (shard.shard == owner),
            "{owner}: {plan:#?}"
        );
    }
    let quiet = PlanOptions {
        observe: Duration::from_millis(20),
        ..now()
    };
    let quiet = mover.plan(quiet).await.unwrap();
    assert!(
        quiet.remarks.join("\n").contains("writes are left out"),
        "{quiet:#?}"
    );
}

async fn neighbours_become_one(bed: &Bed) {
    let ids = fill(bed).await;
    let before = contents(bed).await;
    let whole = home(bed).await;
    let key = ids[0].owner_key().0;
    let only = KeyRange::new(key, Some(key + 1)).unwrap();
    let to = another_shard(bed, &whole.shard);
    let keeps = RebalanceSettings {
        keep: Span::secs(3600),
        ..quick()
    };
    let keeping = mover(bed, keeps);
    let job = keeping.begin(only, &to, &order()).await.unwrap();
    finish(&keeping, job.id).await.unwrap();
    let merged = keeping.merge(true, &order()).await.unwrap();
    assert!(
        merged.iter().all(|it| it.range != whole.range),
        "{merged:?}"
    );
    let back = mover(bed, quick()).reverse(job.id, &order()).await.unwrap();
    finish(&mover(bed, quick()), back.id).await.unwrap();
    home(bed).await;
    let cut = bed.store.map().assignments().len();

    // The process dies when the map is changed; another one makes the fences follow.
    let dying = mover(bed, quick()).with_hook(dying_at(Step::MapMerged));
    assert!(matches!(
        dying.merge(false, &order()).await,
        Err(Error::Closing)
    ));
    home(bed).await; // this process knows the map, and its requests wait
    let settling = mover(bed, quick());
    let sent = async { bed.say("alice", ids[0], "while they become one").await };
    let (_, settled) = tokio::join!(sent, settling.settle());
    settled.unwrap();
    let now = home(bed).await;
    assert_eq!((now.range, &now.shard), (whole.range, &whole.shard));
    assert!(now.epoch > whole.epoch);
    assert_eq!(bed.store.map().assignments().len(), cut - 2);
    for shard in &bed.settings.shards {
        let mut connection = connect(bed, &shard.primary).await;
        let fences = fence::all(&mut connection).await.unwrap();
        let words = fence::disagreements(&bed.store.map(), &shard.name, &fences);
        assert!(words.is_empty(), "{words:?}");
    }
    assert_eq!(
        mover(bed, quick()).merge(false, &order()).await.unwrap(),
        []
    );
    bed.settle().await;
    let count = contents(bed).await.count();
    assert_eq!(count, before.count() + 1);
    let before = contents(bed).await;
    super::go(bed, &before).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_statement_of_a_plan_scans_on_sqlite() {
    let bed = Bed::sqlite_with(watch).await;
    no_statement_scans(&bed).await;
    bed.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_statement_of_a_plan_scans_on_server() {
    let bed = Bed::server_with(watch).await;
    no_statement_scans(&bed).await;
    bed.close().await;
}

fn watch(settings: &mut StoreSettings) {
    for shard in &settings.shards {
        explain::watch(&shard.primary.0);
    }
}

async fn no_statement_scans(bed: &Bed) {
    many(bed, 40).await;
    let mover = mover(bed, any_time());
    let seen = |bed: &Bed| -> usize {
        let shards = bed.settings.shards.iter();
        shards.map(|it| explain::seen(&it.primary.0).len()).sum()
    };
    let others = seen(bed);
    let observing = PlanOptions {
        observe: Duration::from_millis(1),
        ..now()
    };
    mover.plan(observing).await.unwrap();
    assert!(seen(bed) > others + 10, "the plan's statements were seen");
    for shard in &bed.settings.shards {
        for (statement, steps) in explain::seen(&shard.primary.0) {
            for step in steps {
                let scans = step.scans && LARGE.contains(&step.table.as_str());
                assert!(!scans, "{statement}\nscans {}", step.table);
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_keys_go_to_a_shard_that_is_not_well() {
    let bed = Bed::sqlite().await;
    many(&bed, 20).await;
    let slow = RebalanceSettings {
        max_latency: Span::millis(0),
        ..any_time()
    };
    let plan = mover(&bed, slow).plan(now()).await.unwrap();
    assert_eq!(plan.steps, []);
    let words = plan.remarks.join("\n");
    assert!(
        words.contains("gets no keys: waits: shard1 answers within"),
        "{words}"
    );
    bed.close().await;
}
