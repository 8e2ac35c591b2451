//! A message's attachments: `{mediaId}` of a file, filled in by the server; or whatever object its sender gave.

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::error::{Error, Result};
use crate::ids::MediaId;
use crate::model::{Media, MediaInfo, MediaKind, MessageType};

/// The field that names a file.
const MEDIA_ID: &str = "mediaId";

type Given<'a> = Vec<serde_json::Map<String, serde_json::Value>>;

/// The files that a checked list of attachments names, each once.
///
/// # Errors
/// When one is not named as it must be.
pub(super) fn named(attachments: &str) -> Result<Vec<MediaId>> {
    if !attachments.contains(MEDIA_ID) {
        return Ok(Vec::new());
    }
    let mut ids = Vec::new();
    for attachment in parse(attachments)? {
        let Some(id) = attachment.get(MEDIA_ID) else {
            continue;
        };
        if attachment.len() > 1 {
            let rule = "an attachment with mediaId has no other field: the server fills them in";
            return Err(Error::invalid("attachments", rule));
        }
        let id: MediaId = serde_json::from_value(id.clone())
            .map_err(|error| Error::invalid("attachments", format_args!("mediaId: {error}")))?;
        if !ids.contains(&id) {
            ids.push(id);
        }
    }
    Ok(ids)
}

/// The attachments with what readers get of each file.
///
/// # Errors
/// When a file is missing; the caller has looked them all up.
pub(crate) fn fill(attachments: &str, files: &[&Media]) -> Result<String> {
    let mut filled: Vec<Box<RawValue>> = Vec::new();
    for attachment in parse(attachments)? {
        let raw = match attachment.get(MEDIA_ID).and_then(|id| id.as_str()) {
            None => serde_json::value::to_raw_value(&attachment)
                .map_err(|_| Error::Unexpected("an attachment is not JSON"))?,
            Some(id) => {
                let file = files.iter().find(|file| file.id.to_string() == id);
                shown(file.ok_or(Error::Unexpected("a file was not looked up"))?)?
            }
        };
        filled.push(raw);
    }
    serde_json::to_string(&filled).map_err(|_| Error::Unexpected("attachments are not JSON"))
}

/// The attachments of a stored message with what is known of this file now.
///
/// # Errors
/// When they are no list of objects.
pub(crate) fn refill(attachments: &str, file: &Media) -> Result<String> {
    let id = file.id.to_string();
    let mut filled = Vec::new();
    for attachment in serde_json::from_str::<Vec<&RawValue>>(attachments)
        .map_err(|_| Error::corrupt("attachments of a message"))?
    {
        let named = serde_json::from_str::<Named>(attachment.get());
        filled.push(match named.is_ok_and(|named| named.media_id == id) {
            false => attachment.to_owned(),
            true => shown(file)?,
        });
    }
    serde_json::to_string(&filled).map_err(|_| Error::Unexpected("attachments are not JSON"))
}

/// The field by which a file is named.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Named {
    media_id: String,
}

/// A file as an attachment.
fn shown(file: &Media) -> Result<Box<RawValue>> {
    let mut info = MediaInfo::from(file.clone());
    info.expires_at = None;
    serde_json::value::to_raw_value(&info)
        .map_err(|_| Error::Unexpected("an attachment is not JSON"))
}

fn parse(attachments: &str) -> Result<Given<'_>> {
    serde_json::from_str(attachments)
        .map_err(|_| Error::invalid("attachments", "must be a list of JSON objects"))
}

/// What is known of an attachment, however it was given.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Known {
    kind: Option<MediaKind>,
    file_name: Option<String>,
    duration_ms: Option<u64>,
}

/// What a list shows of a message without text: "Photo", "Voice message 0:12", or the name of the file.
pub(super) fn preview(attachments: &str, message_type: MessageType) -> String {
    let first = serde_json::from_str::<Vec<&RawValue>>(attachments).unwrap_or_default();
    let first = first.first().map(|raw| raw.get());
    // A free-form attachment may have anything under these names.
    let known = first.and_then(|raw| serde_json::from_str::<Known>(raw).ok());
    let kind = known.as_ref().and_then(|known| known.kind);
    let kind = kind.or(match message_type {
        MessageType::Image => Some(MediaKind::Image),
        MessageType::Voice => Some(MediaKind::Voice),
        MessageType::File => Some(MediaKind::File),
        MessageType::Text | MessageType::System => None,
    });
    let duration = known.as_ref().and_then(|known| known.duration_ms);
    let name = known.and_then(|known| known.file_name);
    match (kind, duration) {
        (Some(MediaKind::Image), _) => "Photo".into(),
        (Some(MediaKind::Voice), Some(milliseconds)) => {
            let seconds = milliseconds.div_ceil(1000);
            format!("Voice message {}:{:02}", seconds / 60, seconds % 60)
        }
        (Some(MediaKind::Voice), None) => "Voice message".into(),
        (Some(MediaKind::File), _) => name.unwrap_or_else(|| "File".into()),
        (None, _) => name.unwrap_or_default(),
    }
}

/// Whether one of the attachments of a message of this type is of this kind. Of a text, one that says no kind is a file.
pub(crate) fn has_attachment(
    attachments: &str,
    message_type: MessageType,
    wanted: MediaKind,
) -> bool {
    let attachments = serde_json::from_str::<Vec<&RawValue>>(attachments).unwrap_or_default();
    attachments.into_iter().any(|raw| {
        let known = serde_json::from_str::<Known>(raw.get()).ok();
        match known.and_then(|known| known.kind) {
            Some(kind) => kind == wanted,
            None => message_type == MessageType::Text && wanted == MediaKind::File,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "00112233445566778899aabbccddeeff";

    #[test]
    fn files_are_named_by_their_id_alone() {
        let ids = |text: &str| named(text);
        let one = format!(r#"[{{"mediaId":"{ID}"}},{{"url":"x"}},{{"mediaId":"{ID}"}}]"#);
        assert_eq!(ids(&one).unwrap(), [ID.parse().unwrap()]);
        assert_eq!(ids(r#"[{"url":"mediaId"}]"#).unwrap(), []);
        for wrong in [
            format!(r#"[{{"mediaId":"{ID}","bytes":1}}]"#),
            r#"[{"mediaId":"../../etc"}]"#.into(),
            r#"[{"mediaId":7}]"#.into(),
        ] {
            let error = ids(&wrong).unwrap_err().to_string();
            assert!(error.starts_with("attachments: "), "{error}");
        }
    }

    #[test]
    fn previews_of_messages_without_text() {
        let text = MessageType::Text;
        for (attachments, message_type, expected) in [
            (r#"[{"kind":"image","fileName":"a.png"}]"#, text, "Photo"),
            (
                r#"[{"kind":"voice","durationMs":11201}]"#,
                text,
                "Voice message 0:12",
            ),
            (
                r#"[{"kind":"voice","durationMs":120000}]"#,
                text,
                "Voice message 2:00",
            ),
            (r#"[{"kind":"file","fileName":"a.pdf"}]"#, text, "a.pdf"),
            (r#"[{"url":"x"}]"#, MessageType::Image, "Photo"),
            (r#"[{"url":"x"}]"#, MessageType::Voice, "Voice message"),
            (r#"[{"url":"x"}]"#, text, ""),
            (r#"[{"kind":["odd"]}]"#, MessageType::File, "File"),
            ("[]", text, ""),
        ] {
            assert_eq!(
                preview(attachments, message_type),
                expected,
                "{attachments}"
            );
        }
    }
}
