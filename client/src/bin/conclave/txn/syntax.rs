//! The words of a transaction: `version(/a) = 3`, `put /a x`.

use std::{fmt, time::Duration};

use bytes::Bytes;
use conclave_client::Kind;
use conclave_proto::NodePath;

use super::{Comparison, Operation, Relation, Script, Test};
use crate::units::Span;

/// What is wrong, and where.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct SyntaxError {
    /// The clause as written.
    pub text: String,
    /// Characters before the place, from 0.
    pub at: usize,
    /// What is wrong there, and what would be right.
    pub message: String,
}

impl fmt::Display for SyntaxError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "position {}: {}\n    {}\n    {}^", self.at + 1, self.message, self.text, " ".repeat(self.at))
    }
}

/// One word or sign, and where it begins (in bytes).
#[derive(Clone, Debug)]
struct Token {
    at: usize,
    word: Word,
}

#[derive(Clone, Debug, Eq, PartialEq)]
enum Word {
    /// Quoted or bare. Quoted words may hold any bytes.
    Text {
        bytes: Vec<u8>,
        quoted: bool,
    },
    Open,
    Close,
    Relation(Relation),
}

struct Cursor<'a> {
    text: &'a str,
    tokens: Vec<Token>,
    next: usize,
}

type Result<T> = std::result::Result<T, SyntaxError>;

/// Reads a comparison.
pub fn comparison(text: &str) -> Result<Comparison> {
    let mut cursor = Cursor::comparison(text)?;
    let (what, at) = cursor.word("a comparison: exists missing version create_revision modify_revision data owner")?;
    match cursor.tokens.get(cursor.next).map(|token| &token.word) {
        Some(Word::Open) => {}
        _ => return Err(cursor.wrong(cursor.here(), format!("expected (PATH) after {what}, such as {what}(/a)"))),
    }
    cursor.next += 1;
    let path = cursor.path()?;
    match cursor.tokens.get(cursor.next).map(|token| &token.word) {
        Some(Word::Close) => cursor.next += 1,
        _ => return Err(cursor.wrong(cursor.here(), "expected ')' after the path".to_owned())),
    }
    let test = match what.as_str() {
        "exists" => Test::Exists(true),
        "missing" => Test::Exists(false),
        "version" | "create_revision" | "modify_revision" => {
            let relation = cursor.relation(&what, "3")?;
            let number = cursor.number()?;
            match what.as_str() {
                "version" => Test::Version(relation, number),
                "create_revision" => Test::CreateRevision(relation, number),
                _ => Test::ModifyRevision(relation, number),
            }
        }
        "data" => {
            let relation = cursor.relation("data", "TEXT")?;
            Test::Data(relation, cursor.data("the data to compare with")?)
        }
        "owner" => {
            let at = cursor.here();
            if cursor.relation("owner", "17")? != Relation::Equal {
                return Err(cursor.wrong(at, "an owner can only be compared with =".to_owned()));
            }
            let at = cursor.here();
            match cursor.word("a session id or none")?.0.as_str() {
                "none" => Test::Owner(0),
                id => match id.parse::<crate::args::SessionNumber>() {
                    Ok(id) => Test::Owner(id.0),
                    Err(message) => return Err(cursor.wrong(at, message)),
                },
            }
        }
        "held_since" => {
            let message = "held_since needs the session that holds; a program's own, this command has none";
            return Err(cursor.wrong(at, message.to_owned()));
        }
        _ => {
            let message = format!(
                "{what:?} is no comparison: use exists missing version create_revision modify_revision data or owner"
            );
            return Err(cursor.wrong(at, message));
        }
    };
    cursor.end()?;
    Ok(Comparison { path, test })
}

/// Reads an operation.
pub fn operation(text: &str) -> Result<Operation> {
    let mut cursor = Cursor::operation(text)?;
    let (what, at) = cursor.word("an operation: put create del get ls")?;
    let operation = match what.as_str() {
        "put" => Operation::Put { path: cursor.path()?, data: cursor.data("the data to write, \"\" for none")? },
        "create" => cursor.create()?,
        "del" | "delete" => {
            let path = cursor.path()?;
            let mut recursive = false;
            while let Some((flag, at)) = cursor.flag()? {
                match flag.as_str() {
                    "--recursive" | "-r" => recursive = true,
                    _ => return Err(cursor.wrong(at, format!("{flag:?} is no option of del: it takes --recursive"))),
                }
            }
            Operation::Delete { path, recursive }
        }
        "get" => Operation::Get { path: cursor.path()? },
        "ls" | "list" => Operation::List { path: cursor.path()? },
        _ => return Err(cursor.wrong(at, format!("{what:?} is no operation: use put create del get or ls"))),
    };
    cursor.end()?;
    Ok(operation)
}

/// Reads a whole transaction: a clause a line.
pub fn script(text: &str) -> std::result::Result<Script, String> {
    let mut script = Script::default();
    for (number, line) in text.lines().enumerate() {
        let clause = line.trim();
        if clause.is_empty() || clause.starts_with('#') {
            continue;
        }
        let place = |e: SyntaxError| format!("line {}, {e}", number + 1);
        let (word, rest) = clause.split_once(char::is_whitespace).unwrap_or((clause, ""));
        match word {
            "if" => script.when.push(comparison(rest).map_err(place)?),
            "then" => script.then.push(operation(rest).map_err(place)?),
            "else" => script.otherwise.push(operation(rest).map_err(place)?),
            _ => return Err(format!("line {}: {word:?} begins no clause: use if, then or else", number + 1)),
        }
    }
    Ok(script)
}

impl<'a> Cursor<'a> {
    /// Comparisons know signs; in operations `=` and `(` are letters like any other.
    fn comparison(text: &'a str) -> Result<Self> {
        Ok(Self { text, tokens: tokens(text, true)?, next: 0 })
    }

    fn operation(text: &'a str) -> Result<Self> {
        Ok(Self { text, tokens: tokens(text, false)?, next: 0 })
    }

    fn here(&self) -> usize {
        self.tokens.get(self.next).map_or(self.text.len(), |token| token.at)
    }

    fn wrong(&self, at: usize, message: String) -> SyntaxError {
        wrong(self.text, at, message)
    }

    fn text(&mut self, expected: &str) -> Result<(Vec<u8>, bool, usize)> {
        let at = self.here();
        match self.tokens.get(self.next).map(|token| &token.word) {
            Some(Word::Text { bytes, quoted }) => {
                let found = (bytes.clone(), *quoted, at);
                self.next += 1;
                Ok(found)
            }
            _ => Err(self.wrong(at, format!("expected {expected}"))),
        }
    }

    fn word(&mut self, expected: &str) -> Result<(String, usize)> {
        let (bytes, _, at) = self.text(expected)?;
        match String::from_utf8(bytes) {
            Ok(word) => Ok((word, at)),
            Err(_) => Err(self.wrong(at, format!("not UTF-8 text; expected {expected}"))),
        }
    }

    fn path(&mut self) -> Result<NodePath> {
        let (word, at) = self.word("a path, such as /a/b")?;
        NodePath::parse(&word).map_err(|e| self.wrong(at, e.to_string()))
    }

    fn data(&mut self, expected: &str) -> Result<Bytes> {
        self.text(expected).map(|(bytes, _, _)| bytes.into())
    }

    fn number(&mut self) -> Result<u64> {
        let (word, at) = self.word("a number")?;
        word.parse().map_err(|_| self.wrong(at, format!("{word:?} is no number from 0 to {}", u64::MAX)))
    }

    fn relation(&mut self, what: &str, example: &str) -> Result<Relation> {
        match self.tokens.get(self.next).map(|token| &token.word) {
            Some(Word::Relation(relation)) => {
                let relation = *relation;
                self.next += 1;
                Ok(relation)
            }
            _ => Err(self.wrong(self.here(), format!("expected = != < or >, such as {what}(/a) = {example}"))),
        }
    }

    /// An unquoted word that begins with a dash, if one is next.
    fn flag(&mut self) -> Result<Option<(String, usize)>> {
        match self.tokens.get(self.next).map(|token| &token.word) {
            Some(Word::Text { bytes, quoted: false }) if bytes.first() == Some(&b'-') => {
                self.word("an option").map(Some)
            }
            _ => Ok(None),
        }
    }

    fn create(&mut self) -> Result<Operation> {
        let path = self.path()?;
        let (mut data, mut sequential, mut kind) = (None, false, Kind::Persistent);
        while self.next < self.tokens.len() {
            let Some((flag, at)) = self.flag()? else {
                if data.is_some() {
                    return Err(self.wrong(self.here(), "one word too many: quote data that has blanks".to_owned()));
                }
                data = Some(self.data("data")?);
                continue;
            };
            match flag.as_str() {
                "--sequential" => sequential = true,
                "--container" => kind = Kind::Container,
                "--ttl" => {
                    let (word, at) = self.word("a time after --ttl, such as 10m")?;
                    kind = Kind::Ttl(ttl(&word).map_err(|message| self.wrong(at, message))?);
                }
                "--ephemeral" => {
                    let message = "an ephemeral node needs a session to die with; this command has none";
                    return Err(self.wrong(at, message.to_owned()));
                }
                _ => {
                    let message = format!("{flag:?} is no option of create: it takes --sequential, --container, --ttl");
                    return Err(self.wrong(at, message));
                }
            }
        }
        Ok(Operation::Create { path, data: data.unwrap_or_default(), sequential, kind })
    }

    fn end(&self) -> Result<()> {
        if self.next == self.tokens.len() {
            return Ok(());
        }
        Err(self.wrong(self.here(), "one word too many: quote text that has blanks".to_owned()))
    }
}

/// A node's TTL: positive, whole milliseconds.
pub fn ttl(text: &str) -> std::result::Result<Duration, String> {
    let Span(ttl) = text.parse()?;
    if ttl < Duration::from_millis(1) {
        return Err(format!("a TTL of {text} is too short: the least is 1ms"));
    }
    Ok(ttl)
}

fn wrong(text: &str, at: usize, message: String) -> SyntaxError {
    SyntaxError { text: text.to_owned(), at: text[..at].chars().count(), message }
}

fn tokens(text: &str, signs: bool) -> Result<Vec<Token>> {
    let mut tokens = Vec::new();
    let mut chars = text.char_indices().peekable();
    while let Some(&(at, c)) = chars.peek() {
        let word = match c {
            c if c.is_whitespace() => {
                chars.next();
                continue;
            }
            '(' | ')' if signs => {
                chars.next();
                if c == '(' { Word::Open } else { Word::Close }
            }
            '=' | '!' | '<' | '>' if signs => {
                let sign: String =
                    std::iter::from_fn(|| chars.next_if(|(_, c)| "=!<>".contains(*c))).map(|(_, c)| c).collect();
                match Relation::parse(&sign) {
                    Some(relation) => Word::Relation(relation),
                    None => return Err(wrong(text, at, format!("{sign:?} compares nothing here: use = != < or >"))),
                }
            }
            '\'' | '"' => {
                chars.next();
                Word::Text { bytes: quoted(text, at, c, &mut chars)?, quoted: true }
            }
            _ => {
                let ends = |c: char| c.is_whitespace() || (signs && "()=!<>".contains(c));
                let word: String = std::iter::from_fn(|| chars.next_if(|(_, c)| !ends(*c))).map(|(_, c)| c).collect();
                Word::Text { bytes: word.into_bytes(), quoted: false }
            }
        };
        tokens.push(Token { at, word });
    }
    Ok(tokens)
}

fn quoted(
    text: &str,
    opened: usize,
    quote: char,
    chars: &mut std::iter::Peekable<std::str::CharIndices<'_>>,
) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut buffer = [0; 4];
    while let Some((at, c)) = chars.next() {
        match c {
            c if c == quote => return Ok(bytes),
            '\\' if quote == '"' => match chars.next() {
                Some((_, 'n')) => bytes.push(b'\n'),
                Some((_, 't')) => bytes.push(b'\t'),
                Some((_, c @ ('\\' | '"'))) => bytes.push(c as u8),
                Some((_, 'x')) => {
                    let digits: String = chars.by_ref().take(2).map(|(_, c)| c).collect();
                    match u8::from_str_radix(&digits, 16) {
                        Ok(byte) if digits.len() == 2 => bytes.push(byte),
                        _ => return Err(wrong(text, at, "\\x takes two hexadecimal digits, such as \\xff".to_owned())),
                    }
                }
                _ => return Err(wrong(text, at, "unknown escape: use \\n \\t \\\\ \\\" or \\xNN".to_owned())),
            },
            c => bytes.extend_from_slice(c.encode_utf8(&mut buffer).as_bytes()),
        }
    }
    Err(wrong(text, opened, format!("this quote is never closed: a second {quote} is missing")))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn comparisons_are_read_as_they_are_written() {
        for text in [
            "exists(/a)",
            "missing(/a/b)",
            "version(/a) = 3",
            "version(/a) != 3",
            "create_revision(/a) > 3",
            "modify_revision(/a) < 18446744073709551615",
            "data(/a) = \"x\"",
            "owner(/a) = none",
            "owner(/a) = 17",
        ] {
            assert_eq!(comparison(text).expect(text).to_string(), text);
        }
        assert_eq!(comparison("version(/a)=3"), comparison("  version ( /a ) == 3 "));
        assert_eq!(comparison("owner(/a) = 0x1f").expect("hex").test, Test::Owner(31));
        assert_eq!(comparison("data(\"/a (b)\") = 'two words'").expect("quoted").path.as_str(), "/a (b)");
    }

    #[test]
    fn operations_are_read() {
        let path = |text| NodePath::parse(text).expect("a path");
        let put = |p, data: &'static [u8]| Operation::Put { path: path(p), data: Bytes::from_static(data) };
        for (text, expected) in [
            ("put /a x", put("/a", b"x")),
            ("put /a k=v(1)", put("/a", b"k=v(1)")),
            ("put '/a b' \"two\\nlines \\xff\"", put("/a b", b"two\nlines \xff")),
            ("put /a ''", put("/a", b"")),
            ("put /a -5", put("/a", b"-5")),
            ("del /a", Operation::Delete { path: path("/a"), recursive: false }),
            ("del /a --recursive", Operation::Delete { path: path("/a"), recursive: true }),
            ("get /a", Operation::Get { path: path("/a") }),
            ("ls /", Operation::List { path: path("/") }),
            (
                "create /q/n- --sequential x",
                Operation::Create { path: path("/q/n-"), data: "x".into(), sequential: true, kind: Kind::Persistent },
            ),
            (
                "create /t --ttl 1m",
                Operation::Create {
                    path: path("/t"),
                    data: Bytes::new(),
                    sequential: false,
                    kind: Kind::Ttl(Duration::from_secs(60)),
                },
            ),
        ] {
            assert_eq!(operation(text), Ok(expected), "{text}");
        }
    }

    #[test]
    fn mistakes_are_named_where_they_are() {
        for (text, at, part) in [
            ("", 1, "expected a comparison"),
            ("version", 8, "expected (PATH) after version"),
            ("version /a = 3", 9, "expected (PATH) after version"),
            ("version(a) = 3", 9, "path must begin with '/'"),
            ("version(/a = 3", 12, "expected ')'"),
            ("version(/a)", 12, "expected = != < or >"),
            ("version(/a) =", 14, "expected a number"),
            ("version(/a) = x", 15, "\"x\" is no number"),
            ("version(/a) >= 3", 13, "\">=\" compares nothing here"),
            ("version(/a) = 3 4", 17, "one word too many"),
            ("ä(/a) = 3", 1, "is no comparison"),
            ("data(/ä) = 'x", 12, "never closed"),
            ("owner(/a) != 3", 11, "only be compared with ="),
            ("owner(/a) = bob", 13, "is no session id"),
            ("held_since(/a) = 3", 1, "needs the session"),
        ] {
            let error = comparison(text).expect_err(text);
            assert!(error.message.contains(part), "{text:?}: {error}");
            assert_eq!(error.at + 1, at, "{text:?}: {error}");
        }
        for (text, at, part) in [
            ("", 1, "expected an operation"),
            ("pot /a x", 1, "\"pot\" is no operation"),
            ("put", 4, "expected a path"),
            ("put a x", 5, "write \"/a\""),
            ("put /a", 7, "expected the data"),
            ("put /a two words", 12, "quote text that has blanks"),
            ("put /a \"x\\q\"", 10, "unknown escape"),
            ("put /a \"\\x4\"", 9, "two hexadecimal digits"),
            ("put /a 'x", 8, "never closed"),
            ("del /a --all", 8, "no option of del"),
            ("create /a x y", 13, "one word too many"),
            ("create /a --ttl", 16, "expected a time"),
            ("create /a --ttl 10", 17, "has no unit"),
            ("create /a --ttl 0s", 17, "too short"),
            ("create /a --ephemeral", 11, "needs a session"),
            ("get \"/\\xff\"", 5, "not UTF-8"),
        ] {
            let error = operation(text).expect_err(text);
            assert!(error.message.contains(part), "{text:?}: {error}");
            assert_eq!(error.at + 1, at, "{text:?}: {error}");
        }
    }

    #[test]
    fn a_mistake_is_pointed_at() {
        let error = operation("put ä x").expect_err("no slash");
        assert_eq!(
            error.to_string(),
            "position 5: path must begin with '/': got \"ä\", write \"/ä\"\n    put ä x\n        ^"
        );
    }

    #[test]
    fn a_script_is_a_clause_a_line() {
        let script =
            script("# a comment\n\nif version(/a) = 3\n  if exists(/b)\nthen put /a x\nelse get /a\n").expect("good");
        assert_eq!((script.when.len(), script.then.len(), script.otherwise.len()), (2, 1, 1));
        assert!(super::script("if exists(/a)\nthen pot /a").expect_err("pot").contains("line 2, position 1: \"pot\""));
        assert!(super::script("when exists(/a)").expect_err("when").contains("line 1: \"when\" begins no clause"));
    }

    proptest! {
        #[test]
        fn no_text_is_too_strange(text in "\\PC*") {
            let _ = comparison(&text);
            let _ = operation(&text);
            let _ = script(&text);
        }

        #[test]
        fn whatever_is_quoted_comes_back(data in proptest::collection::vec(any::<u8>(), 0..40)) {
            let hex: String = data.iter().map(|b| format!("\\x{b:02x}")).collect();
            let read = operation(&format!("put /a \"{hex}\"")).expect("quoted");
            prop_assert_eq!(read, Operation::Put { path: NodePath::parse("/a").expect("a path"), data: data.into() });
        }
    }
}
