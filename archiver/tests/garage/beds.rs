//! Beds on the Garage that the environment names.

use std::sync::Arc;

use backscroll_archiver::object_store::s3::S3Store;
use backscroll_archiver::object_store::{ObjectStoreSettings, StoreKind};
use backscroll_shard::settings::Span;

use crate::bed::{Bed, quick};
use crate::prefixed::Prefixed;

/// With the settings for a store that knows no conditions, which Garage is.
pub(crate) async fn garage() -> Bed {
    garage_with(|_| {}).await
}

/// With settings that differ from those.
pub(crate) async fn garage_with(change: impl FnOnce(&mut ObjectStoreSettings)) -> Bed {
    garage_under(&format!("{:016x}", rand::random::<u64>()), change).await
}

/// With all keys below `prefix`.
pub(crate) async fn garage_under(
    prefix: &str,
    change: impl FnOnce(&mut ObjectStoreSettings),
) -> Bed {
    let mut settings = garage_settings();
    change(&mut settings);
    let backend = S3Store::open(&settings).await.unwrap();
    Bed::around(Arc::new(Prefixed::around(backend, prefix)), settings, ())
}

pub(crate) fn garage_settings() -> ObjectStoreSettings {
    let secret = variable("SECRET_ACCESS_KEY");
    ObjectStoreSettings {
        kind: StoreKind::S3,
        endpoint: Some(variable("ENDPOINT")),
        region: variable("REGION"),
        bucket: variable("BUCKET"),
        path_style: true,
        conditional_put: false,
        access_key_id: Some(variable("ACCESS_KEY_ID")),
        secret_access_key: Some(serde_json::from_value(secret.into()).unwrap()),
        request_timeout: Span::secs(30),
        ..quick()
    }
}

/// A variable that `.ci/servers garage` sets.
pub(crate) fn variable(name: &str) -> String {
    let name = format!("BACKSCROLL_TEST_S3_{name}");
    std::env::var(&name)
        .unwrap_or_else(|_| panic!("{name} is not set: run these tests with `make test-garage`"))
}
