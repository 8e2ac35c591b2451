//! Who talks where: users with their tokens, and group conversations made through the REST API.

use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, ensure};
use jsonwebtoken::{EncodingKey, Header, encode};
use rand::rngs::SmallRng;
use rand::seq::index::sample;
use serde::{Deserialize, Serialize};

use crate::http::{self, Connection, request};

/// How long tokens are good for: longer than any run.
const TOKEN_LIFE: Duration = Duration::from_secs(24 * 3600);

/// How many users and conversations there are.
#[derive(Clone, Copy, Debug, clap::Args, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Size {
    /// How many users there are
    #[arg(long, default_value_t = 1000)]
    pub users: usize,
    /// How many group conversations they have
    #[arg(long, default_value_t = 200)]
    pub conversations: usize,
    /// How many members each conversation has
    #[arg(long, default_value_t = 10)]
    pub members: usize,
}

impl Size {
    /// Refuses what cannot be made.
    ///
    /// # Errors
    /// When the numbers do not fit together.
    pub fn check(&self) -> Result<()> {
        ensure!(self.conversations >= 1, "--conversations: at least 1");
        ensure!(
            (2..=100).contains(&self.members),
            "--members: 2 to 100, as many as a group may have"
        );
        ensure!(
            self.users >= self.members,
            "--users: at least as many as --members"
        );
        Ok(())
    }
}

/// A user and the token that proves it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct User {
    /// The id.
    pub id: String,
    /// A token signed with the router's secret.
    pub token: String,
}

impl User {
    /// The user called `id`, with a token.
    ///
    /// # Errors
    /// When the token cannot be signed.
    pub fn new(id: String, secret: &str) -> Result<Self> {
        #[derive(Serialize)]
        struct Claims<'a> {
            sub: &'a str,
            exp: u64,
        }
        let expires = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)? + TOKEN_LIFE;
        let claims = Claims {
            sub: &id,
            exp: expires.as_secs(),
        };
        let token = encode(
            &Header::default(),
            &claims,
            &EncodingKey::from_secret(secret.as_bytes()),
        )?;
        Ok(Self { id, token })
    }
}

/// A conversation.
#[derive(Clone, Debug)]
pub struct Conversation {
    /// Its id: 32 hexadecimal digits.
    pub id: String,
    /// Its members, as positions in [`Population::users`]; the first owns it.
    pub members: Vec<usize>,
}

impl Conversation {
    /// The id as it is stored.
    ///
    /// # Errors
    /// When the id is not 32 hexadecimal digits.
    pub fn id_bytes(&self) -> Result<[u8; 16]> {
        ensure!(
            self.id.len() == 32,
            "`{}` is not a conversation id",
            self.id
        );
        Ok(u128::from_str_radix(&self.id, 16)
            .context("a conversation id is hexadecimal")?
            .to_be_bytes())
    }

    /// Which of `shards` shards has it, when the key space is cut evenly: the first half of the id is the key.
    ///
    /// # Errors
    /// As for [`Conversation::id_bytes`].
    pub fn shard(&self, shards: usize) -> Result<usize> {
        let key = u128::from_be_bytes(self.id_bytes()?) >> 64;
        Ok(((key * shards as u128) >> 64) as usize)
    }
}

/// All of them.
#[derive(Clone, Debug)]
pub struct Population {
    /// The users.
    pub users: Vec<User>,
    /// The conversations.
    pub conversations: Vec<Conversation>,
}

impl Population {
    /// Mints the users and creates the conversations with the router at `address`, one after the other.
    ///
    /// # Errors
    /// When the router does not create one.
    pub async fn create(
        address: SocketAddr,
        secret: &str,
        size: Size,
        rng: &mut SmallRng,
    ) -> Result<Self> {
        let user = |n: usize| User::new(format!("bench-user-{n}"), secret);
        let users: Vec<User> = (0..size.users).map(user).collect::<Result<_>>()?;
        let mut connection = Connection::open(address).await?;
        let mut conversations = Vec::with_capacity(size.conversations);
        for _ in 0..size.conversations {
            let members = sample(rng, users.len(), size.members).into_vec();
            let id = create_group(&mut connection, &users, &members).await?;
            conversations.push(Conversation { id, members });
        }
        Ok(Self {
            users,
            conversations,
        })
    }
}

async fn create_group(
    connection: &mut Connection,
    users: &[User],
    members: &[usize],
) -> Result<String> {
    #[derive(Deserialize)]
    struct Created {
        id: String,
    }
    let others: Vec<&str> = members[1..]
        .iter()
        .map(|member| users[*member].id.as_str())
        .collect();
    let body =
        serde_json::json!({ "kind": "group", "members": others, "title": "bench" }).to_string();
    let owner = &users[members[0]].token;
    let answer = connection
        .exchange(&request("POST", "/chat/conversations", owner, Some(&body)))
        .await?;
    ensure!(
        answer.status == 201,
        "creating a conversation was answered with {}: {}",
        answer.status,
        http::text(answer.body)
    );
    Ok(serde_json::from_slice::<Created>(answer.body)?.id)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn conversation(id: &str) -> Conversation {
        Conversation {
            id: id.to_owned(),
            members: Vec::new(),
        }
    }

    #[test]
    fn the_shard_is_the_quarter_of_the_key_space() {
        let low = "ffffffffffffffff";
        for (key, shard) in [
            ("0000000000000000", 0),
            ("3fffffffffffffff", 0),
            ("4000000000000000", 1),
            ("bfffffffffffffff", 2),
            (low, 3),
        ] {
            assert_eq!(
                conversation(&format!("{key}{low}")).shard(4).unwrap(),
                shard
            );
        }
        assert_eq!(conversation(&format!("{low}{low}")).shard(1).unwrap(), 0);
        assert!(conversation("12").shard(4).is_err());
    }
}
