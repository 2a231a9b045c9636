//! Programs under test: the examples, and nodes in Python.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use crate::blocking::blocking;
use crate::process::Process;
use crate::{Signal, reaper, shared};

/// A program to be run as a [`Child`].
#[derive(Debug)]
pub struct Program {
    name: String,
    command: Command,
}

impl Program {
    /// The program in the file `path`, or on `PATH`.
    pub fn new(path: impl AsRef<OsStr>) -> Self {
        let path = path.as_ref();
        let name = Path::new(path)
            .file_name()
            .unwrap_or(path)
            .to_string_lossy()
            .into_owned();
        Self {
            name,
            command: Command::new(path),
        }
    }

    /// An example of this project by its name, built before if it is not up to date.
    ///
    /// # Panics
    /// When it can't be built, or does not exist.
    pub async fn example(name: &str) -> Self {
        let folder =
            blocking(|| shared::lease("examples", |_, _| build_examples(), |_, path| PathBuf::from(path)))
                .await;
        let path = folder.join(name);
        assert!(
            path.is_file(),
            "there is no example `{name}` ({})",
            path.display()
        );
        Self::new(path)
    }

    /// Python with the pinned packages of `tests/interop/requirements.txt`. Output is not buffered.
    ///
    /// # Panics
    /// When `scripts/test`, which makes that environment, has not been run.
    pub fn python() -> Self {
        let python = root().join(".venv/bin/python");
        assert!(
            python.exists(),
            "there is no Python environment in {}: run scripts/test, which makes it, or scripts/test --setup",
            python.display()
        );
        Self::new(python)
            .env("PYTHONUNBUFFERED", "1")
            .env("PYTHONDONTWRITEBYTECODE", "1")
    }

    /// Adds an argument.
    #[must_use]
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.command.arg(arg);
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn args(mut self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Self {
        self.command.args(args);
        self
    }

    /// Sets a variable of its environment; the rest is that of the test.
    #[must_use]
    pub fn env(mut self, key: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(key, value);
        self
    }

    /// Takes a variable out of its environment.
    #[must_use]
    pub fn env_remove(mut self, key: &str) -> Self {
        self.command.env_remove(key);
        self
    }

    /// The folder it runs in; else that of the test.
    #[must_use]
    pub fn folder(mut self, folder: impl AsRef<Path>) -> Self {
        self.command.current_dir(folder);
        self
    }

    /// The name in reports, where the name of the file does not tell.
    #[must_use]
    pub fn name(mut self, name: &str) -> Self {
        name.clone_into(&mut self.name);
        self
    }

    /// Starts it, with an empty input.
    ///
    /// # Panics
    /// When it can't be started.
    pub fn start(self) -> Child {
        let (process, stdout, stderr) = Process::start_piped(&self.command, reaper::own());
        let output = Arc::new(Output::default());
        read(stdout, Source::Out, &output);
        read(stderr, Source::Err, &output);
        Child {
            name: self.name,
            process: Arc::new(process),
            output,
            seen: 0,
        }
    }

    /// Starts it and waits for its end.
    ///
    /// # Panics
    /// When it can't be started or does not end within `limit`.
    pub async fn run(self, limit: Duration) -> Finished {
        let child = self.start();
        let status = child.wait(limit).await;
        Finished {
            code: status.code(),
            stdout: child.stdout(),
            stderr: child.stderr(),
        }
    }
}

/// How a program ended.
#[derive(Debug, Clone)]
pub struct Finished {
    /// Its exit code, none after a signal.
    pub code: Option<i32>,
    /// Its lines on standard output.
    pub stdout: Vec<String>,
    /// Its lines on standard error.
    pub stderr: Vec<String>,
}

/// A running program whose output is kept, line by line, and printed when the test fails. It is killed on
/// drop.
#[derive(Debug)]
pub struct Child {
    name: String,
    process: Arc<Process<'static>>,
    output: Arc<Output>,
    /// How many lines have been looked at by `wait_line` and `next_line`.
    seen: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    Out,
    Err,
}

#[derive(Debug, Default)]
struct Output {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    lines: Vec<(Source, String)>,
    ended: Vec<Source>,
}

impl State {
    fn of(&self, source: Source) -> Vec<String> {
        self.lines
            .iter()
            .filter(|(from, _)| *from == source)
            .map(|(_, line)| line.clone())
            .collect()
    }
}

impl Child {
    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Its exit status, once it has ended.
    pub fn status(&self) -> Option<ExitStatus> {
        self.process.status()
    }

    /// All lines of its standard output until now.
    pub fn stdout(&self) -> Vec<String> {
        self.output.state.lock().of(Source::Out)
    }

    /// All lines of its standard error until now.
    pub fn stderr(&self) -> Vec<String> {
        self.output.state.lock().of(Source::Err)
    }

    /// Waits for a line of standard output that holds `text`, behind the lines that an earlier call of this
    /// or of [`next_line`](Self::next_line) has seen.
    ///
    /// # Panics
    /// When there is none within `limit`, or the output ends before.
    pub async fn wait_line(&mut self, text: &str, limit: Duration) -> String {
        let end = Instant::now() + limit;
        loop {
            match self.line_before(end).await {
                Ok(Some(line)) if line.contains(text) => return line,
                Ok(Some(_)) => {}
                Ok(None) => panic!("{} ended its output without a line with {text:?}", self.name),
                Err(()) => panic!("{} printed no line with {text:?} within {limit:?}", self.name),
            }
        }
    }

    /// Waits for the next line of standard output; none at its end.
    ///
    /// # Panics
    /// When nothing comes within `limit`.
    pub async fn next_line(&mut self, limit: Duration) -> Option<String> {
        let line = self.line_before(Instant::now() + limit).await;
        line.unwrap_or_else(|()| panic!("{} printed no line within {limit:?}", self.name))
    }

    async fn line_before(&mut self, end: Instant) -> Result<Option<String>, ()> {
        let (output, mut seen) = (Arc::clone(&self.output), self.seen);
        let (line, seen) = blocking(move || {
            let mut state = output.state.lock();
            loop {
                while let Some((source, line)) = state.lines.get(seen) {
                    seen += 1;
                    if *source == Source::Out {
                        return (Ok(Some(line.clone())), seen);
                    }
                }
                if state.ended.contains(&Source::Out) {
                    return (Ok(None), seen);
                }
                if output.changed.wait_until(&mut state, end).timed_out() {
                    return (Err(()), seen);
                }
            }
        })
        .await;
        self.seen = seen;
        line
    }

    /// Waits for its end, and for the rest of its output.
    ///
    /// # Panics
    /// When it does not end within `limit`.
    pub async fn wait(&self, limit: Duration) -> ExitStatus {
        let (process, output) = (Arc::clone(&self.process), Arc::clone(&self.output));
        let status = blocking(move || {
            let end = Instant::now() + limit;
            let status = process.wait(limit)?;
            let mut state = output.state.lock();
            // A process that it left behind may keep the output open.
            while state.ended.len() < 2 && !output.changed.wait_until(&mut state, end).timed_out() {}
            Some(status)
        })
        .await;
        status.unwrap_or_else(|| panic!("{} did not end within {limit:?}", self.name))
    }

    /// Sends a signal.
    ///
    /// # Panics
    /// When it has already ended.
    pub fn signal(&self, signal: Signal) {
        assert!(
            self.process.signal(signal),
            "{signal} can't be sent: {} has ended",
            self.name
        );
    }

    /// Ends it at once (SIGKILL), with the processes that it started.
    pub async fn kill(&self) {
        let process = Arc::clone(&self.process);
        blocking(move || process.kill()).await;
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let end = match self.status() {
                Some(status) => format!("ended with {status}"),
                None => "still running".to_owned(),
            };
            eprintln!("--- output of {} ({end}) ---", self.name);
            for (source, line) in &self.output.state.lock().lines {
                let mark = if *source == Source::Err { "err" } else { "out" };
                eprintln!("{mark} | {line}");
            }
            eprintln!("--- end of output ---");
        }
        self.process.kill();
    }
}

/// Reads lines on a thread of its own; it ends with the pipe.
fn read(pipe: impl Read + Send + 'static, source: Source, output: &Arc<Output>) {
    let output = Arc::clone(output);
    std::thread::spawn(move || {
        let mut pipe = BufReader::new(pipe);
        let mut line = Vec::new();
        while matches!(pipe.read_until(b'\n', &mut line), Ok(1..)) {
            let text = String::from_utf8_lossy(&line)
                .trim_end_matches(['\r', '\n'])
                .to_owned();
            output.state.lock().lines.push((source, text));
            output.changed.notify_all();
            line.clear();
        }
        output.state.lock().ended.push(source);
        output.changed.notify_all();
    });
}

/// The folder of the workspace.
fn root() -> &'static Path {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests.parent().unwrap_or(tests)
}

/// Builds all examples and returns their folder.
fn build_examples() -> String {
    // A test binary is in `<target>/<profile>/deps`.
    let binary = std::env::current_exe().unwrap_or_else(|error| panic!("who am I: {error}"));
    let Some(profile) = binary.ancestors().nth(2) else {
        panic!("no folder above {}", binary.display())
    };
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    // The whole workspace, as `cargo test --workspace` does: with fewer packages the dependencies would have
    // other features, and all would be built anew.
    command
        .args(["build", "--quiet", "--workspace", "--examples"])
        .current_dir(root());
    // What cargo tells a test about itself. Some build scripts ask to be run again when it changes, and then most
    // dependencies would be built again in every run, once for us and once for the next `cargo test`.
    let told = ["CARGO_MANIFEST_", "CARGO_PKG_", "CARGO_BIN_EXE_"];
    for (key, _) in std::env::vars_os() {
        if key
            .to_str()
            .is_some_and(|key| told.iter().any(|prefix| key.starts_with(prefix)))
        {
            command.env_remove(key);
        }
    }
    if profile.ends_with("release") {
        command.arg("--release");
    }
    let output = command
        .output()
        .unwrap_or_else(|error| panic!("could not run cargo: {error}"));
    assert!(
        output.status.success(),
        "the examples do not build:\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    profile.join("examples").display().to_string()
}
