//! Every way a request can be wrong is answered with a problem that says what to do.

use std::time::Duration;

use backscroll::http::settings::ServerSettings;
use backscroll_shard::settings::Span;
use reqwest::Method;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::harness::{Answer, Service, shared_secret};

const CONVERSATION: &str = "00000000000003e900000000000004d2";

#[tokio::test]
async fn ids_in_the_path_must_have_their_form() {
    let service = Service::start().await;
    let alice = service.user("alice");
    let wrong = [
        "x",
        "0",
        "%00",
        "00000000000003E900000000000004D2",
        "00000000000003e900000000000004d",
        "00000000000003e900000000000004d20",
        "+0000000000003e900000000000004d2",
        "0x000000000003e900000000000004d2",
        "'%20OR%201=1%20--",
        &"%F0%9F%91%8D".repeat(17),
        "..",
        "18446744073709551616",
        "null",
    ];
    for id in wrong {
        for path in [
            format!("/chat/conversations/{id}"),
            format!("/api/chat/conversations/{id}/messages"),
        ] {
            if id == ".." {
                continue; // clients resolve it away
            }
            let detail = alice.get(&path).await.problem(400, "invalid_request");
            assert!(
                detail.contains("32 lower-case hexadecimal digits"),
                "{path}: {detail}"
            );
        }
    }
    for id in [
        "x",
        CONVERSATION,
        &format!("{CONVERSATION}-"),
        &format!("{CONVERSATION}-0"),
        &format!("{CONVERSATION}-01"),
        &format!("{CONVERSATION}--1"),
        &format!("{CONVERSATION}-9223372036854775808"),
        &format!("{CONVERSATION}-1e3"),
        &format!("{CONVERSATION}-%D9%A3"),
    ] {
        let detail = alice
            .get(&format!("/chat/messages/{id}"))
            .await
            .problem(400, "invalid_request");
        assert!(detail.contains("a message id is"), "{id}: {detail}");
    }
    let not_utf8 = alice
        .get("/chat/conversations/%ff%fe")
        .await
        .problem(400, "invalid_request");
    assert!(not_utf8.contains("UTF-8"), "{not_utf8}");
    for user in ["%00", "a%0Ab", &"x".repeat(65), &"%C3%A9".repeat(33)] {
        let path = format!("/chat/conversations/{CONVERSATION}/members/{user}");
        let detail = alice.delete(&path).await.problem(400, "invalid_request");
        assert!(detail.contains("user id"), "{detail}");
    }
}

#[tokio::test]
async fn query_strings_must_be_known_and_in_range() {
    let service = Service::start().await;
    let alice = service.user("alice");
    let id = alice.group(json!(["bob"])).await;
    let cases = [
        ("limit=0", "limit"),
        ("limit=201", "limit"),
        ("limit=-1", "limit"),
        ("limit=", "limit"),
        ("limit=ten", "limit"),
        ("limit=4294967296", "limit"),
        ("limit=18446744073709551616", "limit"),
        ("limit=1.5", "limit"),
        ("limit=1&limit=2", "limit"),
        ("limit[]=1", "limit[]"),
        ("before=-1", "before"),
        ("before=9223372036854775808", "before"),
        ("before=x", "before"),
        ("before=", "before"),
        ("before=5&after=3", "at most one"),
        ("before=5&around=5", "at most one"),
        ("after=5&around=5", "at most one"),
        ("before=1&after=2&around=3", "at most one"),
        ("before=5&before=6", "before"),
        ("befor=5", "befor"),
        ("before=1%20OR%201=1", "before"),
        ("%00=1", "unknown field"),
        ("a=%ff", "UTF-8"),
        ("=", "unknown field"),
    ];
    for (query, expected) in cases {
        let detail = alice
            .get(&format!("/chat/conversations/{id}/messages?{query}"))
            .await
            .problem(400, "invalid_request");
        assert!(detail.contains(expected), "{query}: {detail}");
    }
    for (query, expected) in [
        ("limit=101", "limit"),
        ("before=1", "before"),
        ("cursor=a&cursor=b", "cursor"),
        ("cursor=%ff", "UTF-8"),
    ] {
        for path in [
            "/chat/conversations".to_owned(),
            format!("/chat/conversations/{id}/members"),
        ] {
            let detail = alice
                .get(&format!("{path}?{query}"))
                .await
                .problem(400, "invalid_request");
            assert!(detail.contains(expected), "{query}: {detail}");
        }
    }
    for query in [
        "",
        "limit=1",
        "limit=200",
        "before=9223372036854775807",
        "before=0",
        "after=0&limit=1",
        "around=1",
    ] {
        alice
            .get(&format!("/chat/conversations/{id}/messages?{query}"))
            .await
            .expect(200);
    }
    for cursor in [
        "garbage",
        "AAAA",
        "%27%20OR%201=1",
        "eyJ9",
        "-1",
        &"A".repeat(5000),
    ] {
        alice
            .get(&format!("/chat/conversations?cursor={cursor}"))
            .await
            .problem(400, "invalid_request");
        alice
            .get(&format!(
                "/chat/conversations/{id}/members?cursor={cursor}%00"
            ))
            .await
            .problem(400, "invalid_request");
    }
}

#[tokio::test]
async fn addresses_and_methods_that_do_not_exist() {
    let service = Service::start().await;
    let alice = service.user("alice");
    for path in [
        "/",
        "/chat",
        "/chat/",
        "/chat/nothing",
        "/api",
        "/api/chat/",
        "/admin",
        "/chat/conversations/",
        "/chat//conversations",
        "/favicon.ico",
    ] {
        alice.get(path).await.problem(404, "not_found");
        Answer::of(service.request(Method::GET, path))
            .await
            .problem(404, "not_found");
    }
    let cases = [
        (
            Method::DELETE,
            "/chat/conversations",
            vec!["GET", "HEAD", "POST"],
        ),
        (Method::GET, "/chat/sync", vec!["POST"]),
        (Method::PUT, "/api/chat/unread-count", vec!["GET", "HEAD"]),
        (Method::POST, "/healthz", vec!["GET", "HEAD"]),
        (
            Method::GET,
            "/chat/conversations/4da10dd61a0116b07ace202a6f1ea194/read",
            vec!["PATCH", "POST", "PUT"],
        ),
        (
            Method::TRACE,
            "/chat/conversations",
            vec!["GET", "HEAD", "POST"],
        ),
        (
            Method::from_bytes(b"BREW").unwrap(),
            "/chat/conversations",
            vec!["GET", "HEAD", "POST"],
        ),
    ];
    for (method, path, allowed) in cases {
        let answer = Answer::of(service.request(method, path)).await;
        answer.problem(405, "method_not_allowed");
        let mut allow: Vec<&str> = answer.header("allow").split(',').map(str::trim).collect();
        allow.sort_unstable();
        assert_eq!(allow, allowed, "{path}");
    }
    let head = service
        .request(Method::HEAD, "/healthz")
        .send()
        .await
        .unwrap();
    assert_eq!(head.status(), 200);
    assert!(head.bytes().await.unwrap().is_empty());
}

#[tokio::test]
async fn idempotency_keys_must_agree() {
    let service = Service::start().await;
    let alice = service.user("alice");
    let id = alice.group(json!(["bob"])).await;
    let path = format!("/chat/conversations/{id}/messages");
    let send = |key: &'static [u8], body: Value| {
        let key = reqwest::header::HeaderValue::from_bytes(key).unwrap();
        Answer::of(
            alice
                .request(Method::POST, &path)
                .header("idempotency-key", key)
                .json(&body),
        )
    };
    let differs = send(b"k1", json!({ "content": "a", "clientMsgId": "k2" }))
        .await
        .problem(400, "invalid_request");
    assert!(differs.contains("Idempotency-Key"), "{differs}");
    for wrong in [&b""[..], b"\"\"", b"  ", b"k\xff", &[b'k'; 65]] {
        send(wrong, json!({ "content": "a" }))
            .await
            .problem(400, "invalid_request");
    }
    let twice = alice
        .request(Method::POST, &path)
        .header("idempotency-key", "a")
        .header("idempotency-key", "a");
    Answer::of(twice.json(&json!({ "content": "a" })))
        .await
        .problem(400, "invalid_request");

    let first = send(b"k1", json!({ "content": "a" })).await.expect(201);
    for (key, body) in [
        (&b"k1"[..], json!({ "content": "a" })),
        (b"\"k1\"", json!({ "content": "a" })),
        (b"k1", json!({ "content": "a", "clientMsgId": "k1" })),
    ] {
        assert_eq!(send(key, body).await.expect(200), first);
    }
    send(b"k1", json!({ "content": "b" }))
        .await
        .problem(409, "conflict_idempotency");
}

/// Sends bytes as they are and gives what comes back until the connection is closed.
async fn raw(service: &Service, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(service.address()).await.unwrap();
    // The service may answer, and close, before it has read everything.
    let _ = stream.write_all(bytes).await;
    let mut answer = Vec::new();
    let _ = tokio::time::timeout(Duration::from_secs(15), stream.read_to_end(&mut answer))
        .await
        .expect("the connection is closed");
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test]
async fn headers_have_a_largest_size_and_a_time() {
    let settings = ServerSettings {
        header_timeout: Span::secs(1),
        ..ServerSettings::default()
    };
    let service = Service::start_with(settings, shared_secret()).await;
    let large = format!(
        "GET /healthz HTTP/1.1\r\nhost: a\r\nx-pad: {}\r\n\r\n",
        "x".repeat(20_000)
    );
    assert!(
        raw(&service, large.as_bytes())
            .await
            .starts_with("HTTP/1.1 431")
    );
    let many = format!(
        "GET /healthz HTTP/1.1\r\nhost: a\r\n{}\r\n",
        "a: b\r\n".repeat(200)
    );
    assert!(
        raw(&service, many.as_bytes())
            .await
            .starts_with("HTTP/1.1 431")
    );
    assert!(
        raw(&service, b"nonsense\r\n\r\n")
            .await
            .starts_with("HTTP/1.1 400")
    );
    for slow in [
        &b""[..],
        b"P",
        b"GET /healthz HTTP/1.1\r\nhost:",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ] {
        let answer = raw(&service, slow).await;
        assert!(!answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
    // Still there for others.
    assert!(
        raw(
            &service,
            b"GET /healthz HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n"
        )
        .await
        .starts_with("HTTP/1.1 200")
    );
}

#[tokio::test]
async fn a_body_that_does_not_arrive_is_not_waited_for() {
    let settings = ServerSettings {
        request_timeout: Span::secs(1),
        ..ServerSettings::default()
    };
    let service = Service::start_with(settings, shared_secret()).await;
    let alice = service.user("alice");
    let head = format!(
        "POST /chat/sync HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {}\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n{{",
        alice.token
    );
    let answer = raw(&service, head.as_bytes()).await;
    assert!(
        answer.starts_with("HTTP/1.1 408") && answer.contains("request_timeout"),
        "{answer}"
    );
}

#[tokio::test]
async fn browsers_may_call_only_from_configured_origins() {
    let preflight = |service: &Service, origin: &str| {
        service
            .request(Method::OPTIONS, "/chat/conversations")
            .header("origin", origin.to_owned())
            .header("access-control-request-method", "POST")
            .header(
                "access-control-request-headers",
                "authorization,content-type",
            )
            .send()
    };
    let origin_of = |response: &reqwest::Response| {
        response
            .headers()
            .get("access-control-allow-origin")
            .map(|value| value.to_str().unwrap().to_owned())
    };

    let header_of = |response: &reqwest::Response, name: &str| {
        let value = response.headers().get(name);
        value.map_or(String::new(), |value| value.to_str().unwrap().to_owned())
    };
    const HEADERS: &str = "access-control-allow-headers";
    const CREDENTIALS: &str = "access-control-allow-credentials";

    let closed = Service::start().await;
    assert_eq!(
        origin_of(&preflight(&closed, "https://chat.example").await.unwrap()),
        None
    );

    let listed = ServerSettings {
        cors_origins: vec!["https://chat.example".into()],
        cors_headers: vec!["traceparent".into()],
        ..ServerSettings::default()
    };
    let service = Service::start_with(listed, shared_secret()).await;
    let allowed = preflight(&service, "https://chat.example").await.unwrap();
    assert_eq!(
        (allowed.status().as_u16(), origin_of(&allowed).as_deref()),
        (200, Some("https://chat.example"))
    );
    let headers = header_of(&allowed, HEADERS);
    assert!(
        headers.contains("authorization") && headers.contains("traceparent"),
        "{headers}"
    );
    assert_eq!(
        header_of(&allowed, CREDENTIALS),
        "true",
        "a load balancer's cookie goes along"
    );
    assert_eq!(
        origin_of(&preflight(&service, "https://evil.example").await.unwrap()),
        None
    );
    let plain = service
        .user("alice")
        .request(Method::GET, "/chat/unread-count")
        .header("origin", "https://chat.example")
        .send()
        .await
        .unwrap();
    assert_eq!(origin_of(&plain).as_deref(), Some("https://chat.example"));
    let exposed = plain.headers().get("access-control-expose-headers");
    let exposed = exposed.unwrap().to_str().unwrap();
    for name in [
        "x-request-id",
        "retry-after",
        "ratelimit-policy",
        "ratelimit",
    ] {
        assert!(exposed.split(',').any(|it| it == name), "{exposed}");
    }
    let refused = service
        .request(Method::GET, "/chat/unread-count")
        .header("origin", "https://chat.example")
        .send()
        .await
        .unwrap();
    assert_eq!(
        (refused.status().as_u16(), origin_of(&refused).as_deref()),
        (401, Some("https://chat.example")),
        "problems can be read too"
    );

    let open = ServerSettings {
        cors_origins: vec!["*".into()],
        cors_headers: vec!["*".into()],
        ..ServerSettings::default()
    };
    let service = Service::start_with(open, shared_secret()).await;
    let any = preflight(&service, "https://any.example").await.unwrap();
    assert_eq!(origin_of(&any).as_deref(), Some("*"));
    assert_eq!(header_of(&any, HEADERS), "authorization,content-type");
    assert_eq!(header_of(&any, CREDENTIALS), "");
}
