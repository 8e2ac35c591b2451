//! Signed requests: clients put, read and upload in parts by themselves, and nothing else.

use std::time::Duration;

use backscroll_archiver::object_store::{
    ErrorKind, Part, SignedAnswer, SignedContent, SignedRequest, Upload,
};
use bytes::Bytes;

use crate::bed::{Answer, Bed, PLAIN, content, key};

crate::on_every_backend![
    an_object_is_put_and_read,
    what_differs_from_what_was_signed_is_refused,
    an_upload_in_parts_is_resumed,
    a_copy_is_another_object,
    ranges_are_read,
];

const MINUTE: Duration = Duration::from_secs(60);

const PNG: SignedContent<'static> = SignedContent {
    bytes: 1000,
    content_type: "image/png",
};

async fn send(bed: &Bed, request: &SignedRequest, body: &[u8]) -> Answer {
    let headers = request.headers.iter();
    let headers: Vec<(String, String)> = headers
        .map(|header| (header.name.clone(), header.value.clone()))
        .collect();
    bed.ask(request.method, &request.url, &headers, body).await
}

async fn an_object_is_put_and_read(bed: &Bed) {
    let target = key("upload/ab/object");
    let put = bed.store.sign_put(&target, &PNG, MINUTE).await.unwrap();
    let mut headers: Vec<(&str, &str)> = put
        .headers
        .iter()
        .map(|it| (it.name.as_str(), it.value.as_str()))
        .collect();
    headers.sort_unstable();
    let expected = [("content-length", "1000"), ("content-type", "image/png")];
    assert_eq!(headers, expected, "and no checksum");
    assert!(
        !put.url.to_ascii_lowercase().contains("checksum"),
        "{}",
        put.url
    );

    // The same again, as after an answer that was lost; and the later one counts.
    for body in [content(1000), content(1000), Bytes::from(vec![7; 1000])] {
        assert_eq!(send(bed, &put, &body).await.status, 200);
        let stored = bed.store.get_range(&target, 0..1000).await.unwrap();
        assert!(stored == body);
    }
    let answer = SignedAnswer {
        content_type: "application/octet-stream",
        disposition: "attachment; filename=\"a b.txt\"; filename*=UTF-8''%C3%A9",
    };
    let url = bed.store.sign_get(&target, &answer, MINUTE).await.unwrap();
    let got = bed.ask("GET", &url, &[], b"").await;
    assert_eq!((got.status, got.body.len()), (200, 1000), "{}", got.head);
    assert_eq!(got.header("content-type"), Some(answer.content_type));
    assert_eq!(got.header("content-disposition"), Some(answer.disposition));
    if bed.is_disk() {
        assert_eq!(got.header("x-content-type-options"), Some("nosniff"));
        assert!(
            got.header("content-security-policy")
                .unwrap()
                .contains("sandbox")
        );
        assert!(url.starts_with("/media/objects/upload/ab/object?"), "{url}");
    } else {
        let secret = &bed.settings.secret_access_key.as_ref().unwrap().0;
        assert!(!url.contains(secret.as_str()));
    }
}

async fn what_differs_from_what_was_signed_is_refused(bed: &Bed) {
    let target = key("upload/one");
    let put = bed.store.sign_put(&target, &PNG, MINUTE).await.unwrap();
    let with = |change: &dyn Fn(&mut SignedRequest)| {
        let mut changed = put.clone();
        change(&mut changed);
        changed
    };
    let set = |request: &mut SignedRequest, name: &str, value: &str| {
        let mut headers = request.headers.iter_mut();
        headers.find(|it| it.name == name).unwrap().value = value.to_owned();
    };
    let cases = [
        with(&|it| set(it, "content-length", "999")),
        with(&|it| set(it, "content-length", "1001")),
        with(&|it| set(it, "content-type", "text/html")),
        with(&|it| it.headers.retain(|header| header.name != "content-type")),
        with(&|it| it.url = it.url.replace("upload/one", "upload/two")),
        with(&|it| it.method = "DELETE"),
        with(&|it| it.method = "GET"),
        with(&|it| it.url = it.url.split('?').next().unwrap().to_owned()),
    ];
    for case in cases {
        let status = send(bed, &case, &content(1001)[..]).await.status;
        assert!((400..500).contains(&status), "{status}: {case:?}");
        for name in ["upload/one", "upload/two"] {
            let error = bed.store.head(&key(name)).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::NotFound);
        }
    }
    // An address to read does not write, and not for ever.
    bed.store.put(&key("read"), content(10)).await.unwrap();
    let get = bed.store.sign_get(&key("read"), &PLAIN, MINUTE).await;
    let get = get.unwrap();
    assert_eq!(bed.ask("PUT", &get, &[], b"").await.status, 403);
    let altered = get.replace("text", "html");
    assert_eq!(bed.ask("GET", &altered, &[], b"").await.status, 403);
    let short = Duration::from_secs(1);
    let get = bed
        .store
        .sign_get(&key("read"), &PLAIN, short)
        .await
        .unwrap();
    let mut status = bed.ask("GET", &get, &[], b"").await.status;
    for _ in 0..100 {
        if status != 200 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
        status = bed.ask("GET", &get, &[], b"").await.status;
    }
    assert_eq!(status, 403, "it has expired");
}

fn sizes(parts: &[Part]) -> Vec<(u32, u64)> {
    parts.iter().map(|part| (part.number, part.size)).collect()
}

async fn part(bed: &Bed, upload: &Upload, number: u32, body: &[u8]) -> u16 {
    let bytes = body.len() as u64;
    let signed = bed.store.sign_part(upload, number, bytes, MINUTE).await;
    send(bed, &signed.unwrap(), body).await.status
}

async fn an_upload_in_parts_is_resumed(bed: &Bed) {
    let (target, size) = (key("upload/large"), bed.store.part_size());
    let upload = bed.store.start_signed_upload(&target, "application/zip");
    let upload = upload.await.unwrap();
    assert_eq!(bed.store.list_parts(&upload).await.unwrap(), []);
    assert_eq!(part(bed, &upload, 2, b"the end").await, 200);
    assert_eq!(part(bed, &upload, 1, &vec![1; size]).await, 200);
    // The second attempt counts; and one that breaks off counts for nothing.
    assert_eq!(part(bed, &upload, 1, &content(size)).await, 200);
    let third = bed.store.sign_part(&upload, 3, 100, MINUTE).await.unwrap();
    send(bed, &third, b"less").await;
    let parts = bed.store.list_parts(&upload).await.unwrap();
    assert_eq!(sizes(&parts), [(1, size as u64), (2, 7)]);

    bed.store.complete_upload(&upload, &parts).await.unwrap();
    bed.store.complete_upload(&upload, &parts).await.unwrap();
    let whole = 0..size as u64 + 7;
    let stored = bed.store.get_range(&target, whole).await.unwrap();
    assert!(stored == [content(size), Bytes::from_static(b"the end")].concat());
    // Nothing is added any more.
    assert_eq!(part(bed, &upload, 3, b"late").await, 404);
    let error = bed.store.list_parts(&upload).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);

    let target = key("upload/no");
    let another = bed.store.start_signed_upload(&target, "a/b");
    let another = another.await.unwrap();
    assert_eq!(part(bed, &another, 1, b"half").await, 200);
    bed.store.abort_upload(&another).await.unwrap();
    assert_eq!(part(bed, &another, 1, b"half").await, 404);
}

async fn a_copy_is_another_object(bed: &Bed) {
    let (from, to) = (key("upload/from"), key("media/to"));
    bed.store.put(&from, content(5000)).await.unwrap();
    bed.store.copy(&from, &to, 5000).await.unwrap();
    bed.store.copy(&from, &to, 5000).await.unwrap();
    // What is put where it came from afterwards does not change it.
    let terms = SignedContent {
        bytes: 5000,
        content_type: "text/plain",
    };
    let put = bed.store.sign_put(&from, &terms, MINUTE).await.unwrap();
    assert_eq!(send(bed, &put, &vec![0; 5000]).await.status, 200);
    bed.store.delete(&from).await.unwrap();
    let copied = bed.store.get_range(&to, 0..5000).await.unwrap();
    assert!(copied == content(5000));

    let error = bed.store.copy(&from, &key("media/no"), 5000).await;
    assert_eq!(error.unwrap_err().kind(), ErrorKind::NotFound);
    bed.store.put(&from, content(10)).await.unwrap();
    let error = bed.store.copy(&from, &to, 10).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AlreadyExists);
    let kept = bed.store.get_range(&to, 0..5000).await.unwrap();
    assert!(kept == content(5000));
}

async fn ranges_are_read(bed: &Bed) {
    let target = key("media/ranged");
    bed.store.put(&target, content(200_000)).await.unwrap();
    let url = bed.store.sign_get(&target, &PLAIN, MINUTE).await.unwrap();
    let ask = async |range: &str| {
        let headers = [("range".to_owned(), range.to_owned())];
        bed.ask("GET", &url, &headers, b"").await
    };
    for (range, expected, stretch) in [
        ("bytes=0-9", 0..10, "bytes 0-9/200000"),
        (
            "bytes=100000-",
            100_000..200_000,
            "bytes 100000-199999/200000",
        ),
        ("bytes=-5", 199_995..200_000, "bytes 199995-199999/200000"),
    ] {
        let got = ask(range).await;
        assert_eq!(got.status, 206, "{}", got.head);
        assert_eq!(got.header("content-range"), Some(stretch));
        assert!(got.body == content(200_000)[expected], "{range}");
    }
    assert_eq!(ask("bytes=200000-").await.status, 416);
    let whole = bed.ask("GET", &url, &[], b"").await;
    assert!(whole.status == 200 && whole.body == content(200_000));
}
