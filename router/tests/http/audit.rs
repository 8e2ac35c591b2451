//! The audit log over HTTP.

use serde_json::json;

use crate::harness::Service;

#[tokio::test]
async fn administrators_read_who_did_what() {
    let service = Service::start().await;
    let (admin, bob) = (service.admin("root"), service.user("bob"));
    for name in ["mallory", "trudy"] {
        let body = json!({"kind": "mute", "reason": "Advertising"});
        let path = format!("/admin/users/{name}/sanctions");
        admin.post(&path, body).await.expect(201);
    }
    admin
        .delete("/admin/users/trudy/sanctions")
        .await
        .expect(200);
    bob.get("/admin/audit").await.problem(403, "forbidden");

    let page = admin.get("/admin/audit?limit=2").await.expect(200);
    assert_eq!(page["records"][0]["action"], "sanction.lift");
    assert_eq!(page["records"][1]["subject"], "user/trudy");
    let next = page["nextCursor"].as_str().unwrap();
    let path = format!("/admin/audit?limit=2&cursor={next}");
    let page = admin.get(&path).await.expect(200);
    assert_eq!(page["nextCursor"], json!(null));
    let first = &page["records"][0];
    for (field, value) in [
        ("number", json!(1)),
        ("actor", json!("user/root")),
        ("action", json!("sanction.impose")),
        ("subject", json!("user/mallory")),
        ("reason", json!("Advertising")),
        ("details", json!({"kind": "mute", "until": null})),
        ("erased", json!(false)),
    ] {
        assert_eq!(first[field], value, "{field}");
    }
    let filters = "subject=user/trudy&action=sanction.impose&actor=user/root";
    let times = "from=2001-01-01T00:00:00Z&until=2999-01-01T00:00:00Z";
    let path = format!("/admin/audit?{filters}&{times}");
    let page = admin.get(&path).await.expect(200);
    assert_eq!(page["records"].as_array().unwrap().len(), 1);
    for wrong in [
        "cursor=x",
        "limit=0",
        "limit=101",
        "from=yesterday",
        "who=root",
    ] {
        admin
            .get(&format!("/admin/audit?{wrong}"))
            .await
            .problem(400, "invalid_request");
    }
}
