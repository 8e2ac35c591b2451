//! What moderators impose on users: on every node, until it ends or is lifted.

use std::time::{Duration, Instant};

use backscroll_shard::error::Error;
use backscroll_shard::ids::MessageId;
use backscroll_shard::model::{ConversationKind, ConversationPatch, Timestamp};
use backscroll_shard::sanctions::{NewSanction, Sanction, SanctionKind, Sanctioned};
use backscroll_shard::store::Store;

use crate::bed::{Bed, PATIENCE, caller, text, text_as, user};

crate::on_every_backend!(
    a_muted_user_reads_and_does_nothing_that_others_see,
    what_a_muted_user_has_sent_is_answered_again,
    a_node_hears_of_what_another_imposed,
    a_suspension_ends_by_itself,
    sanctions_of_one_kind_are_lifted_alone,
    each_is_kept_with_who_did_it_and_why,
    what_breaks_a_rule_is_refused,
    changes_at_the_same_time_are_all_heard_of,
    tokens_that_were_issued_before_are_revoked,
);

fn new(kind: SanctionKind, until: Option<Timestamp>) -> NewSanction {
    NewSanction {
        kind,
        until,
        reason: "advertising".to_owned(),
    }
}

async fn impose(bed: &Bed, name: &str, kind: SanctionKind, until: Option<Timestamp>) -> Sanction {
    let (moderator, user) = (user("moderator"), user(name));
    let new = new(kind, until);
    let imposed = bed.store.sanctions().impose(&moderator, &user, &new);
    imposed.await.unwrap()
}

async fn lift(bed: &Bed, name: &str, kind: Option<SanctionKind>) -> Result<usize, Error> {
    let sanctions = bed.store.sanctions();
    let lifted = sanctions
        .lift(&user("moderator"), &user(name), kind)
        .await?;
    assert!(
        lifted
            .iter()
            .all(|it| it.lifted_by == Some(user("moderator")))
    );
    Ok(lifted.len())
}

fn in_ms(ms: i64) -> Timestamp {
    Timestamp(Timestamp::now().0 + ms)
}

fn forbids<T: std::fmt::Debug>(outcome: Result<T, Error>) -> Sanctioned {
    match outcome {
        Err(Error::Sanctioned(sanctioned)) => *sanctioned,
        other => panic!("{other:?}"),
    }
}

async fn a_muted_user_reads_and_does_nothing_that_others_see(bed: &Bed) {
    let (mallory, bob) = (caller("mallory"), caller("bob"));
    let id = bed.group("mallory", &["bob"]).await;
    let own = bed.say("mallory", id, "before").await;
    let other = bed.say("bob", id, "hello").await;
    let at = |seq| MessageId {
        conversation: id,
        seq,
    };
    impose(bed, "mallory", SanctionKind::Mute, None).await;

    let store = &bed.store;
    let error = forbids(store.send(&mallory, id, text("x")).await);
    assert_eq!(error.to_string(), "you are muted: advertising");
    for sent in store
        .send_all(&mallory, id, vec![text("x"), text("y")])
        .await
    {
        forbids(sent);
    }
    forbids(store.edit_message(&mallory, at(own.seq), "y".into()).await);
    forbids(store.react(&mallory, at(other.seq), "👍").await);
    forbids(
        bed.create("mallory", ConversationKind::Group, &["bob"])
            .await,
    );
    forbids(
        bed.create("mallory", ConversationKind::Direct, &["bob"])
            .await,
    );
    let named = |title: Option<&str>, muted| ConversationPatch {
        title: title.map(str::to_owned),
        muted,
        ..ConversationPatch::default()
    };
    forbids(
        store
            .update_conversation(&mallory, id, named(Some("x"), None))
            .await,
    );

    assert_eq!(bed.log("mallory", id).await.len(), 2);
    store.mark_read(&mallory, id, None).await.unwrap();
    let patch = named(None, Some(true));
    store
        .update_conversation(&mallory, id, patch)
        .await
        .unwrap();
    store.delete_message(&mallory, at(own.seq)).await.unwrap();
    store.sanctions().admit(&user("mallory"), None).unwrap();
    // The others are not concerned, not even with the muted user.
    store.react(&bob, at(other.seq), "👍").await.unwrap();
    bed.say("bob", id, "still here").await;

    assert_eq!(lift(bed, "mallory", None).await.unwrap(), 1);
    bed.say("mallory", id, "after").await;
}

async fn what_a_muted_user_has_sent_is_answered_again(bed: &Bed) {
    let mallory = caller("mallory");
    let id = bed.group("mallory", &["bob"]).await;
    let direct = bed
        .create("mallory", ConversationKind::Direct, &["bob"])
        .await
        .unwrap();
    let sent = bed
        .store
        .send(&mallory, id, text_as("one", "x"))
        .await
        .unwrap();
    impose(bed, "mallory", SanctionKind::Mute, None).await;
    let again = bed
        .store
        .send(&mallory, id, text_as("one", "x"))
        .await
        .unwrap();
    assert!(!again.created);
    assert_eq!(again.message.seq, sent.message.seq);
    let found = bed
        .create("mallory", ConversationKind::Direct, &["bob"])
        .await;
    assert_eq!(found.unwrap(), direct);
}

/// Waits until a node shuts `name` out, or does not.
async fn until_admits(store: &Store, name: &str, admits: bool) {
    let begun = Instant::now();
    while store.sanctions().admit(&user(name), None).is_ok() != admits {
        assert!(begun.elapsed() < PATIENCE, "{name}: {admits}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn a_node_hears_of_what_another_imposed(bed: &Bed) {
    let another = Bed::another(bed.store.settings()).await;
    let mut changes = another.sanctions().changes();
    impose(bed, "mallory", SanctionKind::Ban, None).await;
    until_admits(&bed.store, "mallory", false).await;
    until_admits(&another, "mallory", false).await;
    tokio::time::timeout(PATIENCE, changes.changed())
        .await
        .unwrap()
        .unwrap();
    let error = another
        .sanctions()
        .admit(&user("mallory"), None)
        .unwrap_err();
    assert_eq!(error.kind, SanctionKind::Ban);
    another.sanctions().admit(&user("bob"), None).unwrap();
    lift(bed, "mallory", None).await.unwrap();
    until_admits(&another, "mallory", true).await;
    // A node that starts later knows what is in force then.
    impose(bed, "mallory", SanctionKind::Ban, None).await;
    let late = Bed::another(bed.store.settings()).await;
    late.sanctions().refresh().await.unwrap();
    late.sanctions().admit(&user("mallory"), None).unwrap_err();
    for store in [another, late] {
        store.close(Instant::now() + PATIENCE).await;
    }
}

async fn a_suspension_ends_by_itself(bed: &Bed) {
    let until = in_ms(700);
    impose(bed, "mallory", SanctionKind::Suspend, Some(until)).await;
    let error = bed
        .store
        .sanctions()
        .admit(&user("mallory"), None)
        .unwrap_err();
    assert_eq!(
        (error.kind, error.until),
        (SanctionKind::Suspend, Some(until))
    );
    assert_eq!(
        error.to_string(),
        format!("you are suspended until {until}: advertising")
    );
    until_admits(&bed.store, "mallory", true).await;
    assert!(Timestamp::now() >= until);
    // There is nothing left to lift.
    let nothing = lift(bed, "mallory", None).await;
    assert!(matches!(nothing, Err(Error::NotFound(_))), "{nothing:?}");
}

async fn sanctions_of_one_kind_are_lifted_alone(bed: &Bed) {
    for _ in 0..2 {
        impose(bed, "mallory", SanctionKind::Mute, None).await;
    }
    impose(
        bed,
        "mallory",
        SanctionKind::Suspend,
        Some(in_ms(3_600_000)),
    )
    .await;
    impose(bed, "mallory", SanctionKind::Ban, None).await;
    let sanctions = bed.store.sanctions();
    let kind = || {
        sanctions
            .admit(&user("mallory"), None)
            .map_err(|it| it.kind)
    };
    assert_eq!(kind(), Err(SanctionKind::Ban));
    assert_eq!(
        lift(bed, "mallory", Some(SanctionKind::Ban)).await.unwrap(),
        1
    );
    assert_eq!(kind(), Err(SanctionKind::Suspend));
    assert_eq!(lift(bed, "mallory", None).await.unwrap(), 3);
    assert_eq!(kind(), Ok(()));
    sanctions.may_speak(&user("mallory")).unwrap();
}

async fn each_is_kept_with_who_did_it_and_why(bed: &Bed) {
    let until = in_ms(3_600_000);
    let first = impose(bed, "mallory", SanctionKind::Mute, Some(until)).await;
    lift(bed, "mallory", None).await.unwrap();
    impose(bed, "mallory", SanctionKind::Ban, None).await;
    impose(bed, "somebody else", SanctionKind::Ban, None).await;
    let all = bed
        .store
        .sanctions()
        .of_user(&user("mallory"))
        .await
        .unwrap();
    let kinds: Vec<SanctionKind> = all.iter().map(|it| it.kind).collect();
    assert_eq!(kinds, [SanctionKind::Ban, SanctionKind::Mute]);
    assert_eq!(
        (first.user_id.as_str(), first.reason.as_str()),
        ("mallory", "advertising")
    );
    assert_eq!(
        (first.until, first.imposed_by),
        (Some(until), user("moderator"))
    );
    assert_eq!(all[1].lifted_by, Some(user("moderator")));
    assert!(all[1].lifted_at.unwrap() >= all[1].imposed_at);
    assert_eq!(all[0].lifted_at, None);
}

async fn what_breaks_a_rule_is_refused(bed: &Bed) {
    use SanctionKind::{Ban, Mute, Suspend};
    let sanctions = bed.store.sanctions();
    let (moderator, mallory) = (user("moderator"), user("mallory"));
    let with_reason = |reason: &str| NewSanction {
        reason: reason.to_owned(),
        ..new(Mute, None)
    };
    for (new, field) in [
        (new(Suspend, None), "until"),
        (new(Ban, Some(in_ms(60_000))), "until"),
        (new(Mute, Some(in_ms(-1))), "until"),
        (new(Mute, Some(Timestamp(i64::MAX))), "until"),
        (with_reason(" "), "reason"),
        (with_reason(&"x".repeat(501)), "reason"),
    ] {
        let outcome = sanctions.impose(&moderator, &mallory, &new).await;
        match outcome {
            Err(Error::Invalid(text)) => assert!(text.starts_with(field), "{text}"),
            other => panic!("{other:?}"),
        }
    }
    let oneself = sanctions
        .impose(&moderator, &moderator, &new(Ban, None))
        .await;
    assert!(matches!(oneself, Err(Error::Invalid(_))), "{oneself:?}");
    let wide = "界".repeat(500);
    sanctions
        .impose(&moderator, &mallory, &with_reason(&wide))
        .await
        .unwrap();
    for _ in 1..100 {
        impose(bed, "mallory", Mute, None).await;
    }
    let more = sanctions
        .impose(&moderator, &mallory, &new(Mute, None))
        .await;
    assert!(
        matches!(more, Err(Error::LimitReached { max: 100, .. })),
        "{more:?}"
    );
    assert_eq!(lift(bed, "mallory", None).await.unwrap(), 100);
}

async fn changes_at_the_same_time_are_all_heard_of(bed: &Bed) {
    let another = Bed::another(bed.store.settings()).await;
    let names: Vec<String> = (0..24).map(|n| format!("user {n}")).collect();
    let imposing = names.iter().enumerate().map(|(n, name)| {
        let store = if n % 2 == 0 { &bed.store } else { &another };
        let name = user(name);
        async move {
            let ban = new(SanctionKind::Ban, None);
            store
                .sanctions()
                .impose(&user("moderator"), &name, &ban)
                .await
        }
    });
    for outcome in futures_util::future::join_all(imposing).await {
        outcome.unwrap();
    }
    for name in &names {
        until_admits(&bed.store, name, false).await;
        until_admits(&another, name, false).await;
    }
    another.close(Instant::now() + PATIENCE).await;
}

async fn tokens_that_were_issued_before_are_revoked(bed: &Bed) {
    let sanctions = bed.store.sanctions();
    let admits = |issued_at| {
        sanctions
            .admit(&user("mallory"), issued_at)
            .map_err(|it| it.kind)
    };
    for _ in 0..2 {
        let revoked = impose(bed, "mallory", SanctionKind::Revoke, None).await;
        let second = u64::try_from(revoked.imposed_at.0 / 1000).unwrap();
        assert_eq!(admits(Some(second)), Err(SanctionKind::Revoke));
        assert_eq!(admits(Some(second + 1)), Ok(()));
        assert_eq!(
            admits(None),
            Err(SanctionKind::Revoke),
            "of a token that does not tell"
        );
    }
    sanctions.may_speak(&user("mallory")).unwrap();
    impose(bed, "mallory", SanctionKind::Ban, None).await;
    assert_eq!(
        admits(Some(0)),
        Err(SanctionKind::Ban),
        "the graver one is told"
    );
    assert_eq!(
        lift(bed, "mallory", None).await.unwrap(),
        2,
        "one revocation is in force"
    );
    assert_eq!(admits(None), Ok(()));
}
