//! `token`

use std::os::unix::fs::PermissionsExt as _;

use crate::harness::{Sandbox, get};

#[test]
fn a_token_is_accepted_until_it_expires_and_another_secret_is_not() {
    let sandbox = Sandbox::new().with("BACKSCROLL_AUTH__LEEWAY", "0s");
    let none_yet = sandbox.run(&["token", "--user", "alice"]).exits(1);
    assert!(
        none_yet.stderr.contains("start `backscroll serve` once"),
        "{none_yet:?}"
    );

    let server = sandbox.serve(&[], 1);
    let list = format!("{}/chat/conversations", server.url());
    let secret = std::fs::metadata(sandbox.path("backscroll-data/secret")).unwrap();
    assert_eq!(secret.permissions().mode() & 0o777, 0o600);

    let token = sandbox.run(&["token", "--user", "alice"]).exits(0).stdout;
    assert_eq!(get(&list, token.trim()).0, 200);

    let short = sandbox
        .run(&["token", "--user", "alice", "--ttl", "1s"])
        .exits(0)
        .stdout;
    std::thread::sleep(std::time::Duration::from_millis(2100));
    assert_eq!(get(&list, short.trim()).0, 401);

    let foreign = Sandbox::new().with(
        "BACKSCROLL_AUTH__SECRET",
        "another secret of at least 32 bytes",
    );
    let forged = foreign.run(&["token", "--user", "alice"]).exits(0).stdout;
    assert_eq!(get(&list, forged.trim()).0, 401);
    server.stop();
}

#[test]
fn its_claims_are_what_was_asked_for() {
    let sandbox = Sandbox::new().with(
        "BACKSCROLL_AUTH__SECRET",
        "0123456789abcdef0123456789abcdef",
    );
    let made = sandbox
        .run(&[
            "token", "--user", "ops", "--role", "admin", "--ttl", "2 days", "--json",
        ])
        .exits(0)
        .json();
    assert_eq!(
        (&made["user"], &made["role"]),
        (&"ops".into(), &"admin".into())
    );
    let key = jsonwebtoken::DecodingKey::from_secret(b"0123456789abcdef0123456789abcdef");
    let rules = jsonwebtoken::Validation::new(jsonwebtoken::Algorithm::HS256);
    let token = made["token"].as_str().unwrap();
    let claims = jsonwebtoken::decode::<serde_json::Value>(token, &key, &rules)
        .unwrap()
        .claims;
    assert_eq!(
        (&claims["sub"], &claims["role"]),
        (&"ops".into(), &"admin".into())
    );
    let lifetime = claims["exp"].as_i64().unwrap() - jiff::Timestamp::now().as_second();
    assert!(
        (2 * 86_400 - 60..=2 * 86_400).contains(&lifetime),
        "{lifetime}"
    );
    let expires: jiff::Timestamp = made["expiresAt"].as_str().unwrap().parse().unwrap();
    assert!((expires.as_second() - claims["exp"].as_i64().unwrap()).abs() <= 1);

    sandbox
        .run(&["token", "--user", "ops", "--ttl", "soon"])
        .exits(2);
    sandbox.run(&["token", "--user", ""]).exits(2);
    let numeric = sandbox.with("BACKSCROLL_KEYSPACE__FUNCTION", "numeric");
    let refused = numeric.run(&["token", "--user", "ops"]).exits(1);
    assert!(refused.stderr.contains("decimal number"), "{refused:?}");
}
