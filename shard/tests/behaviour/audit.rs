//! The audit log: nothing of it can be changed, taken out, put elsewhere or cut off without being found.

use std::time::{Duration, Instant};

use backscroll_shard::audit::{
    Act, Action, AuditFilter, AuditProblem, AuditRecord, Head, PublishedHead, Reference,
    Verification,
};
use backscroll_shard::db::{Database, Value, explain};
use backscroll_shard::error::Error;
use backscroll_shard::model::Timestamp;
use backscroll_shard::moves::{Mover, Order};
use backscroll_shard::range::KeyRange;
use backscroll_shard::sanctions::{NewSanction, SanctionKind};
use backscroll_shard::settings::StoreSettings;
use serde_json::json;

use crate::bed::{Bed, PATIENCE, user};

crate::on_every_backend!(with watch:
    what_is_planted_is_found,
    a_log_that_was_written_anew_is_found_by_a_published_head,
    nodes_append_at_the_same_time,
    sanctions_and_their_records_are_one,
    moves_are_recorded,
    records_are_listed_by_what_they_name,
    an_erased_person_leaves_the_chain_whole,
    what_is_no_record_is_refused,
);

fn watch(settings: &mut StoreSettings) {
    explain::watch(&settings.directory.url.0);
}

fn act(number: usize) -> Act {
    let subject = Reference::user(&user(&format!("user {}", number % 3)));
    let actor = Reference::user(&user(if number.is_multiple_of(2) {
        "root"
    } else {
        "other"
    }));
    Act::new(actor, Action::SanctionImpose, Some(subject))
        .because("advertising")
        .with(json!({ "number": number }))
}

async fn append(bed: &Bed, count: usize) -> Vec<Head> {
    let mut heads = Vec::new();
    for number in 0..count {
        heads.push(bed.store.audit().append(&act(number)).await.unwrap());
    }
    heads
}

async fn verify(bed: &Bed, published: &[PublishedHead]) -> Verification {
    bed.store.audit().verify(published).await.unwrap()
}

async fn problems(bed: &Bed, published: &[PublishedHead]) -> Vec<AuditProblem> {
    let verified = verify(bed, published).await;
    assert_eq!(verified.problem_count, verified.problems.len() as u64);
    verified.problems
}

/// Somebody writes the directory's database by other means.
async fn plant(bed: &Bed, statement: &str, args: &[Value<'_>]) {
    let settings = &bed.settings;
    let database = Database::open_any(&settings.directory.url, &settings.pool).unwrap();
    let deadline = Instant::now() + PATIENCE;
    let mut connection = database.writer(deadline).await.unwrap();
    let changed = connection.execute(statement, args).await.unwrap();
    assert!(changed > 0, "{statement}");
    drop(connection);
    database.close().await;
}

fn published(head: Head) -> PublishedHead {
    PublishedHead {
        number: head.number,
        hash: head.hash,
        place: "elsewhere".into(),
    }
}

async fn what_is_planted_is_found(bed: &Bed) {
    use AuditProblem::{Changed, ErasedUnsaid, HeadDiffers, Missing, Truncated, Unchained};
    let heads = append(bed, 12).await;
    assert_eq!(problems(bed, &[published(heads[4])]).await, []);

    for (column, value) in [
        ("actor", Value::Bytes(b"user/nobody")),
        ("subject", Value::Bytes(b"user/nobody")),
        ("subject", Value::Null),
        ("reason", "no reason".into()),
        ("details", "{}".into()),
        ("salt", Value::Bytes(&[0; 16])),
    ] {
        let statement = format!("UPDATE audit SET {column} = ? WHERE number = 3");
        plant(bed, &statement, &[value]).await;
        assert_eq!(
            problems(bed, &[]).await,
            [Changed { number: 3 }],
            "{column}"
        );
        // Back to what it was; nobody knows what the salt was.
        let original = act(2);
        let value: Value<'_> = match column {
            "actor" => original.actor.as_str().as_bytes().into(),
            "subject" => original
                .subject
                .as_ref()
                .unwrap()
                .as_str()
                .as_bytes()
                .into(),
            "reason" => "advertising".into(),
            "details" => r#"{"number":2}"#.into(),
            _ => continue,
        };
        plant(bed, &statement, &[value]).await;
        assert_eq!(problems(bed, &[]).await, [], "{column}");
    }
    let third = Changed { number: 3 };
    plant(bed, "UPDATE audit SET at = at + 1 WHERE number = 5", &[]).await;
    let fifth = Unchained { number: 5 };
    assert_eq!(problems(bed, &[]).await, [third.clone(), fifth.clone()]);
    plant(
        bed,
        "UPDATE audit SET at = at - 1, action = 'sanction.lift' WHERE number = 5",
        &[],
    )
    .await;
    assert_eq!(problems(bed, &[]).await, [third.clone(), fifth.clone()]);
    plant(
        bed,
        "UPDATE audit SET action = 'sanction.impose' WHERE number = 5",
        &[],
    )
    .await;

    // Two records change their places.
    for (from, to) in [(6, 100), (7, 6), (100, 7)] {
        let statement = format!("UPDATE audit SET number = {to} WHERE number = {from}");
        plant(bed, &statement, &[]).await;
    }
    let found = problems(bed, &[]).await;
    let swapped = [6, 7, 8].map(|number| Unchained { number });
    assert_eq!(found, [&[third.clone()][..], &swapped[..]].concat());
    for (from, to) in [(6, 100), (7, 6), (100, 7)] {
        let statement = format!("UPDATE audit SET number = {to} WHERE number = {from}");
        plant(bed, &statement, &[]).await;
    }
    assert_eq!(problems(bed, &[]).await, std::slice::from_ref(&third));

    // What it says is taken away, and the log does not say so.
    plant(bed, "UPDATE audit SET salt = NULL WHERE number = 3", &[]).await;
    let unsaid = ErasedUnsaid { erased: 1, said: 0 };
    assert_eq!(problems(bed, &[]).await, std::slice::from_ref(&unsaid));

    plant(bed, "DELETE FROM audit WHERE number IN (8, 9)", &[]).await;
    let missing = Missing { first: 8, last: 9 };
    let differs = HeadDiffers {
        number: 10,
        place: "elsewhere".into(),
    };
    let wrong = Head {
        hash: heads[0].hash,
        ..heads[9]
    };
    assert_eq!(
        problems(bed, &[published(wrong)]).await,
        [missing.clone(), differs, unsaid.clone()]
    );
    plant(bed, "DELETE FROM audit WHERE number > 10", &[]).await;
    let truncated = |head, place: &str| Truncated {
        last: 10,
        head,
        place: place.into(),
    };
    let own = "the property audit_head of the directory";
    assert_eq!(
        problems(bed, &[published(heads[10])]).await,
        [
            missing,
            truncated(11, "elsewhere"),
            truncated(12, own),
            unsaid
        ]
    );
}

/// Whoever can write the directory takes the newest records away, the head too, and lets others follow.
async fn a_log_that_was_written_anew_is_found_by_a_published_head(bed: &Bed) {
    let heads = append(bed, 5).await;
    let kept = heads[2];
    plant(bed, "DELETE FROM audit WHERE number > 3", &[]).await;
    let property = format!("{} {} {}", kept.number, kept.at.0, kept.hash);
    plant(
        bed,
        "UPDATE properties SET value = ? WHERE name = 'audit_head'",
        &[property.as_str().into()],
    )
    .await;
    let last = published(heads[4]);
    assert_eq!(
        problems(bed, &[]).await,
        [],
        "nothing in the directory tells"
    );
    let truncated = AuditProblem::Truncated {
        last: 3,
        head: 5,
        place: "elsewhere".into(),
    };
    assert_eq!(
        problems(bed, std::slice::from_ref(&last)).await,
        [truncated]
    );
    append(bed, 2).await;
    let differs = AuditProblem::HeadDiffers {
        number: 5,
        place: "elsewhere".into(),
    };
    assert_eq!(problems(bed, &[last]).await, [differs]);
}

async fn nodes_append_at_the_same_time(bed: &Bed) {
    let another = Bed::another(bed.store.settings()).await;
    let stores = [&bed.store, &another];
    let appending = (0..40).map(|number| {
        let store = stores[number % 2];
        async move { store.audit().append(&act(number)).await }
    });
    let outcomes = futures_util::future::join_all(appending).await;
    let mut numbers: Vec<u64> = outcomes.into_iter().map(|it| it.unwrap().number).collect();
    numbers.sort_unstable();
    assert_eq!(numbers, (1..=40).collect::<Vec<u64>>());
    let verified = verify(bed, &[]).await;
    assert_eq!((verified.records, verified.problem_count), (40, 0));
    assert_eq!(verified.head, another.audit().head().await.unwrap());
    another.close(Instant::now() + PATIENCE).await;
}

async fn newest(bed: &Bed) -> AuditRecord {
    let all = AuditFilter::default();
    let page = bed.store.audit().list(&all, None, 1).await;
    page.unwrap().records.remove(0)
}

async fn sanctions_and_their_records_are_one(bed: &Bed) {
    let sanctions = bed.store.sanctions();
    let (root, mallory) = (user("root"), user("mallory"));
    let ban = NewSanction {
        kind: SanctionKind::Ban,
        until: None,
        reason: "Advertising".into(),
    };
    sanctions.impose(&root, &mallory, &ban).await.unwrap();
    let record = newest(bed).await;
    assert_eq!(
        serde_json::to_value(&record).unwrap(),
        json!({
            "number": 1, "at": record.at, "action": "sanction.impose", "actor": "user/root", "subject": "user/mallory",
            "reason": "Advertising", "details": {"kind": "ban", "until": null}, "erased": false, "hash": record.hash,
        })
    );
    sanctions.lift(&root, &mallory, None).await.unwrap();
    let record = newest(bed).await;
    assert_eq!(
        (record.number, record.action.as_str()),
        (2, "sanction.lift")
    );
    // What is refused, or finds nothing to do, is not recorded.
    sanctions.lift(&root, &mallory, None).await.unwrap_err();
    sanctions.impose(&root, &root, &ban).await.unwrap_err();
    assert_eq!(newest(bed).await.number, 2);

    // Where the log cannot be written, nothing is imposed.
    plant(
        bed,
        "UPDATE properties SET value = 'not a head' WHERE name = 'audit_head'",
        &[],
    )
    .await;
    let refused = sanctions.impose(&root, &mallory, &ban).await;
    assert!(matches!(refused, Err(Error::Corrupt(_))), "{refused:?}");
    sanctions.admit(&mallory, None).unwrap();
    let imposed = sanctions.of_user(&mallory).await.unwrap();
    assert_eq!(imposed.len(), 1);
}

async fn moves_are_recorded(bed: &Bed) {
    let mover = Mover::new(bed.store.router().clone(), "test");
    let order = |reason: &str| Order {
        actor: "alice".into(),
        reason: reason.into(),
    };
    let map = bed.store.map();
    let source = &map.assignments()[0];
    let target = &map.assignments()[1].shard;
    let range = KeyRange::new(source.range.start, Some(source.range.start + 1)).unwrap();
    let job = mover.begin(range, target, &order("full")).await.unwrap();
    mover.pause(job.id, true, &order("peak")).await.unwrap();
    mover.pause(job.id, true, &order("peak")).await.unwrap_err();
    mover
        .throttle(job.id, Some(7), &order("slow"))
        .await
        .unwrap();
    mover.pause(job.id, false, &order("over")).await.unwrap();
    mover.abort(job.id, &order("mistake")).await.unwrap();
    let filter = AuditFilter {
        subject: Some(format!("move/{}", job.id)),
        ..AuditFilter::default()
    };
    let page = bed.store.audit().list(&filter, None, 100).await.unwrap();
    let told: Vec<(&str, &str)> = page
        .records
        .iter()
        .rev()
        .map(|it| (it.action.as_str(), it.reason.as_deref().unwrap()))
        .collect();
    assert_eq!(
        told,
        [
            ("move.begin", "full"),
            ("move.pause", "peak"),
            ("move.throttle", "slow"),
            ("move.resume", "over"),
            ("move.abort", "mistake"),
        ]
    );
    assert!(
        page.records
            .iter()
            .all(|it| it.actor.as_deref() == Some("operator/alice"))
    );
    assert_eq!(problems(bed, &[]).await, []);
}

async fn numbers(bed: &Bed, filter: &AuditFilter, limit: usize) -> Vec<u64> {
    let (mut numbers, mut cursor) = (Vec::new(), None);
    loop {
        let page = bed.store.audit().list(filter, cursor.as_deref(), limit);
        let page = page.await.unwrap();
        assert!(page.records.len() <= limit);
        numbers.extend(page.records.iter().map(|it| it.number));
        cursor = page.next_cursor;
        if cursor.is_none() {
            return numbers;
        }
    }
}

async fn records_are_listed_by_what_they_name(bed: &Bed) {
    append(bed, 12).await;
    tokio::time::sleep(Duration::from_millis(5)).await;
    let before = newest(bed).await.at;
    let later = loop {
        let head = bed.store.audit().append(&act(0)).await.unwrap();
        if head.at > before {
            break head;
        }
    };
    let all = AuditFilter::default();
    let listed = numbers(bed, &all, 5).await;
    let last = newest(bed).await.number;
    assert_eq!(listed, (1..=last).rev().collect::<Vec<u64>>());
    let some = |text: &str| Some(text.to_owned());
    let until = AuditFilter {
        until: Some(later.at),
        ..all.clone()
    };
    assert_eq!(
        numbers(bed, &until, 5).await,
        (1..later.number).rev().collect::<Vec<u64>>()
    );
    let from = AuditFilter {
        from: Some(later.at),
        ..all.clone()
    };
    assert_eq!(
        numbers(bed, &from, 5).await,
        (later.number..=last).rev().collect::<Vec<u64>>()
    );
    let nothing = AuditFilter {
        from: Some(Timestamp::MAX),
        ..all.clone()
    };
    assert!(numbers(bed, &nothing, 5).await.is_empty());
    let (subject, actor) = (some("user/user 1"), some("user/other"));
    let of = |filter: AuditFilter| AuditFilter {
        until: Some(later.at),
        ..filter
    };
    let subject = of(AuditFilter {
        subject,
        ..all.clone()
    });
    assert_eq!(numbers(bed, &subject, 3).await.last(), Some(&2));
    let actor = AuditFilter {
        actor,
        ..subject.clone()
    };
    assert_eq!(numbers(bed, &actor, 3).await, [8, 2]);
    let action = of(AuditFilter {
        action: some("move.begin"),
        ..all.clone()
    });
    assert!(numbers(bed, &action, 3).await.is_empty());
    let spaced = AuditFilter {
        subject: some("user/user 1 "),
        ..all.clone()
    };
    assert!(numbers(bed, &spaced, 3).await.is_empty());
    let refused = bed.store.audit().list(&all, Some("x"), 5).await;
    assert!(matches!(refused, Err(Error::Invalid(_))), "{refused:?}");

    for (statement, steps) in explain::seen(&bed.settings.directory.url.0) {
        for step in steps {
            assert!(!(step.scans && step.table == "audit"), "{statement}");
        }
    }
}

async fn an_erased_person_leaves_the_chain_whole(bed: &Bed) {
    let heads = append(bed, 300).await;
    let audit = bed.store.audit();
    let person = Reference::user(&user("user 1"));
    let operator = Reference::operator("alice");
    let erased = audit.erase(&person, &operator, "ticket 7").await.unwrap();
    assert_eq!(erased, 100);
    assert_eq!(
        audit.erase(&person, &operator, "ticket 7").await.unwrap(),
        0
    );
    let verified = verify(bed, &[published(heads[299])]).await;
    assert_eq!((verified.problems, verified.erased), (vec![], 100));
    let named = AuditFilter {
        subject: Some(person.as_str().to_owned()),
        ..AuditFilter::default()
    };
    assert!(numbers(bed, &named, 100).await.is_empty());
    let record = newest(bed).await;
    assert_eq!(record.action, "audit.erase");
    assert_eq!(
        (
            record.actor.as_deref(),
            record.reason.as_deref(),
            record.is_erased
        ),
        (Some("operator/alice"), Some("ticket 7"), false)
    );
    // An actor's records are erased in steps.
    let root = Reference::user(&user("root"));
    assert_eq!(audit.erase(&root, &operator, "left").await.unwrap(), 100);
    assert_eq!(problems(bed, &[]).await, []);
}

async fn what_is_no_record_is_refused(bed: &Bed) {
    let long = "x".repeat(70_000);
    for details in [json!({ "x": long }), json!([])] {
        let refused = bed.store.audit().append(&act(0).with(details)).await;
        assert!(matches!(refused, Err(Error::Invalid(_))), "{refused:?}");
    }
    let wide = act(0)
        .because(&"界".repeat(600))
        .with(json!({ "x": "界".repeat(20_000) }));
    bed.store.audit().append(&wide).await.unwrap();
    let record = newest(bed).await;
    assert_eq!(record.reason.unwrap().chars().count(), 500);
    assert_eq!(problems(bed, &[]).await, []);
}
