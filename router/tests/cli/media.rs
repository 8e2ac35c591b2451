//! `doctor` at the address for clients, and `media rebuild` with real workers.

use std::io::Cursor;

use backscroll_testkit::s3_server::{ACCESS_KEY_ID, BUCKET, CorsRule, S3Server, SECRET_ACCESS_KEY};
use image::{ImageFormat, RgbImage};
use serde_json::{Value, json};

use crate::harness::{Sandbox, get};

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

/// Uploads a picture of this size to a new conversation of alice's; its id.
async fn upload(base: &str, token: &str, width: u32, height: u32) -> String {
    let mut content = Cursor::new(Vec::new());
    let noise = |x: u32, y: u32| {
        ((x * 7919) ^ (y * 104_729))
            .wrapping_mul(2_654_435_761)
            .to_le_bytes()
    };
    let picture = RgbImage::from_fn(width, height, |x, y| {
        let [_, red, green, blue] = noise(x, y);
        [red, green, blue].into()
    });
    picture.write_to(&mut content, ImageFormat::Png).unwrap();
    let content = content.into_inner();
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let post = async |path: &str, body: Value| {
        let request = client.post(format!("{base}{path}")).bearer_auth(token);
        let answer = request.json(&body).send().await.unwrap();
        assert!(answer.status().is_success(), "{answer:?}");
        answer.json::<Value>().await.unwrap()
    };
    let group = json!({ "kind": "group", "title": "pictures", "members": ["bob"] });
    let conversation = post("/chat/conversations", group).await;
    let declared = json!({
        "conversationId": conversation["id"], "fileName": "picture.png", "contentType": "image/png", "bytes": content.len(),
    });
    let begun = post("/chat/media", declared).await;
    let url = format!("{base}{}", begun["upload"]["url"].as_str().unwrap());
    let put = client
        .put(url)
        .header("content-type", "image/png")
        .body(content);
    assert_eq!(put.send().await.unwrap().status(), 200);
    let id = begun["mediaId"].as_str().unwrap().to_owned();
    let completed = post(&format!("/chat/media/{id}/complete"), json!({})).await;
    assert_eq!(completed["state"], "ready", "{completed}");
    id
}

#[tokio::test(flavor = "multi_thread")]
async fn pictures_that_were_never_processed_get_their_smaller_forms() {
    let sandbox = Sandbox::new().with_one_shard();
    let sandbox = sandbox.with("BACKSCROLL_MEDIA__WORKERS", "0");
    let server = tokio::task::block_in_place(|| sandbox.serve(&[], 1));
    let token = tokio::task::block_in_place(|| sandbox.run(&["token", "--user", "alice"]).exits(0));
    let token = token.stdout.trim();
    let id = upload(&server.url(), token, 640, 480).await;
    tokio::task::block_in_place(|| {
        let info = || get(&format!("{}/chat/media/{id}/info", server.url()), token).1;
        assert_eq!(info()["variants"], Value::Null);
        let dry = sandbox.run(&["media", "rebuild", "--dry-run"]).exits(0);
        assert_eq!(
            dry.stdout,
            "1 picture: 1 never processed, 0 failed, 0 being processed\nnothing was done\n"
        );
        let other = [
            "media",
            "rebuild",
            "--conversation",
            "8f0c61a2b4d94b7e05d2f0a1c3b6e788",
        ];
        assert!(
            sandbox
                .run(&other)
                .exits(1)
                .stderr
                .contains("there is no conversation")
        );
        assert_eq!(info()["variants"], Value::Null);

        // Beside the server, by a worker of its own.
        let rebuilt = sandbox.run(&["media", "rebuild", "--json"]).exits(0).json();
        assert_eq!(
            (&rebuilt["pictures"], &rebuilt["ready"]),
            (&json!(1), &json!(1)),
            "{rebuilt}"
        );
        let done = info();
        assert_eq!(done["variants"][0]["width"], 320, "{done}");
        assert!(done["placeholder"].is_string(), "{done}");
        let again = sandbox.run(&["media", "rebuild"]).exits(0);
        assert_eq!(
            again.stdout,
            "1 picture: 0 never processed, 0 failed, 0 being processed\n\
             now 0 ready, 0 failed; 0 deleted or processed elsewhere, 0 postponed\n"
        );
    });
    server.stop();
}
