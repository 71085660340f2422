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
    /// A history, one event a line.
    pub example: &'static str,
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

impl fmt::Display for Guide {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}: {}\n\nOperations:", self.model, self.about)?;
        for (operation, text) in self.operations {
            writeln!(f, "  {operation:<20} {text}")?;
        }
        writeln!(f, "\n{OUTCOMES}\n\nAn example:\n{}", self.example.trim_end())?;
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
        example: r#"
{"process":0,"type":"invoke","f":"write","value":1}
{"process":0,"type":"ok","f":"write","value":1}
{"process":1,"type":"invoke","f":"write","value":2}
{"process":1,"type":"ok","f":"write","value":2}
{"process":0,"type":"invoke","f":"read","value":null}
{"process":0,"type":"ok","f":"read","value":1}
"#,
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
        example: r#"
{"process":0,"type":"invoke","f":"write","value":1}
{"process":1,"type":"invoke","f":"cas","value":[1,2]}
{"process":0,"type":"ok","f":"write","value":1}
{"process":1,"type":"ok","f":"cas","value":[1,2]}
{"process":0,"type":"invoke","f":"cas","value":[1,3]}
{"process":0,"type":"fail","f":"cas","value":[1,3]}
"#,
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
        example: r#"
{"process":0,"type":"invoke","f":"put","key":"x","value":"a"}
{"process":0,"type":"ok","f":"put","key":"x","value":"a"}
{"process":1,"type":"invoke","f":"append","key":"x","value":"b"}
{"process":1,"type":"info","f":"append","key":"x","value":"b"}
{"process":0,"type":"invoke","f":"get","key":"x","value":null}
{"process":0,"type":"ok","f":"get","key":"x","value":"ab"}
"#,
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
        example: r#"
{"process":0,"type":"invoke","f":"put","key":"x","value":"a"}
{"process":0,"type":"ok","f":"put","key":"x","value":["a",7]}
{"process":1,"type":"invoke","f":"put","key":"x","value":"b"}
{"process":1,"type":"ok","f":"put","key":"x","value":["b",6]}
"#,
        linearizable: false,
        because: "the later put has the smaller revision.",
    },
    Guide {
        model: "list-append",
        about: "lists by key, and transactions over them: strict serializability",
        operations: &[("txn", "a list of [\"append\", key, value] and [\"r\", key, list]; lists are null on invoke")],
        example: r#"
{"process":0,"type":"invoke","f":"txn","value":[["append","x",1],["append","y",1]]}
{"process":1,"type":"invoke","f":"txn","value":[["r","x",null],["r","y",null]]}
{"process":0,"type":"ok","f":"txn","value":[["append","x",1],["append","y",1]]}
{"process":1,"type":"ok","f":"txn","value":[["r","x",[1]],["r","y",[]]]}
"#,
        linearizable: false,
        because: "the read saw one half of the transaction and not the other.",
    },
    Guide {
        model: "mutex",
        about: "a lock that anybody may release",
        operations: LOCKING,
        example: r#"
{"process":0,"type":"invoke","f":"acquire","value":null}
{"process":0,"type":"ok","f":"acquire","value":null}
{"process":1,"type":"invoke","f":"acquire","value":null}
{"process":1,"type":"ok","f":"acquire","value":null}
"#,
        linearizable: false,
        because: "the second acquire succeeded while the lock was held.",
    },
    Guide {
        model: "owner-mutex",
        about: "a lock that only its holder may release",
        operations: LOCKING,
        example: r#"
{"process":0,"type":"invoke","f":"acquire","value":null}
{"process":0,"type":"ok","f":"acquire","value":null}
{"process":1,"type":"invoke","f":"release","value":null}
{"process":1,"type":"ok","f":"release","value":null}
"#,
        linearizable: false,
        because: "process 1 released what process 0 held.",
    },
    Guide {
        model: "reentrant-mutex",
        about: "a lock that its holder may acquire again, and releases as often",
        operations: LOCKING,
        example: r#"
{"process":0,"type":"invoke","f":"acquire","value":null}
{"process":0,"type":"ok","f":"acquire","value":null}
{"process":0,"type":"invoke","f":"acquire","value":null}
{"process":0,"type":"ok","f":"acquire","value":null}
{"process":0,"type":"invoke","f":"release","value":null}
{"process":0,"type":"ok","f":"release","value":null}
{"process":1,"type":"invoke","f":"acquire","value":null}
{"process":1,"type":"ok","f":"acquire","value":null}
"#,
        linearizable: false,
        because: "process 0 had released one of its two holds only.",
    },
    Guide {
        model: "fenced-mutex",
        about: "a lock whose grants carry rising tokens; a hold may be lost without a trace, a released one was not",
        operations: TOKENS,
        example: r#"
{"process":0,"type":"invoke","f":"acquire","key":"l","value":null}
{"process":0,"type":"ok","f":"acquire","key":"l","value":33}
{"process":1,"type":"invoke","f":"acquire","key":"l","value":null}
{"process":0,"type":"invoke","f":"release","key":"l","value":33}
{"process":0,"type":"ok","f":"release","key":"l","value":33}
{"process":1,"type":"ok","f":"acquire","key":"l","value":34}
"#,
        linearizable: true,
        because: "the second grant came after the release and has the larger token.",
    },
    Guide {
        model: "semaphore:N",
        about: "up to N holders at a time",
        operations: LOCKING,
        example: r#"
{"process":0,"type":"invoke","f":"acquire","value":null}
{"process":0,"type":"ok","f":"acquire","value":null}
{"process":1,"type":"invoke","f":"acquire","value":null}
{"process":1,"type":"ok","f":"acquire","value":null}
{"process":2,"type":"invoke","f":"acquire","value":null}
{"process":2,"type":"ok","f":"acquire","value":null}
"#,
        linearizable: true,
        because: "with semaphore:3; with semaphore:2 it is not.",
    },
    Guide {
        model: "fenced-semaphore:N",
        about: "up to N holders at a time, whose grants carry rising tokens",
        operations: TOKENS,
        example: r#"
{"process":0,"type":"invoke","f":"acquire","value":null}
{"process":0,"type":"ok","f":"acquire","value":5}
{"process":1,"type":"invoke","f":"acquire","value":null}
{"process":1,"type":"ok","f":"acquire","value":5}
"#,
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
        example: r#"
{"process":0,"type":"invoke","f":"acquire_shared","value":null}
{"process":0,"type":"ok","f":"acquire_shared","value":null}
{"process":1,"type":"invoke","f":"acquire_shared","value":null}
{"process":1,"type":"ok","f":"acquire_shared","value":null}
{"process":2,"type":"invoke","f":"acquire","value":null}
{"process":2,"type":"ok","f":"acquire","value":null}
"#,
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
        example: r#"
{"process":0,"type":"invoke","f":"campaign","value":null}
{"process":0,"type":"ok","f":"campaign","value":4}
{"process":1,"type":"invoke","f":"campaign","value":null}
{"process":1,"type":"ok","f":"campaign","value":3}
"#,
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
        example: r#"
{"process":0,"type":"invoke","f":"enqueue","value":1}
{"process":0,"type":"ok","f":"enqueue","value":1}
{"process":0,"type":"invoke","f":"enqueue","value":2}
{"process":0,"type":"ok","f":"enqueue","value":2}
{"process":1,"type":"invoke","f":"dequeue","value":null}
{"process":1,"type":"ok","f":"dequeue","value":2}
"#,
        linearizable: false,
        because: "1 came before 2.",
    },
    Guide {
        model: "counter",
        about: "a sum that begins at 0",
        operations: &[("add", "a whole number"), ("read", "null; ok returns the sum")],
        example: r#"
{"process":0,"type":"invoke","f":"add","value":2}
{"process":1,"type":"invoke","f":"add","value":3}
{"process":2,"type":"invoke","f":"read","value":null}
{"process":2,"type":"ok","f":"read","value":3}
{"process":0,"type":"ok","f":"add","value":2}
{"process":1,"type":"info","f":"add","value":3}
"#,
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
        example: r#"
{"process":0,"type":"invoke","f":"create","key":"/q","value":null}
{"process":0,"type":"ok","f":"create","key":"/q","value":"n-0000000007"}
{"process":1,"type":"invoke","f":"create","key":"/q","value":null}
{"process":1,"type":"ok","f":"create","key":"/q","value":"n-0000000007"}
"#,
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
        example: r#"
{"process":0,"type":"invoke","f":"open","key":"s1","value":3000}
{"process":0,"type":"ok","f":"open","key":"s1","value":3000}
{"process":1,"type":"invoke","f":"expire","key":"s1","value":null}
{"process":1,"type":"ok","f":"expire","key":"s1","value":null}
{"process":0,"type":"invoke","f":"renew","key":"s1","value":null}
{"process":0,"type":"ok","f":"renew","key":"s1","value":null}
"#,
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
            let history = history::parse(guide.example.as_bytes(), history::Format::Json).unwrap();
            model.admit(&history).unwrap();
            let verdict = check(&history, &model, &Limits::default()).verdict;
            assert_eq!(verdict == Verdict::Linearizable, guide.linearizable, "{}: {verdict:?}", guide.model);
        }
        assert_eq!(guide("semaphore:5").unwrap().model, "semaphore:N");
        assert_eq!(guide("semaphore").unwrap().model, "semaphore:N");
        assert!(guide("nothing").is_none());
    }
}
