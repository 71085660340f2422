//! `generate`: a history, right or wrong as wished.

use std::{
    fs::File,
    io::{self, BufWriter, Write as _},
    path::PathBuf,
    process::ExitCode,
};

use clap::Args;
use flate2::{Compression, write::GzEncoder};

use crate::{
    History, Model,
    generate::{
        Config, generate,
        mutate::{KINDS, Kind},
        write::write,
    },
    history::NEVER,
};

/// Exit code for a command line that makes no sense, or a file that cannot be written; as for `check`.
const UNREADABLE: u8 = 3;

/// Generate a history of a correct object under concurrent clients, in virtual time, as JSON lines.
///
/// The same options give the same history. With --mutate one operation is made wrong so that no order is left; which
/// one is said on standard error.
#[derive(Args, Debug)]
pub struct Generate {
    /// What the history is of; `check --help` lists the models.
    #[arg(long, value_parser = Model::parse, required_unless_present = "mutate")]
    model: Option<Model>,
    /// Clients at work at a time.
    #[arg(long, default_value_t = 5, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    clients: u32,
    /// Operations, of all clients together; a few more where sessions end and where holders have to let go at the end.
    #[arg(long, default_value_t = 1_000, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000_000))]
    ops: u32,
    /// Decides everything that is left to chance.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Independent objects.
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    keys: u32,
    /// Part of the calls whose answer is lost, from 0 to 1.
    #[arg(long, default_value_t = 0.0, value_name = "P", value_parser = part)]
    unknown: f64,
    /// Part of the calls that fail without effect, from 0 to 1.
    #[arg(long, default_value_t = 0.0, value_name = "P", value_parser = part)]
    fail: f64,
    /// Different values that are written; 0: each is written once.
    #[arg(long, default_value_t = 0, value_name = "N")]
    values: u32,
    /// What to spoil; `help` lists the kinds.
    #[arg(long, value_name = "KIND")]
    mutate: Option<String>,
    /// The file, .jsonl or .jsonl.gz; standard output without it.
    #[arg(short, long = "out", value_name = "FILE")]
    output: Option<PathBuf>,
}

/// A number from 0 to 1.
fn part(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(part) if (0.0..=1.0).contains(&part) => Ok(part),
        _ => Err("a part is a number from 0 to 1, as in 0.05".into()),
    }
}

impl Generate {
    /// Writes the history.
    pub fn run(self) -> ExitCode {
        if self.mutate.as_deref() == Some("help") {
            print!("{}", kinds());
            return ExitCode::SUCCESS;
        }
        match self.make() {
            Ok(()) => ExitCode::SUCCESS,
            Err(why) => {
                eprintln!("generate: {why}");
                ExitCode::from(UNREADABLE)
            }
        }
    }

    fn make(&self) -> Result<(), String> {
        let model = self.model.clone().ok_or("--model is missing")?;
        let kind = self.mutate.as_deref().map(|name| suitable(name, &model)).transpose()?;
        let mut history = generate(&Config {
            model: model.clone(),
            clients: self.clients,
            operations: self.ops,
            seed: self.seed,
            keys: self.keys,
            unknown: self.unknown,
            fail: self.fail,
            values: self.values,
        });
        if let Some(kind) = kind {
            let touched = kind.apply(&mut history, &model, self.seed).ok_or_else(|| {
                format!("this history has no place for {}; try more operations, or --values 0", kind.name)
            })?;
            eprintln!("{}: {}", kind.name, describe(&history, touched));
        }
        self.put(&history).map_err(|error| match &self.output {
            Some(path) => format!("{}: {error}", path.display()),
            None => format!("standard output: {error}"),
        })
    }

    fn put(&self, history: &History) -> io::Result<()> {
        let Some(path) = &self.output else {
            let mut out = BufWriter::new(io::stdout().lock());
            return match write(history, &mut out).and_then(|()| out.flush()) {
                // Whoever reads has seen enough.
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
                result => result,
            };
        };
        let file = BufWriter::new(File::create(path)?);
        if path.extension().is_some_and(|extension| extension == "gz") {
            let mut packed = GzEncoder::new(file, Compression::fast());
            write(history, &mut packed)?;
            return packed.finish()?.flush();
        }
        let mut file = file;
        write(history, &mut file)?;
        file.flush()
    }
}

fn suitable(name: &str, model: &Model) -> Result<&'static Kind, String> {
    let fitting = || {
        let names: Vec<_> = KINDS.iter().filter(|kind| kind.suits(model)).map(|kind| kind.name).collect();
        names.join(", ")
    };
    match Kind::parse(name) {
        None => Err(format!("no mutation is called {name:?}; for {model} there are {}", fitting())),
        Some(kind) if !kind.suits(model) => Err(format!("{name} does not suit {model}; there are {}", fitting())),
        Some(kind) => Ok(kind),
    }
}

fn kinds() -> String {
    let models: Vec<Model> =
        Model::NAMES.iter().filter_map(|name| Model::parse(&name.replace(":N", ":3")).ok()).collect();
    let mut text = String::new();
    for kind in KINDS {
        let suits: Vec<_> =
            models.iter().zip(Model::NAMES).filter(|(model, _)| kind.suits(model)).map(|(_, name)| *name).collect();
        text += &format!("{:<22} {}\n{:<22} suits {}\n", kind.name, kind.what, "", suits.join(", "));
    }
    text
}

/// "read by process 3, lines 12 and 15".
fn describe(history: &History, at: u32) -> String {
    let operation = &history.operations[at as usize];
    let process = &history.processes[operation.process as usize];
    let from = operation.called + 1;
    let lines = match operation.returned {
        NEVER => format!("line {from}"),
        to => format!("lines {from} and {}", to + 1),
    };
    format!("{} by process {process}, {lines}", operation.function.name())
}
