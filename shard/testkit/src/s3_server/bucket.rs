//! What the bucket does: `s3s-fs`, and S3's behaviour where that differs.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use s3s::dto::*;
use s3s::{S3, S3Request, S3Response, S3Result, s3_error};
use s3s_fs::FileSystem;

use super::{BUCKET, UPLOADS_PAGE};

/// What becomes of deleted objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Versioning {
    /// They are gone.
    Off,
    /// They are kept as versions.
    On,
    /// Likewise, and the bucket does not list them.
    Hidden,
    /// Likewise, and object lock lets nobody delete them.
    Locked,
}

/// A version of an object that is not the newest, or a marker that the object is deleted.
pub(super) struct Version {
    key: String,
    id: String,
    pub(super) is_marker: bool,
}

/// The id of an object's newest version.
const NEWEST: &str = "newest";

/// The bucket, and what `s3s-fs` does not keep of it.
pub(super) struct Bucket {
    pub(super) files: FileSystem,
    pub(super) versioning: Mutex<Versioning>,
    pub(super) deleted: Mutex<Vec<Version>>,
    /// By key and upload id.
    pub(super) uploads: Mutex<BTreeMap<(String, String), SystemTime>>,
    pub(super) deaf: Mutex<bool>,
}

impl Bucket {
    /// `s3s-fs` makes a bucket by the way.
    fn check_bucket(&self, name: &str) -> S3Result<()> {
        if name == BUCKET {
            Ok(())
        } else {
            Err(s3_error!(NoSuchBucket))
        }
    }

    /// `s3s-fs` says of an upload that it does not know that access is denied.
    fn check_upload(&self, key: &str, id: &str) -> S3Result<()> {
        let known = self
            .uploads
            .lock()
            .unwrap()
            .contains_key(&(key.to_owned(), id.to_owned()));
        if known {
            Ok(())
        } else {
            Err(s3_error!(NoSuchUpload))
        }
    }

    fn forget_upload(&self, key: &str, id: &str) {
        self.uploads
            .lock()
            .unwrap()
            .remove(&(key.to_owned(), id.to_owned()));
    }
}

pub(super) struct Served(pub(super) Arc<Bucket>);

#[async_trait::async_trait]
impl S3 for Served {
    async fn get_object(
        &self,
        request: S3Request<GetObjectInput>,
    ) -> S3Result<S3Response<GetObjectOutput>> {
        self.0.files.get_object(request).await
    }

    async fn head_object(
        &self,
        request: S3Request<HeadObjectInput>,
    ) -> S3Result<S3Response<HeadObjectOutput>> {
        self.0.files.head_object(request).await
    }

    async fn put_object(
        &self,
        mut request: S3Request<PutObjectInput>,
    ) -> S3Result<S3Response<PutObjectOutput>> {
        self.0.check_bucket(&request.input.bucket)?;
        if *self.0.deaf.lock().unwrap() {
            request.input.if_none_match = None;
        }
        self.0.files.put_object(request).await
    }

    async fn delete_object(
        &self,
        request: S3Request<DeleteObjectInput>,
    ) -> S3Result<S3Response<DeleteObjectOutput>> {
        let (key, versioning) = (
            request.input.key.clone(),
            *self.0.versioning.lock().unwrap(),
        );
        match (versioning, request.input.version_id.clone()) {
            (Versioning::Off, _) => self.0.files.delete_object(request).await,
            (Versioning::Locked, Some(_)) => Err(s3_error!(AccessDenied)),
            (_, Some(id)) if id != NEWEST => {
                let mut deleted = self.0.deleted.lock().unwrap();
                deleted.retain(|version| version.key != key || version.id != id);
                Ok(S3Response::new(DeleteObjectOutput::default()))
            }
            (_, Some(_)) => {
                let mut request = request;
                request.input.version_id = None;
                self.0.files.delete_object(request).await
            }
            (_, None) => {
                let response = self.0.files.delete_object(request).await?;
                let mut deleted = self.0.deleted.lock().unwrap();
                for is_marker in [false, true] {
                    let (key, id) = (key.clone(), format!("v{}", deleted.len()));
                    deleted.push(Version { key, id, is_marker });
                }
                let mut output = response.output;
                output.delete_marker = (versioning != Versioning::Hidden).then_some(true);
                Ok(S3Response::new(output))
            }
        }
    }

    async fn get_bucket_versioning(
        &self,
        _: S3Request<GetBucketVersioningInput>,
    ) -> S3Result<S3Response<GetBucketVersioningOutput>> {
        let is_on = *self.0.versioning.lock().unwrap() != Versioning::Off;
        let enabled = BucketVersioningStatus::from_static(BucketVersioningStatus::ENABLED);
        Ok(S3Response::new(GetBucketVersioningOutput {
            status: is_on.then_some(enabled),
            ..GetBucketVersioningOutput::default()
        }))
    }

    async fn get_object_lock_configuration(
        &self,
        _: S3Request<GetObjectLockConfigurationInput>,
    ) -> S3Result<S3Response<GetObjectLockConfigurationOutput>> {
        if *self.0.versioning.lock().unwrap() != Versioning::Locked {
            return Err(s3_error!(ObjectLockConfigurationNotFoundError));
        }
        let rule = ObjectLockRule {
            default_retention: Some(DefaultRetention {
                days: Some(30),
                ..DefaultRetention::default()
            }),
        };
        let configuration = ObjectLockConfiguration {
            rule: Some(rule),
            ..ObjectLockConfiguration::default()
        };
        Ok(S3Response::new(GetObjectLockConfigurationOutput {
            object_lock_configuration: Some(configuration),
        }))
    }

    async fn list_object_versions(
        &self,
        request: S3Request<ListObjectVersionsInput>,
    ) -> S3Result<S3Response<ListObjectVersionsOutput>> {
        if *self.0.versioning.lock().unwrap() == Versioning::Hidden {
            return Ok(S3Response::new(ListObjectVersionsOutput::default()));
        }
        let prefix = request.input.prefix.clone().unwrap_or_default();
        let list = ListObjectsV2Input {
            bucket: request.input.bucket.clone(),
            prefix: Some(prefix.clone()),
            ..ListObjectsV2Input::default()
        };
        let newest = self.0.files.list_objects_v2(request.map_input(|_| list));
        let newest = newest.await?.output.contents.unwrap_or_default();
        let mut versions: Vec<ObjectVersion> = newest
            .into_iter()
            .map(|object| ObjectVersion {
                key: object.key,
                version_id: Some(NEWEST.into()),
                ..ObjectVersion::default()
            })
            .collect();
        let mut markers = Vec::new();
        let deleted = self.0.deleted.lock().unwrap();
        for version in deleted.iter().filter(|it| it.key.starts_with(&prefix)) {
            let (key, version_id) = (Some(version.key.clone()), Some(version.id.clone()));
            if version.is_marker {
                markers.push(DeleteMarkerEntry {
                    key,
                    version_id,
                    ..DeleteMarkerEntry::default()
                });
            } else {
                versions.push(ObjectVersion {
                    key,
                    version_id,
                    ..ObjectVersion::default()
                });
            }
        }
        Ok(S3Response::new(ListObjectVersionsOutput {
            versions: Some(versions),
            delete_markers: Some(markers),
            ..ListObjectVersionsOutput::default()
        }))
    }

    async fn list_objects_v2(
        &self,
        request: S3Request<ListObjectsV2Input>,
    ) -> S3Result<S3Response<ListObjectsV2Output>> {
        self.0.files.list_objects_v2(request).await
    }

    async fn create_multipart_upload(
        &self,
        request: S3Request<CreateMultipartUploadInput>,
    ) -> S3Result<S3Response<CreateMultipartUploadOutput>> {
        let key = request.input.key.clone();
        let response = self.0.files.create_multipart_upload(request).await?;
        let id = response.output.upload_id.clone().unwrap();
        self.0
            .uploads
            .lock()
            .unwrap()
            .insert((key, id), SystemTime::now());
        Ok(response)
    }

    async fn upload_part(
        &self,
        request: S3Request<UploadPartInput>,
    ) -> S3Result<S3Response<UploadPartOutput>> {
        self.0
            .check_upload(&request.input.key, &request.input.upload_id)?;
        self.0.files.upload_part(request).await
    }

    async fn copy_object(
        &self,
        request: S3Request<CopyObjectInput>,
    ) -> S3Result<S3Response<CopyObjectOutput>> {
        self.0.files.copy_object(request).await
    }

    async fn list_parts(
        &self,
        request: S3Request<ListPartsInput>,
    ) -> S3Result<S3Response<ListPartsOutput>> {
        self.0
            .check_upload(&request.input.key, &request.input.upload_id)?;
        self.0.files.list_parts(request).await
    }

    async fn complete_multipart_upload(
        &self,
        request: S3Request<CompleteMultipartUploadInput>,
    ) -> S3Result<S3Response<CompleteMultipartUploadOutput>> {
        let (key, id) = (request.input.key.clone(), request.input.upload_id.clone());
        self.0.check_upload(&key, &id)?;
        let response = self.0.files.complete_multipart_upload(request).await?;
        self.0.forget_upload(&key, &id);
        Ok(response)
    }

    async fn abort_multipart_upload(
        &self,
        request: S3Request<AbortMultipartUploadInput>,
    ) -> S3Result<S3Response<AbortMultipartUploadOutput>> {
        let (key, id) = (request.input.key.clone(), request.input.upload_id.clone());
        self.0.check_upload(&key, &id)?;
        let response = self.0.files.abort_multipart_upload(request).await?;
        self.0.forget_upload(&key, &id);
        Ok(response)
    }

    async fn list_multipart_uploads(
        &self,
        request: S3Request<ListMultipartUploadsInput>,
    ) -> S3Result<S3Response<ListMultipartUploadsOutput>> {
        let after = request.input.key_marker.zip(request.input.upload_id_marker);
        let uploads = self.0.uploads.lock().unwrap();
        let mut following = uploads
            .iter()
            .filter(|(upload, _)| after.as_ref().is_none_or(|after| *upload > after));
        let page: Vec<_> = following.by_ref().take(UPLOADS_PAGE).collect();
        let upload = |(upload, started): &(&(String, String), &SystemTime)| MultipartUpload {
            key: Some(upload.0.clone()),
            upload_id: Some(upload.1.clone()),
            initiated: Some(Timestamp::from(**started)),
            ..MultipartUpload::default()
        };
        let output = ListMultipartUploadsOutput {
            is_truncated: Some(following.next().is_some()),
            next_key_marker: page.last().map(|(upload, _)| upload.0.clone()),
            next_upload_id_marker: page.last().map(|(upload, _)| upload.1.clone()),
            uploads: Some(page.iter().map(upload).collect()),
            ..ListMultipartUploadsOutput::default()
        };
        Ok(S3Response::new(output))
    }
}
