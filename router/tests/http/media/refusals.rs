//! What is refused before it is uploaded, and what after.

use std::time::Duration;

use backscroll_archiver::media::settings::MediaSettings;
use backscroll_shard::settings::Span;
use image::ImageFormat;
use reqwest::Method;
use serde_json::{Value, json};

use super::bed::{Bed, complete, path};
use super::samples::{photo, png};
use super::{declare, limits};
use crate::harness::Answer;

super::on_every_store!(
    what_is_not_what_was_declared_is_rejected,
    what_may_not_be_declared_is_refused,
);

async fn what_is_not_what_was_declared_is_rejected(bed: &Bed) {
    let alice = bed.service.user("alice");
    let id = alice.group(json!(["bob"])).await;
    let html = b"<!DOCTYPE html><script>alert(1)</script>".to_vec();
    let svg = b"<svg xmlns='http://www.w3.org/2000/svg' onload='alert(1)'/>".to_vec();
    let polyglot = [b"GIF89a".to_vec(), html.clone()].concat();
    let mut cut = png(10, 10);
    cut.truncate(40);
    let half = |format| {
        let whole = photo(64, 64, format);
        whole[..whole.len() / 2].to_vec()
    };
    // Ten frames of 900 by 900 pixels, in a few bytes each.
    let head = b"GIF89a\x84\x03\x84\x03\x80\0\0\0\0\0\xff\xff\xff";
    let frame = b"\x2c\0\0\0\0\x84\x03\x84\x03\0\x02\x02\x44\x01\0";
    let frames = [&head[..], &frame.repeat(10), b"\x3b"].concat();
    for (content, content_type, reason) in [
        (html, "image/png", "type_mismatch"),
        (svg, "image/gif", "type_mismatch"),
        (png(10, 10), "image/jpeg", "type_mismatch"),
        (polyglot, "image/gif", "damaged"),
        (cut, "image/png", "damaged"),
        (png(50_000, 50_000), "image/png", "too_many_pixels"),
        (frames, "image/gif", "too_many_frames"),
        (half(ImageFormat::Jpeg), "image/jpeg", "damaged"),
        (half(ImageFormat::Gif), "image/gif", "damaged"),
        (half(ImageFormat::WebP), "image/webp", "damaged"),
        (png(10, 10), "application/pdf", "type_mismatch"),
    ] {
        let declared = declare(&id, "x", content_type, content.len());
        let file = bed.upload(&alice, declared, &content).await;
        assert_eq!(
            (&file["state"], &file["reason"]),
            (&json!("rejected"), &json!(reason)),
            "{file}"
        );
        let message = json!({ "content": "", "attachments": [{ "mediaId": file["mediaId"] }] });
        let sent = alice
            .post(&format!("/chat/conversations/{id}/messages"), message)
            .await;
        sent.problem(409, "media_not_ready");
        alice
            .get(&path(&file))
            .await
            .problem(409, "media_not_ready");
    }
    for (sha256, state) in [("00".repeat(32), "rejected"), (SHA256_ABC.into(), "ready")] {
        let mut declared = declare(&id, "x", "text/plain", 3);
        declared["sha256"] = json!(sha256);
        let file = bed.upload(&alice, declared, b"abc").await;
        assert_eq!(file["state"], state, "{file}");
    }
    // Other bytes than declared are refused by the store itself.
    let begun = alice
        .post("/chat/media", declare(&id, "x", "text/plain", 3))
        .await
        .expect(201);
    let mut upload = begun["upload"].clone();
    upload["headers"]["content-length"] = json!("4");
    assert_eq!(bed.send(&upload, b"abcd").await, 403);
    upload = begun["upload"].clone();
    upload["headers"]["content-type"] = json!("text/html");
    assert_eq!(bed.send(&upload, b"abc").await, 403);
    complete(&alice, &begun)
        .await
        .problem(409, "media_not_uploaded");
    assert_eq!(
        bed.keys("media/").await.len(),
        1,
        "of what is rejected nothing stays"
    );
}

/// Of `abc`, from FIPS 180-2.
const SHA256_ABC: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

async fn what_may_not_be_declared_is_refused(bed: &Bed) {
    let alice = bed.service.user("alice");
    let id = alice.group(json!(["bob"])).await;
    let begin = async |change: &dyn Fn(&mut Value)| {
        let mut declared = declare(&id, "a.png", "image/png", 100);
        change(&mut declared);
        alice.post("/chat/media", declared).await
    };
    begin(&|it| it["bytes"] = json!((5 << 20) + 1))
        .await
        .problem(413, "media_too_large");
    begin(&|it| it["bytes"] = json!(0))
        .await
        .problem(400, "invalid_request");
    begin(&|it| it["bytes"] = json!(-1))
        .await
        .problem(400, "invalid_request");
    for (kind, content_type) in [
        ("image", "image/svg+xml"),
        ("image", "text/html"),
        ("voice", "image/png"),
        ("image", "image/heic"),
    ] {
        let change = |it: &mut Value| {
            it["kind"] = json!(kind);
            it["contentType"] = json!(content_type);
        };
        begin(&change).await.problem(415, "media_type_not_allowed");
    }
    begin(&|it| it["contentType"] = json!("a/b\r\nx: y"))
        .await
        .problem(415, "media_type_not_allowed");
    for name in [
        "",
        "../../etc/passwd",
        "a\\b",
        "a\0b",
        "a\nb",
        "..",
        &"x".repeat(256),
    ] {
        let answer = begin(&|it| it["fileName"] = json!(name)).await;
        assert!(answer.problem(400, "invalid_request").contains("fileName"));
    }
    begin(&|it| it["sha256"] = json!("xyz"))
        .await
        .problem(400, "invalid_request");
    begin(&|it| it["unknown"] = json!(1))
        .await
        .problem(400, "invalid_request");
    begin(&|it| it["conversationId"] = json!("f".repeat(32)))
        .await
        .problem(403, "not_a_member");
    for _ in 0..20 {
        begin(&|_| {}).await.expect(201);
    }
    begin(&|_| {}).await.problem(409, "limit_reached");
    let nobody = format!("/chat/media/{}", "0".repeat(32));
    alice.get(&nobody).await.problem(404, "not_found");
    alice
        .get("/chat/media/..%2f..%2fetc")
        .await
        .problem(400, "invalid_request");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn altered_and_expired_addresses_are_problems() {
    let media = MediaSettings {
        address_valid: Span::secs(1),
        ..limits()
    };
    let bed = Bed::start(false, media).await;
    let alice = bed.service.user("alice");
    let id = alice.group(json!(["bob"])).await;
    let file = bed
        .upload(&alice, declare(&id, "a", "text/plain", 3), b"abc")
        .await;
    let redirected = bed
        .client
        .get(format!("{}{}", bed.service.base, path(&file)));
    let redirected = redirected.bearer_auth(&alice.token).send().await.unwrap();
    let location = redirected.headers()["location"]
        .to_str()
        .unwrap()
        .to_owned();
    let ask = async |path: &str| Answer::of(bed.service.request(Method::GET, path)).await;
    ask(&location.replace("octet", "html"))
        .await
        .problem(403, "address_invalid");
    ask(location.split('?').next().unwrap())
        .await
        .problem(403, "address_invalid");
    for _ in 0..100 {
        let got = bed
            .service
            .request(Method::GET, &location)
            .send()
            .await
            .unwrap();
        if got.status() != 200 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    ask(&location).await.problem(403, "address_expired");
}
