//! The worker processes, seen from outside.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    path::Path,
    process::{Child, ChildStdin, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use conclave_chaos::procs::{leashed, spawn};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tokio::sync::mpsc;

use crate::worker::{Job, Report};

/// Workers that have nothing to do any more end within this time, or are killed.
const END_WITHIN: Duration = Duration::from_secs(3);

/// What came from a worker: none when its output ended.
pub type FromWorker = (usize, Option<Report>);

/// All workers of one run. Dropping it kills them.
pub struct Crew {
    workers: Vec<Worker>,
    /// What they tell.
    pub reports: mpsc::UnboundedReceiver<FromWorker>,
}

struct Worker {
    child: Child,
    input: Option<ChildStdin>,
}

impl Crew {
    /// Starts `size` workers called worker-1 and so on.
    ///
    /// # Errors
    /// If one cannot be started.
    pub fn start(size: usize, db: &Path, lock: &[String]) -> anyhow::Result<Self> {
        let (sender, reports) = mpsc::unbounded_channel();
        let mut crew = Self { workers: Vec::with_capacity(size), reports };
        let program = std::env::current_exe().context("where is this executable?")?;
        for index in 0..size {
            let mut command = leashed(&program);
            command.arg("worker").args(["--name", &format!("worker-{}", index + 1)]).arg("--db").arg(db).args(lock);
            command.stdin(Stdio::piped()).stdout(Stdio::piped());
            let mut child = spawn(command).context("cannot start a worker")?;
            let output = child.stdout.take().expect("it is piped");
            let input = child.stdin.take();
            crew.workers.push(Worker { child, input });
            let sender = sender.clone();
            thread::spawn(move || {
                for line in BufReader::new(output).lines().map_while(Result::ok) {
                    match serde_json::from_str(&line) {
                        Ok(report) => drop(sender.send((index, Some(report)))),
                        Err(error) => eprintln!("worker-{} said {line:?}: {error}", index + 1),
                    }
                }
                let _ = sender.send((index, None));
            });
        }
        Ok(crew)
    }

    /// Hands a delivery to a worker that has none. Never blocks: a pipe takes far more than one line.
    ///
    /// # Errors
    /// If the worker is gone.
    pub fn hand(&mut self, worker: usize, job: &Job) -> anyhow::Result<()> {
        let mut line = serde_json::to_vec(job).context("a delivery")?;
        line.push(b'\n');
        let input = self.workers[worker].input.as_mut().expect("it is open until the end");
        input.write_all(&line).with_context(|| format!("worker-{} is gone", worker + 1))
    }

    /// SIGSTOP or SIGCONT.
    ///
    /// # Errors
    /// If the worker is gone.
    pub fn signal(&self, worker: usize, signal: Signal) -> anyhow::Result<()> {
        let pid = i32::try_from(self.workers[worker].child.id()).expect("a process id fits");
        kill(Pid::from_raw(pid), signal).with_context(|| format!("{signal} to worker-{}", worker + 1))
    }

    /// Tells the workers that there is no more and waits for them.
    pub async fn end(mut self) {
        for worker in &mut self.workers {
            worker.input = None;
        }
        let until = Instant::now() + END_WITHIN;
        while Instant::now() < until {
            let mut all = true;
            for worker in &mut self.workers {
                all &= matches!(worker.child.try_wait(), Ok(Some(_)));
            }
            if all {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

impl Drop for Crew {
    fn drop(&mut self) {
        for worker in &mut self.workers {
            // Works on a stopped process too.
            let _ = worker.child.kill();
            let _ = worker.child.wait();
        }
    }
}
