//! `kill -9` in the middle of sends: what was acknowledged is there, once, in its place (INV-ACK, INV-IDEM, INV-SEQ).

use std::collections::BTreeMap;
use std::time::Duration;

use backscroll_testkit::TestDatabases;
use reqwest::StatusCode;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::harness::{Sandbox, Server};

const LIVES: usize = 4;
const SENDERS: usize = 16;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_router_loses_nothing_it_acknowledged_embedded() {
    kill_and_count(&Sandbox::new()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_router_loses_nothing_it_acknowledged_on_databases() {
    let databases = TestDatabases::create(3).await;
    let sandbox = Sandbox::new().on_databases(&databases.urls());
    sandbox.run(&["migrate"]).exits(0);
    kill_and_count(&sandbox).await;
    databases.drop_all().await;
}

/// One sender's place: what was answered, and what it sends next. The id stays until there is an answer.
#[derive(Default)]
pub(crate) struct Sender {
    next: u64,
    acknowledged: BTreeMap<u64, String>,
}

async fn kill_and_count(sandbox: &Sandbox) {
    let client = reqwest::Client::builder()
        .timeout(Duration::from_secs(20))
        .build()
        .unwrap();
    let mut senders: Vec<Sender> = (0..SENDERS).map(|_| Sender::default()).collect();
    let mut conversation = String::new();
    for life in 0..LIVES {
        let server = start(sandbox);
        let token = token(sandbox);
        if conversation.is_empty() {
            conversation = create(&client, &server, &token).await;
        }
        let messages = format!(
            "{}/chat/conversations/{conversation}/messages",
            server.url()
        );
        let mut tasks = JoinSet::new();
        for (number, sender) in senders.drain(..).enumerate() {
            tasks.spawn(send_until_cut(
                client.clone(),
                messages.clone(),
                token.clone(),
                number,
                sender,
            ));
        }
        tokio::time::sleep(Duration::from_millis(400 + 130 * life as u64)).await;
        drop(server); // SIGKILL
        while let Some(sender) = tasks.join_next().await {
            senders.push(sender.unwrap());
        }
    }
    let server = start(sandbox);
    let token = token(sandbox);
    let stored = read_back(&client, &server, &token, &conversation).await;
    let acknowledged = assert_kept(&senders, &stored);
    assert!(
        acknowledged > LIVES * SENDERS,
        "they did send: {acknowledged}"
    );
    server.stop();
}

/// What was acknowledged is stored in its place, and everything is there once; gives how much was acknowledged.
#[track_caller]
pub(crate) fn assert_kept(senders: &[Sender], stored: &BTreeMap<u64, String>) -> usize {
    assert_eq!(
        stored.keys().copied().collect::<Vec<_>>(),
        (1..=stored.len() as u64).collect::<Vec<_>>(),
        "a gap"
    );
    let mut ids: Vec<&String> = stored.values().collect();
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), stored.len(), "a message is there twice");
    for (seq, id) in senders.iter().flat_map(|sender| &sender.acknowledged) {
        assert_eq!(stored.get(seq), Some(id), "acknowledged as number {seq}");
    }
    senders.iter().map(|sender| sender.acknowledged.len()).sum()
}

/// A token of Alice's.
pub(crate) fn token(sandbox: &Sandbox) -> String {
    let made = sandbox.run(&["token", "--user", "alice"]).exits(0);
    made.stdout.trim().to_owned()
}

pub(crate) fn start(sandbox: &Sandbox) -> Server {
    tokio::task::block_in_place(|| sandbox.serve(&[], 1))
}

pub(crate) async fn create(client: &reqwest::Client, server: &Server, token: &str) -> String {
    let new = json!({"kind": "group", "members": ["bob"]});
    let answer = client
        .post(format!("{}/chat/conversations", server.url()))
        .bearer_auth(token)
        .json(&new)
        .send()
        .await
        .unwrap();
    let conversation: Value = answer.json().await.unwrap();
    conversation["id"].as_str().unwrap().to_owned()
}

pub(crate) async fn send_until_cut(
    client: reqwest::Client,
    url: String,
    token: String,
    number: usize,
    mut sender: Sender,
) -> Sender {
    loop {
        let id = format!("{number}-{}", sender.next);
        let message = json!({"content": id, "clientMsgId": id});
        let Ok(answer) = client
            .post(&url)
            .bearer_auth(&token)
            .json(&message)
            .send()
            .await
        else {
            return sender;
        };
        if answer.status() == StatusCode::SERVICE_UNAVAILABLE {
            continue;
        }
        assert!(answer.status().is_success(), "{}", answer.status());
        let Ok(stored) = answer.json::<Value>().await else {
            return sender;
        };
        sender
            .acknowledged
            .insert(stored["seq"].as_u64().unwrap(), id);
        sender.next += 1;
    }
}

pub(crate) async fn read_back(
    client: &reqwest::Client,
    server: &Server,
    token: &str,
    conversation: &str,
) -> BTreeMap<u64, String> {
    let mut stored = BTreeMap::new();
    let mut after = 0;
    loop {
        let url = format!(
            "{}/chat/conversations/{conversation}/messages?after={after}&limit=200",
            server.url()
        );
        let page: Value = client
            .get(url)
            .bearer_auth(token)
            .send()
            .await
            .unwrap()
            .json()
            .await
            .unwrap();
        for message in page["messages"].as_array().unwrap() {
            after = message["seq"].as_u64().unwrap();
            let id = message["clientMsgId"].as_str().unwrap().to_owned();
            assert!(stored.insert(after, id).is_none());
        }
        if page["hasMoreAfter"] == json!(false) {
            return stored;
        }
    }
}
