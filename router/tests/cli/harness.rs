//! A folder with the binary in it.

use std::fs;
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use sqlx::Connection as _;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};

/// Longest run of a command, and longest wait for a line.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// A working directory of a test's own.
pub(crate) struct Sandbox {
    folder: tempfile::TempDir,
    variables: Vec<(String, String)>,
}

/// What a command did.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Outcome {
    /// Its output, after it exited with `code`.
    #[track_caller]
    pub(crate) fn exits(self, code: i32) -> Self {
        assert_eq!(self.code, code, "{self:#?}");
        self
    }

    /// The JSON it printed.
    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:#?}"))
    }
}

impl Sandbox {
    pub(crate) fn new() -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
            // A test that is about limits sets them.
            variables: vec![("BACKSCROLL_GUARD__MODE".to_owned(), "off".to_owned())],
        }
    }

    /// With an environment variable for everything that runs here.
    pub(crate) fn with(mut self, name: &str, value: impl Into<String>) -> Self {
        self.variables.push((name.to_owned(), value.into()));
        self
    }

    /// With `databases` as the directory and the shards, and a secret.
    pub(crate) fn on_databases(self, urls: &[String]) -> Self {
        let (directory, shards) = urls.split_first().unwrap();
        let mut sandbox = self
            .with(
                "BACKSCROLL_AUTH__SECRET",
                "0123456789abcdef0123456789abcdef",
            )
            .with("BACKSCROLL_DIRECTORY__URL", directory)
            .with("BACKSCROLL_OBJECT_STORE__PATH", "objects");
        for (position, url) in shards.iter().enumerate() {
            sandbox = sandbox
                .with(
                    &format!("BACKSCROLL_SHARDS__{position}__NAME"),
                    format!("db{}", position + 1),
                )
                .with(&format!("BACKSCROLL_SHARDS__{position}__PRIMARY"), url);
        }
        sandbox
    }

    /// With one SQLite shard, so that there is little to start.
    pub(crate) fn with_one_shard(self) -> Self {
        self.with("BACKSCROLL_SHARDS__0__NAME", "s1")
            .with("BACKSCROLL_SHARDS__0__PRIMARY", "sqlite://s1.db")
            .with("BACKSCROLL_DIRECTORY__URL", "sqlite://directory.db")
    }

    /// What the last service has logged.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.path("serve.log")).unwrap()
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, content).unwrap();
        path
    }

    /// The binary, in this folder, with none of the tests' own variables.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.other_command(env!("CARGO_BIN_EXE_backscroll"));
        command.args(arguments);
        command
    }

    /// Another program, in the same surroundings.
    pub(crate) fn other_command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command
            .current_dir(self.folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        for (name, _) in std::env::vars_os()
            .filter(|(name, _)| name.to_string_lossy().starts_with("BACKSCROLL_"))
        {
            command.env_remove(name);
        }
        command.envs(self.variables.iter().map(|(name, value)| (name, value)));
        command
    }

    #[track_caller]
    pub(crate) fn run(&self, arguments: &[&str]) -> Outcome {
        finish(self.command(arguments).spawn().unwrap())
    }

    /// Runs a command that reads `input`.
    #[track_caller]
    pub(crate) fn pipe(&self, arguments: &[&str], input: &[u8]) -> Outcome {
        let mut child = self
            .command(arguments)
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        thread::scope(|scope| {
            // A command that stops reading is not an error of the test.
            scope.spawn(move || drop(stdin.write_all(input)));
            finish(child)
        })
    }

    /// Starts `serve` on a free port with `arguments`, and waits for `lines` lines of what it prints.
    #[track_caller]
    pub(crate) fn serve(&self, arguments: &[&str], lines: usize) -> Server {
        let stderr = fs::File::create(self.path("serve.log")).unwrap();
        self.serve_logging_to(stderr.into(), arguments, lines)
    }

    /// The same with another standard error.
    #[track_caller]
    pub(crate) fn serve_logging_to(
        &self,
        stderr: Stdio,
        arguments: &[&str],
        lines: usize,
    ) -> Server {
        let mut all = vec!["serve", "--listen", "127.0.0.1:0"];
        all.extend(arguments);
        Server::started(self.command(&all).stderr(stderr), lines)
    }
}

/// Waits for the end of a command, and for all its output.
#[track_caller]
pub(crate) fn finish(mut child: Child) -> Outcome {
    let (stdout, mut stderr) = (child.stdout.take(), child.stderr.take().unwrap());
    let read_out = thread::spawn(move || {
        let mut text = Vec::new();
        if let Some(mut stdout) = stdout {
            stdout.read_to_end(&mut text).unwrap();
        }
        String::from_utf8(text).unwrap()
    });
    let read_err = thread::spawn(move || {
        let mut text = String::new();
        stderr.read_to_string(&mut text).map(|_| text).unwrap()
    });
    let status = wait(&mut child);
    let (stdout, stderr) = (read_out.join().unwrap(), read_err.join().unwrap());
    Outcome {
        code: status.code().unwrap_or(-1),
        stdout,
        stderr,
    }
}

#[track_caller]
fn wait(child: &mut Child) -> ExitStatus {
    let give_up_at = Instant::now() + PATIENCE;
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status;
        }
        if Instant::now() > give_up_at {
            child.kill().unwrap();
            panic!("the command does not end");
        }
        thread::sleep(Duration::from_millis(5));
    }
}

/// A running service; killed when it goes out of scope.
pub(crate) struct Server {
    child: Child,
    pub(crate) printed: Vec<String>,
}

impl Server {
    /// Starts `command`, and waits for `lines` lines of what it prints.
    #[track_caller]
    pub(crate) fn started(command: &mut Command, lines: usize) -> Self {
        let mut child = command.spawn().unwrap();
        let (sender, receiver) = mpsc::sync_channel(1000);
        let stdout = child.stdout.take();
        thread::spawn(move || {
            let mut printed = stdout
                .into_iter()
                .flat_map(|out| BufReader::new(out).lines());
            printed.try_for_each(|line| sender.send(line.unwrap_or_default()))
        });
        let mut server = Self {
            child,
            printed: Vec::new(),
        };
        while server.printed.len() < lines {
            match receiver.recv_timeout(PATIENCE) {
                Ok(line) => server.printed.push(line),
                Err(_) => panic!("serve printed {:?}; its log may say why", server.printed),
            }
        }
        server
    }

    /// Its address, as `http://127.0.0.1:1234`.
    pub(crate) fn url(&self) -> String {
        let (_, url) = self.printed[0].split_once("listening on ").unwrap();
        url.to_owned()
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// `kill -9`.
    pub(crate) fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Sends it SIGTERM.
    #[track_caller]
    pub(crate) fn ask_to_stop(&self) {
        let asked = Command::new("kill")
            .arg(self.child.id().to_string())
            .status()
            .unwrap();
        assert!(asked.success());
    }

    /// Waits until it has ended.
    #[track_caller]
    pub(crate) fn ends(mut self) -> ExitStatus {
        wait(&mut self.child)
    }

    /// Asks it to stop, and waits until it has.
    #[track_caller]
    pub(crate) fn stop(self) {
        self.ask_to_stop();
        let status = self.ends();
        assert!(status.success(), "{status}");
    }

    /// A connection to it.
    pub(crate) fn connect(&self) -> Connection {
        let address = self.url().strip_prefix("http://").unwrap().to_owned();
        Connection {
            address,
            token: String::new(),
            stream: None,
        }
    }
}

/// A connection that is kept from one request to the next, and made anew after an error.
pub(crate) struct Connection {
    address: String,
    token: String,
    stream: Option<BufReader<TcpStream>>,
}

impl Connection {
    /// As the bearer of `token`.
    pub(crate) fn with_token(mut self, token: &str) -> Self {
        self.token = format!("authorization: Bearer {token}\r\n");
        self
    }

    /// The status and the body of an answer.
    pub(crate) fn get(&mut self, path: &str) -> io::Result<(u16, String)> {
        self.ask("GET", path, "")
    }

    /// The same for a request with a JSON body.
    pub(crate) fn post(&mut self, path: &str, body: &str) -> io::Result<(u16, String)> {
        self.ask("POST", path, body)
    }

    /// Any request, with a JSON body or none.
    pub(crate) fn ask(
        &mut self,
        method: &str,
        path: &str,
        body: &str,
    ) -> io::Result<(u16, String)> {
        let mut stream = match self.stream.take() {
            Some(stream) => stream,
            None => {
                let stream = TcpStream::connect(&self.address)?;
                stream.set_read_timeout(Some(PATIENCE))?;
                BufReader::new(stream)
            }
        };
        let (token, length) = (&self.token, body.len());
        let head = format!(
            "{method} {path} HTTP/1.1\r\nhost: a\r\n{token}content-type: application/json\r\ncontent-length: {length}\r\n\r\n"
        );
        stream.get_mut().write_all((head + body).as_bytes())?;
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            if stream.read_until(b'\n', &mut head)? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        let head = String::from_utf8(head).unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        let length = head
            .lines()
            .find_map(|line| line.strip_prefix("content-length: "));
        let mut body = vec![0; length.map_or(0, |length| length.parse().unwrap())];
        stream.read_exact(&mut body)?;
        self.stream = Some(stream);
        Ok((status, String::from_utf8(body).unwrap()))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Runs a line as a user would who pastes it, and reads what it prints as JSON.
#[track_caller]
pub(crate) fn paste(line: &str) -> Value {
    let output = Command::new("sh").args(["-c", line]).output().unwrap();
    assert!(output.status.success(), "{line}: {output:?}");
    serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error} in the output of {line}: {output:?}"))
}

/// `GET url` with a token: the status and the JSON.
#[track_caller]
pub(crate) fn get(url: &str, token: &str) -> (u16, Value) {
    let output = Command::new("curl")
        .args([
            "-sS",
            "-w",
            "\n%{http_code}",
            "-H",
            &format!("Authorization: Bearer {token}"),
            url,
        ])
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let (body, status) = text
        .rsplit_once('\n')
        .unwrap_or_else(|| panic!("{url}: {}", String::from_utf8_lossy(&output.stderr)));
    (
        status.parse().unwrap(),
        serde_json::from_str(body).unwrap_or(Value::Null),
    )
}

/// How many messages of imports the SQLite shards in `data_dir` hold just now.
pub(crate) fn imported(data_dir: &Path) -> i64 {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let mut sum = 0;
        for file in fs::read_dir(data_dir)
            .unwrap()
            .map(|file| file.unwrap().path())
        {
            let name = file.file_name().unwrap().to_str().unwrap();
            if !name.starts_with("shard") || !name.ends_with(".db") {
                continue;
            }
            let options = SqliteConnectOptions::new().filename(&file);
            let Ok(mut connection) = SqliteConnection::connect_with(&options).await else {
                continue;
            };
            // Before its tables are there, it holds nothing.
            let stored = sqlx::query_scalar("SELECT COALESCE(SUM(position), 0) FROM imports")
                .fetch_one(&mut connection)
                .await;
            sum += stored.unwrap_or(0i64);
        }
        sum
    })
}
