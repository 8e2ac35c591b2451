//! Who talks where: users and their conversations, made on Backscroll through its API and on the baseline by SQL.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use serde_json::json;
use sqlx::{AssertSqlSafe, Connection as _, Executor};
use tokio::task::JoinSet;

use crate::harness::databases::Databases;
use crate::http::{self, Connection, request};
use crate::population::User;
use crate::realtime::client::Seat;

/// Connections that create conversations on Backscroll.
const CREATORS: usize = 16;
/// Members added by one request.
const MEMBERS_EACH: usize = 1000;
/// Rows in one insert into the baseline's tables.
const ROWS_EACH: usize = 5000;
/// The baseline's tables.
const BASELINE_SCHEMA: &str = include_str!("../../baseline/schema.sql");

/// What the rooms are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Of two.
    Direct,
    /// Of a few.
    Group,
    /// Of many.
    Channel,
}

/// Who shall talk where.
#[derive(Clone, Debug)]
pub struct Plan {
    /// How many users there are.
    pub users: usize,
    /// What the rooms are.
    pub kind: Kind,
    /// The members of each room, as positions of users; the first speaks there.
    pub rooms: Vec<Vec<u32>>,
}

/// A plan come true on one server.
#[derive(Clone, Debug)]
pub struct Crowd {
    /// The users.
    pub users: Vec<User>,
    /// The conversation of each room.
    pub conversations: Vec<String>,
}

impl Plan {
    /// Pairs of users, a room for each.
    #[must_use]
    pub fn pairs(count: usize) -> Self {
        let pair = |n: usize| vec![2 * n as u32, 2 * n as u32 + 1];
        Self {
            users: 2 * count,
            kind: Kind::Direct,
            rooms: (0..count).map(pair).collect(),
        }
    }

    /// One room of all users.
    #[must_use]
    pub fn assembly(users: usize) -> Self {
        Self {
            users,
            kind: Kind::Channel,
            rooms: vec![(0..users as u32).collect()],
        }
    }

    /// As many rooms as users, each of `members`: every user is in as many rooms, and speaks in one.
    #[must_use]
    pub fn circles(users: usize, members: usize) -> Self {
        // Where there are enough, steps that grow, so that two users share few rooms.
        let apart = |n: usize| {
            if users > 40 * members * members {
                31 * n * n + n
            } else {
                n * (users / members)
            }
        };
        let member = |room: usize, n: usize| ((room + apart(n)) % users) as u32;
        let room = |room| (0..members).map(|n| member(room, n)).collect();
        Self {
            users,
            kind: Kind::Group,
            rooms: (0..users).map(room).collect(),
        }
    }

    /// Rooms of `members`, with every user in `each` of them. As many of `users` as `members` divides.
    #[must_use]
    pub fn clubs(users: usize, members: usize, each: usize) -> Self {
        let per_layer = users / members;
        let users = per_layer * members;
        // The first layer is of neighbours, the others of users ever further apart.
        let member = |layer: usize, club: usize, n: usize| match layer {
            0 => (club * members + n) as u32,
            _ => (((club + n * (layer - 1)) % per_layer) + n * per_layer) as u32,
        };
        let club = |layer, club| (0..members).map(|n| member(layer, club, n)).collect();
        let layer = |layer| (0..per_layer).map(move |n| club(layer, n));
        Self {
            users,
            kind: Kind::Group,
            rooms: (0..each).flat_map(layer).collect(),
        }
    }

    /// A single user's connection each, without rooms.
    #[must_use]
    pub fn strangers(users: usize) -> Self {
        Self {
            users,
            kind: Kind::Group,
            rooms: Vec::new(),
        }
    }

    /// How many members each room has.
    pub fn listeners(&self) -> impl Iterator<Item = u32> {
        self.rooms.iter().map(|members| members.len() as u32)
    }

    /// What every user's client has to know.
    #[must_use]
    pub fn seats(&self, crowd: &Crowd) -> Vec<Seat> {
        let seat = |user: &User| Seat {
            user: user.clone(),
            rooms: Vec::new(),
        };
        let mut seats: Vec<Seat> = crowd.users.iter().map(seat).collect();
        for (room, (members, id)) in self.rooms.iter().zip(&crowd.conversations).enumerate() {
            for (n, member) in members.iter().enumerate() {
                let rooms = &mut seats[*member as usize].rooms;
                rooms.push((room as u32, id.clone(), n == 0));
            }
        }
        seats
    }

    /// Makes it true on Backscroll, through the API of the node at `address`.
    ///
    /// # Errors
    /// When a conversation is not created.
    pub async fn on_backscroll(&self, address: SocketAddr, secret: &str) -> Result<Crowd> {
        // A name of its own for each plan: direct conversations are one for each pair, however often asked for.
        let run = rand::random::<u32>();
        let user = |n| User::new(format!("rt-{run:08x}-{n}"), secret);
        let users: Arc<[User]> = (0..self.users).map(user).collect::<Result<_>>()?;
        let rooms: Arc<[Vec<u32>]> = self.rooms.clone().into();
        let (kind, creators) = (self.kind, CREATORS.min(rooms.len()));
        let mut tasks = JoinSet::new();
        for creator in 0..creators {
            let (users, rooms) = (Arc::clone(&users), Arc::clone(&rooms));
            tasks.spawn(async move {
                let mut connection = Connection::open(address).await?;
                let mut made = Vec::new();
                for n in (creator..rooms.len()).step_by(creators) {
                    let id = create(&mut connection, &users, &rooms[n], kind).await?;
                    made.push((n, id));
                }
                anyhow::Ok(made)
            });
        }
        let mut conversations = vec![String::new(); self.rooms.len()];
        while let Some(made) = tasks.join_next().await {
            for (n, id) in made.context("a creator panicked")?? {
                conversations[n] = id;
            }
        }
        Ok(Crowd {
            users: users.to_vec(),
            conversations,
        })
    }

    /// Makes it true in the baseline's `database`, whose tables it makes first.
    ///
    /// # Errors
    /// When the database does not do it.
    pub async fn on_baseline(
        &self,
        databases: &Databases,
        database: &str,
        secret: &str,
    ) -> Result<Crowd> {
        let mut connection = databases.connect(database).await?;
        let statements = BASELINE_SCHEMA.split(';').map(str::trim);
        for statement in statements.filter(|statement| statement.contains("CREATE")) {
            let again = statement.replace("CREATE TABLE", "CREATE OR REPLACE TABLE");
            connection.execute(AssertSqlSafe(again)).await?;
        }
        // Ids begin at 1.
        let users = (1..=self.users).map(|n| format!("({n},'user {n}')"));
        insert(&mut connection, "users (id, name)", users).await?;
        let kind = match self.kind {
            Kind::Direct => "direct",
            Kind::Group => "group",
            Kind::Channel => "channel",
        };
        let rooms = (1..=self.rooms.len()).map(|n| format!("({n},'{kind}')"));
        insert(&mut connection, "conversations (id, type)", rooms).await?;
        let members = self.rooms.iter().enumerate().flat_map(|(room, members)| {
            let row = move |member: &u32| format!("({},{})", room + 1, member + 1);
            members.iter().map(row)
        });
        let into = "conversation_members (conversation_id, user_id)";
        insert(&mut connection, into, members).await?;
        connection.close().await?;
        let user = |n: usize| User::new(n.to_string(), secret);
        Ok(Crowd {
            users: (1..=self.users).map(user).collect::<Result<_>>()?,
            conversations: (1..=self.rooms.len()).map(|n| n.to_string()).collect(),
        })
    }
}

async fn insert(
    connection: &mut sqlx::MySqlConnection,
    into: &str,
    rows: impl Iterator<Item = String>,
) -> Result<()> {
    let mut rows = rows.peekable();
    while rows.peek().is_some() {
        let mut statement = format!("INSERT INTO {into} VALUES ");
        for (n, row) in rows.by_ref().take(ROWS_EACH).enumerate() {
            let separator = if n == 0 { "" } else { "," };
            write!(statement, "{separator}{row}")?;
        }
        connection.execute(AssertSqlSafe(statement)).await?;
    }
    Ok(())
}

async fn create(
    connection: &mut Connection,
    users: &[User],
    members: &[u32],
    kind: Kind,
) -> Result<String> {
    #[derive(Deserialize)]
    struct Created {
        id: String,
    }
    let (owner, others) = members.split_first().context("a room without members")?;
    let owner = &users[*owner as usize];
    let ids: Vec<&str> = others
        .iter()
        .map(|n| users[*n as usize].id.as_str())
        .collect();
    let (first, later) = match kind {
        Kind::Direct | Kind::Group => (&ids[..], &[][..]),
        Kind::Channel => ids.split_at(ids.len().min(1)),
    };
    let new = match kind {
        Kind::Direct => json!({ "kind": "direct", "members": first }),
        Kind::Group => json!({ "kind": "group", "members": first, "title": "bench" }),
        Kind::Channel => json!({ "kind": "channel", "members": first, "title": "bench" }),
    };
    let body = post(connection, "/chat/conversations", owner, &new).await?;
    let id = serde_json::from_slice::<Created>(&body)?.id;
    for members in later.chunks(MEMBERS_EACH) {
        let path = format!("/chat/conversations/{id}/members");
        post(connection, &path, owner, &json!({ "members": members })).await?;
    }
    Ok(id)
}

async fn post(
    connection: &mut Connection,
    path: &str,
    user: &User,
    body: &serde_json::Value,
) -> Result<Vec<u8>> {
    let request = request("POST", path, &user.token, Some(&body.to_string()));
    let answer = connection.exchange(&request).await?;
    ensure!(
        (200..300).contains(&answer.status),
        "POST {path} was answered with {}: {}",
        answer.status,
        http::text(answer.body)
    );
    Ok(answer.body.to_vec())
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn everybody_in_circles_is_in_as_many_rooms_and_speaks_in_one() {
        for users in [100, 1000, 5000] {
            check_circles(users);
        }
    }

    fn check_circles(users: usize) {
        let plan = Plan::circles(users, 10);
        let user = |n: u32| User {
            id: n.to_string(),
            token: String::new(),
        };
        let crowd = Crowd {
            users: (0..users as u32).map(user).collect(),
            conversations: (0..users).map(|n| n.to_string()).collect(),
        };
        for seat in plan.seats(&crowd) {
            assert_eq!(seat.rooms.len(), 10);
            let different: HashSet<u32> = seat.rooms.iter().map(|(room, ..)| *room).collect();
            assert_eq!(different.len(), 10);
            assert_eq!(seat.rooms.iter().filter(|(.., speaks)| *speaks).count(), 1);
        }
    }

    #[test]
    fn everybody_in_clubs_is_in_as_many() {
        let plan = Plan::clubs(205, 10, 3);
        assert_eq!((plan.users, plan.rooms.len()), (200, 60));
        let mut count = vec![0; plan.users];
        for room in &plan.rooms {
            let different: HashSet<u32> = room.iter().copied().collect();
            assert_eq!(different.len(), 10);
            for member in room {
                count[*member as usize] += 1;
            }
        }
        assert_eq!(count, vec![3; 200]);
    }
}
