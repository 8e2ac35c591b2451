//! Reports: the moderators are shown what the reporter was.

use std::time::Instant;

use backscroll_shard::audit::AuditFilter;
use backscroll_shard::db::{Database, explain};
use backscroll_shard::error::Error;
use backscroll_shard::ids::{ConversationId, MessageId, ReportId, Seq};
use backscroll_shard::model::Message;
use backscroll_shard::reports::{
    NewReport, Report, ReportFilter, ReportReason, ReportState, Resolution, Verdict,
};
use backscroll_shard::settings::StoreSettings;
use serde_json::{Value, json};

use crate::bed::{Bed, PATIENCE, caller, text, user};

crate::on_every_backend!(with watch:
    moderators_see_the_message_as_it_was_reported,
    a_message_is_reported_once_by_each,
    only_readers_report,
    what_breaks_a_rule_is_refused,
    open_reports_of_a_user_are_bounded,
    reports_are_listed_by_what_they_are_about,
    a_report_is_resolved_once_and_its_evidence_goes_in_time,
);

fn watch(settings: &mut StoreSettings) {
    explain::watch(&settings.directory.url.0);
}

fn new(note: Option<&str>) -> NewReport {
    NewReport {
        reason: ReportReason::Spam,
        note: note.map(str::to_owned),
    }
}

async fn report(bed: &Bed, name: &str, message: &Message) -> Result<(Report, bool), Error> {
    let reporter = caller(name);
    bed.store.report(&reporter, message.id, &new(None)).await
}

async fn reports(bed: &Bed, filter: &ReportFilter, limit: usize) -> Vec<u64> {
    let (mut ids, mut cursor) = (Vec::new(), None);
    loop {
        let page = bed.store.reports().list(filter, cursor.as_deref(), limit);
        let page = page.await.unwrap();
        assert!(page.reports.len() <= limit);
        ids.extend(page.reports.iter().map(|it| it.id.0));
        cursor = page.next_cursor;
        if cursor.is_none() {
            return ids;
        }
    }
}

async fn one(bed: &Bed, id: ReportId) -> Value {
    let all = ReportFilter::default();
    let page = bed.store.reports().list(&all, None, 100).await.unwrap();
    let found = page.reports.iter().find(|it| it.id == id).unwrap();
    serde_json::to_value(found).unwrap()
}

async fn moderators_see_the_message_as_it_was_reported(bed: &Bed) {
    let mallory = caller("mallory");
    let id = bed.group("mallory", &["bob"]).await;
    let said = bed.say("mallory", id, "buy this").await;
    let edited = bed.store.edit_message(&mallory, said.id, "buy that".into());
    let edited = edited.await.unwrap();
    let note = new(Some("the third time"));
    let (report, is_new) = bed
        .store
        .report(&caller("bob"), said.id, &note)
        .await
        .unwrap();
    assert!(is_new);
    let later = bed.store.edit_message(&mallory, said.id, "hello".into());
    later.await.unwrap();
    bed.store.delete_message(&mallory, said.id).await.unwrap();
    let shown = one(bed, report.id).await;
    assert_eq!(
        shown,
        json!({
            "id": "1", "conversationId": id, "messageId": said.id, "rev": edited.rev, "senderId": "mallory", "reporterId": "bob",
            "reason": "spam", "note": "the third time", "state": "open", "reportedAt": report.reported_at,
            "evidence": {
                "content": "buy that", "messageType": "text", "attachments": [], "createdAt": said.created_at,
                "editedAt": edited.edited_at,
            },
        })
    );
}

async fn a_message_is_reported_once_by_each(bed: &Bed) {
    let id = bed.group("mallory", &["bob", "carol"]).await;
    let said = bed.say("mallory", id, "x").await;
    let (first, _) = report(bed, "bob", &said).await.unwrap();
    let (again, is_new) = report(bed, "bob", &said).await.unwrap();
    assert_eq!((again.id, is_new), (first.id, false));
    let (other, is_new) = report(bed, "carol", &said).await.unwrap();
    assert!(is_new && other.id != first.id);
    // At the same time, through two nodes.
    let said = bed.say("mallory", id, "y").await;
    let another = Bed::another(bed.store.settings()).await;
    let bob = caller("bob");
    let reporting = (0..8).map(|n| {
        let store = if n % 2 == 0 { &bed.store } else { &another };
        let (bob, said) = (&bob, &said);
        async move { store.report(bob, said.id, &new(None)).await.unwrap() }
    });
    let outcomes = futures_util::future::join_all(reporting).await;
    assert_eq!(outcomes.iter().filter(|(_, is_new)| *is_new).count(), 1);
    assert!(outcomes.iter().all(|(it, _)| it.id == outcomes[0].0.id));
    another.close(Instant::now() + PATIENCE).await;
}

async fn only_readers_report(bed: &Bed) {
    let id = bed.group("mallory", &["bob"]).await;
    let said = bed.say("mallory", id, "x").await;
    let refused = report(bed, "stranger", &said).await;
    assert!(matches!(refused, Err(Error::NotMember)), "{refused:?}");
    let nowhere = MessageId {
        conversation: ConversationId::new(id.owner_key(), 7),
        seq: Seq(1),
    };
    let store = &bed.store;
    let refused = store.report(&caller("stranger"), nowhere, &new(None)).await;
    assert!(matches!(refused, Err(Error::NotMember)), "{refused:?}");
    let missing = MessageId {
        conversation: id,
        seq: Seq(99),
    };
    let refused = store.report(&caller("bob"), missing, &new(None)).await;
    assert!(matches!(refused, Err(Error::NotFound(_))), "{refused:?}");
    assert!(reports(bed, &ReportFilter::default(), 10).await.is_empty());
}

async fn what_breaks_a_rule_is_refused(bed: &Bed) {
    let id = bed.group("mallory", &["bob"]).await;
    let said = bed.say("mallory", id, "x").await;
    let own = report(bed, "mallory", &said).await;
    assert!(matches!(own, Err(Error::Invalid(_))), "{own:?}");
    let bob = caller("bob");
    for note in ["", "  ", "a\0b", &"x".repeat(501)] {
        let refused = bed.store.report(&bob, said.id, &new(Some(note))).await;
        assert!(matches!(refused, Err(Error::Invalid(_))), "{refused:?}");
    }
    let wide = new(Some(&"界".repeat(500)));
    bed.store.report(&bob, said.id, &wide).await.unwrap();
    let deleted = bed.say("mallory", id, "y").await;
    let mallory = caller("mallory");
    bed.store
        .delete_message(&mallory, deleted.id)
        .await
        .unwrap();
    let refused = report(bed, "bob", &deleted).await;
    assert!(matches!(refused, Err(Error::Conflict(_))), "{refused:?}");
}

async fn open_reports_of_a_user_are_bounded(bed: &Bed) {
    let id = bed.group("mallory", &["bob", "carol"]).await;
    let texts = (0..101).map(|n| text(&format!("{n}"))).collect();
    let said = bed.store.send_all(&caller("mallory"), id, texts).await;
    let said: Vec<Message> = said.into_iter().map(|it| it.unwrap().message).collect();
    for message in &said[..100] {
        report(bed, "bob", message).await.unwrap();
    }
    let more = report(bed, "bob", &said[100]).await;
    assert!(
        matches!(more, Err(Error::LimitReached { max: 100, .. })),
        "{more:?}"
    );
    report(bed, "bob", &said[0]).await.unwrap();
    report(bed, "carol", &said[100]).await.unwrap();
    let dismissed = Resolution {
        verdict: Verdict::Dismissed,
        note: None,
    };
    let root = user("root");
    let resolved = bed.store.reports().resolve(&root, ReportId(1), &dismissed);
    resolved.await.unwrap();
    report(bed, "bob", &said[100]).await.unwrap();
}

async fn reports_are_listed_by_what_they_are_about(bed: &Bed) {
    let one = bed.group("mallory", &["bob", "trudy"]).await;
    let other = bed.group("mallory", &["bob", "trudy"]).await;
    for (name, id) in [
        ("mallory", one),
        ("trudy", one),
        ("mallory", other),
        ("trudy", other),
        ("mallory", one),
    ] {
        let said = bed.say(name, id, "x").await;
        report(bed, "bob", &said).await.unwrap();
    }
    let dismissed = Resolution {
        verdict: Verdict::Dismissed,
        note: None,
    };
    let root = user("root");
    let resolved = bed.store.reports().resolve(&root, ReportId(3), &dismissed);
    resolved.await.unwrap();
    let (open, mallory) = (Some(ReportState::Open), Some(user("mallory")));
    let filter = |state, conversation, user| ReportFilter {
        state,
        conversation,
        user,
    };
    for (filter, ids) in [
        (filter(None, None, None), vec![5, 4, 3, 2, 1]),
        (filter(open, None, None), vec![5, 4, 2, 1]),
        (filter(None, Some(one), None), vec![5, 2, 1]),
        (filter(None, None, mallory.clone()), vec![5, 3, 1]),
        (filter(open, Some(other), mallory), vec![]),
        (filter(open, Some(other), Some(user("trudy"))), vec![4]),
        (filter(None, None, Some(user("mallory "))), vec![]),
    ] {
        for limit in [1, 2, 100] {
            assert_eq!(reports(bed, &filter, limit).await, ids, "{filter:?}");
        }
    }
    let all = ReportFilter::default();
    let refused = bed.store.reports().list(&all, Some("x"), 5).await;
    assert!(matches!(refused, Err(Error::Invalid(_))), "{refused:?}");
    for (statement, steps) in explain::seen(&bed.settings.directory.url.0) {
        for step in steps {
            assert!(!(step.scans && step.table == "reports"), "{statement}");
        }
    }
}

async fn a_report_is_resolved_once_and_its_evidence_goes_in_time(bed: &Bed) {
    let id = bed.group("mallory", &["bob"]).await;
    let mut ids = Vec::new();
    for content in ["x", "y"] {
        let said = bed.say("mallory", id, content).await;
        ids.push(report(bed, "bob", &said).await.unwrap().0.id);
    }
    let (root, store) = (user("root"), &bed.store);
    let resolution = Resolution {
        verdict: Verdict::Sanctioned,
        note: Some("muted for a day".into()),
    };
    let resolve = |id| store.reports().resolve(&root, id, &resolution);
    let resolved = resolve(ids[0]).await.unwrap();
    assert_eq!(
        (
            resolved.state,
            resolved.verdict,
            resolved.resolved_by.as_ref()
        ),
        (
            ReportState::Resolved,
            Some(Verdict::Sanctioned),
            Some(&root)
        )
    );
    let again = resolve(ids[0]).await;
    assert!(matches!(again, Err(Error::Conflict(_))), "{again:?}");
    let nothing = resolve(ReportId(99)).await;
    assert!(matches!(nothing, Err(Error::NotFound(_))), "{nothing:?}");
    let of_report = AuditFilter {
        subject: Some("report/1".into()),
        ..AuditFilter::default()
    };
    let recorded = store.audit().list(&of_report, None, 10).await.unwrap();
    assert_eq!(recorded.records.len(), 1);
    let record = &recorded.records[0];
    assert_eq!(
        (record.action.as_str(), record.reason.as_deref()),
        ("report.resolve", Some("muted for a day"))
    );

    assert_eq!(store.reports().forget().await.unwrap(), 0);
    assert_eq!(one(bed, ids[0]).await["evidence"]["content"], "x");
    // 90 days later.
    let settings = &bed.settings;
    let database = Database::open_any(&settings.directory.url, &settings.pool).unwrap();
    let deadline = Instant::now() + PATIENCE;
    let mut connection = database.writer(deadline).await.unwrap();
    let days = 90 * 24 * 3600 * 1000_i64;
    let statement = "UPDATE reports SET forget_at = forget_at - ?";
    connection.execute(statement, &[days.into()]).await.unwrap();
    drop(connection);
    database.close().await;
    assert_eq!(store.reports().forget().await.unwrap(), 1);
    let forgotten = one(bed, ids[0]).await;
    assert_eq!(forgotten["evidence"], json!(null));
    assert_eq!(forgotten["verdict"], "sanctioned");
    assert_eq!(one(bed, ids[1]).await["evidence"]["content"], "y");
}
