//! How ids, counters and times stand in the OpenAPI document.

use utoipa::{PartialSchema, ToSchema};

use super::Timestamp;
use crate::ids::{ConversationId, MediaId, MessageId, NotificationId, ReportId, Rev, Seq, UserId};

macro_rules! string_schema {
    ($type:ty, $description:literal, $pattern:literal) => {
        impl PartialSchema for $type {
            fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::schema::Schema> {
                utoipa::openapi::ObjectBuilder::new()
                    .schema_type(utoipa::openapi::schema::Type::String)
                    .description(Some($description))
                    .pattern(Some($pattern))
                    .into()
            }
        }
        impl ToSchema for $type {}
    };
}

string_schema!(
    ConversationId,
    "32 lower-case hexadecimal digits; the first 16 are its owner's key",
    "^[0-9a-f]{32}$"
);
string_schema!(
    MediaId,
    "32 lower-case hexadecimal digits; the first 16 are the key of its conversation's owner",
    "^[0-9a-f]{32}$"
);
string_schema!(
    MessageId,
    "`<conversationId>-<seq>`",
    "^[0-9a-f]{32}-[1-9][0-9]{0,18}$"
);
string_schema!(
    NotificationId,
    "A notification's number among its user's: 1, 2, 3 …",
    "^[1-9][0-9]{0,18}$"
);
string_schema!(
    ReportId,
    "A report's number: 1, 2, 3 …",
    "^[1-9][0-9]{0,18}$"
);
string_schema!(
    UserId,
    "1 to 64 bytes of UTF-8 without control characters",
    "^[^\\x00-\\x1f\\x7f-\\x9f]{1,64}$"
);
string_schema!(
    Timestamp,
    "RFC 3339 in UTC with milliseconds",
    "^\\d{4}-\\d{2}-\\d{2}T\\d{2}:\\d{2}:\\d{2}\\.\\d{3}Z$"
);

macro_rules! counter_schema {
    ($type:ty, $description:literal) => {
        impl PartialSchema for $type {
            fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::schema::Schema> {
                utoipa::openapi::ObjectBuilder::new()
                    .schema_type(utoipa::openapi::schema::Type::Integer)
                    .format(Some(utoipa::openapi::SchemaFormat::KnownFormat(
                        utoipa::openapi::KnownFormat::Int64,
                    )))
                    .minimum(Some(0))
                    .description(Some($description))
                    .into()
            }
        }
        impl ToSchema for $type {}
    };
}

counter_schema!(
    Seq,
    "A message's number in its conversation: 1, 2, 3 … without a hole; 0 is before the first"
);
counter_schema!(Rev, "A change's number in its conversation; it only grows");
