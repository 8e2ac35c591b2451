//! Signed requests, and uploads whose parts come by them.

use std::time::Duration;

use aws_sdk_s3::Client;
use aws_sdk_s3::error::SdkError;
use aws_sdk_s3::operation::create_multipart_upload::{
    CreateMultipartUploadError, CreateMultipartUploadOutput,
};
use aws_sdk_s3::presigning::{PresignedRequest, PresigningConfig};

use super::errors::failed;
use super::part_number;
use crate::object_store::error::{ErrorKind, Operation, Result, StoreError};
use crate::object_store::key::ObjectKey;
use crate::object_store::signed::SignedHeader;
use crate::object_store::{SignedAnswer, SignedContent, SignedRequest, Upload};

/// The upload that the store began.
pub(super) fn started(
    key: &ObjectKey,
    answer: Result<CreateMultipartUploadOutput, SdkError<CreateMultipartUploadError>>,
) -> Result<Upload> {
    let output = answer.map_err(|error| failed(Operation::StartUpload, key, &error))?;
    let id = output.upload_id.ok_or_else(|| {
        let detail = "the store gave the upload no id";
        StoreError::new(ErrorKind::Refused, Operation::StartUpload, key, detail)
    })?;
    let key = key.clone();
    Ok(Upload { key, id })
}

/// `client` asks for no checksums, or the store would want one with each part.
pub(super) async fn start_upload(
    client: &Client,
    bucket: &str,
    key: &ObjectKey,
    content_type: &str,
) -> Result<Upload> {
    let create = client
        .create_multipart_upload()
        .bucket(bucket)
        .key(key.as_str())
        .content_type(content_type);
    started(key, create.send().await)
}

pub(super) async fn put(
    client: &Client,
    bucket: &str,
    key: &ObjectKey,
    content: &SignedContent<'_>,
    valid_for: Duration,
) -> Result<SignedRequest> {
    let put = client
        .put_object()
        .bucket(bucket)
        .key(key.as_str())
        .content_length(length(content.bytes))
        .content_type(content.content_type);
    let signed = put.presigned(terms(key, valid_for)?).await;
    Ok(request(
        &signed.map_err(|error| failed(Operation::Sign, key, &error))?,
    ))
}

pub(super) async fn part(
    client: &Client,
    bucket: &str,
    upload: &Upload,
    (number, bytes): (u32, u64),
    valid_for: Duration,
) -> Result<SignedRequest> {
    let key = &upload.key;
    let part = client
        .upload_part()
        .bucket(bucket)
        .key(key.as_str())
        .upload_id(&upload.id)
        .part_number(part_number(number))
        .content_length(length(bytes));
    let signed = part.presigned(terms(key, valid_for)?).await;
    Ok(request(
        &signed.map_err(|error| failed(Operation::Sign, key, &error))?,
    ))
}

pub(super) async fn get(
    client: &Client,
    bucket: &str,
    key: &ObjectKey,
    answer: &SignedAnswer<'_>,
    valid_for: Duration,
) -> Result<String> {
    let get = client
        .get_object()
        .bucket(bucket)
        .key(key.as_str())
        .response_content_type(answer.content_type)
        .response_content_disposition(answer.disposition);
    let signed = get.presigned(terms(key, valid_for)?).await;
    let signed = signed.map_err(|error| failed(Operation::Sign, key, &error))?;
    Ok(signed.uri().to_owned())
}

fn terms(key: &ObjectKey, valid_for: Duration) -> Result<PresigningConfig> {
    PresigningConfig::expires_in(valid_for)
        .map_err(|error| StoreError::new(ErrorKind::Refused, Operation::Sign, key, error))
}

/// What is to be sent, but for the host, which is in the address.
fn request(signed: &PresignedRequest) -> SignedRequest {
    let headers = signed
        .headers()
        .filter(|(name, _)| !name.eq_ignore_ascii_case("host"))
        .map(|(name, value)| SignedHeader::new(name, &value));
    SignedRequest {
        method: "PUT",
        url: signed.uri().to_owned(),
        headers: headers.collect(),
    }
}

fn length(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}
