//! Files that are read from a CDN, which checks addresses by the description of `media::cdn`.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

use aws_lc_rs::hmac;
use axum::Router;
use axum::extract::State;
use axum::http::header::{CONTENT_DISPOSITION, CONTENT_TYPE, X_CONTENT_TYPE_OPTIONS};
use axum::http::{StatusCode, Uri};
use axum::response::{IntoResponse as _, Response};
use backscroll_archiver::media::settings::MediaSettings;
use backscroll_archiver::object_store::{self, ObjectKey, ObjectStore};
use image::ImageFormat;
use percent_encoding::percent_decode_str;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use super::bed::{Bed, path};
use super::samples::photo;
use super::{declare, limits};

const SECRET: &str = "0123456789abcdef0123456789abcdef";

/// The object store behind the CDN, and how many seconds its clock is ahead.
#[derive(Default)]
struct Edge {
    origin: OnceLock<Arc<dyn ObjectStore>>,
    ahead: AtomicU64,
}

impl Edge {
    /// The key, type and disposition of an address that is valid now.
    fn check(&self, address: &str) -> Option<(ObjectKey, String, String)> {
        let (signed, signature) = address.rsplit_once("&signature=")?;
        let key = hmac::Key::new(hmac::HMAC_SHA256, SECRET.as_bytes());
        let tag = hmac::sign(&key, signed.as_bytes());
        let digits: String = tag.as_ref().iter().map(|it| format!("{it:02x}")).collect();
        if digits != signature {
            return None;
        }
        let (path, query) = signed.split_once('?')?;
        let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
        let decoded = |text| Some(percent_decode_str(text).decode_utf8().ok()?.into_owned());
        let pairs = pairs.map(|(name, value)| Some((name, decoded(value)?)));
        let mut values: BTreeMap<&str, String> = pairs.collect::<Option<_>>()?;
        let now = SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs();
        let expires: u64 = values.remove("expires")?.parse().ok()?;
        if now + self.ahead.load(Ordering::SeqCst) > expires {
            return None;
        }
        let key = ObjectKey::new(path.strip_prefix('/')?).ok()?;
        Some((key, values.remove("type")?, values.remove("disposition")?))
    }
}

async fn answer(State(edge): State<Arc<Edge>>, uri: Uri) -> Response {
    let Some((key, content_type, disposition)) = edge.check(&uri.to_string()) else {
        return StatusCode::FORBIDDEN.into_response();
    };
    let origin = edge.origin.get().unwrap();
    let bytes = origin.head(&key).await.unwrap().size;
    let content = origin.get_range(&key, 0..bytes).await.unwrap();
    let headers = [
        (CONTENT_TYPE, content_type),
        (CONTENT_DISPOSITION, disposition),
        (X_CONTENT_TYPE_OPTIONS, "nosniff".to_owned()),
    ];
    (headers, content).into_response()
}

async fn readers_are_sent_to_the_cdn(on_bucket: bool) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let cdn = format!("http://{}", listener.local_addr().unwrap());
    let edge = Arc::new(Edge::default());
    let app = Router::new().fallback(answer).with_state(Arc::clone(&edge));
    let mut served = JoinSet::new();
    served.spawn(async move { axum::serve(listener, app).await });
    let media = MediaSettings {
        cdn: Some(cdn.clone()),
        cdn_secret: Some(serde_json::from_value(json!(SECRET)).unwrap()),
        ..limits()
    };
    let bed = Bed::start(on_bucket, media).await;
    edge.origin
        .set(object_store::open(&bed.objects).await.unwrap())
        .ok();
    let alice = bed.service.user("alice");
    let id = alice.group(json!(["bob"])).await;
    let picture = photo(16, 16, ImageFormat::Png);
    let declared = declare(&id, "Grüße.png", "image/png", picture.len());
    let file = bed.upload(&alice, declared, &picture).await;

    let redirected = bed
        .client
        .get(format!("{}{}", bed.service.base, path(&file)));
    let redirected = redirected.bearer_auth(&alice.token).send().await.unwrap();
    assert_eq!(redirected.status(), 302);
    let address = redirected.headers()["location"].to_str().unwrap();
    let key = bed.keys("media/").await.pop().unwrap();
    assert!(
        address.starts_with(&format!("{cdn}/{key}?type=")),
        "{address}"
    );

    let get = async |address: &str| bed.client.get(address).send().await.unwrap();
    let read = get(address).await;
    assert_eq!(read.status(), 200);
    assert_eq!(read.headers()["content-type"], "image/png");
    assert_eq!(
        read.headers()["content-disposition"],
        "inline; filename=\"Gr__e.png\"; filename*=UTF-8''Gr%C3%BC%C3%9Fe.png"
    );
    assert_eq!(read.bytes().await.unwrap(), picture);

    // Another object, type, disposition, time or signature, or none.
    let (unsigned, signature) = address.rsplit_once("&signature=").unwrap();
    let (_, expires) = unsigned.rsplit_once("&expires=").unwrap();
    let other = key.replace(|digit| matches!(digit, '0'..='7'), "8");
    let reversed: String = signature.chars().rev().collect();
    for altered in [
        address.replace(&key, &other),
        address.replace("image%2Fpng", "text%2Fhtml"),
        address.replace("=inline", "=attachment"),
        address.replace(expires, &format!("{expires}0")),
        address.replace(signature, &reversed),
        unsigned.to_owned(),
        format!("{address}&type=text%2Fhtml"),
    ] {
        assert_ne!(altered, address);
        assert_eq!(get(&altered).await.status(), 403, "{altered}");
    }
    edge.ahead.store(200, Ordering::SeqCst);
    assert_eq!(get(address).await.status(), 200);
    edge.ahead.store(301, Ordering::SeqCst);
    assert_eq!(get(address).await.status(), 403, "it has expired");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_of_a_folder_are_sent_to_the_cdn() {
    readers_are_sent_to_the_cdn(false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_of_a_bucket_are_sent_to_the_cdn() {
    readers_are_sent_to_the_cdn(true).await;
}
