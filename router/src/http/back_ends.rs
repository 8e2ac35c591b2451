//! `/admin/events`, `/admin/presence` and `/admin/messages`: what the deployment's own back end tells its users, asks about them, and
//! says for them.

use std::sync::Arc;

use axum::Json as Answer;
use axum::extract::State;
use axum::http::StatusCode;
use backscroll_realtime::custom_event::CustomEvent;
use backscroll_realtime::protocol::Presence;
use backscroll_shard::ids::{ConversationId, UserId};
use backscroll_shard::model::{Caller, Message, NewMessage, RawJson};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::extract::{Json, Query, Staff};
use super::problem::{Code, Problem};
use super::problem_sets as problems;
use super::state::App;

/// Most users of one request.
const USERS_MAX: usize = 100;

pub(super) fn admin_routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(push))
        .routes(routes!(presence))
        .routes(routes!(speak))
}

/// The users of a request, once each.
fn distinct(mut users: Vec<UserId>) -> Result<Vec<UserId>, Problem> {
    users.sort_unstable();
    users.dedup();
    if users.is_empty() || users.len() > USERS_MAX {
        return Err(Problem::invalid(format!("userIds: 1 to {USERS_MAX} users")));
    }
    Ok(users)
}

/// An event of the back end.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct NewEvent {
    /// To whom: 1 to 100 users.
    #[schema(min_items = 1, max_items = 100)]
    user_ids: Vec<UserId>,
    /// Its name, as clients receive it: letters, digits and `_ - . : /`. None of the names of the protocol's events and commands.
    #[schema(min_length = 1, max_length = 64, pattern = r"^[A-Za-z0-9_.:/-]+$")]
    event: String,
    /// Any JSON, at most 16 KiB.
    #[schema(value_type = Value)]
    data: RawJson,
}

/// Who was reached.
#[derive(Serialize, ToSchema)]
struct Reached {
    /// Those of the users who are connected. To the others nothing was pushed, and nothing is kept for them.
    online: Vec<UserId>,
}

/// Push an event
///
/// To every connection of the users, on every node, under its own name: `{"event": name, "data": data}` on a WebSocket, `name` with
/// Socket.IO. A connection receives it at most once, and nothing is stored: what has to arrive is a notification or a message. While
/// the nodes cannot reach one another it is 503, and nothing was pushed.
#[utoipa::path(
    post, path = "/admin/events", tag = "staff", operation_id = "pushEvent",
    request_body(content = NewEvent, example = json!({
        "userIds": ["bob"], "event": "order.paid", "data": {"orderId": 7},
    })),
    responses((status = 200, description = "Who was reached", body = Reached), problems::Administer),
)]
async fn push(
    Staff(_): Staff,
    State(app): State<Arc<App>>,
    Json(new): Json<NewEvent>,
) -> Result<Answer<Reached>, Problem> {
    let users = distinct(new.user_ids)?;
    let event = CustomEvent::new(new.event, new.data)?;
    let online = app.gateway.push(&users, event).await.map_err(|error| {
        let detail = format!("the nodes cannot reach one another, and nothing was pushed: {error}");
        Problem::new(Code::Overloaded, detail)
    })?;
    Ok(Answer(Reached { online }))
}

/// Whose presence.
#[derive(Deserialize, IntoParams)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct Whose {
    /// 1 to 100 users, with commas between them; an id that has a comma cannot be asked for.
    #[param(min_length = 1)]
    user_ids: String,
}

/// The presence of users.
#[derive(Serialize, ToSchema)]
struct PresenceList {
    /// In the order of the ids.
    users: Vec<Presence>,
}

/// Who is online
///
/// Over all nodes, whoever the users are; one who does not exist is offline. While the nodes cannot reach one another, it is what this
/// one knows.
#[utoipa::path(
    get, path = "/admin/presence", tag = "staff", operation_id = "getPresence",
    params(Whose),
    responses((status = 200, description = "Their presence", body = PresenceList), problems::ReadStaff),
)]
async fn presence(
    Staff(_): Staff,
    State(app): State<Arc<App>>,
    Query(whose): Query<Whose>,
) -> Result<Answer<PresenceList>, Problem> {
    let ids = whose
        .user_ids
        .split(',')
        .map(|id| UserId::new(id).map_err(|error| Problem::invalid(format!("userIds: {error}"))));
    let users = distinct(ids.collect::<Result<_, _>>()?)?;
    let users = app.gateway.presence_of(&users).await;
    Ok(Answer(PresenceList { users }))
}

/// A message in the name of a user.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", try_from = "Map<String, Value>")]
struct SpokenMessage {
    /// In whose name. The user has to be a member of the conversation.
    sender_id: UserId,
    /// Where.
    conversation_id: ConversationId,
    #[serde(flatten)]
    message: NewMessage,
}

impl TryFrom<Map<String, Value>> for SpokenMessage {
    type Error = String;

    fn try_from(mut fields: Map<String, Value>) -> Result<Self, String> {
        let (sender_id, conversation_id) = (
            take(&mut fields, "senderId")?,
            take(&mut fields, "conversationId")?,
        );
        let message = serde_json::from_value(Value::Object(fields));
        Ok(Self {
            sender_id,
            conversation_id,
            message: message.map_err(|error| error.to_string())?,
        })
    }
}

fn take<T: DeserializeOwned>(fields: &mut Map<String, Value>, name: &str) -> Result<T, String> {
    let value = fields.remove(name);
    let value = value.ok_or_else(|| format!("missing field `{name}`"))?;
    serde_json::from_value(value).map_err(|error| format!("{name}: {error}"))
}

/// Send a message for a user
///
/// As if the user had sent it, with the same rules, but for the limits on how often: the back end answers for that. A `clientMsgId`
/// makes it safe to send it again. It is written to the log.
#[utoipa::path(
    post, path = "/admin/messages", tag = "staff", operation_id = "sendMessageFor",
    request_body(content = SpokenMessage, example = json!({
        "senderId": "shop", "conversationId": "c-1", "content": "Your order is on its way.", "clientMsgId": "order-7-sent",
    })),
    responses(
        (status = 201, description = "It is stored durably", body = Message),
        (status = 200, description = "It was stored before", body = Message),
        problems::Send,
    ),
)]
async fn speak(
    Staff(admin): Staff,
    State(app): State<Arc<App>>,
    Json(new): Json<SpokenMessage>,
) -> Result<(StatusCode, Answer<Message>), Problem> {
    let sender = Caller {
        user: new.sender_id,
        deadline: admin.deadline,
    };
    let sent = app
        .store
        .send_uncounted(&sender, new.conversation_id, new.message)
        .await?;
    tracing::info!(target: "backscroll::audit", admin = ?admin.user, sender = ?sender.user, message = %sent.message.id, "message sent for a user");
    let status = if sent.created {
        StatusCode::CREATED
    } else {
        StatusCode::OK
    };
    Ok((status, Answer(sent.message)))
}
