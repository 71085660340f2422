//! `conclave txn`: what to compare and to do, in words or in JSON.

mod json;
mod run;
mod syntax;

use std::fmt;

use bytes::Bytes;
use conclave_client::Kind;
use conclave_proto::NodePath;

pub use run::run;

/// Shown by `conclave txn --help`.
pub const HELP: &str = "\
Comparisons (all must hold):
  exists(PATH)  missing(PATH)
  version(PATH) = 3         also create_revision, modify_revision; also != < >
  data(PATH) = TEXT         also != < >, byte by byte
  owner(PATH) = 17          the session a node dies with; `none` for no session
Operations:
  put PATH TEXT             makes the node and its parents if they are missing
  create PATH [TEXT] [--sequential] [--container | --ttl TIME]
  del PATH [--recursive]
  get PATH
  ls PATH
Words with blanks or parentheses go in quotes, '…' or \"…\"; in \"…\" \\n \\t \\\\ \\\" and \\xNN are escapes.

Without options the transaction is read from standard input: one clause a line (`if version(/a) = 3`, `then put /a x`,
`else get /a`; # begins a comment), or JSON:
  {\"if\":   [{\"path\": \"/a\", \"version\": 3}, {\"path\": \"/b\", \"exists\": false}],
   \"then\": [{\"put\": {\"path\": \"/a\", \"text\": \"x\"}}, {\"delete\": {\"path\": \"/b\"}}],
   \"else\": [{\"get\": {\"path\": \"/a\"}}]}
Comparisons take \"relation\": \"=\" \"!=\" \"<\" \">\" (default \"=\"); data is \"text\" or \"base64\".
Operations: put create delete get list; create takes sequential, kind (persistent container ttl), ttl.

Exit code 0 if the comparisons held, 1 if one did not (and what `else` says was done).";

/// Most bytes of a transaction on standard input; the server's own limit for a request is lower.
pub const INPUT_BYTES_MAX: usize = 8 << 20;

/// A transaction as written.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Script {
    /// All must hold.
    pub when: Vec<Comparison>,
    /// If they do.
    pub then: Vec<Operation>,
    /// If one does not.
    pub otherwise: Vec<Operation>,
}

/// One comparison.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Comparison {
    /// Of this node.
    pub path: NodePath,
    /// What of it.
    pub test: Test,
}

/// What is compared.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Test {
    /// Whether it is there.
    Exists(bool),
    /// Its version.
    Version(Relation, u64),
    /// The revision that made it.
    CreateRevision(Relation, u64),
    /// The revision that last changed it.
    ModifyRevision(Relation, u64),
    /// Its data.
    Data(Relation, Bytes),
    /// The session it dies with; 0 for none.
    Owner(u64),
}

/// How.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Relation {
    /// =
    Equal,
    /// !=
    NotEqual,
    /// <
    Less,
    /// >
    Greater,
}

impl Relation {
    fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "=" | "==" => Self::Equal,
            "!=" => Self::NotEqual,
            "<" => Self::Less,
            ">" => Self::Greater,
            _ => return None,
        })
    }
}

impl fmt::Display for Relation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Equal => "=",
            Self::NotEqual => "!=",
            Self::Less => "<",
            Self::Greater => ">",
        })
    }
}

/// One operation.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Operation {
    /// Write data.
    Put { path: NodePath, data: Bytes },
    /// Make a node.
    Create { path: NodePath, data: Bytes, sequential: bool, kind: Kind },
    /// Remove a node.
    Delete { path: NodePath, recursive: bool },
    /// Read a node.
    Get { path: NodePath },
    /// Read the names of its children.
    List { path: NodePath },
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = &self.path;
        match &self.test {
            Test::Exists(true) => write!(f, "exists({path})"),
            Test::Exists(false) => write!(f, "missing({path})"),
            Test::Version(relation, n) => write!(f, "version({path}) {relation} {n}"),
            Test::CreateRevision(relation, n) => write!(f, "create_revision({path}) {relation} {n}"),
            Test::ModifyRevision(relation, n) => write!(f, "modify_revision({path}) {relation} {n}"),
            Test::Data(relation, data) => {
                write!(f, "data({path}) {relation} {:?}", crate::output::preview(data, 40))
            }
            Test::Owner(0) => write!(f, "owner({path}) = none"),
            Test::Owner(n) => write!(f, "owner({path}) = {n}"),
        }
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Put { path, .. } => write!(f, "put {path}"),
            Self::Create { path, .. } => write!(f, "create {path}"),
            Self::Delete { path, .. } => write!(f, "del {path}"),
            Self::Get { path } => write!(f, "get {path}"),
            Self::List { path } => write!(f, "ls {path}"),
        }
    }
}
