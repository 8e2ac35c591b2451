//! How the SDK's client is set up.

use std::time::Duration;

use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_sdk_s3::config::retry::RetryConfig;
use aws_sdk_s3::config::timeout::TimeoutConfig;
use aws_sdk_s3::config::{
    Builder, Credentials, RequestChecksumCalculation, ResponseChecksumValidation,
    SharedCredentialsProvider, StalledStreamProtectionConfig,
};

use crate::object_store::settings::{ChecksumMode, ObjectStoreSettings};

/// Longest wait for a connection; the request's deadline bounds the rest.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// What both clients share: the region and the credentials.
pub(super) async fn sdk_config(settings: &ObjectStoreSettings) -> SdkConfig {
    let mut loader = aws_config::defaults(BehaviorVersion::v2026_01_12())
        .region(Region::new(settings.region.clone()));
    if let (Some(id), Some(secret)) = (&settings.access_key_id, &settings.secret_access_key) {
        let token = settings.session_token.as_ref().map(|token| token.0.clone());
        let credentials = Credentials::new(id, &secret.0, token, None, "configuration");
        loader = loader.credentials_provider(SharedCredentialsProvider::new(credentials));
    }
    loader.load().await
}

/// The configuration of a client that reaches the store at `endpoint`.
pub(super) fn config(
    sdk: &SdkConfig,
    settings: &ObjectStoreSettings,
    endpoint: Option<&str>,
) -> Builder {
    let (request, response) = match settings.checksum {
        ChecksumMode::WhenSupported => (
            RequestChecksumCalculation::WhenSupported,
            ResponseChecksumValidation::WhenSupported,
        ),
        ChecksumMode::WhenRequired => (
            RequestChecksumCalculation::WhenRequired,
            ResponseChecksumValidation::WhenRequired,
        ),
    };
    let config = Builder::from(sdk)
        .force_path_style(settings.path_style)
        .request_checksum_calculation(request)
        .response_checksum_validation(response)
        .retry_config(RetryConfig::disabled())
        .timeout_config(
            TimeoutConfig::builder()
                .connect_timeout(CONNECT_TIMEOUT)
                .build(),
        )
        .stalled_stream_protection(StalledStreamProtectionConfig::disabled());
    match endpoint {
        Some(endpoint) => config.endpoint_url(endpoint),
        None => config,
    }
}
