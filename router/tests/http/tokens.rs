//! Who is let in, and above all who is not.

use std::io::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use aws_lc_rs::encoding::AsDer as _;
use aws_lc_rs::rsa::{KeyPair as RsaKeyPair, KeySize};
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair};
use axum::Router;
use axum::routing::get;
use backscroll::auth::{AuthSettings, Secret, TokenAlgorithm};
use backscroll::http::settings::ServerSettings;
use backscroll_shard::settings::Span;
use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::sync::Mutex;
use tokio_util::task::{AbortOnDropHandle, TaskTracker};

use crate::harness::{Answer, SECRET, Service, shared_secret};

fn now() -> u64 {
    SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap()
        .as_secs()
}

fn base64(bytes: &[u8]) -> String {
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

fn valid_claims() -> Value {
    json!({ "sub": "alice", "exp": now() + 600 })
}

fn with(name: &str, value: Value) -> Value {
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

async fn try_token(service: &Service, token: &str) -> Answer {
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

/// An issuer's key pair, made for this test.
struct Issuer {
    key: EncodingKey,
    algorithm: Algorithm,
    kid: String,
}

impl Issuer {
    fn new(algorithm: Algorithm, kid: &str) -> Self {
        let key = match algorithm {
            Algorithm::RS256 => {
                let pair = RsaKeyPair::generate(KeySize::Rsa2048).unwrap();
                let pkcs8: aws_lc_rs::encoding::Pkcs8V1Der<'_> = pair.as_der().unwrap();
                EncodingKey::from_rsa_der(&pkcs8.as_ref()[26..]) // the PKCS#1 document in the PKCS#8 one
            }
            Algorithm::ES256 => {
                let pkcs8 = EcdsaKeyPair::generate_pkcs8(
                    &ECDSA_P256_SHA256_FIXED_SIGNING,
                    &aws_lc_rs::rand::SystemRandom::new(),
                )
                .unwrap();
                EncodingKey::from_ec_der(pkcs8.as_ref())
            }
            _ => EncodingKey::from_ed_der(
                Ed25519KeyPair::generate_pkcs8v1(&aws_lc_rs::rand::SystemRandom::new())
                    .unwrap()
                    .as_ref(),
            ),
        };
        Self {
            key,
            algorithm,
            kid: kid.into(),
        }
    }

    fn jwk(&self) -> Value {
        let mut jwk = Jwk::from_encoding_key(&self.key, self.algorithm).unwrap();
        jwk.common.key_id = Some(self.kid.clone());
        serde_json::to_value(jwk).unwrap()
    }

    fn sign(&self, kid: Option<&str>, claims: &Value) -> String {
        let header = Header {
            kid: kid.map(String::from),
            ..Header::new(self.algorithm)
        };
        encode(&header, claims, &self.key).unwrap()
    }

    fn token(&self) -> String {
        self.sign(Some(&self.kid), &valid_claims())
    }
}

fn key_file(keys: &Value) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(json!({ "keys": keys }).to_string().as_bytes())
        .unwrap();
    file
}

fn public_key(algorithm: TokenAlgorithm, file: &tempfile::NamedTempFile) -> AuthSettings {
    AuthSettings {
        algorithm,
        secret: Secret::default(),
        jwks_file: Some(file.path().into()),
        ..AuthSettings::default()
    }
}

#[tokio::test]
async fn each_public_key_algorithm_verifies_its_own_and_nothing_else() {
    let algorithms = [
        (TokenAlgorithm::RS256, Algorithm::RS256),
        (TokenAlgorithm::ES256, Algorithm::ES256),
        (TokenAlgorithm::EdDSA, Algorithm::EdDSA),
    ];
    let issuers = algorithms.map(|(_, algorithm)| Issuer::new(algorithm, "k1"));
    for (index, (configured, _)) in algorithms.into_iter().enumerate() {
        let own = &issuers[index];
        let file = key_file(&json!([own.jwk()]));
        let service =
            Service::start_with(ServerSettings::default(), public_key(configured, &file)).await;
        assert_eq!(
            try_token(&service, &own.token()).await.status,
            200,
            "{configured:?}"
        );
        assert_eq!(
            try_token(&service, &own.sign(None, &valid_claims()))
                .await
                .status,
            200,
            "the only key needs no id"
        );
        for (other, issuer) in issuers.iter().enumerate() {
            if other != index {
                try_token(&service, &issuer.token())
                    .await
                    .problem(401, "token_invalid");
            }
        }
        let impostor = Issuer::new(own.algorithm, "k1");
        try_token(&service, &impostor.token())
            .await
            .problem(401, "token_invalid");
        try_token(&service, &own.sign(Some("k2"), &valid_claims()))
            .await
            .problem(401, "token_invalid");
        try_token(&service, &own.sign(Some("k1"), &with("exp", json!(1))))
            .await
            .problem(401, "token_expired");
    }
}

#[tokio::test]
async fn a_public_key_is_no_hmac_secret() {
    let issuer = Issuer::new(Algorithm::RS256, "k1");
    let jwk = issuer.jwk();
    let file = key_file(&json!([jwk]));
    let service = Service::start_with(
        ServerSettings::default(),
        public_key(TokenAlgorithm::RS256, &file),
    )
    .await;
    let public_parts = [
        jwk.to_string(),
        jwk["n"].as_str().unwrap().to_owned(),
        json!({ "keys": [jwk] }).to_string(),
    ];
    for part in public_parts {
        for kid in [Some("k1"), None] {
            let header = Header {
                kid: kid.map(String::from),
                ..Header::new(Algorithm::HS256)
            };
            let forged = encode(
                &header,
                &valid_claims(),
                &EncodingKey::from_secret(part.as_bytes()),
            )
            .unwrap();
            let detail = try_token(&service, &forged)
                .await
                .problem(401, "token_invalid");
            assert!(detail.contains("algorithm"), "{detail}");
        }
    }
}

#[tokio::test]
async fn keys_that_are_not_for_this_are_left_out() {
    let (good, encryption, other_use) = (
        Issuer::new(Algorithm::ES256, "good"),
        Issuer::new(Algorithm::ES256, "enc"),
        Issuer::new(Algorithm::ES256, "sign"),
    );
    let mut encryption_jwk = encryption.jwk();
    encryption_jwk["use"] = json!("enc");
    let mut sign_only = other_use.jwk();
    sign_only["key_ops"] = json!(["sign"]);
    let secret = json!({ "kty": "oct", "kid": "shared", "k": base64(SECRET.as_bytes()) });
    let small_rsa = json!({ "kty": "RSA", "kid": "small", "n": base64(&[0xff; 128]), "e": "AQAB" });
    let unheard_of = json!({ "kty": "quantum", "kid": "q" });
    let file = key_file(&json!([
        good.jwk(),
        encryption_jwk,
        sign_only,
        secret,
        small_rsa,
        unheard_of,
        7
    ]));
    let service = Service::start_with(
        ServerSettings::default(),
        public_key(TokenAlgorithm::ES256, &file),
    )
    .await;
    assert_eq!(try_token(&service, &good.token()).await.status, 200);
    for issuer in [encryption, other_use] {
        try_token(&service, &issuer.token())
            .await
            .problem(401, "token_invalid");
    }
}

/// A web server with keys that can be exchanged and counted.
struct KeyServer {
    url: String,
    keys: Arc<Mutex<Option<Value>>>,
    asked: Arc<AtomicUsize>,
    _task: AbortOnDropHandle<()>,
}

impl KeyServer {
    async fn start(keys: Option<Value>) -> Self {
        let keys = Arc::new(Mutex::new(keys));
        let asked = Arc::new(AtomicUsize::new(0));
        let (shown, count) = (Arc::clone(&keys), Arc::clone(&asked));
        let answer = move || async move {
            count.fetch_add(1, Ordering::SeqCst);
            match &*shown.lock().await {
                Some(keys) => Ok(axum::Json(json!({ "keys": keys }))),
                None => Err(axum::http::StatusCode::BAD_GATEWAY),
            }
        };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/jwks", listener.local_addr().unwrap());
        let router = Router::new().route("/jwks", get(answer));
        let task =
            TaskTracker::new().spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self {
            url,
            keys,
            asked,
            _task: AbortOnDropHandle::new(task),
        }
    }

    fn settings(&self) -> AuthSettings {
        AuthSettings {
            algorithm: TokenAlgorithm::EdDSA,
            jwks_url: Some(self.url.clone()),
            jwks_refresh: Span::secs(2),
            ..AuthSettings::default()
        }
    }
}

#[tokio::test]
async fn keys_are_exchanged_while_running_and_survive_their_issuer() {
    let (old, new) = (
        Issuer::new(Algorithm::EdDSA, "old"),
        Issuer::new(Algorithm::EdDSA, "new"),
    );
    let server = KeyServer::start(Some(json!([old.jwk()]))).await;
    let service = Service::start_with(ServerSettings::default(), server.settings()).await;
    assert_eq!(try_token(&service, &old.token()).await.status, 200);

    // Tokens with unknown keys do not make the service ask again and again.
    *server.keys.lock().await = Some(json!([old.jwk(), new.jwk()]));
    for _ in 0..50 {
        try_token(&service, &new.token())
            .await
            .problem(401, "token_invalid");
    }
    assert!(server.asked.load(Ordering::SeqCst) < 5);

    // After a while they are read again, and then the issuer goes away.
    let deadline = tokio::time::Instant::now() + Duration::from_secs(25);
    while try_token(&service, &new.token()).await.status != 200 {
        assert!(
            tokio::time::Instant::now() < deadline,
            "the new key is found"
        );
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    *server.keys.lock().await = None;
    let asked = server.asked.load(Ordering::SeqCst);
    while server.asked.load(Ordering::SeqCst) == asked {
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    for issuer in [&old, &new] {
        assert_eq!(
            try_token(&service, &issuer.token()).await.status,
            200,
            "the last good set stays"
        );
    }
    let ready = Answer::of(service.request(Method::GET, "/readyz")).await;
    assert_eq!(
        (
            ready.status,
            &ready.body["status"],
            &ready.body["tokenKeys"]["ok"]
        ),
        (200, &json!("degraded"), &json!(false))
    );
}

#[tokio::test]
async fn without_any_keys_nobody_can_be_judged() {
    let issuer = Issuer::new(Algorithm::EdDSA, "k1");
    let server = KeyServer::start(None).await;
    let service = Service::start_with(ServerSettings::default(), server.settings()).await;
    try_token(&service, &issuer.token())
        .await
        .problem(503, "auth_unavailable");
    let ready = Answer::of(service.request(Method::GET, "/readyz")).await;
    assert_eq!(
        (ready.status, &ready.body["status"]),
        (503, &json!("unavailable"))
    );

    *server.keys.lock().await = Some(json!([issuer.jwk()]));
    let deadline = tokio::time::Instant::now() + Duration::from_secs(25);
    while try_token(&service, &issuer.token()).await.status != 200 {
        assert!(
            tokio::time::Instant::now() < deadline,
            "it recovers without a restart"
        );
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}
