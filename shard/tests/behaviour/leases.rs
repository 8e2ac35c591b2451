//! Who may run a job on a shard: judged by the shard's database alone.

use std::time::{Duration, Instant};

use backscroll_shard::archive::{self, LONGEST_LEASE, Lease};
use backscroll_shard::db::{Connection, Dialect, Value};
use backscroll_shard::error::{Error, Result};
use backscroll_shard::map::Assignment;
use backscroll_shard::model::Timestamp;

use crate::bed::{Bed, PATIENCE, user};
use crate::on_every_backend;

on_every_backend!(
    a_lease_keeps_others_out_until_it_is_given_up,
    an_end_in_the_far_future_is_not_believed,
    a_lease_that_is_cleared_is_lost,
    a_user_seen_in_the_future_is_seen_again,
);

const TTL: Duration = Duration::from_secs(60);

/// A write transaction on the first shard.
async fn begin(bed: &Bed) -> Connection {
    let shard = bed.store.router().shards().next().unwrap();
    let deadline = Instant::now() + PATIENCE;
    let mut connection = shard.primary().writer(deadline).await.unwrap();
    connection.begin().await.unwrap();
    connection
}

/// And gives the connection back: SQLite has one for all who write.
async fn commit(mut connection: Connection) {
    connection.commit().await.unwrap();
}

async fn take(bed: &Bed, holder: &str) -> Result<Lease> {
    let shard = bed.store.router().shards().next().unwrap();
    let map = bed.store.map();
    let ranges: Vec<Assignment> = map.ranges_of(shard.name()).cloned().collect();
    let mut connection = begin(bed).await;
    let range = (shard.name(), ranges);
    let lease = archive::take_lease(&mut connection, range, holder, TTL).await?;
    connection.commit().await?;
    Ok(lease)
}

async fn a_lease_keeps_others_out_until_it_is_given_up(bed: &Bed) {
    let first = take(bed, "archive run (alice)").await.unwrap();
    let refused = take(bed, "archive run (bob)").await;
    let Err(Error::Busy(why)) = refused else {
        panic!("{refused:?}");
    };
    for word in [
        "is being worked on by archive run (alice)",
        "by the clock of the shard's database, 60 s from now",
        "backscroll lease clear --shard",
    ] {
        assert!(why.contains(word), "{word} is not in: {why}");
    }
    let mut connection = begin(bed).await;
    let held = archive::held_leases(&mut connection).await.unwrap();
    assert_eq!(
        (held.len(), held[0].holder.as_str()),
        (1, "archive run (alice)")
    );
    archive::renew_lease(&mut connection, &first, TTL)
        .await
        .unwrap();
    archive::give_up_lease(&mut connection, &first)
        .await
        .unwrap();
    commit(connection).await;

    let second = take(bed, "archive run (bob)").await.unwrap();
    assert_eq!(second.generation, first.generation + 1);
    let mut connection = begin(bed).await;
    let renewed = archive::renew_lease(&mut connection, &first, TTL).await;
    assert!(matches!(renewed, Err(Error::LeaseLost(_))), "{renewed:?}");
    // Who lost it cannot free it for others.
    archive::give_up_lease(&mut connection, &first)
        .await
        .unwrap();
    commit(connection).await;
    assert!(matches!(
        take(bed, "archive run (carol)").await,
        Err(Error::Busy(_))
    ));
}

async fn set_end(connection: &mut Connection, end: i64) {
    let end = [Value::from(end)];
    let set = "UPDATE leases SET expires_at = ?";
    connection.execute(set, &end).await.unwrap();
}

async fn an_end_in_the_far_future_is_not_believed(bed: &Bed) {
    let now = Timestamp::now().0;
    let longest = i64::try_from(LONGEST_LEASE.as_millis()).unwrap();
    let first = take(bed, "a machine a year ahead").await.unwrap();
    for (end, is_held) in [
        (now + 30_000, true),
        (now + longest - 60_000, true),
        (now + longest + 60_000, false),
        (now + 365 * 86_400_000, false),
        (i64::MAX, false),
        (0, false),
        (now - 60_000, false),
    ] {
        let mut connection = begin(bed).await;
        set_end(&mut connection, end).await;
        assert_eq!(
            !archive::held_leases(&mut connection)
                .await
                .unwrap()
                .is_empty(),
            is_held
        );
        commit(connection).await;
        let taken = take(bed, "another").await;
        assert_eq!(
            matches!(taken, Err(Error::Busy(_))),
            is_held,
            "{end}: {taken:?}"
        );
        if let Ok(taken) = taken {
            assert!(taken.generation > first.generation);
        }
    }
    if begin(bed).await.dialect() == Dialect::Sqlite {
        return; // it has no clock of its own
    }
    // However wrong this machine's clock is, it is the database's that is asked.
    let mut connection = begin(bed).await;
    set_end(&mut connection, now + 30_000).await;
    commit(connection).await;
    let mut connection = begin(bed).await;
    let later = "SET timestamp = UNIX_TIMESTAMP(SYSDATE()) + 60";
    connection.execute(later, &[]).await.unwrap();
    assert!(
        archive::held_leases(&mut connection)
            .await
            .unwrap()
            .is_empty()
    );
    connection
        .execute("SET timestamp = DEFAULT", &[])
        .await
        .unwrap();
    assert!(
        !archive::held_leases(&mut connection)
            .await
            .unwrap()
            .is_empty()
    );
}

async fn a_lease_that_is_cleared_is_lost(bed: &Bed) {
    let lease = take(bed, "archive run (alice)").await.unwrap();
    let mut connection = begin(bed).await;
    archive::check_lease(&mut connection, &lease).await.unwrap();
    let cleared = archive::clear_leases(&mut connection).await.unwrap();
    assert_eq!(cleared[0].holder, "archive run (alice)");
    assert!(
        archive::clear_leases(&mut connection)
            .await
            .unwrap()
            .is_empty()
    );
    let lost = archive::check_lease(&mut connection, &lease).await;
    assert!(matches!(lost, Err(Error::LeaseLost(_))), "{lost:?}");
    commit(connection).await;
    take(bed, "archive run (bob)").await.unwrap();
}

/// A node whose clock is a year ahead saw somebody.
async fn a_user_seen_in_the_future_is_seen_again(bed: &Bed) {
    let alice = [user("alice")];
    let deadline = || Instant::now() + PATIENCE;
    let now = Timestamp::now();
    let ahead = Timestamp(now.0 + 365 * 86_400_000);
    bed.store
        .save_last_seen(&[(user("alice"), ahead)], deadline())
        .await
        .unwrap();
    let seen = bed.store.last_seen(&alice, deadline()).await;
    assert!(seen[&alice[0]].0 < now.0 + 60_000, "not in the future");
    bed.store
        .save_last_seen(&[(user("alice"), now)], deadline())
        .await
        .unwrap();
    let seen = bed.store.last_seen(&alice, deadline()).await;
    assert_eq!(seen[&alice[0]], now);
    let earlier = Timestamp(now.0 - 1000);
    bed.store
        .save_last_seen(&[(user("alice"), earlier)], deadline())
        .await
        .unwrap();
    assert_eq!(
        bed.store.last_seen(&alice, deadline()).await[&alice[0]],
        now
    );
}
