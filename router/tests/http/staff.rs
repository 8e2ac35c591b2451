//! Which staff may call which route.

use reqwest::Method;
use serde_json::{Value, json};

use crate::harness::{Answer, Service};

/// The roles that may call each route, besides those that may not.
const EXPECTED: [(&str, &str, &[&str]); 11] = [
    (
        "GET",
        "/admin/users/{userId}/sanctions",
        &["moderator", "admin"],
    ),
    (
        "POST",
        "/admin/users/{userId}/sanctions",
        &["moderator", "admin"],
    ),
    (
        "DELETE",
        "/admin/users/{userId}/sanctions",
        &["moderator", "admin"],
    ),
    (
        "POST",
        "/admin/users/{userId}/revoke",
        &["moderator", "admin"],
    ),
    ("GET", "/admin/reports", &["moderator", "admin"]),
    (
        "POST",
        "/admin/reports/{reportId}/resolve",
        &["moderator", "admin"],
    ),
    ("GET", "/admin/audit", &["admin"]),
    ("POST", "/admin/notifications", &["admin"]),
    ("POST", "/admin/events", &["admin"]),
    ("GET", "/admin/presence", &["admin"]),
    ("POST", "/admin/messages", &["admin"]),
];

#[tokio::test]
async fn each_route_admits_its_roles_and_nobody_else() {
    let service = Service::start().await;
    let document = service
        .user("anybody")
        .get("/openapi.json")
        .await
        .expect(200);
    let mut routes = 0;
    for (path, item) in document["paths"].as_object().unwrap() {
        if !path.starts_with("/admin") {
            continue;
        }
        for method in ["get", "post", "put", "patch", "delete"] {
            if item[method].is_null() {
                continue;
            }
            routes += 1;
            let method = method.to_uppercase();
            let mut rows = EXPECTED.iter();
            let row =
                rows.find(|(its_method, its_path, _)| *its_method == method && its_path == path);
            let (_, _, admitted) = row.unwrap_or_else(|| panic!("{method} {path} has no row"));
            for role in [
                None,
                Some("user"),
                Some("Admin"),
                Some("moderator"),
                Some("admin"),
            ] {
                let user = service.user_with("somebody", role);
                let path = path
                    .replace("{userId}", "mallory")
                    .replace("{reportId}", "99");
                let method = Method::from_bytes(method.as_bytes()).unwrap();
                let request = user
                    .request(method.clone(), &path)
                    .header("x-audit-reason", "x");
                // What is wrong with a body is said only to those who may call.
                let request = match method {
                    Method::GET | Method::DELETE => request,
                    _ => request.json(&json!({ "nothing": Value::Null })),
                };
                let answer = Answer::of(request).await;
                if role.is_some_and(|role| admitted.contains(&role)) {
                    assert_ne!(answer.status, 403, "{method} {path} {role:?}");
                    assert_ne!(answer.status, 401, "{method} {path} {role:?}");
                } else {
                    answer.problem(403, "forbidden");
                }
            }
        }
    }
    assert_eq!(routes, EXPECTED.len());
}
