//! A Redis of a test's own.

use std::net::TcpListener;
use std::process::{Child, Command, Stdio};

/// A Redis of the test's own, to be killed.
pub(crate) struct OwnRedis {
    port: u16,
    arguments: Vec<String>,
    folder: tempfile::TempDir,
    child: Option<Child>,
}

impl OwnRedis {
    /// Starts it with the settings `arguments`.
    pub(crate) fn start(arguments: &[&str]) -> Self {
        let port = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let mut redis = Self {
            port,
            arguments: arguments
                .iter()
                .map(|&argument| argument.to_owned())
                .collect(),
            folder: tempfile::tempdir().unwrap(),
            child: None,
        };
        redis.restart();
        redis
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn restart(&mut self) {
        let child = Command::new("redis-server")
            .args([
                "--port",
                &self.port.to_string(),
                "--bind",
                "127.0.0.1",
                "--save",
                "",
                "--dir",
            ])
            .arg(self.folder.path())
            .args(&self.arguments)
            .stdout(Stdio::null())
            .spawn();
        self.child = Some(child.unwrap());
    }

    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }
}

impl Drop for OwnRedis {
    fn drop(&mut self) {
        self.kill();
    }
}
