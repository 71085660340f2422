//! What `check --help MODEL` says: the operations of each model, their values, and an example.

use std::fmt;

/// The guide to one model.
#[derive(Clone, Copy, Debug)]
pub struct Guide {
    /// Its name, as in [`crate::Model::NAMES`].
    pub model: &'static str,
    /// In one sentence.
    pub about: &'static str,
    /// Each operation, and what its values and outcomes say.
    pub operations: &'static [(&'static str, &'static str)],
    /// The key of the example's operations.
    pub key: Option<&'static str>,
    /// A history: process, type, function and value (JSON) of each event.
    pub example: &'static [(u32, &'static str, &'static str, &'static str)],
    /// Whether the example is linearizable.
    pub linearizable: bool,
    /// Why.
    pub because: &'static str,
}

/// The guide to the model of this name; `semaphore` and `semaphore:3` find that to `semaphore:N`.
#[must_use]
pub fn guide(name: &str) -> Option<&'static Guide> {
    let bare = |name: &'static str| name.strip_suffix(":N").unwrap_or(name);
    let asked = name.split_once(':').map_or(name, |(name, _)| name);
    GUIDES.iter().find(|guide| guide.model == name || bare(guide.model) == asked)
}

impl Guide {
    /// The example as a history, one event a line.
    #[must_use]
    pub fn lines(&self) -> String {
        let key = self.key.map_or(String::new(), |key| format!("\"key\":\"{key}\","));
        let line = |(process, kind, function, value): &(u32, &str, &str, &str)| {
            format!("{{\"process\":{process},\"type\":\"{kind}\",\"f\":\"{function}\",{key}\"value\":{value}}}\n")
        };
        self.example.iter().map(line).collect()
    }
}

impl fmt::Display for Guide {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}: {}\n\nOperations:", self.model, self.about)?;
        for (operation, text) in self.operations {
            writeln!(f, "  {operation:<20} {text}")?;
        }
        writeln!(f, "\n{OUTCOMES}\n\nAn example:\n\n{}", self.lines().trim_end())?;
        let verdict = if self.linearizable { "linearizable" } else { "not linearizable" };
        writeln!(f, "\nThis is {verdict}: {}", self.because)
    }
}

const OUTCOMES: &str = "\
Outcomes: ok, with the value returned; fail, it certainly did not happen; info or none, it may happen at any time, or
never. `key` names the object; without one there is a single object. Lines are in the order in which things happened;
`time` (ns) is optional.";

const LOCKING: &[(&str, &str)] = &[
    ("acquire", "blocks until granted. fail with an error (a time-out) says nothing"),
    ("try_acquire", "does not block. fail without an error: it was held at a moment of the attempt"),
    ("release", "ok: the hold lasted until then"),
    ("expire", "the session of the process ended, and what it held with it"),
];

const TOKENS: &[(&str, &str)] = &[
    ("acquire", "null; ok returns the token: a number or [epoch, revision]. Tokens rise with every grant"),
    ("try_acquire", "the same. fail without an error: it was held at a moment of the attempt"),
    ("release", "the token, null where unknown. ok: the hold lasted until then"),
    ("expire", "the session of the process ended; with a token, that hold lasted until then"),
];

/// All, in the order of [`crate::Model::NAMES`].
pub const GUIDES: &[Guide] = &[
    Guide {
        model: "register",
        about: "one value; a read returns the last one written",
        operations: &[("read", "null; ok returns the value, null if unset"), ("write", "the value")],
        key: None,
        example: &[
            (0, "invoke", "write", "1"),
            (0, "ok", "write", "1"),
            (1, "invoke", "write", "2"),
            (1, "ok", "write", "2"),
            (0, "invoke", "read", "null"),
            (0, "ok", "read", "1"),
        ],
        linearizable: false,
        because: "1 was overwritten by 2 before the read began.",
    },
    Guide {
        model: "cas-register",
        about: "a register that can be compared and set",
        operations: &[
            ("read", "null; ok returns the value, null if unset"),
            ("write", "the value"),
            ("cas", "[old, new]; ok: it was old and is now new; fail without an error: it differed from old"),
        ],
        key: None,
        example: &[
            (0, "invoke", "write", "1"),
            (1, "invoke", "cas", "[1,2]"),
            (0, "ok", "write", "1"),
            (1, "ok", "cas", "[1,2]"),
            (0, "invoke", "cas", "[1,3]"),
            (0, "fail", "cas", "[1,3]"),
        ],
        linearizable: true,
        because: "write 1, cas 1 to 2, and the last cas finds 2.",
    },
    Guide {
        model: "kv",
        about: "a key-value store; every key is independent",
        operations: &[
            ("get", "null; ok returns the value, null where there is none"),
            ("put", "the value"),
            ("append", "a text or a list, added to the end of what is there"),
            ("delete", "null; ok also where there was nothing"),
        ],
        key: Some("x"),
        example: &[
            (0, "invoke", "put", r#""a""#),
            (0, "ok", "put", r#""a""#),
            (1, "invoke", "append", r#""b""#),
            (1, "info", "append", r#""b""#),
            (0, "invoke", "get", "null"),
            (0, "ok", "get", r#""ab""#),
        ],
        linearizable: true,
        because: "the append of unknown outcome took effect.",
    },
    Guide {
        model: "kv-revision",
        about: "a key-value store whose changes have revisions that rise; every key is independent",
        operations: &[
            ("get", "null; ok returns [value, revision], or null where there is none"),
            ("put", "the value; ok returns [value, revision]; null where the revision is not known"),
            ("delete", "null; ok returns the revision of the deletion, or null"),
        ],
        key: Some("x"),
        example: &[
            (0, "invoke", "put", r#""a""#),
            (0, "ok", "put", r#"["a",7]"#),
            (1, "invoke", "put", r#""b""#),
            (1, "ok", "put", r#"["b",6]"#),
        ],
        linearizable: false,
        because: "the later put has the smaller revision.",
    },
    Guide {
        model: "list-append",
        about: "lists by key, and transactions over them: strict serializability",
        operations: &[("txn", "a list of [\"append\", key, value] and [\"r\", key, list]; lists are null on invoke")],
        key: None,
        example: &[
            (0, "invoke", "txn", r#"[["append","x",1],["append","y",1]]"#),
            (1, "invoke", "txn", r#"[["r","x",null],["r","y",null]]"#),
            (0, "ok", "txn", r#"[["append","x",1],["append","y",1]]"#),
            (1, "ok", "txn", r#"[["r","x",[1]],["r","y",[]]]"#),
        ],
        linearizable: false,
        because: "the read saw one half of the transaction and not the other.",
    },
    Guide {
        model: "mutex",
        about: "a lock that anybody may release",
        operations: LOCKING,
        key: None,
        example: &[
            (0, "invoke", "acquire", "null"),
            (0, "ok", "acquire", "null"),
            (1, "invoke", "acquire", "null"),
            (1, "ok", "acquire", "null"),
        ],
        linearizable: false,
        because: "the second acquire succeeded while the lock was held.",
    },
    Guide {
        model: "owner-mutex",
        about: "a lock that only its holder may release",
        operations: LOCKING,
        key: None,
        example: &[
            (0, "invoke", "acquire", "null"),
            (0, "ok", "acquire", "null"),
            (1, "invoke", "release", "null"),
            (1, "ok", "release", "null"),
        ],
        linearizable: false,
        because: "process 1 released what process 0 held.",
    },
    Guide {
        model: "reentrant-mutex",
        about: "a lock that its holder may acquire again, and releases as often",
        operations: LOCKING,
        key: None,
        example: &[
            (0, "invoke", "acquire", "null"),
            (0, "ok", "acquire", "null"),
            (0, "invoke", "acquire", "null"),
            (0, "ok", "acquire", "null"),
            (0, "invoke", "release", "null"),
            (0, "ok", "release", "null"),
            (1, "invoke", "acquire", "null"),
            (1, "ok", "acquire", "null"),
        ],
        linearizable: false,
        because: "process 0 had released one of its two holds only.",
    },
    Guide {
        model: "fenced-mutex",
        about: "a lock whose grants carry rising tokens; a hold may be lost without a trace, a released one was not",
        operations: TOKENS,
        key: Some("l"),
        example: &[
            (0, "invoke", "acquire", "null"),
            (0, "ok", "acquire", "33"),
            (1, "invoke", "acquire", "null"),
            (0, "invoke", "release", "33"),
            (0, "ok", "release", "33"),
            (1, "ok", "acquire", "34"),
        ],
        linearizable: true,
        because: "the second grant came after the release and has the larger token.",
    },
    Guide {
        model: "semaphore:N",
        about: "up to N holders at a time",
        operations: LOCKING,
        key: None,
        example: &[
            (0, "invoke", "acquire", "null"),
            (0, "ok", "acquire", "null"),
            (1, "invoke", "acquire", "null"),
            (1, "ok", "acquire", "null"),
            (2, "invoke", "acquire", "null"),
            (2, "ok", "acquire", "null"),
        ],
        linearizable: true,
        because: "with semaphore:3; with semaphore:2 it is not.",
    },
    Guide {
        model: "fenced-semaphore:N",
        about: "up to N holders at a time, whose grants carry rising tokens",
        operations: TOKENS,
        key: None,
        example: &[
            (0, "invoke", "acquire", "null"),
            (0, "ok", "acquire", "5"),
            (1, "invoke", "acquire", "null"),
            (1, "ok", "acquire", "5"),
        ],
        linearizable: false,
        because: "two grants have the same token.",
    },
    Guide {
        model: "rwlock",
        about: "one writer or many readers; with tokens, judged as a fenced lock",
        operations: &[
            ("acquire", "as a writer; blocks until granted"),
            ("try_acquire", "as a writer; fail without an error: it was held at a moment of the attempt"),
            ("acquire_shared", "as a reader; blocks until granted"),
            ("try_acquire_shared", "as a reader; fail without an error: a writer held it at a moment of the attempt"),
            ("release", "ok: the hold lasted until then"),
            ("expire", "the session of the process ended, and what it held with it"),
        ],
        key: None,
        example: &[
            (0, "invoke", "acquire_shared", "null"),
            (0, "ok", "acquire_shared", "null"),
            (1, "invoke", "acquire_shared", "null"),
            (1, "ok", "acquire_shared", "null"),
            (2, "invoke", "acquire", "null"),
            (2, "ok", "acquire", "null"),
        ],
        linearizable: false,
        because: "the writer came in while readers held the lock.",
    },
    Guide {
        model: "election",
        about: "one leader at a time, with rising terms; leadership may be lost without a trace",
        operations: &[
            ("campaign", "the candidate's name or null; ok returns the term: it was elected"),
            ("resign", "the term, null where unknown. ok: it led until then"),
            ("observe", "null; ok returns who led, or the term; null: nobody"),
            ("expire", "the session of the process ended, and its leadership with it"),
        ],
        key: None,
        example: &[
            (0, "invoke", "campaign", "null"),
            (0, "ok", "campaign", "4"),
            (1, "invoke", "campaign", "null"),
            (1, "ok", "campaign", "3"),
        ],
        linearizable: false,
        because: "the later term is the smaller.",
    },
    Guide {
        model: "fifo-queue",
        about: "a queue, first in, first out",
        operations: &[
            ("enqueue", "the value"),
            ("dequeue", "null; ok returns the oldest value; null, or fail without an error: it was empty"),
        ],
        key: None,
        example: &[
            (0, "invoke", "enqueue", "1"),
            (0, "ok", "enqueue", "1"),
            (0, "invoke", "enqueue", "2"),
            (0, "ok", "enqueue", "2"),
            (1, "invoke", "dequeue", "null"),
            (1, "ok", "dequeue", "2"),
        ],
        linearizable: false,
        because: "1 came before 2.",
    },
    Guide {
        model: "counter",
        about: "a sum that begins at 0",
        operations: &[("add", "a whole number"), ("read", "null; ok returns the sum")],
        key: None,
        example: &[
            (0, "invoke", "add", "2"),
            (1, "invoke", "add", "3"),
            (2, "invoke", "read", "null"),
            (2, "ok", "read", "3"),
            (0, "ok", "add", "2"),
            (1, "info", "add", "3"),
        ],
        linearizable: true,
        because: "the read came between the two.",
    },
    Guide {
        model: "sequential-directory",
        about: "a directory whose children are ephemeral and numbered; the key names it",
        operations: &[
            ("create", "null; ok returns the child's number, or its name, which ends in it. Numbers rise"),
            ("delete", "the number or name. ok: the child was there and is gone"),
            ("list", "null; ok returns all children, in any order"),
            ("expire", "the session of the process ended; its children went at one moment"),
        ],
        key: Some("/q"),
        example: &[
            (0, "invoke", "create", "null"),
            (0, "ok", "create", r#""n-0000000007""#),
            (1, "invoke", "create", "null"),
            (1, "ok", "create", r#""n-0000000007""#),
        ],
        linearizable: false,
        because: "a number is never given twice.",
    },
    Guide {
        model: "session",
        about: "a session is open until it is closed or expires; the key names it",
        operations: &[
            ("open", "the time to live in milliseconds, or null"),
            ("renew", "null. ok: the session was open"),
            ("close", "null. ok: it was open and ended"),
            ("expire", "null. ok: the server ended it; never earlier than time to live after a renewal's call"),
        ],
        key: Some("s1"),
        example: &[
            (0, "invoke", "open", "3000"),
            (0, "ok", "open", "3000"),
            (1, "invoke", "expire", "null"),
            (1, "ok", "expire", "null"),
            (0, "invoke", "renew", "null"),
            (0, "ok", "renew", "null"),
        ],
        linearizable: false,
        because: "it was renewed after its end.",
    },
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Limits, Model, Verdict, check, history};

    #[test]
    fn every_model_has_a_guide_whose_example_is_what_it_says() {
        let names: Vec<_> = GUIDES.iter().map(|guide| guide.model).collect();
        assert_eq!(names, Model::NAMES);
        for guide in GUIDES {
            let model = Model::parse(&guide.model.replace(":N", ":3")).unwrap();
            let history = history::parse(guide.lines().as_bytes(), history::Format::Json).unwrap();
            model.admit(&history).unwrap();
            let verdict = check(&history, &model, &Limits::default()).verdict;
            assert_eq!(verdict == Verdict::Linearizable, guide.linearizable, "{}: {verdict:?}", guide.model);
        }
        assert_eq!(guide("semaphore:5").unwrap().model, "semaphore:N");
        assert_eq!(guide("semaphore").unwrap().model, "semaphore:N");
        assert!(guide("nothing").is_none());
    }
}
