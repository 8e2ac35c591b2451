//! `/media`: uploads of files, begun and resumed.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json as Answer;
use axum::extract::State;
use axum::http::StatusCode;
use backscroll_archiver::media::types;
use backscroll_archiver::media::upload::Requests;
use backscroll_archiver::object_store::SignedRequest;
use backscroll_shard::ids::{ConversationId, MediaId};
use backscroll_shard::model::{Caller, Media, MediaFacts, MediaKind, MediaState, Timestamp};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{own, problem};
use crate::http::extract::{Bearer, Json, Path};
use crate::http::problem::{Code, Problem};
use crate::http::problem_sets as problems;
use crate::http::state::App;

/// A file to upload.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct NewMedia {
    /// The conversation that it belongs to. Only messages there can use it.
    conversation_id: ConversationId,
    /// Its name, for people: 1 to 255 characters, no control characters, no slashes.
    #[schema(example = "holiday.jpg")]
    file_name: String,
    /// Its type, in lower case and without parameters.
    #[schema(example = "image/jpeg")]
    content_type: String,
    /// Its size.
    #[schema(minimum = 1)]
    bytes: u64,
    /// The SHA-256 of its content, as 64 hexadecimal digits; compared when the upload is completed.
    #[serde(default)]
    #[schema(nullable = false, pattern = "^[0-9a-fA-F]{64}$")]
    sha256: Option<String>,
    /// What it is used as. By default `image` for pictures that can be shown, else `file`.
    #[serde(default)]
    #[schema(nullable = false)]
    kind: Option<MediaKind>,
}

/// A request to send to the object store, with the bytes as its body and without a token.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct UploadRequest {
    /// The part's number, from 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    number: Option<u32>,
    /// `PUT`.
    method: &'static str,
    /// The address, valid for an hour. It may be a path on this server.
    url: String,
    /// Headers to send with exactly these values. Browsers set `content-length` by themselves.
    headers: BTreeMap<String, String>,
}

impl UploadRequest {
    fn new(number: Option<u32>, signed: SignedRequest) -> Self {
        let headers = signed.headers.into_iter();
        Self {
            number,
            method: signed.method,
            url: signed.url,
            headers: headers.map(|it| (it.name, it.value)).collect(),
        }
    }
}

/// How to upload a file: whole, or in parts.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
pub(super) enum UploadInstructions {
    /// One request with all bytes.
    Whole(UploadRequest),
    /// A request for each part that is missing, at most 100: ask again for the next once these are sent.
    #[serde(rename_all = "camelCase")]
    Parts {
        /// Bytes of each part but the last.
        part_bytes: u64,
        /// The missing parts.
        parts: Vec<UploadRequest>,
    },
}

/// An upload that has begun.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct BegunMedia {
    /// The file's id.
    media_id: MediaId,
    /// `pending`.
    state: MediaState,
    /// What to send.
    upload: UploadInstructions,
    /// When the file is deleted unless a message uses it by then.
    expires_at: Option<Timestamp>,
}

/// A part that has arrived.
#[derive(Serialize, ToSchema)]
pub(super) struct PresentPart {
    /// Its number; 1 stands for all of a file that is uploaded whole.
    number: u32,
    /// Its size.
    bytes: u64,
}

/// How far an upload is.
#[derive(Serialize, ToSchema)]
pub(super) struct MediaUpload {
    /// The file's state.
    state: MediaState,
    /// What to send; absent unless the file is pending.
    #[serde(skip_serializing_if = "Option::is_none")]
    upload: Option<UploadInstructions>,
    /// What has arrived.
    present: Vec<PresentPart>,
}

/// Begin to upload a file
///
/// Send the bytes with the requests that are answered, then complete the upload. Only types of the file's kind may be declared:
/// `image`: `image/jpeg`, `image/png`, `image/gif`, `image/webp`; `voice`: `audio/ogg` and `audio/webm` with Opus, `audio/mp4`,
/// `audio/mpeg`, `audio/wav`; `file`: any.
#[utoipa::path(
    post, path = "/media", tag = "media", operation_id = "beginMedia",
    request_body(content = NewMedia),
    responses((status = 201, description = "The upload has begun", body = BegunMedia), problems::BeginMedia),
)]
pub(super) async fn begin(
    me: Bearer,
    State(app): State<Arc<App>>,
    Json(new): Json<NewMedia>,
) -> Result<(StatusCode, Answer<BegunMedia>), Problem> {
    let caller = &me.caller;
    let declared = check(&app, caller, new)?;
    let conversation = declared.conversation;
    app.store.check_member(caller, conversation).await?;
    let file = (declared, app.media.settings.quota());
    let begun = app.media.uploads.begin_file(&app.store, caller, file);
    let media = begun.await.map_err(problem)?;
    let upload = instructions(&app, &media, &[]).await?;
    let begun = BegunMedia {
        media_id: media.id,
        state: media.state,
        upload,
        expires_at: media.expires_at,
    };
    Ok((StatusCode::CREATED, Answer(begun)))
}

/// What is declared, against the rules of its kind.
fn check(app: &App, caller: &Caller, new: NewMedia) -> Result<Media, Problem> {
    if !types::is_file_name(&new.file_name) {
        let rule = "fileName: 1 to 255 characters without control characters and slashes";
        return Err(Problem::invalid(rule));
    }
    let kind = new
        .kind
        .unwrap_or_else(|| types::kind_of(&new.content_type));
    if !types::may_be_declared(kind, &new.content_type) {
        return Err(Problem::new(
            Code::MediaTypeNotAllowed,
            "contentType: not one that a file of this kind may have",
        ));
    }
    let most = app.media.settings.most_bytes(kind);
    if new.bytes > most {
        let detail = format!("bytes: at most {most} for a file of this kind");
        return Err(Problem::new(Code::MediaTooLarge, detail));
    }
    if new.bytes == 0 {
        return Err(Problem::invalid("bytes: at least 1"));
    }
    let sha256 = new.sha256.as_deref().map(|text| {
        parse_sha256(text).ok_or_else(|| Problem::invalid("sha256: 64 hexadecimal digits"))
    });
    let now = Timestamp::now();
    Ok(Media {
        id: MediaId::new(new.conversation_id, rand::random()),
        conversation: new.conversation_id,
        uploader: caller.user.clone(),
        state: MediaState::Pending,
        kind,
        file_name: new.file_name,
        content_type: new.content_type,
        bytes: new.bytes,
        sha256: sha256.transpose()?,
        upload_key: String::new(),
        upload_id: None,
        object_key: None,
        facts: MediaFacts::default(),
        variant_keys: None,
        variants: Vec::new(),
        process_at: None,
        reason: None,
        created_at: now,
        expires_at: Some(app.media.uploads.expiry(now)),
    })
}

fn parse_sha256(text: &str) -> Option<[u8; 32]> {
    if text.len() != 64 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    let mut digest = [0; 32];
    for (byte, digits) in digest.iter_mut().zip(text.as_bytes().chunks(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
    }
    Some(digest)
}

async fn instructions(
    app: &App,
    media: &Media,
    present: &[(u32, u64)],
) -> Result<UploadInstructions, Problem> {
    let requests = app.media.uploads.requests(media, present).await;
    Ok(match requests.map_err(|error| Problem::objects(&error))? {
        Requests::Whole(signed) => UploadInstructions::Whole(UploadRequest::new(None, signed)),
        Requests::Parts { part_bytes, parts } => UploadInstructions::Parts {
            part_bytes,
            parts: parts
                .into_iter()
                .map(|(number, signed)| UploadRequest::new(Some(number), signed))
                .collect(),
        },
    })
}

/// Go on with an upload
///
/// What has arrived of my file, and requests for the rest, newly signed.
#[utoipa::path(
    get, path = "/media/{mediaId}/upload", tag = "media", operation_id = "resumeMedia",
    params(("mediaId" = MediaId, Path)),
    responses((status = 200, description = "How far it is", body = MediaUpload), problems::OwnMedia),
)]
pub(super) async fn resume(
    me: Bearer,
    State(app): State<Arc<App>>,
    Path(id): Path<MediaId>,
) -> Result<Answer<MediaUpload>, Problem> {
    let media = own(&app, &me.caller, id).await?;
    if media.state != MediaState::Pending {
        return Ok(Answer(MediaUpload {
            state: media.state,
            upload: None,
            present: Vec::new(),
        }));
    }
    let present = app.media.uploads.present(&media).await;
    let present = present.map_err(|error| Problem::objects(&error))?;
    let part = |(number, bytes)| PresentPart { number, bytes };
    Ok(Answer(MediaUpload {
        state: media.state,
        upload: Some(instructions(&app, &media, &present).await?),
        present: present.into_iter().map(part).collect(),
    }))
}
