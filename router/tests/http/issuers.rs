//! Tokens signed with an issuer's private key and checked with its public keys.

use std::io::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use aws_lc_rs::encoding::AsDer as _;
use aws_lc_rs::rsa::{KeyPair as RsaKeyPair, KeySize};
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair};
use axum::Router;
use axum::routing::get;
use backscroll::auth::{AuthSettings, Secret, TokenAlgorithm};
use backscroll::http::settings::ServerSettings;
use backscroll_shard::settings::Span;
use backscroll_shard::tasks::OneShots;
use backscroll_testkit::warnings;
use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::sync::Mutex;
use tokio_util::task::AbortOnDropHandle;

use crate::harness::{Answer, SECRET, Service};
use crate::logged;
use crate::tokens::{base64, try_token, valid_claims, with};

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
        let serving = async move { axum::serve(listener, router).await.unwrap() };
        let task = OneShots::new("issuer", 1).spawn(serving).unwrap();
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
    warnings::expect(logged::KEYS_AWAY);
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
    warnings::expect(logged::NOT_SERVED);
    warnings::expect(logged::KEYS_AWAY);
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
