//! `/media`: files of conversations. Their bytes go from clients to the object store and back, past this service.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json as Answer;
use axum::extract::State;
use axum::http::header::{CACHE_CONTROL, LOCATION};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse as _, Response};
use backscroll_archiver::media::gate::Checked;
use backscroll_archiver::media::types;
use backscroll_archiver::media::upload::Requests;
use backscroll_archiver::metrics;
use backscroll_archiver::object_store::{ObjectKey, SignedAnswer, SignedRequest};
use backscroll_shard::ids::{ConversationId, MediaId};
use backscroll_shard::model::{
    Caller, Media, MediaFacts, MediaInfo, MediaKind, MediaState, MediaVerdict, Timestamp,
    VariantName,
};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::routes;

use super::extract::{Bearer, Json, Path, Query};
use super::mounts::ChatRoutes;
use super::problem::{Code, Problem};
use super::problem_sets as problems;
use super::state::App;

pub(super) fn routes() -> ChatRoutes {
    vec![
        routes!(begin),
        routes!(resume),
        routes!(complete),
        routes!(read, delete),
        routes!(info),
    ]
}

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
async fn begin(
    me: Bearer,
    State(app): State<Arc<App>>,
    Json(new): Json<NewMedia>,
) -> Result<(StatusCode, Answer<BegunMedia>), Problem> {
    let caller = &me.caller;
    let mut media = check(&app, caller, new)?;
    app.store.check_member(caller, media.conversation).await?;
    let files = &app.media;
    let begun = files.uploads.begin(media.bytes, &media.content_type);
    let begun = begun.await.map_err(|error| Problem::objects(&error))?;
    media.upload_key.clone_from(&begun.key);
    media.upload_id.clone_from(&begun.id);
    let stored = app
        .store
        .begin_media(caller, &media, files.settings.quota());
    if let Err(error) = stored.await {
        if let Err(error) = files.uploads.abandon(&begun).await {
            tracing::warn!(%error, "an unfinished upload stays behind until it is collected");
        }
        return Err(error.into());
    }
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

/// The caller's own file.
async fn own(app: &App, caller: &Caller, id: MediaId) -> Result<Media, Problem> {
    let media = app.store.media(caller, id).await?;
    if media.uploader == caller.user {
        return Ok(media);
    }
    Err(Problem::new(
        Code::Forbidden,
        "only its uploader can go on with an upload",
    ))
}

/// Go on with an upload
///
/// What has arrived of my file, and requests for the rest, newly signed.
#[utoipa::path(
    get, path = "/media/{mediaId}/upload", tag = "media", operation_id = "resumeMedia",
    params(("mediaId" = MediaId, Path)),
    responses((status = 200, description = "How far it is", body = MediaUpload), problems::OwnMedia),
)]
async fn resume(
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

/// Complete an upload
///
/// The file is checked: its size, the declared SHA-256, its type by its content, and the limits of its kind. It is accepted or
/// `rejected` afterwards, for good; to complete it again changes nothing.
///
/// A picture that is accepted is `processing` for a moment, and can be sent and read already. When it is `ready`, with smaller forms
/// and a placeholder, or has `failed`, its uploader receives the event `media_ready` or `media_failed`, and messages that use it
/// are updated.
#[utoipa::path(
    post, path = "/media/{mediaId}/complete", tag = "media", operation_id = "completeMedia",
    params(("mediaId" = MediaId, Path)),
    responses((status = 200, description = "The file, checked", body = MediaInfo), problems::CompleteMedia),
)]
async fn complete(
    me: Bearer,
    State(app): State<Arc<App>>,
    Path(id): Path<MediaId>,
) -> Result<Answer<MediaInfo>, Problem> {
    let caller = &me.caller;
    let media = own(&app, caller, id).await?;
    if media.state != MediaState::Pending {
        return Ok(Answer(media.into()));
    }
    let gate = &app.media.gate;
    let checked = gate.check(&media).await;
    let verdict = match checked.map_err(|error| Problem::objects(&error))? {
        Checked::Verdict(verdict) => verdict,
        Checked::Missing => {
            // Another request may have completed it, and its upload is gone.
            let media = own(&app, caller, id).await?;
            return match media.state {
                MediaState::Pending => Err(Problem::new(
                    Code::MediaNotUploaded,
                    "not all bytes have arrived; GET …/upload says which are missing",
                )),
                _ => Ok(Answer(media.into())),
            };
        }
    };
    let finished = app.store.finish_media(caller, &media, &verdict).await;
    let took = matches!(&finished, Ok((_, true)));
    if let Ok((media, true)) = &finished
        && media.state == MediaState::Processing
    {
        app.media.queue.offer(media.clone());
    }
    if let MediaVerdict::Ready { object_key, .. } = &verdict {
        match &finished {
            // It may have been committed: the copy is kept, and collected if no row names it.
            Err(error) if error.is_retryable() => {}
            _ if took => {
                let kind = kind_name(media.kind);
                metrics::MEDIA_BYTES.with([kind]).increment(media.bytes);
            }
            _ => gate.drop_copy(object_key).await,
        }
    }
    let (media, _) = finished?;
    if took {
        gate.drop_copy(&media.upload_key).await;
    }
    Ok(Answer(media.into()))
}

fn kind_name(kind: MediaKind) -> &'static str {
    match kind {
        MediaKind::Image => "image",
        MediaKind::Voice => "voice",
        MediaKind::File => "file",
    }
}

/// Which form of a file.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct ReadQuery {
    /// By default the original. Where there is no smaller form, or none yet, that is answered too.
    #[param(nullable = false, inline)]
    variant: Option<Variant>,
}

/// A form of a file.
#[derive(Clone, Copy, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum Variant {
    /// As it was uploaded.
    Original,
    /// Of a picture: at most 1280 pixels wide and high.
    Large,
    /// Of a picture: at most 320 pixels wide and high.
    Small,
}

/// What is answered of a file.
struct Form<'a> {
    key: &'a str,
    content_type: &'a str,
    file_name: Cow<'a, str>,
}

/// The form that was asked for; the original, where that was not made. Nothing of a file that was not accepted.
fn form(media: &Media, variant: Variant) -> Option<Form<'_>> {
    let key = media.object_key.as_deref();
    let key = key.filter(|_| media.state.is_accepted())?;
    let wanted = match variant {
        Variant::Original => None,
        Variant::Large => Some(VariantName::Large),
        Variant::Small => Some(VariantName::Small),
    };
    let made = media.variants.iter().find(|it| Some(it.variant) == wanted);
    Some(match (made, &media.variant_keys) {
        (Some(made), Some(keys)) => Form {
            key: keys.of(made.variant),
            content_type: &made.content_type,
            file_name: types::renamed(&media.file_name, &made.content_type).into(),
        },
        _ => Form {
            key,
            content_type: &media.content_type,
            file_name: media.file_name.as_str().into(),
        },
    })
}

/// Read a file
///
/// For its uploader, and once a message uses it for the members of the conversation. The address is valid for 5 minutes (a
/// setting) and answers ranges. Pictures and recordings are answered to be shown, everything else to be downloaded.
#[utoipa::path(
    get, path = "/media/{mediaId}", tag = "media", operation_id = "readMedia",
    params(("mediaId" = MediaId, Path), ReadQuery),
    responses(
        (status = 302, description = "Where it is", headers(("Location" = String, description = "A signed address; it may be a path on this server"))),
        problems::ReadMedia,
    ),
)]
async fn read(
    me: Bearer,
    State(app): State<Arc<App>>,
    Path(id): Path<MediaId>,
    Query(query): Query<ReadQuery>,
) -> Result<Response, Problem> {
    let media = app.store.media(&me.caller, id).await?;
    let form = form(&media, query.variant.unwrap_or(Variant::Original));
    let key = form.as_ref().map(|form| ObjectKey::new(form.key));
    let (Some(form), Some(Ok(key))) = (form, key) else {
        return Err(Problem::new(
            Code::MediaNotReady,
            "its upload was not completed, or it was rejected",
        ));
    };
    let disposition = types::disposition(media.kind, form.content_type, &form.file_name);
    let answer = SignedAnswer {
        content_type: form.content_type,
        disposition: &disposition,
    };
    let valid_for = app.media.settings.address_valid.0;
    let url = app.media.objects.sign_get(&key, &answer, valid_for).await;
    let url = url.map_err(|error| Problem::objects(&error))?;
    let location = HeaderValue::try_from(url)
        .map_err(|_| Problem::internal("a signed address is no header's value"))?;
    let mut headers = HeaderMap::new();
    headers.insert(LOCATION, location);
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok((StatusCode::FOUND, headers).into_response())
}

/// What is known of a file
#[utoipa::path(
    get, path = "/media/{mediaId}/info", tag = "media", operation_id = "getMedia",
    params(("mediaId" = MediaId, Path)),
    responses((status = 200, description = "The file", body = MediaInfo), problems::ReadConversationThing),
)]
async fn info(
    me: Bearer,
    State(app): State<Arc<App>>,
    Path(id): Path<MediaId>,
) -> Result<Answer<MediaInfo>, Problem> {
    Ok(Answer(app.store.media(&me.caller, id).await?.into()))
}

/// Give up a file
///
/// Mine, and in no message. Its bytes are deleted with the next collection.
#[utoipa::path(
    delete, path = "/media/{mediaId}", tag = "media", operation_id = "deleteMedia",
    params(("mediaId" = MediaId, Path)),
    responses((status = 204, description = "It is gone"), problems::DeleteMedia),
)]
async fn delete(
    me: Bearer,
    State(app): State<Arc<App>>,
    Path(id): Path<MediaId>,
) -> Result<StatusCode, Problem> {
    app.store.delete_media(&me.caller, id).await?;
    Ok(StatusCode::NO_CONTENT)
}
