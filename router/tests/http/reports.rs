//! Reporting messages, and what moderators see of it.

use reqwest::Method;
use serde_json::{Value, json};

use crate::harness::{Answer, Service, User};

async fn list(admin: &User<'_>, query: &str, reason: Option<&str>) -> Answer {
    let request = admin.request(Method::GET, &format!("/admin/reports{query}"));
    let request = match reason {
        Some(reason) => request.header("x-audit-reason", reason),
        None => request,
    };
    Answer::of(request).await
}

#[tokio::test]
async fn a_message_is_reported_read_and_resolved() {
    let service = Service::start().await;
    let (admin, mallory) = (service.admin("root"), service.user("mallory"));
    let (bob, stranger) = (service.user("bob"), service.user("stranger"));
    let id = mallory.group(json!(["bob"])).await;
    let messages = format!("/chat/conversations/{id}/messages");
    let said = mallory
        .post(&messages, json!({"content": "buy this"}))
        .await;
    let said = said.expect(201);
    let message = said["id"].as_str().unwrap();
    let path = format!("/chat/messages/{message}/report");
    let body = json!({"reason": "spam", "note": "The third time"});
    let first = bob.post(&path, body.clone()).await.expect(201);
    let again = bob
        .post(&path, json!({"reason": "other"}))
        .await
        .expect(200);
    assert_eq!(again, first);
    stranger
        .post(&path, body.clone())
        .await
        .problem(403, "not_a_member");
    mallory
        .post(&path, body)
        .await
        .problem(400, "invalid_request");
    for wrong in [
        json!({}),
        json!({"reason": "dislike"}),
        json!({"reason": "spam", "note": ""}),
    ] {
        bob.post(&path, wrong).await.problem(400, "invalid_request");
    }
    mallory
        .delete(&format!("/chat/messages/{message}"))
        .await
        .expect(200);

    list(&bob, "", Some("curious"))
        .await
        .problem(403, "forbidden");
    list(&admin, "", None).await.problem(400, "invalid_request");
    list(&admin, "", Some(" "))
        .await
        .problem(400, "invalid_request");
    let query = format!("?state=open&conversationId={id}&userId=mallory");
    let page = list(&admin, &query, Some("the morning's queue"))
        .await
        .expect(200);
    let reports = page["reports"].as_array().unwrap();
    assert_eq!(reports.len(), 1);
    for (field, value) in [
        ("id", first["reportId"].clone()),
        ("messageId", json!(message)),
        ("senderId", json!("mallory")),
        ("reporterId", json!("bob")),
        ("reason", json!("spam")),
        ("note", json!("The third time")),
        ("state", json!("open")),
        ("resolvedBy", json!(null)),
    ] {
        assert_eq!(reports[0][field], value, "{field}");
    }
    assert_eq!(reports[0]["evidence"]["content"], "buy this");
    for wrong in ["?state=new", "?conversationId=x", "?limit=101", "?cursor=x"] {
        let answer = list(&admin, wrong, Some("x")).await;
        answer.problem(400, "invalid_request");
    }

    let resolve = format!(
        "/admin/reports/{}/resolve",
        first["reportId"].as_str().unwrap()
    );
    let verdict = json!({"verdict": "deleted", "note": "It was advertising"});
    bob.post(&resolve, verdict.clone())
        .await
        .problem(403, "forbidden");
    let resolved = admin.post(&resolve, verdict.clone()).await.expect(200);
    assert_eq!(resolved["resolvedBy"], "root");
    admin
        .post(&resolve, verdict.clone())
        .await
        .problem(409, "conflict");
    let nothing = "/admin/reports/99/resolve";
    admin.post(nothing, verdict).await.problem(404, "not_found");

    let audit = admin.get("/admin/audit?actor=user/root").await.expect(200);
    let told: Vec<Value> = audit["records"]
        .as_array()
        .unwrap()
        .iter()
        .map(|it| json!([it["action"], it["subject"], it["reason"]]))
        .collect();
    let report = format!("report/{}", first["reportId"].as_str().unwrap());
    assert_eq!(
        told,
        [
            json!(["report.resolve", report, "It was advertising"]),
            json!(["content.read", null, "the morning's queue"]),
        ]
    );
}
