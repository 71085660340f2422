//! Who is calling, and whether they may: the one place in a request's path where that is decided.
//!
//! A caller is known by a token, else by its certificate, else not at all. Streams are looked at when they are opened: a
//! token that is taken away keeps nobody off a stream that is open already.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use conclave_tls::Certificate;
use parking_lot::{Mutex, RwLock};
use subtle::{Choice, ConstantTimeEq as _};
use tonic::{
    Status,
    codegen::http::{HeaderMap, header::AUTHORIZATION},
};

use crate::config::AuthMode;

/// Fewer bytes can be guessed.
const TOKEN_BYTES_MIN: usize = 16;
const ANONYMOUS: &str = "anonymous";

/// How a caller is known.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum How {
    /// By the certificate of its connection.
    Certificate,
    /// By the token of its request.
    Token,
    /// Not at all.
    Anonymous,
}

/// Who is calling; among the extensions of every request to a service for clients.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Caller {
    /// The certificate's or the token's name, or `anonymous`.
    pub name: Arc<str>,
    /// How we know.
    pub how: How,
}

/// Decides who may go on. Authorisation by role belongs into `admit`, too.
#[derive(Debug)]
pub struct Gate {
    mode: AuthMode,
    tokens: Option<TokenFile>,
    anonymous: Caller,
    refused: AtomicU64,
}

impl Gate {
    /// Reads the tokens, if there are any.
    ///
    /// # Errors
    /// What is wrong with their file.
    pub fn new(mode: AuthMode, token_file: Option<&Path>) -> Result<Arc<Self>, String> {
        let tokens = token_file.map(TokenFile::load).transpose()?;
        let anonymous = Caller { name: ANONYMOUS.into(), how: How::Anonymous };
        Ok(Arc::new(Self { mode, tokens, anonymous, refused: AtomicU64::new(0) }))
    }

    /// Reads the tokens again. Whether they are others.
    ///
    /// # Errors
    /// What is wrong with their file, once; the old ones stay in force.
    pub fn refresh(&self) -> Result<bool, String> {
        self.tokens.as_ref().map_or(Ok(false), TokenFile::refresh)
    }

    /// Requests turned away since the start.
    #[must_use]
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// Who is calling `method`, if they may.
    ///
    /// # Errors
    /// Why they may not.
    pub fn enter(&self, connection: &Way<'_>, headers: &HeaderMap, method: &str) -> Result<Caller, Box<Status>> {
        let entered = self.identify(connection, headers).and_then(|caller| {
            self.admit(&caller, method)?;
            Ok(caller)
        });
        entered.map_err(|words| {
            self.refused.fetch_add(1, Ordering::Relaxed);
            Box::new(Status::unauthenticated(words))
        })
    }

    fn identify(&self, way: &Way<'_>, headers: &HeaderMap) -> Result<Caller, String> {
        if let (Some(tokens), Some(header)) = (&self.tokens, headers.get(AUTHORIZATION)) {
            if !way.encrypted && !way.remote.is_some_and(|remote| remote.ip().is_loopback()) {
                return Err("a token came over plain text from another machine: others may know it now, so it is not \
                            taken; use https"
                    .to_owned());
            }
            let token = header.as_bytes().strip_prefix(b"Bearer ").unwrap_or_default();
            let name = tokens.find(token).ok_or("unknown token: it is not in this server's token file")?;
            return Ok(Caller { name, how: How::Token });
        }
        match way.certificate {
            Some(certificate) if !certificate.name().is_empty() => {
                Ok(Caller { name: certificate.name().into(), how: How::Certificate })
            }
            _ => Ok(self.anonymous.clone()),
        }
    }

    fn admit(&self, caller: &Caller, _method: &str) -> Result<(), String> {
        match (self.mode, caller.how) {
            (AuthMode::Required, How::Anonymous) => {
                Err("this server wants to know who calls: show a certificate that its CA signed, or a token".to_owned())
            }
            _ => Ok(()),
        }
    }
}

/// How a request came.
pub struct Way<'a> {
    /// The other end.
    pub remote: Option<SocketAddr>,
    /// Over TLS.
    pub encrypted: bool,
    /// What it showed.
    pub certificate: Option<&'a Certificate>,
}

/// Tokens and whose they are: lines `NAME TOKEN`, `#` begins a comment. A name may have several, so that one can take
/// the other's place.
struct TokenFile {
    path: PathBuf,
    tokens: RwLock<Vec<(Arc<str>, Vec<u8>)>>,
    complaint: Mutex<Option<String>>,
}

/// Nobody reads a token off a debug line.
impl std::fmt::Debug for TokenFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TokenFile").field("path", &self.path).finish_non_exhaustive()
    }
}

impl TokenFile {
    fn load(path: &Path) -> Result<Self, String> {
        let tokens = RwLock::new(read(path)?);
        Ok(Self { path: path.to_owned(), tokens, complaint: Mutex::new(None) })
    }

    fn refresh(&self) -> Result<bool, String> {
        let read = read(&self.path);
        let mut complaint = self.complaint.lock();
        match read {
            Ok(tokens) => {
                *complaint = None;
                let changed = *self.tokens.read() != tokens;
                if changed {
                    *self.tokens.write() = tokens;
                }
                Ok(changed)
            }
            Err(words) if complaint.as_ref() == Some(&words) => Ok(false),
            Err(words) => {
                *complaint = Some(words.clone());
                Err(words)
            }
        }
    }

    /// Looks at every token, whichever fits: the time it takes tells nothing of them but their lengths.
    fn find(&self, given: &[u8]) -> Option<Arc<str>> {
        let tokens = self.tokens.read();
        let mut found = None;
        for (name, token) in tokens.iter() {
            let same: Choice = token.as_slice().ct_eq(given);
            if bool::from(same) {
                found = Some(name);
            }
        }
        found.cloned()
    }
}

fn read(path: &Path) -> Result<Vec<(Arc<str>, Vec<u8>)>, String> {
    let place = path.display();
    let text = fs::read_to_string(path).map_err(|error| format!("cannot read the tokens {place}: {error}"))?;
    let mut tokens: Vec<(Arc<str>, Vec<u8>)> = Vec::new();
    for (n, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let wrong = |why: &str| format!("{place}: line {}: {why}", n + 1); // never the line itself
        let mut words = line.split_ascii_whitespace();
        let (Some(name), Some(token), None) = (words.next(), words.next(), words.next()) else {
            return Err(wrong("expected NAME TOKEN"));
        };
        if name == ANONYMOUS {
            return Err(wrong("nobody can be called anonymous"));
        }
        if token.len() < TOKEN_BYTES_MIN {
            return Err(wrong("a token has at least 16 characters: openssl rand -hex 32 makes a good one"));
        }
        if token.contains(|c: char| !c.is_ascii_graphic()) {
            return Err(wrong("a token is made of ASCII letters, digits and signs"));
        }
        if tokens.iter().any(|(_, other)| other == token.as_bytes()) {
            return Err(wrong("this token is there twice"));
        }
        tokens.push((name.into(), token.as_bytes().to_vec()));
    }
    Ok(tokens)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FAR: &str = "10.0.0.9:4000";
    const HERE: &str = "127.0.0.1:4000";
    const GOOD: &str = "0123456789abcdef";

    fn gate(mode: AuthMode, tokens: Option<&str>) -> (Arc<Gate>, tempfile::NamedTempFile) {
        let file = tempfile::NamedTempFile::new().expect("a file");
        fs::write(file.path(), tokens.unwrap_or_default()).expect("writes");
        (Gate::new(mode, tokens.is_some().then(|| file.path())).expect("good"), file)
    }

    fn enter(gate: &Gate, from: &str, encrypted: bool, token: Option<&str>) -> Result<String, String> {
        let way = Way { remote: from.parse().ok(), encrypted, certificate: None };
        let mut headers = HeaderMap::new();
        if let Some(token) = token {
            headers.insert(AUTHORIZATION, token.parse().expect("a header"));
        }
        let entered = gate.enter(&way, &headers, "/conclave.v1.Store/Query");
        entered.map(|caller| caller.name.to_string()).map_err(|status| {
            assert_eq!(status.code(), tonic::Code::Unauthenticated);
            status.message().to_owned()
        })
    }

    #[test]
    fn a_token_names_its_owner_and_no_other_token_does() {
        let (gate, file) = gate(AuthMode::Required, Some(&format!("# who\nalice {GOOD}\n\nbob fedcba9876543210\n")));
        let bearer = |token: &str| Some(format!("Bearer {token}"));
        let by = |token: Option<String>| enter(&gate, FAR, true, token.as_deref());
        assert_eq!(by(bearer(GOOD)).as_deref(), Ok("alice"));
        assert_eq!(by(bearer("fedcba9876543210")).as_deref(), Ok("bob"));
        for wrong in [bearer(""), bearer(&GOOD[1..]), bearer(&format!("{GOOD}0")), Some(GOOD.to_owned())] {
            assert!(by(wrong.clone()).expect_err("wrong").contains("unknown token"), "{wrong:?}");
        }
        assert!(by(None).expect_err("nobody").contains("wants to know who calls"));
        assert_eq!(gate.refused(), 5);

        fs::write(file.path(), "alice short\n").expect("writes");
        let words = gate.refresh().expect_err("bad");
        assert!(words.contains("line 1: a token has at least 16") && !words.contains("short"), "{words}");
        assert_eq!(gate.refresh(), Ok(false), "told once");
        assert_eq!(by(bearer(GOOD)).as_deref(), Ok("alice"), "the old ones are kept");
        fs::write(file.path(), "carol 0000000000000000\n").expect("writes");
        assert_eq!(gate.refresh(), Ok(true));
        assert!(by(bearer(GOOD)).is_err(), "taken away");
        assert_eq!(by(bearer("0000000000000000")).as_deref(), Ok("carol"));
    }

    #[test]
    fn a_token_over_plain_text_is_taken_on_this_machine_only() {
        let (gate, _file) = gate(AuthMode::Open, Some(&format!("alice {GOOD}")));
        let token = format!("Bearer {GOOD}");
        assert_eq!(enter(&gate, HERE, false, Some(&token)).as_deref(), Ok("alice"));
        assert!(enter(&gate, FAR, false, Some(&token)).expect_err("heard by all").contains("plain text"));
        assert_eq!(enter(&gate, FAR, false, None).as_deref(), Ok(ANONYMOUS));
    }

    #[test]
    fn an_open_door_asks_nobody() {
        let (gate, _file) = gate(AuthMode::Open, None);
        assert_eq!(enter(&gate, FAR, false, None).as_deref(), Ok(ANONYMOUS));
        assert_eq!(enter(&gate, FAR, false, Some("Bearer whatever")).as_deref(), Ok(ANONYMOUS));
    }
}
