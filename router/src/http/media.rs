//! `/media`: files of conversations. Their bytes go from clients to the object store and back, past this service.

mod upload;

use std::borrow::Cow;
use std::sync::Arc;

use axum::Json as Answer;
use axum::extract::State;
use axum::http::header::{CACHE_CONTROL, LOCATION};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse as _, Response};
use backscroll_archiver::media::complete::{Completed, UploadError};
use backscroll_archiver::media::types;
use backscroll_archiver::object_store::{ObjectKey, SignedAnswer};
use backscroll_shard::ids::MediaId;
use backscroll_shard::model::{Caller, Media, MediaInfo, MediaState, VariantName};
use serde::Deserialize;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::routes;

use super::extract::{Bearer, Path, Query};
use super::mounts::ChatRoutes;
use super::problem::{Code, Problem};
use super::problem_sets as problems;
use super::state::App;

pub(super) fn routes() -> ChatRoutes {
    vec![
        routes!(upload::begin),
        routes!(upload::resume),
        routes!(complete),
        routes!(read, delete),
        routes!(info),
    ]
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

/// Complete an upload
///
/// The file is checked: its size, the declared SHA-256, its type by its content, the limits of its kind, and for viruses where a scanner
/// is configured. It is accepted or `rejected` afterwards, for good; to complete it again changes nothing.
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
    let completed = app.media.gate.complete(&app.store, caller, &media);
    let (media, is_first) = match completed.await.map_err(problem)? {
        Completed::Done { media, is_first } => (*media, is_first),
        Completed::Unscanned(why) => {
            let detail = "the file cannot be scanned for viruses just now";
            return Err(Problem::new(Code::ScannerUnavailable, detail).because(why));
        }
        Completed::Missing => match own(&app, caller, id).await? {
            media if media.state == MediaState::Pending => {
                let detail = "not all bytes have arrived; GET …/upload says which are missing";
                return Err(Problem::new(Code::MediaNotUploaded, detail));
            }
            // Another request has completed it.
            media => (media, false),
        },
    };
    if is_first && media.state == MediaState::Processing {
        app.media.queue.offer(media.clone());
    }
    Ok(Answer(media.into()))
}

fn problem(error: UploadError) -> Problem {
    match error {
        UploadError::Row(error) => error.into(),
        UploadError::Objects(error) => Problem::objects(&error),
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
    let url = match &app.media.cdn {
        Some(cdn) => cdn.address(&key, &answer, valid_for),
        None => {
            let signed = app.media.objects.sign_get(&key, &answer, valid_for).await;
            signed.map_err(|error| Problem::objects(&error))?
        }
    };
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
