//! A service whose files are in a folder or in a bucket, and what clients do.

use std::collections::BTreeMap;
use std::time::Duration;

use backscroll::http::settings::ServerSettings;
use backscroll_archiver::media::settings::MediaSettings;
use backscroll_archiver::object_store::transfer::list;
use backscroll_archiver::object_store::{self, KeyPrefix, ObjectStoreSettings, StoreKind};
use backscroll_testkit::s3_server::{ACCESS_KEY_ID, BUCKET, S3Server, SECRET_ACCESS_KEY};
use futures_util::TryStreamExt as _;
use reqwest::{Method, redirect};
use serde_json::{Value, json};

use crate::harness::{Answer, Service, User, shared_secret};

/// A service, and where its files are.
pub(crate) struct Bed {
    pub(crate) service: Service,
    pub(crate) objects: ObjectStoreSettings,
    /// Follows no redirection.
    pub(crate) client: reqwest::Client,
    _bucket: Option<S3Server>,
}

impl Bed {
    pub(crate) async fn start(on_bucket: bool, media: MediaSettings) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut objects = ObjectStoreSettings {
            path: folder.path().join("objects"),
            part_size: 5 << 20,
            ..ObjectStoreSettings::default()
        };
        let mut bucket = None;
        if on_bucket {
            std::fs::create_dir(folder.path().join("bucket")).unwrap();
            let server = S3Server::start(&folder.path().join("bucket")).await;
            objects = ObjectStoreSettings {
                kind: StoreKind::S3,
                bucket: BUCKET.into(),
                endpoint: Some(server.url()),
                path_style: true,
                access_key_id: Some(ACCESS_KEY_ID.into()),
                secret_access_key: Some(serde_json::from_value(SECRET_ACCESS_KEY.into()).unwrap()),
                ..objects
            };
            bucket = Some(server);
        }
        let served = (ServerSettings::default(), shared_secret());
        let stored = (objects.clone(), media);
        let client = reqwest::Client::builder()
            .timeout(Duration::from_secs(30))
            .redirect(redirect::Policy::none())
            .no_proxy()
            .build()
            .unwrap();
        Self {
            service: Service::start_on(folder, &[], served, stored).await,
            objects,
            client,
            _bucket: bucket,
        }
    }

    fn absolute(&self, url: &str) -> String {
        match url.starts_with('/') {
            true => format!("{}{url}", self.service.base),
            false => url.to_owned(),
        }
    }

    /// Does what an upload's instructions say; the status.
    pub(crate) async fn send(&self, request: &Value, body: &[u8]) -> u16 {
        let url = self.absolute(request["url"].as_str().unwrap());
        let method: Method = request["method"].as_str().unwrap().parse().unwrap();
        let mut put = self.client.request(method, url).body(body.to_vec());
        let headers: BTreeMap<String, String> =
            serde_json::from_value(request["headers"].clone()).unwrap();
        for (name, value) in headers {
            put = put.header(name, value);
        }
        put.send().await.unwrap().status().as_u16()
    }

    /// Uploads and completes; the completed file.
    pub(crate) async fn upload(&self, me: &User<'_>, declared: Value, body: &[u8]) -> Value {
        let begun = me.post("/chat/media", declared).await.expect(201);
        assert_eq!(self.send(&begun["upload"], body).await, 200);
        complete(me, &begun).await.expect(200)
    }

    /// The keys of all objects that are there.
    pub(crate) async fn keys(&self, prefix: &str) -> Vec<String> {
        let store = object_store::open(&self.objects).await.unwrap();
        let prefix = KeyPrefix::new(prefix).unwrap();
        let found: Vec<_> = list(&*store, &prefix).try_collect().await.unwrap();
        found.iter().map(|object| object.key.to_string()).collect()
    }
}

pub(crate) async fn complete(me: &User<'_>, begun: &Value) -> Answer {
    let id = begun["mediaId"].as_str().unwrap();
    me.post(&format!("/chat/media/{id}/complete"), json!({}))
        .await
}

pub(crate) fn path(media: &Value) -> String {
    format!("/chat/media/{}", media["mediaId"].as_str().unwrap())
}

/// What is known of a picture once nothing is to be done with it any more.
pub(crate) async fn processed(me: &User<'_>, media: &Value) -> Value {
    let processed = async {
        loop {
            let file = me.get(&format!("{}/info", path(media))).await.expect(200);
            if file["state"] != "processing" {
                return file;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let patience = Duration::from_secs(60);
    tokio::time::timeout(patience, processed).await.unwrap()
}

/// The file as a reader gets it, after the redirection.
pub(crate) async fn read(bed: &Bed, me: &User<'_>, media: &Value) -> reqwest::Response {
    read_as(bed, me, media, "original").await
}

/// A form of the file.
pub(crate) async fn read_as(
    bed: &Bed,
    me: &User<'_>,
    media: &Value,
    variant: &str,
) -> reqwest::Response {
    let path = format!("{}{}?variant={variant}", bed.service.base, path(media));
    let redirected = bed
        .client
        .get(path)
        .bearer_auth(&me.token)
        .send()
        .await
        .unwrap();
    assert_eq!(redirected.status(), 302);
    assert_eq!(redirected.headers()["cache-control"], "no-store");
    let location = redirected.headers()["location"].to_str().unwrap();
    bed.client.get(bed.absolute(location)).send().await.unwrap()
}
