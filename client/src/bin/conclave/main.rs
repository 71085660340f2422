//! `conclave`, the command line.
//!
//! [`args`] is what people type, [`exit`] how a command ends, [`output`] how results are written; each command has a
//! module of its own. Everything goes through the client library, except that nothing here opens a session but `lock`
//! and `bench`.

mod args;
mod bench;
mod cert;
mod cluster;
mod exit;
mod history;
mod lock;
mod locks;
mod nodes;
mod output;
mod queues;
mod session;
mod txn;
mod units;
mod verify;

use std::{ffi::OsString, os::unix::ffi::OsStrExt as _, process::ExitCode};

use args::{Cli, Command};
use clap::{CommandFactory as _, Parser as _, error::ErrorKind};
use conclave_client::{Client, Config};
use exit::Failure;
use output::Out;

fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().collect();
    if arguments.get(1).is_some_and(|first| first == lock::CHILD_COMMAND) {
        return become_command(&arguments[1..]);
    }
    let cli = match Cli::try_parse_from(&arguments) {
        Ok(cli) => cli,
        Err(error) => return misused(&error, &arguments),
    };
    match run(cli) {
        Ok(code) => ExitCode::from(code),
        Err(failure) => {
            // Empty where the result already said it.
            if !failure.message.is_empty() {
                eprintln!("conclave: {failure}");
            }
            ExitCode::from(failure.code)
        }
    }
}

/// The second half of `lock`'s start: becomes the user's command.
fn become_command(arguments: &[OsString]) -> ExitCode {
    let failure = match args::Child::try_parse_from(arguments) {
        Ok(args) => lock::become_command(&args),
        Err(error) => Failure::usage(format!("only `lock` runs this: {error}")),
    };
    eprintln!("conclave: {failure}");
    ExitCode::from(failure.code)
}

/// Prints help, or what is wrong with the command line.
fn misused(error: &clap::Error, arguments: &[OsString]) -> ExitCode {
    if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) {
        let _ = error.print();
        return ExitCode::SUCCESS;
    }
    if matches!(error.kind(), ErrorKind::InvalidUtf8 | ErrorKind::InvalidSubcommand) {
        // clap does not say which; a user with a stray byte in a script wants to know.
        let which = arguments.iter().enumerate().find(|(_, argument)| argument.to_str().is_none());
        if let Some((at, argument)) = which {
            eprintln!(
                "conclave: argument {at} is not UTF-8: \"{}\"\n  hint: paths and options are UTF-8 text; a value may be any \
                 bytes, and so may the command after `lock NAME --`",
                argument.as_bytes().escape_ascii()
            );
            return ExitCode::from(exit::USAGE);
        }
    }
    let _ = error.print();
    ExitCode::from(exit::USAGE)
}

fn run(cli: Cli) -> Result<u8, Failure> {
    if let Command::Completion(args) = &cli.command {
        let mut script = Vec::new();
        clap_complete::generate(args.shell, &mut Cli::command(), "conclave", &mut script);
        let mut out = Out::new(cli.global.output);
        out.raw(&script)?;
        out.flush()?;
        return Ok(0);
    }
    // One thread: a command waits more than it works, and `lock` must fork on the thread that lives as long as the
    // process (the child dies with the thread that made it).
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::local("cannot start", &error))?;
    let code = runtime.block_on(command(cli));
    // Nobody waits for a thread that is stuck reading standard input.
    runtime.shutdown_background();
    code
}

fn config(global: &args::Global) -> Result<Config, Failure> {
    let mut config = Config::new(global.endpoints.clone()).with_request_timeout(global.timeout.0);
    if let Some(ca) = &global.ca {
        config = config.with_ca(ca);
    }
    config = match (&global.cert, &global.key) {
        (Some(cert), Some(key)) => config.with_certificate(cert, key),
        (None, None) => config,
        (Some(_), None) => return Err(Failure::usage("--cert needs --key, its private key (CONCLAVE_KEY)")),
        (None, Some(_)) => return Err(Failure::usage("--key needs --cert, its certificate (CONCLAVE_CERT)")),
    };
    if let Some(file) = &global.token_file {
        config = config.with_token_file(file);
    }
    Ok(config)
}

async fn command(cli: Cli) -> Result<u8, Failure> {
    let global = cli.global;
    let config = config(&global)?;
    let client = || Client::new(config.clone()).map_err(Failure::from);
    let mut out = Out::new(global.output);
    match cli.command {
        Command::Put(args) => nodes::put(&client()?, args, &mut out).await?,
        Command::Get(args) => nodes::get(&client()?, &args, &mut out).await?,
        Command::Del(args) => nodes::del(&client()?, &args, &mut out).await?,
        Command::Ls(args) => nodes::ls(&client()?, &args, &mut out).await?,
        Command::Tree(args) => nodes::tree(&client()?, &args, &mut out).await?,
        Command::Watch(args) => nodes::watch(&client()?, &args, &mut out).await?,
        Command::Txn(args) => {
            let result = txn::run(&client()?, &args, &mut out).await;
            out.flush()?;
            result?;
        }
        Command::Lock(args) => return lock::run(&client()?, args).await,
        Command::Locks(args) => locks::run(&client()?, &args, &mut out).await?,
        Command::Session(args) => session::run(&client()?, &args, &mut out).await?,
        Command::Cluster(args) => {
            let result = cluster::run(&client()?, &config, args, &mut out).await;
            out.flush()?;
            result?;
        }
        Command::Bench(args) => bench::run(&config, &global.endpoints, args, &mut out).await?,
        Command::History(args) => history::run(&client()?, &args, &mut out).await?,
        Command::Verify => verify::run(&client()?, global.timeout.0, &mut out).await?,
        Command::Cert(args) => cert::run(args, &mut out).await?,
        Command::Completion(_) => unreachable!("done without a runtime"),
    }
    out.flush()?;
    Ok(0)
}
