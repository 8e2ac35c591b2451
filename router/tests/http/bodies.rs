//! Bodies that are not as they must be, and hostile values in those that are.

use backscroll::http::settings::ServerSettings;
use reqwest::Method;
use reqwest::header::CONTENT_TYPE;
use serde_json::{Value, json};

use crate::harness::{Answer, Service, User, shared_secret};

async fn with_body(
    user: &User<'_>,
    method: Method,
    path: &str,
    content_type: Option<&str>,
    body: impl Into<reqwest::Body>,
) -> Answer {
    let mut request = user.request(method, path).body(body);
    if let Some(content_type) = content_type {
        request = request.header(CONTENT_TYPE, content_type);
    }
    Answer::of(request).await
}

#[tokio::test]
async fn bodies_must_be_json_objects_with_known_fields() {
    let service = Service::start().await;
    let alice = service.user("alice");
    let id = alice.group(json!(["bob"])).await;
    let send = format!("/chat/conversations/{id}/messages");
    let json_type = Some("application/json");
    let cases: [(&str, &[u8], &str); 24] = [
        ("empty", b"", "empty"),
        ("blank", b"  \n", "not a JSON object"),
        ("cut off", b"{\"content\":\"a", "not valid JSON"),
        ("more than one", b"{\"content\":\"a\"}{}", "not valid JSON"),
        (
            "a comma too many",
            b"{\"content\":\"a\",}",
            "not valid JSON",
        ),
        ("a comment", b"/**/{\"content\":\"a\"}", "not a JSON object"),
        (
            "a byte order mark",
            b"\xef\xbb\xbf{\"content\":\"a\"}",
            "not a JSON object",
        ),
        ("not UTF-8", b"{\"content\":\"\xff\"}", "not valid JSON"),
        ("UTF-16", b"{\0\"\0", "not valid JSON"),
        (
            "half a surrogate pair",
            br#"{"content":"\ud83d"}"#,
            "not valid JSON",
        ),
        (
            "a control character",
            b"{\"content\":\"a\nb\"}",
            "not valid JSON",
        ),
        ("a list", b"[\"hello\"]", "not a JSON object"),
        ("a text", b"\"hello\"", "not a JSON object"),
        ("null", b"null", "not a JSON object"),
        ("nothing in it", b"{}", "missing field `content`"),
        (
            "an unknown field",
            b"{\"content\":\"a\",\"color\":1}",
            "unknown field `color`",
        ),
        (
            "the wrong case",
            b"{\"Content\":\"a\"}",
            "unknown field `Content`",
        ),
        (
            "a field twice",
            b"{\"content\":\"a\",\"content\":\"b\"}",
            "duplicate field `content`",
        ),
        (
            "a number for text",
            b"{\"content\":7}",
            "content: invalid type",
        ),
        (
            "null for text",
            b"{\"content\":null}",
            "content: invalid type",
        ),
        (
            "an unknown type",
            b"{\"content\":\"a\",\"messageType\":\"video\"}",
            "messageType: unknown variant",
        ),
        (
            "a reply to nothing",
            b"{\"content\":\"a\",\"replyTo\":\"x\"}",
            "replyTo: a message id is",
        ),
        (
            "attachments that are no list",
            b"{\"content\":\"a\",\"attachments\":{}}",
            "attachments",
        ),
        (
            "metadata that are no object",
            b"{\"content\":\"a\",\"metadata\":[1]}",
            "metadata",
        ),
    ];
    for (name, body, expected) in cases {
        let answer = with_body(&alice, Method::POST, &send, json_type, body.to_vec()).await;
        let detail = answer.problem(400, "invalid_request");
        assert!(detail.contains(expected), "{name}: {detail}");
    }
    let unclosed = format!(
        "{{\"content\":\"a\",\"metadata\":{}",
        "{\"a\":".repeat(10_000)
    );
    with_body(&alice, Method::POST, &send, json_type, unclosed)
        .await
        .problem(400, "invalid_request");
    let long_name = format!("{{\"content\":\"a\",\"{}\":1}}", "x".repeat(50_000));
    let detail = with_body(&alice, Method::POST, &send, json_type, long_name)
        .await
        .problem(400, "invalid_request");
    assert!(detail.chars().count() <= 301, "a detail is short");
    assert_eq!(
        alice.get(&send).await.expect(200)["headSeq"],
        0,
        "nothing was stored"
    );
    let deep = format!(
        "{{\"content\":\"a\",\"metadata\":{}1{}}}",
        "{\"a\":".repeat(500),
        "}".repeat(500)
    );
    let answer = with_body(&alice, Method::POST, &send, json_type, deep).await;
    answer.problem(400, "invalid_request");
}

#[tokio::test]
async fn content_types_other_than_json_are_refused() {
    let service = Service::start().await;
    let alice = service.user("alice");
    let id = alice.group(json!(["bob"])).await;
    let send = format!("/chat/conversations/{id}/messages");
    let body = r#"{"content":"a"}"#;
    for wrong in [
        None,
        Some(""),
        Some("text/plain"),
        Some("application/xml"),
        Some("application/x-www-form-urlencoded"),
        Some("multipart/form-data; boundary=x"),
        Some("application/json; charset=latin1"),
        Some("json"),
        Some("application/jsonx"),
    ] {
        let answer = with_body(&alice, Method::POST, &send, wrong, body).await;
        answer.problem(415, "unsupported_media_type");
    }
    for right in [
        "application/json",
        "application/json; charset=utf-8",
        "Application/JSON;charset=UTF-8",
        "application/json;charset=\"utf-8\"",
    ] {
        with_body(&alice, Method::POST, &send, Some(right), body)
            .await
            .expect(201);
    }
    let read = format!("/chat/conversations/{id}/read");
    with_body(&alice, Method::PATCH, &read, None, "")
        .await
        .expect(200);
    with_body(&alice, Method::PATCH, &read, Some("application/json"), "")
        .await
        .expect(200);
    with_body(
        &alice,
        Method::PATCH,
        &read,
        Some("text/plain"),
        r#"{"seq":1}"#,
    )
    .await
    .problem(415, "unsupported_media_type");
    with_body(&alice, Method::PATCH, &read, None, r#"{"seq":1}"#)
        .await
        .problem(415, "unsupported_media_type");
}

#[tokio::test]
async fn bodies_have_a_largest_size() {
    let service = Service::start_with(
        ServerSettings {
            max_body: 2048,
            ..ServerSettings::default()
        },
        shared_secret(),
    )
    .await;
    let alice = service.user("alice");
    let id = alice.group(json!(["bob"])).await;
    let send = format!("/chat/conversations/{id}/messages");
    let padded = |size: usize| {
        let body = json!({ "content": "a", "metadata": { "pad": "" } }).to_string();
        body.replace("\"\"", &format!("\"{}\"", "x".repeat(size - body.len())))
    };
    assert_eq!(padded(2048).len(), 2048);
    with_body(
        &alice,
        Method::POST,
        &send,
        Some("application/json"),
        padded(2048),
    )
    .await
    .expect(201);
    for size in [2049, 100_000, 5_000_000] {
        let answer = with_body(
            &alice,
            Method::POST,
            &send,
            Some("application/json"),
            padded(size),
        )
        .await;
        assert!(answer.problem(413, "body_too_large").contains("2048 bytes"));
        // Without an announced length.
        let chunks = padded(size)
            .into_bytes()
            .chunks(1000)
            .map(|chunk| Ok::<_, std::io::Error>(chunk.to_vec()))
            .collect::<Vec<_>>();
        let stream = reqwest::Body::wrap_stream(futures_util::stream::iter(chunks));
        if size < 1_000_000 {
            with_body(
                &alice,
                Method::POST,
                &send,
                Some("application/json"),
                stream,
            )
            .await
            .problem(413, "body_too_large");
        }
    }
}

#[tokio::test]
async fn hostile_values_in_every_field_are_refused_or_kept_as_they_are() {
    let service = Service::start().await;
    let alice = service.user("alice");
    let id = alice.group(json!(["bob"])).await;
    let sql = "'; DROP TABLE messages; -- \\ \" ` %_ \u{1F600}";
    let sent = alice.post(&format!("/chat/conversations/{id}/messages"), json!({ "content": sql, "clientMsgId": "'--", "metadata": { "a": sql }, "attachments": [{ "name": sql }] })).await.expect(201);
    assert_eq!(
        (
            &sent["content"],
            &sent["metadata"]["a"],
            &sent["attachments"][0]["name"]
        ),
        (&json!(sql), &json!(sql), &json!(sql))
    );
    let renamed = alice
        .patch(
            &format!("/chat/conversations/{id}"),
            json!({ "title": sql }),
        )
        .await
        .expect(200);
    assert_eq!(renamed["title"], sql);
    let added = alice
        .post(
            &format!("/chat/conversations/{id}/members"),
            json!({ "members": [sql] }),
        )
        .await
        .expect(200);
    assert_eq!(added["memberCount"], 3);

    let bad_bodies: [(Method, String, Value); 16] = [
        (
            Method::POST,
            format!("/chat/conversations/{id}/messages"),
            json!({ "content": "a\0b" }),
        ),
        (
            Method::POST,
            format!("/chat/conversations/{id}/messages"),
            json!({ "content": "" }),
        ),
        (
            Method::POST,
            format!("/chat/conversations/{id}/messages"),
            json!({ "content": "a", "clientMsgId": "" }),
        ),
        (
            Method::POST,
            format!("/chat/conversations/{id}/messages"),
            json!({ "content": "a", "clientMsgId": "x".repeat(65) }),
        ),
        (
            Method::POST,
            format!("/chat/conversations/{id}/messages"),
            json!({ "content": "x".repeat(5001) }),
        ),
        (
            Method::POST,
            format!("/chat/conversations/{id}/messages"),
            json!({ "content": "a", "messageType": "system" }),
        ),
        (
            Method::PATCH,
            format!("/chat/messages/{id}-1"),
            json!({ "content": "a\0b" }),
        ),
        (
            Method::PATCH,
            format!("/chat/messages/{id}-1"),
            json!({ "content": 1 }),
        ),
        (
            Method::PATCH,
            format!("/chat/conversations/{id}"),
            json!({ "title": "a\0b" }),
        ),
        (
            Method::PATCH,
            format!("/chat/conversations/{id}"),
            json!({ "title": "x".repeat(256) }),
        ),
        (
            Method::PATCH,
            format!("/chat/conversations/{id}/read"),
            json!({ "seq": -1 }),
        ),
        (
            Method::PATCH,
            format!("/chat/conversations/{id}/read"),
            json!({ "seq": 9_223_372_036_854_775_808_u64 }),
        ),
        (
            Method::PATCH,
            format!("/chat/conversations/{id}/read"),
            json!({ "seq": 1.5 }),
        ),
        (
            Method::PATCH,
            format!("/chat/conversations/{id}/members/bob"),
            json!({ "role": "king" }),
        ),
        (
            Method::POST,
            format!("/chat/conversations/{id}/members"),
            json!({ "members": ["a\0b"] }),
        ),
        (
            Method::POST,
            "/chat/sync".into(),
            json!({ "conversations": { "x": 1 } }),
        ),
    ];
    for (method, path, body) in bad_bodies {
        let answer = Answer::of(alice.request(method, &path).json(&body)).await;
        answer.problem(400, "invalid_request");
    }
    for emoji in ["%00", "a%20b", "%0A", &"%F0%9F%91%8D".repeat(17), "%ff"] {
        alice
            .put(&format!("/chat/messages/{id}-1/reactions/{emoji}"))
            .await
            .problem(400, "invalid_request");
    }
}

#[tokio::test]
async fn numbers_at_the_limits_of_64_bits_are_handled() {
    let service = Service::start().await;
    let alice = service.user("alice");
    let id = alice.group(json!(["bob"])).await;
    alice
        .post(
            &format!("/chat/conversations/{id}/messages"),
            json!({ "content": "a" }),
        )
        .await
        .expect(201);
    let max = i64::MAX;
    for query in [
        format!("before={max}"),
        format!("after={max}"),
        format!("around={max}"),
        "before=0".into(),
        "after=0".into(),
        "around=0".into(),
    ] {
        let page = alice
            .get(&format!("/chat/conversations/{id}/messages?{query}"))
            .await
            .expect(200);
        assert_eq!(page["headSeq"], 1, "{query}");
    }
    alice
        .get(&format!("/chat/messages/{id}-{max}"))
        .await
        .problem(404, "not_found");
    alice
        .patch(
            &format!("/chat/messages/{id}-{max}"),
            json!({ "content": "b" }),
        )
        .await
        .problem(404, "not_found");
    let read = Answer::of(
        alice
            .request(Method::PATCH, &format!("/chat/conversations/{id}/read"))
            .json(&json!({ "seq": max })),
    )
    .await;
    assert!(matches!(read.status, 200 | 400), "{read:?}");
    assert_eq!(
        alice
            .get(&format!("/chat/conversations/{id}"))
            .await
            .expect(200)["readSeq"],
        1,
        "nobody has read what is not there"
    );
    let synced = alice
        .post("/chat/sync", json!({ "conversations": { id: max } }))
        .await;
    assert!(matches!(synced.status, 200 | 400), "{synced:?}");
}
