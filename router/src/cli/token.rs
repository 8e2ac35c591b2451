//! `backscroll token`

use std::time::Duration;

use backscroll_shard::ids::UserId;
use backscroll_shard::model::Timestamp;
use backscroll_shard::settings::Span;
use serde::Deserialize as _;
use serde::de::IntoDeserializer;
use serde::de::value::Error as ValueError;
use serde_json::json;

use crate::auth;
use crate::config::Config;

use super::out;

/// Make a token for a user
///
/// It is signed with auth.secret, or embedded with the secret that the first start made in the data folder. Users need not
/// be registered: whoever has a token for `alice` is alice.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  backscroll token --user alice
  backscroll token --user ops --role admin --ttl 10m
  curl -H \"Authorization: Bearer $(backscroll token --user alice)\" \\
    http://127.0.0.1:8080/chat/conversations")]
pub(super) struct Args {
    /// Who the token is for
    #[arg(long, value_name = "USER")]
    user: UserId,
    /// A role; those named by auth.admin_role and auth.moderator_role open /admin, or part of it
    #[arg(long, value_name = "ROLE")]
    role: Option<String>,
    /// How long it is valid, as 90s, 1h or "30 days"
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = span)]
    ttl: Duration,
    /// Print the token, whose it is and when it expires as JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(config: Config, args: &Args) -> anyhow::Result<()> {
    config.store.keyspace.function.key(&args.user)?;
    let config = config.with_secret(false)?;
    let token = auth::mint_token(&config.auth, &args.user, args.role.as_deref(), args.ttl)?;
    if !args.json {
        return Ok(out::line(token)?);
    }
    let ttl = i64::try_from(args.ttl.as_millis()).unwrap_or(i64::MAX);
    let expires_at = Timestamp(Timestamp::now().0.saturating_add(ttl));
    out::json(
        &json!({ "token": token, "user": args.user, "role": args.role, "expiresAt": expires_at }),
    )
}

fn span(text: &str) -> Result<Duration, String> {
    match Span::deserialize(IntoDeserializer::<ValueError>::into_deserializer(text)) {
        Ok(span) if span.0 >= Duration::from_secs(1) => Ok(span.0),
        Ok(_) => Err("at least a second".into()),
        Err(error) => Err(error.to_string()),
    }
}
