//! Files of conversations, from the upload to the reader, on a folder and on a bucket.

mod bed;
mod cdn;
mod refusals;
mod samples;
mod scans;

use std::time::Duration;

use backscroll_archiver::media::settings::MediaSettings;
use backscroll_shard::settings::Span;
use futures_util::future::join_all;
use image::ImageFormat;
use serde_json::{Value, json};

use bed::{Bed, complete, path, processed, read, read_as};
use samples::{photo, png, wav, wide_png};

/// Makes a test for a folder and for a bucket out of functions that take a [`Bed`].
macro_rules! on_every_store {
    ($($name:ident),* $(,)?) => {
        mod on_disk {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                super::$name(&$crate::media::bed::Bed::start(false, $crate::media::limits()).await).await;
            })*
        }
        mod on_s3 {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                super::$name(&$crate::media::bed::Bed::start(true, $crate::media::limits()).await).await;
            })*
        }
    };
}
use on_every_store;

on_every_store![
    a_picture_loses_what_the_camera_wrote,
    a_picture_is_uploaded_sent_and_read,
    a_recording_is_counted,
    a_large_file_comes_in_parts_and_is_resumed,
    nothing_is_shown_that_could_run,
    an_upload_that_is_completed_many_times_at_once_is_one_file,
    pictures_of_all_types_are_made_smaller,
];

fn limits() -> MediaSettings {
    MediaSettings {
        parts_above: 1 << 20,
        image_pixels: 1_000_000,
        animation_pixels: 8_000_000,
        voice_duration: Span::secs(2),
        user_files: 20,
        ..MediaSettings::default()
    }
}

fn declare(conversation: &str, name: &str, content_type: &str, bytes: usize) -> Value {
    json!({ "conversationId": conversation, "fileName": name, "contentType": content_type, "bytes": bytes })
}

async fn a_picture_is_uploaded_sent_and_read(bed: &Bed) {
    let (alice, bob, eve) = (
        bed.service.user("alice"),
        bed.service.user("bob"),
        bed.service.user("eve"),
    );
    let id = alice.group(json!(["bob"])).await;
    let content = photo(640, 480, ImageFormat::Png);
    let begun = alice
        .post(
            "/chat/media",
            declare(&id, "Grüße.png", "image/png", content.len()),
        )
        .await;
    let begun = begun.expect(201);
    assert_eq!(begun["state"], "pending");
    complete(&alice, &begun)
        .await
        .problem(409, "media_not_uploaded");
    let message = json!({ "content": "", "attachments": [{ "mediaId": begun["mediaId"] }] });
    let messages = format!("/chat/conversations/{id}/messages");
    alice
        .post(&messages, message.clone())
        .await
        .problem(409, "media_not_ready");
    alice
        .get(&path(&begun))
        .await
        .problem(409, "media_not_ready");

    assert_eq!(bed.send(&begun["upload"], &content).await, 200);
    let file = complete(&alice, &begun).await.expect(200);
    // Or more, if that was quick.
    let is_accepted = |file: &Value| {
        ["processing", "ready"]
            .iter()
            .any(|it| file["state"] == *it)
    };
    assert!(is_accepted(&file), "{file}");
    assert_eq!(
        (&file["width"], &file["height"]),
        (&json!(640), &json!(480))
    );
    let again = complete(&alice, &begun).await.expect(200);
    assert!(
        is_accepted(&again) && again["mediaId"] == file["mediaId"],
        "{again}"
    );
    // What is put after the check changes nothing.
    assert_eq!(
        bed.send(&begun["upload"], &vec![b'x'; content.len()]).await,
        200
    );

    bob.get(&path(&file)).await.problem(404, "not_found");
    let sent = alice.post(&messages, message.clone()).await.expect(201);
    let attachment = &sent["attachments"][0];
    assert_eq!(attachment["fileName"], "Grüße.png");
    assert_eq!(
        (&attachment["kind"], &attachment["width"]),
        (&json!("image"), &json!(640))
    );
    let got = read(bed, &bob, &file).await;
    assert_eq!(got.status(), 200);
    assert_eq!(got.headers()["content-type"], "image/png");
    let disposition = got.headers()["content-disposition"].to_str().unwrap();
    assert_eq!(
        disposition,
        "inline; filename=\"Gr__e.png\"; filename*=UTF-8''Gr%C3%BC%C3%9Fe.png"
    );
    assert!(got.bytes().await.unwrap() == content[..]);

    // What was sent follows what became of it.
    let ready = processed(&bob, &file).await;
    assert_eq!(ready["state"], "ready", "{ready}");
    let hash = ready["placeholder"].as_str().unwrap();
    assert!((20..50).contains(&hash.len()), "{hash}");
    let small = &ready["variants"][0];
    assert_eq!(
        (&small["width"], &small["height"]),
        (&json!(320), &json!(240))
    );
    assert!(small["bytes"].as_u64().unwrap() < content.len() as u64);
    let followed = async {
        loop {
            let page = bob.get(&messages).await.expect(200);
            let attachment = page["messages"][0]["attachments"][0].clone();
            if attachment["state"] == "ready" {
                return attachment;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let followed = tokio::time::timeout(Duration::from_secs(60), followed)
        .await
        .unwrap();
    assert_eq!(followed, ready, "the attachment is the file");
    for (variant, size, kind) in [
        ("small", (320, 240), "image/jpeg"),
        ("large", (640, 480), "image/png"),
    ] {
        let got = read_as(bed, &bob, &file, variant).await;
        assert_eq!(got.status(), 200);
        assert_eq!(got.headers()["content-type"], kind);
        let disposition = got.headers()["content-disposition"]
            .to_str()
            .unwrap()
            .to_owned();
        assert!(
            disposition.contains(if variant == "small" {
                "Gr__e.jpg"
            } else {
                "Gr__e.png"
            }),
            "{disposition}"
        );
        let shown = image::load_from_memory(&got.bytes().await.unwrap()).unwrap();
        assert_eq!((shown.width(), shown.height()), size);
    }
    bob.get(&format!("{}?variant=huge", path(&file)))
        .await
        .problem(400, "invalid_request");
    let info = bob.get(&format!("{}/info", path(&file))).await.expect(200);
    assert_eq!(info["bytes"], content.len());
    assert!(
        info.get("expiresAt").is_none(),
        "it lives as long as the message: {info}"
    );

    eve.get(&path(&file)).await.problem(403, "not_a_member");
    bob.delete(&path(&file)).await.problem(403, "forbidden");
    alice
        .delete(&path(&file))
        .await
        .problem(409, "media_in_use");
    // Not even its uploader sends it elsewhere.
    let elsewhere = alice.group(json!(["eve"])).await;
    let elsewhere = format!("/chat/conversations/{elsewhere}/messages");
    alice
        .post(&elsewhere, message)
        .await
        .problem(404, "not_found");
    let message = format!("/chat/messages/{}", sent["id"].as_str().unwrap());
    alice.delete(&message).await.expect(200);
    for me in [&alice, &bob] {
        me.get(&path(&file)).await.problem(404, "not_found");
    }
}

/// With a text, and turned by a quarter as its EXIF says.
async fn a_picture_loses_what_the_camera_wrote(bed: &Bed) {
    let alice = bed.service.user("alice");
    let id = alice.group(json!(["bob"])).await;
    let mut content = png(640, 480);
    let exif = b"\0\0\0\x32eXIfMM\0\x2a\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\x0048.8584 N 2.2945 E 35 m.\0\0\0\0";
    content.splice(33..33, exif.iter().copied());
    let declared = declare(&id, "a.png", "image/png", content.len());
    let file = bed.upload(&alice, declared, &content).await;
    assert_eq!(
        (&file["width"], &file["height"]),
        (&json!(480), &json!(640))
    );
    // Its structure is whole, its pixels are not.
    let failed = processed(&alice, &file).await;
    assert_eq!(
        (&failed["state"], &failed["reason"]),
        (&json!("failed"), &json!("damaged"))
    );
    let got = read(bed, &alice, &file).await.bytes().await.unwrap();
    assert_eq!(file["bytes"], got.len());
    assert_eq!(got.len(), content.len() - 24);
    assert!(!got.windows(7).any(|window| window == b"48.8584"));
    assert_eq!(bed.keys("media/").await.len(), 1);
    // Sent as a file, it is what it was.
    let mut declared = declare(&id, "a.png", "image/png", content.len());
    declared["kind"] = json!("file");
    let file = bed.upload(&alice, declared, &content).await;
    let got = read(bed, &alice, &file).await.bytes().await.unwrap();
    assert!(got == content);
}

async fn pictures_of_all_types_are_made_smaller(bed: &Bed) {
    let alice = bed.service.user("alice");
    let id = alice.group(json!(["bob"])).await;
    let formats = [ImageFormat::Jpeg, ImageFormat::Gif, ImageFormat::WebP];
    for format in formats {
        let content = photo(400, 500, format);
        let declared = declare(&id, "a", format.to_mime_type(), content.len());
        let file = bed.upload(&alice, declared, &content).await;
        let ready = processed(&alice, &file).await;
        assert_eq!(ready["state"], "ready", "{ready}");
        let shown = read_as(bed, &alice, &file, "small")
            .await
            .bytes()
            .await
            .unwrap();
        let shown = image::load_from_memory(&shown).unwrap();
        assert_eq!((shown.width(), shown.height()), (256, 320));
    }
    // A message that uses none of them, and nothing of them stays.
    assert_eq!(bed.keys("media/").await.len(), 2 * formats.len());
    // One that is small has a placeholder only.
    let content = photo(20, 10, ImageFormat::Png);
    let declared = declare(&id, "a", "image/png", content.len());
    let file = processed(&alice, &bed.upload(&alice, declared, &content).await).await;
    assert_eq!(
        (&file["state"], file.get("variants")),
        (&json!("ready"), None)
    );
    assert!(file["placeholder"].is_string(), "{file}");
    let shown = read_as(bed, &alice, &file, "small")
        .await
        .bytes()
        .await
        .unwrap();
    assert!(shown == content);
}

/// Its own worker has so little memory that it ends: the service and the next picture do not notice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_picture_that_takes_too_much_memory_has_failed() {
    let media = MediaSettings {
        image_bytes: 128 << 20,
        image_pixels: 50_000_000,
        parts_above: 128 << 20,
        worker_memory: 64 << 20,
        workers: 1,
        ..limits()
    };
    let bed = Bed::start(false, media).await;
    let alice = bed.service.user("alice");
    let id = alice.group(json!(["bob"])).await;
    // One has too many pixels for the decoder's limit, the other too many bytes for the process.
    let mut long = png(10, 10);
    let data = vec![0; 70 << 20];
    let length = u32::try_from(data.len()).unwrap().to_be_bytes();
    let chunk = [&length[..], b"IDAT", &data, b"\0\0\0\0"].concat();
    long.splice(33..33, chunk);
    for (content, state, reason) in [
        (wide_png(), "failed", json!("out_of_memory")),
        (long, "failed", json!("out_of_memory")),
        (photo(400, 300, ImageFormat::Jpeg), "ready", Value::Null),
    ] {
        let content_type = image::guess_format(&content).unwrap().to_mime_type();
        let declared = declare(&id, "a", content_type, content.len());
        let file = processed(&alice, &bed.upload(&alice, declared, &content).await).await;
        assert_eq!(
            (&file["state"], &file["reason"]),
            (&json!(state), &reason),
            "{file}"
        );
        let got = read_as(&bed, &alice, &file, "original").await;
        assert!(
            got.bytes().await.unwrap() == content,
            "it is read as it was uploaded"
        );
    }
}

async fn a_recording_is_counted(bed: &Bed) {
    let alice = bed.service.user("alice");
    let id = alice.group(json!(["bob"])).await;
    for (seconds, state) in [(2, "ready"), (3, "rejected")] {
        let content = wav(seconds);
        let mut declared = declare(&id, "voice.wav", "audio/wav", content.len());
        declared["kind"] = json!("voice");
        let file = bed.upload(&alice, declared, &content).await;
        assert_eq!(file["state"], state, "{file}");
        if seconds == 2 {
            assert_eq!(file["durationMs"], 2000);
        } else {
            assert_eq!(file["reason"], "too_long");
        }
    }
}

async fn a_large_file_comes_in_parts_and_is_resumed(bed: &Bed) {
    let (alice, bob) = (bed.service.user("alice"), bed.service.user("bob"));
    let id = alice.group(json!(["bob"])).await;
    let part = 5 << 20;
    let content: Vec<u8> = (0..part + 1000).map(|n| (n % 251) as u8).collect();
    let declared = declare(&id, "large.bin", "application/octet-stream", content.len());
    let begun = alice.post("/chat/media", declared).await.expect(201);
    assert_eq!(begun["upload"]["partBytes"], part);
    let parts = begun["upload"]["parts"].as_array().unwrap();
    assert_eq!(parts.len(), 2);
    assert_eq!(bed.send(&parts[1], &content[part..]).await, 200);
    complete(&alice, &begun)
        .await
        .problem(409, "media_not_uploaded");

    // The client has forgotten everything but the id.
    let upload = format!("{}/upload", path(&begun));
    bob.get(&upload).await.problem(404, "not_found");
    let resumed = alice.get(&upload).await.expect(200);
    assert_eq!(resumed["present"], json!([{ "number": 2, "bytes": 1000 }]));
    let missing = resumed["upload"]["parts"].as_array().unwrap();
    assert_eq!((missing.len(), &missing[0]["number"]), (1, &json!(1)));
    assert_eq!(bed.send(&missing[0], &content[..part]).await, 200);
    let file = complete(&alice, &begun).await.expect(200);
    assert_eq!(file["state"], "ready", "{file}");
    let got = read(bed, &alice, &file).await;
    assert!(
        got.headers()["content-disposition"]
            .to_str()
            .unwrap()
            .starts_with("attachment;")
    );
    assert!(got.bytes().await.unwrap() == content);
    assert_eq!(bed.keys("upload/").await, [""; 0]);
    let done = alice.get(&upload).await.expect(200);
    assert_eq!(
        (&done["state"], done.get("upload")),
        (&json!("ready"), None)
    );
}

async fn nothing_is_shown_that_could_run(bed: &Bed) {
    let alice = bed.service.user("alice");
    let id = alice.group(json!(["bob"])).await;
    for (name, content_type, content) in [
        ("x.html", "text/html", &b"<script>alert(1)</script>"[..]),
        ("x.svg", "image/svg+xml", b"<svg onload='alert(1)'/>"),
        ("x.xhtml", "application/xhtml+xml", b"<html/>"),
        ("x.js", "text/javascript", b"alert(1)"),
    ] {
        let declared = declare(&id, name, content_type, content.len());
        let file = bed.upload(&alice, declared, content).await;
        assert_eq!(file["contentType"], "application/octet-stream");
        let got = read(bed, &alice, &file).await;
        assert_eq!(got.headers()["content-type"], "application/octet-stream");
        let disposition = got.headers()["content-disposition"].to_str().unwrap();
        assert!(disposition.starts_with("attachment;"), "{disposition}");
        if bed.objects.endpoint.is_none() {
            assert_eq!(got.headers()["x-content-type-options"], "nosniff");
        }
        assert!(got.bytes().await.unwrap() == content);
    }
}

async fn an_upload_that_is_completed_many_times_at_once_is_one_file(bed: &Bed) {
    let alice = bed.service.user("alice");
    let id = alice.group(json!(["bob"])).await;
    let content = png(100, 100);
    let declared = declare(&id, "a.png", "image/png", content.len());
    let begun = alice.post("/chat/media", declared).await.expect(201);
    assert_eq!(bed.send(&begun["upload"], &content).await, 200);
    let answers = join_all((0..6).map(|_| complete(&alice, &begun))).await;
    let answers: Vec<Value> = answers.into_iter().map(|it| it.expect(200)).collect();
    assert!(
        answers
            .iter()
            .all(|it| it["state"] != "rejected" && it["mediaId"] == answers[0]["mediaId"]),
        "{answers:?}"
    );
    assert_eq!(processed(&alice, &answers[0]).await["state"], "failed");
    let got = read(bed, &alice, &answers[0]).await;
    assert!(got.bytes().await.unwrap() == content[..]);
    assert_eq!(bed.keys("media/").await.len(), 1);
    assert_eq!(bed.keys("upload/").await, [""; 0]);
    alice.delete(&path(&answers[0])).await.expect(204);
    alice
        .get(&path(&answers[0]))
        .await
        .problem(404, "not_found");
}
