//! Reports of messages that are archived.

use backscroll_shard::reports::{NewReport, ReportReason};

use super::bed::{Backend, Bed, caller, on_both};

on_both!(archived_messages_are_reported_as_they_are);

async fn archived_messages_are_reported_as_they_are(backend: Backend) {
    let bed = Bed::open(backend).await;
    let id = bed.import("talk", 200).await;
    bed.run().await;
    let alice = caller("alice");
    let log = bed.walk(id).await;
    let mut others = log.iter().filter(|it| it.sender_id != alice.user);
    let said = others.next().unwrap();
    let new = NewReport {
        reason: ReportReason::Other,
        note: None,
    };
    let reported = bed.store.report(&alice, said.id, &new).await;
    let (report, is_new) = reported.unwrap();
    assert!(is_new);
    let evidence = report.evidence.unwrap();
    let evidence: serde_json::Value = serde_json::from_str(evidence.get()).unwrap();
    assert_eq!(evidence["content"], said.content);
    assert_eq!((report.rev, report.message_id), (said.rev, said.id));
    assert_eq!(bed.hot_rows(id).await, 0, "it stays archived");
    bed.assert_clean().await;
    bed.close().await;
}
