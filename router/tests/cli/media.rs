//! `doctor` at the address for clients.

use backscroll_testkit::s3_server::{ACCESS_KEY_ID, BUCKET, CorsRule, S3Server, SECRET_ACCESS_KEY};
use serde_json::Value;

use crate::harness::Sandbox;

const ORIGIN: &str = "https://chat.example";

fn public(findings: &Value) -> &Value {
    let findings = findings.as_array().unwrap();
    let mut about = findings
        .iter()
        .filter(|finding| finding["subject"] == "addresses of files");
    about.next().unwrap_or_else(|| panic!("{findings:#?}"))
}

/// The rules of the command that `doctor` prints.
fn rules(finding: &Value) -> Vec<CorsRule> {
    let remedy = finding["remedy"].as_str().unwrap();
    let (command, rest) = remedy.split_once('\'').unwrap();
    assert!(command.contains("aws s3api put-bucket-cors --bucket archive --endpoint-url http"));
    let rules: Value = serde_json::from_str(rest.trim_end_matches('\'')).unwrap();
    let list = |value: &Value| serde_json::from_value(value.clone()).unwrap();
    let rule = |rule: &Value| CorsRule {
        origins: list(&rule["AllowedOrigins"]),
        methods: list(&rule["AllowedMethods"]),
        headers: list(&rule["AllowedHeaders"]),
    };
    rules["CORSRules"]
        .as_array()
        .unwrap()
        .iter()
        .map(rule)
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn doctor_prints_the_rule_that_lets_browsers_into_the_bucket() {
    let sandbox = Sandbox::new().with_one_shard();
    std::fs::create_dir(sandbox.path("bucket")).unwrap();
    let server = S3Server::start(&sandbox.path("bucket")).await;
    let public_endpoint = format!("http://localhost:{}", server.address().port());
    let sandbox = [
        ("SERVER__CORS_ORIGINS__0", ORIGIN.to_owned()),
        (
            "SERVER__CORS_ORIGINS__1",
            "https://other.example".to_owned(),
        ),
        ("OBJECT_STORE__KIND", "s3".to_owned()),
        ("OBJECT_STORE__BUCKET", BUCKET.to_owned()),
        ("OBJECT_STORE__ENDPOINT", server.url()),
        ("OBJECT_STORE__PUBLIC_ENDPOINT", public_endpoint),
        ("OBJECT_STORE__PATH_STYLE", "true".to_owned()),
        ("OBJECT_STORE__ACCESS_KEY_ID", ACCESS_KEY_ID.to_owned()),
        (
            "OBJECT_STORE__SECRET_ACCESS_KEY",
            SECRET_ACCESS_KEY.to_owned(),
        ),
    ]
    .into_iter()
    .fold(sandbox, |sandbox, (name, value)| {
        sandbox.with(&format!("BACKSCROLL_{name}"), value)
    });
    tokio::task::block_in_place(|| {
        sandbox.serve(&[], 1).stop(); // makes the data
        let doctor = |code| sandbox.run(&["doctor", "--json"]).exits(code).json();
        let refused = doctor(1);
        let finding = public(&refused);
        let detail = finding["detail"].as_str().unwrap();
        assert!(
            detail.contains("browsers may not PUT from https://chat.example"),
            "{detail}"
        );
        let all = rules(finding);

        // A rule that lets one of the origins in, and one that does not let reads in.
        let mut narrow = all.clone();
        narrow[0].origins.truncate(1);
        for (rules, words) in [
            (narrow, "PUT from https://other.example: the preflight"),
            (
                all[..1].to_vec(),
                "GET from null: the answer does not allow",
            ),
        ] {
            server.set_cors(rules);
            let found = doctor(1);
            let detail = public(&found)["detail"].as_str().unwrap();
            assert!(detail.contains(words), "{detail}");
        }

        server.set_cors(all);
        let healed = doctor(0);
        assert_eq!(public(&healed)["verdict"], "ok", "{healed:#}");
    });
    let left = std::fs::read_dir(sandbox.path("bucket/archive/probe"));
    assert_eq!(left.map_or(0, Iterator::count), 0, "the object is deleted");
}

#[test]
fn doctor_tries_the_address_of_the_service_itself() {
    let sandbox = Sandbox::new().with_one_shard();
    let served = sandbox.with("BACKSCROLL_SERVER__CORS_ORIGINS__0", ORIGIN);
    let server = served.serve(&[], 1);
    let url = server.url();
    let sandbox = served.with("BACKSCROLL_OBJECT_STORE__PUBLIC_ENDPOINT", &url);
    let doctor = |code| sandbox.run(&["doctor", "--json"]).exits(code).json();
    let healthy = doctor(0);
    assert_eq!(public(&healthy)["verdict"], "ok", "{healthy:#}");
    let detail = public(&healthy)["detail"].as_str().unwrap();
    assert!(detail.contains(ORIGIN), "{detail}");
    server.stop();
    let stopped = doctor(0);
    assert_eq!(public(&stopped)["verdict"], "warning", "{stopped:#}");
}
