//! Who is let in, and above all who is not.

use std::time::SystemTime;

use backscroll::auth::{AuthSettings, Secret};
use backscroll::http::settings::ServerSettings;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use reqwest::Method;
use serde_json::{Value, json};

use crate::harness::{Answer, SECRET, Service, shared_secret};

fn now() -> u64 {
    SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap()
        .as_secs()
}

pub(crate) fn base64(bytes: &[u8]) -> String {
    jsonwebtoken::jwk::Jwk::from_encoding_key(&EncodingKey::from_secret(bytes), Algorithm::HS256)
        .map(|jwk| {
            serde_json::to_value(jwk).unwrap()["k"]
                .as_str()
                .unwrap()
                .to_owned()
        })
        .unwrap()
}

fn signed(claims: &Value) -> String {
    encode(
        &Header::new(Algorithm::HS256),
        claims,
        &EncodingKey::from_secret(SECRET.as_bytes()),
    )
    .unwrap()
}

pub(crate) fn valid_claims() -> Value {
    json!({ "sub": "alice", "exp": now() + 600 })
}

pub(crate) fn with(name: &str, value: Value) -> Value {
    let mut claims = valid_claims();
    claims[name] = value;
    claims
}

/// What the service says to this Authorization header. `/chat/unread-count` needs nothing but a caller.
async fn try_header(service: &Service, header: Option<&[u8]>) -> Answer {
    let mut request = service.request(Method::GET, "/chat/unread-count");
    if let Some(header) = header {
        request = request.header(
            "authorization",
            reqwest::header::HeaderValue::from_bytes(header).unwrap(),
        );
    }
    Answer::of(request).await
}

pub(crate) async fn try_token(service: &Service, token: &str) -> Answer {
    try_header(service, Some(format!("Bearer {token}").as_bytes())).await
}

#[tokio::test]
async fn every_hostile_token_is_refused() {
    let service = Service::start().await;
    assert_eq!(
        try_token(&service, &signed(&valid_claims())).await.status,
        200,
        "the good one passes"
    );

    let good = signed(&valid_claims());
    let (head, rest) = good.split_once('.').unwrap();
    let (payload, signature) = rest.split_once('.').unwrap();
    let other_header = |header: Value| {
        format!(
            "{}.{payload}.{signature}",
            base64(header.to_string().as_bytes())
        )
    };
    let other_payload = base64(with("sub", json!("bob")).to_string().as_bytes());
    let mut critical = Header::new(Algorithm::HS256);
    critical.crit = Some(vec!["exp".into()]);
    let key = EncodingKey::from_secret(SECRET.as_bytes());
    let huge = encode(
        &Header::default(),
        &with("pad", json!("x".repeat(9000))),
        &key,
    )
    .unwrap();

    let expired = "token_expired";
    let invalid = "token_invalid";
    let cases = [
        ("expired", expired, signed(&with("exp", json!(now() - 31)))),
        ("expired in 1970", expired, signed(&with("exp", json!(0)))),
        (
            "not valid yet",
            invalid,
            signed(&with("nbf", json!(now() + 60))),
        ),
        (
            "nbf is a text",
            invalid,
            signed(&with("nbf", json!("soon"))),
        ),
        ("without exp", invalid, signed(&json!({ "sub": "alice" }))),
        (
            "exp is a text",
            invalid,
            signed(&with("exp", json!("never"))),
        ),
        ("exp is negative", invalid, signed(&with("exp", json!(-1)))),
        ("exp is null", invalid, signed(&with("exp", Value::Null))),
        (
            "without sub",
            invalid,
            signed(&json!({ "exp": now() + 600 })),
        ),
        ("sub is empty", invalid, signed(&with("sub", json!("")))),
        ("sub is a number", invalid, signed(&with("sub", json!(7)))),
        (
            "sub is too long",
            invalid,
            signed(&with("sub", json!("x".repeat(65)))),
        ),
        (
            "sub has a NUL",
            invalid,
            signed(&with("sub", json!("a\0b"))),
        ),
        ("claims are a list", invalid, signed(&json!([1, 2]))),
        (
            "another secret",
            invalid,
            encode(
                &Header::default(),
                &valid_claims(),
                &EncodingKey::from_secret(&[7; 32]),
            )
            .unwrap(),
        ),
        (
            "an empty secret",
            invalid,
            encode(
                &Header::default(),
                &valid_claims(),
                &EncodingKey::from_secret(b""),
            )
            .unwrap(),
        ),
        (
            "another HMAC",
            invalid,
            encode(&Header::new(Algorithm::HS512), &valid_claims(), &key).unwrap(),
        ),
        (
            "alg none, no signature",
            invalid,
            format!("{}.{payload}.", base64(br#"{"alg":"none","typ":"JWT"}"#)),
        ),
        (
            "alg none, with the signature",
            invalid,
            other_header(json!({ "alg": "none" })),
        ),
        ("alg None", invalid, other_header(json!({ "alg": "None" }))),
        (
            "alg says RS256",
            invalid,
            other_header(json!({ "alg": "RS256" })),
        ),
        ("no alg", invalid, other_header(json!({ "typ": "JWT" }))),
        (
            "alg twice",
            invalid,
            format!(
                "{}.{payload}.{signature}",
                base64(br#"{"alg":"HS256","alg":"HS256"}"#)
            ),
        ),
        (
            "its own key in the header",
            invalid,
            other_header(json!({ "alg": "HS256", "jwk": { "kty": "oct", "k": "AAAA" } })),
        ),
        (
            "a critical extension",
            invalid,
            encode(&critical, &valid_claims(), &key).unwrap(),
        ),
        (
            "another payload",
            invalid,
            format!("{head}.{other_payload}.{signature}"),
        ),
        ("no signature", invalid, format!("{head}.{payload}.")),
        (
            "half a signature",
            invalid,
            format!("{head}.{payload}.{}", &signature[..20]),
        ),
        ("two parts", invalid, format!("{head}.{payload}")),
        ("four parts", invalid, format!("{good}.{signature}")),
        ("a space inside", invalid, format!("{head}. {rest}")),
        (
            "base64 with padding",
            invalid,
            format!("{head}.{payload}.{signature}="),
        ),
        ("garbage", invalid, "garbage".into()),
        ("dots", invalid, "..".into()),
        ("SQL", invalid, "' OR 1=1 --".into()),
        ("longer than is looked at", invalid, huge),
        ("long garbage", invalid, "a.".repeat(4000)),
    ];
    for (name, code, token) in cases {
        let answer = try_token(&service, &token).await;
        let detail = answer.problem(401, code);
        assert!(
            !detail.contains(&token) || token.len() < 3,
            "{name}: the token is not repeated"
        );
        assert!(
            answer
                .header("www-authenticate")
                .starts_with(r#"Bearer error="invalid_token""#),
            "{name}"
        );
    }
}

#[tokio::test]
async fn small_differences_of_clocks_are_forgiven() {
    let service = Service::start().await;
    for claims in [
        with("exp", json!(now() - 20)),
        with("nbf", json!(now() + 20)),
        with("exp", json!(now() as f64 + 60.5)),
    ] {
        assert_eq!(
            try_token(&service, &signed(&claims)).await.status,
            200,
            "{claims}"
        );
    }
}

#[tokio::test]
async fn other_credentials_are_no_token() {
    let service = Service::start().await;
    for header in [
        None,
        Some(&b""[..]),
        Some(b"Basic YWxpY2U6c2VjcmV0"),
        Some(b"Bearer"),
        Some(b"Token abc"),
    ] {
        let answer = try_header(&service, header).await;
        answer.problem(401, "unauthenticated");
        assert_eq!(answer.header("www-authenticate"), "Bearer");
    }
    try_header(&service, Some(b"Bearer \xff\xfe"))
        .await
        .problem(401, "token_invalid");

    let good = signed(&valid_claims());
    assert_eq!(
        try_header(&service, Some(format!("bEARER   {good} ").as_bytes()))
            .await
            .status,
        200,
        "RFC 9110, 11.1"
    );
    let twice = service
        .request(Method::GET, "/chat/unread-count")
        .bearer_auth(&good)
        .bearer_auth(&good);
    Answer::of(twice).await.problem(401, "token_invalid");
    let in_query = service.request(
        Method::GET,
        &format!("/chat/unread-count?access_token={good}"),
    );
    Answer::of(in_query).await.problem(401, "unauthenticated");
}

fn signed_with(secret: &str, claims: &Value) -> String {
    let key = EncodingKey::from_secret(secret.as_bytes());
    encode(&Header::new(Algorithm::HS256), claims, &key).unwrap()
}

#[tokio::test]
async fn a_secret_is_changed_without_refusing_a_token() {
    let new = "fedcba9876543210fedcba9876543210";
    let auth = AuthSettings {
        other_secrets: vec![
            Secret::new(new),
            Secret::new("a third one, of 32 bytes or more"),
        ],
        ..shared_secret()
    };
    let service = Service::start_with(ServerSettings::default(), auth).await;
    for secret in [SECRET, new] {
        let token = signed_with(secret, &valid_claims());
        assert_eq!(try_token(&service, &token).await.status, 200);
        let old = signed_with(secret, &with("exp", json!(now() - 31)));
        try_token(&service, &old)
            .await
            .problem(401, "token_expired");
    }
    let foreign = signed_with("fedcba9876543210fedcba9876543211", &valid_claims());
    let refused = try_token(&service, &foreign).await;
    let refused = refused.problem(401, "token_invalid");
    assert!(refused.contains("signature"), "{refused}");
}

#[tokio::test]
async fn the_claim_that_names_the_user_is_configured() {
    for (user_claim, claims) in [
        ("userId", json!({ "userId": "alice" })),
        ("id", json!({ "id": 7, "sub": "somebody else" })),
        ("/user/id", json!({ "user": { "id": "alice" } })),
    ] {
        let auth = AuthSettings {
            user_claim: user_claim.into(),
            ..shared_secret()
        };
        let service = Service::start_with(ServerSettings::default(), auth).await;
        let mut claims = claims;
        claims["exp"] = json!(now() + 600);
        let token = signed(&claims);
        assert_eq!(try_token(&service, &token).await.status, 200, "{claims}");
        for wrong in [
            valid_claims(),
            with("id", json!(-7)),
            with("id", json!([7])),
            with("userId", json!("")),
            with("user", json!({ "id": 1.5 })),
        ] {
            let refused = try_token(&service, &signed(&wrong)).await;
            refused.problem(401, "token_invalid");
        }
        // A token that is made here is accepted here.
        let id = service.user("alice").group(json!(["bob"])).await;
        let path = format!("/chat/conversations/{id}/members");
        let members = service.user("bob").get(&path).await.expect(200);
        assert_eq!(members["members"].as_array().unwrap().len(), 2);
    }
}

#[tokio::test]
async fn issuer_and_audience_are_checked_when_configured() {
    let auth = AuthSettings {
        issuer: Some("https://id.example".into()),
        audience: Some("chat".into()),
        ..shared_secret()
    };
    let service = Service::start_with(ServerSettings::default(), auth).await;
    let claims = |iss: Value, aud: Value| json!({ "sub": "alice", "exp": now() + 600, "iss": iss, "aud": aud });
    let right = json!("https://id.example");
    for good in [
        claims(right.clone(), json!("chat")),
        claims(right.clone(), json!(["mail", "chat"])),
    ] {
        assert_eq!(
            try_token(&service, &signed(&good)).await.status,
            200,
            "{good}"
        );
    }
    for wrong in [
        claims(json!("https://evil.example"), json!("chat")),
        claims(Value::Null, json!("chat")),
        claims(right.clone(), json!("mail")),
        claims(right.clone(), json!(["mail"])),
        claims(right.clone(), json!([])),
        claims(right.clone(), Value::Null),
        valid_claims(),
    ] {
        try_token(&service, &signed(&wrong))
            .await
            .problem(401, "token_invalid");
    }
    assert_eq!(
        service.user("alice").get("/chat/unread-count").await.status,
        200,
        "a minted token has both"
    );
}
