//! `conclave cert`: a CA and certificates to begin with, into a directory or into Kubernetes Secrets.

mod secret;

use std::{
    fs::{self, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use conclave_tls::make::{Authority, Made, MakeError, Whose};

use crate::{
    args,
    exit::{self, Failure},
    output::Out,
};

/// How long the CA's own certificate is valid: ten years.
const CA_VALID: Duration = Duration::from_secs(3_650 * 86_400);
/// Names that everybody means by this machine.
const LOOPBACK: [&str; 3] = ["localhost", "127.0.0.1", "::1"];

/// Shown by `conclave cert --help`.
pub const HELP: &str = "Examples:
  conclave cert --dir tls --name conclave-1.example --name conclave-2.example --client alice
      ca.crt ca.key           the CA; kept if it is there. Its key is for making more certificates: keep it elsewhere
      server.crt server.key   for all the servers named (give each server one of its own by running this again)
      alice.crt alice.key     for a client, known to the servers as alice
  conclave cert --to-secret conclave-tls --namespace prod --name '*.conclave-headless.prod.svc.cluster.local'
      in a pod: the Secrets conclave-tls and conclave-tls-ca; what is there already is left alone";

impl From<MakeError> for Failure {
    fn from(error: MakeError) -> Self {
        let code = match error {
            MakeError::NoName | MakeError::Name(_) => exit::USAGE,
            MakeError::Ca(_) | MakeError::Other(_) => exit::LOCAL_IO,
        };
        Self::new(code, error.to_string())
    }
}

/// Makes them.
pub async fn run(args: args::Cert, out: &mut Out) -> Result<(), Failure> {
    let valid = Duration::from_secs(u64::from(args.days) * 86_400);
    match (&args.dir, &args.to_secret) {
        (Some(dir), _) => into_dir(dir, &args, valid, out),
        (None, Some(_)) => secret::run(&args, valid, out).await,
        (None, None) => unreachable!("clap wants one of them"),
    }
}

fn into_dir(dir: &Path, args: &args::Cert, valid: Duration, out: &mut Out) -> Result<(), Failure> {
    for name in &args.clients {
        if name.is_empty() || name.starts_with('.') || name.contains(['/', '\\']) || ["ca", "server"].contains(&&**name)
        {
            return Err(Failure::usage(format!("--client {name:?} is also a file's name: choose a plain one")));
        }
    }
    fs::create_dir_all(dir).map_err(|error| Failure::local(dir.display(), &error))?;
    let authority = authority(dir, out)?;
    let mut names = args.names.clone();
    if names.is_empty() && args.clients.is_empty() {
        names = LOOPBACK.map(str::to_owned).to_vec();
    }
    if !names.is_empty() {
        write_pair(dir, "server", &authority.issue(Whose::Server(&names), valid)?)?;
        out.line(format!("{}: a server's, for {}", dir.join("server.crt").display(), names.join(", ")))?;
    }
    for name in &args.clients {
        write_pair(dir, name, &authority.issue(Whose::Client(name), valid)?)?;
        out.line(format!("{}: a client's, known as {name}", dir.join(format!("{name}.crt")).display()))?;
    }
    Ok(())
}

/// The CA of this directory, made if there is none.
fn authority(dir: &Path, out: &mut Out) -> Result<Authority, Failure> {
    let (cert, key) = (dir.join("ca.crt"), dir.join("ca.key"));
    if cert.exists() || key.exists() {
        let read = |path: &PathBuf| {
            fs::read_to_string(path).map_err(|error| {
                Failure::local(path.display(), &error)
                    .with_hint("ca.crt and ca.key belong together: give both, or neither")
            })
        };
        let made = Made { cert: read(&cert)?, key: read(&key)? };
        return Ok(Authority::from_pem(made)?);
    }
    let authority = new_authority()?;
    write_pair(dir, "ca", authority.made())?;
    out.line(format!("{}: the CA's, new", cert.display()))?;
    Ok(authority)
}

fn new_authority() -> Result<Authority, MakeError> {
    // Each with a name of its own: two CAs of one name are hard to tell apart in an error.
    let mut bytes = [0; 4];
    getrandom::fill(&mut bytes).expect("the system has randomness");
    Authority::new(&format!("Conclave CA {:08x}", u32::from_be_bytes(bytes)), CA_VALID)
}

fn write_pair(dir: &Path, name: &str, made: &Made) -> Result<(), Failure> {
    write(&dir.join(format!("{name}.key")), &made.key, 0o600)?;
    write(&dir.join(format!("{name}.crt")), &made.cert, 0o644)
}

/// Whole or not at all, since running servers read these files; and never readable to others on the way.
fn write(path: &Path, text: &str, mode: u32) -> Result<(), Failure> {
    let new = path.with_extension("new");
    let written = || -> io::Result<()> {
        let _ = fs::remove_file(&new);
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&new)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&new, path)
    };
    written().map_err(|error| Failure::local(path.display(), &error))
}
