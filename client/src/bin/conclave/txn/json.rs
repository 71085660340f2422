//! A transaction in JSON.

use std::time::Duration;

use bytes::Bytes;
use conclave_client::Kind;
use conclave_proto::NodePath;
use serde::Deserialize;

use super::{Comparison, Operation, Relation, Script, Test, syntax};
use crate::output::base64_decode;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ScriptJson {
    #[serde(default, rename = "if")]
    when: Vec<ComparisonJson>,
    #[serde(default)]
    then: Vec<OperationJson>,
    #[serde(default, rename = "else")]
    otherwise: Vec<OperationJson>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ComparisonJson {
    path: String,
    #[serde(default)]
    relation: Option<String>,
    exists: Option<bool>,
    version: Option<u64>,
    create_revision: Option<u64>,
    modify_revision: Option<u64>,
    /// 0 for none.
    owner: Option<u64>,
    text: Option<String>,
    base64: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
enum OperationJson {
    Put(PutJson),
    Create(CreateJson),
    Delete(DeleteJson),
    Get(PathJson),
    List(PathJson),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PutJson {
    path: String,
    text: Option<String>,
    base64: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CreateJson {
    path: String,
    text: Option<String>,
    base64: Option<String>,
    #[serde(default)]
    sequential: bool,
    #[serde(default)]
    kind: KindJson,
    ttl: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "snake_case")]
enum KindJson {
    #[default]
    Persistent,
    Container,
    Ttl,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DeleteJson {
    path: String,
    #[serde(default)]
    recursive: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PathJson {
    path: String,
}

/// Reads a transaction; the error says where (line and column, or which clause) and what would be right.
pub fn script(text: &str) -> Result<Script, String> {
    let read: ScriptJson = serde_json::from_str(text).map_err(|e| format!("JSON: {e}"))?;
    fn all<A, B>(what: &str, list: Vec<A>, one: impl Fn(A) -> Result<B, String>) -> Result<Vec<B>, String> {
        let place = |(at, item)| one(item).map_err(|e| format!("JSON: {what:?}[{at}]: {e}"));
        list.into_iter().enumerate().map(place).collect()
    }
    Ok(Script {
        when: all("if", read.when, comparison)?,
        then: all("then", read.then, operation)?,
        otherwise: all("else", read.otherwise, operation)?,
    })
}

fn path(text: &str) -> Result<NodePath, String> {
    NodePath::parse(text).map_err(|e| e.to_string())
}

fn data(text: Option<String>, base64: Option<String>) -> Result<Option<Bytes>, String> {
    match (text, base64) {
        (Some(_), Some(_)) => Err("both \"text\" and \"base64\": give one".to_owned()),
        (Some(text), None) => Ok(Some(text.into())),
        (None, Some(base64)) => base64_decode(&base64).map(|data| Some(data.into())),
        (None, None) => Ok(None),
    }
}

fn comparison(json: ComparisonJson) -> Result<Comparison, String> {
    let relation = json.relation.as_deref().unwrap_or("=");
    let relation =
        Relation::parse(relation).ok_or_else(|| format!("relation {relation:?}: use \"=\", \"!=\", \"<\" or \">\""))?;
    let mut tests = Vec::new();
    tests.extend(json.exists.map(Test::Exists));
    tests.extend(json.version.map(|n| Test::Version(relation, n)));
    tests.extend(json.create_revision.map(|n| Test::CreateRevision(relation, n)));
    tests.extend(json.modify_revision.map(|n| Test::ModifyRevision(relation, n)));
    tests.extend(json.owner.map(Test::Owner));
    tests.extend(data(json.text, json.base64)?.map(|data| Test::Data(relation, data)));
    let [test] = <[Test; 1]>::try_from(tests).map_err(|tests| {
        let names = "exists, version, create_revision, modify_revision, owner, text or base64";
        format!("{} things to compare: give exactly one of {names}", tests.len())
    })?;
    if json.relation.is_some() && relation != Relation::Equal && matches!(test, Test::Exists(_) | Test::Owner(_)) {
        return Err("exists and owner can only be compared with \"=\"".to_owned());
    }
    Ok(Comparison { path: path(&json.path)?, test })
}

fn operation(json: OperationJson) -> Result<Operation, String> {
    Ok(match json {
        OperationJson::Put(put) => Operation::Put {
            path: path(&put.path)?,
            data: data(put.text, put.base64)?.ok_or("put needs \"text\" or \"base64\"")?,
        },
        OperationJson::Create(create) => Operation::Create {
            path: path(&create.path)?,
            data: data(create.text, create.base64)?.unwrap_or_default(),
            sequential: create.sequential,
            kind: kind(&create.kind, create.ttl.as_deref())?,
        },
        OperationJson::Delete(delete) => Operation::Delete { path: path(&delete.path)?, recursive: delete.recursive },
        OperationJson::Get(get) => Operation::Get { path: path(&get.path)? },
        OperationJson::List(list) => Operation::List { path: path(&list.path)? },
    })
}

fn kind(kind: &KindJson, ttl: Option<&str>) -> Result<Kind, String> {
    let ttl: Option<Duration> = ttl.map(syntax::ttl).transpose()?;
    match (kind, ttl) {
        (KindJson::Persistent, None) => Ok(Kind::Persistent),
        (KindJson::Container, None) => Ok(Kind::Container),
        (KindJson::Ttl, Some(ttl)) => Ok(Kind::Ttl(ttl)),
        (KindJson::Ttl, None) => Err("kind \"ttl\" needs \"ttl\", such as \"10m\"".to_owned()),
        (_, Some(_)) => Err("\"ttl\" goes with kind \"ttl\"".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_and_words_say_the_same() {
        let json = r#"{
            "if": [{"path": "/a", "version": 3}, {"path": "/b", "exists": false}, {"path": "/c", "relation": "<", "text": "x"}],
            "then": [{"put": {"path": "/a", "text": "x"}}, {"delete": {"path": "/b", "recursive": true}},
                     {"create": {"path": "/t", "kind": "ttl", "ttl": "1m", "base64": "aGk="}}],
            "else": [{"get": {"path": "/a"}}, {"list": {"path": "/"}}]
        }"#;
        let words = "if version(/a) = 3\nif missing(/b)\nif data(/c) < x\nthen put /a x\nthen del /b --recursive\n\
                     then create /t hi --ttl 1m\nelse get /a\nelse ls /";
        assert_eq!(script(json).expect("json"), syntax::script(words).expect("words"));
    }

    #[test]
    fn mistakes_are_named_where_they_are() {
        for (json, part) in [
            ("{", "line 1 column 1"),
            (r#"{"when": []}"#, "unknown field `when`, expected one of `if`, `then`, `else`"),
            (r#"{"then": [{"pot": {}}]}"#, "unknown variant `pot`"),
            (r#"{"then": [{"put": {"path": "/a", "value": "x"}}]}"#, "unknown field `value`"),
            (
                r#"{"then": [{"get": {"path": "/a"}}, {"put": {"path": "a", "text": "x"}}]}"#,
                "\"then\"[1]: path must begin",
            ),
            (r#"{"then": [{"put": {"path": "/a"}}]}"#, "put needs \"text\" or \"base64\""),
            (r#"{"then": [{"put": {"path": "/a", "text": "x", "base64": "eA=="}}]}"#, "give one"),
            (r#"{"then": [{"put": {"path": "/a", "base64": "?"}}]}"#, "not base64"),
            (r#"{"then": [{"create": {"path": "/a", "kind": "ttl"}}]}"#, "needs \"ttl\""),
            (r#"{"then": [{"create": {"path": "/a", "ttl": "1m"}}]}"#, "goes with kind"),
            (r#"{"then": [{"create": {"path": "/a", "kind": "ttl", "ttl": "1"}}]}"#, "has no unit"),
            (r#"{"if": [{"path": "/a"}]}"#, "\"if\"[0]: 0 things to compare"),
            (r#"{"if": [{"path": "/a", "version": 1, "exists": true}]}"#, "2 things to compare"),
            (r#"{"if": [{"path": "/a", "relation": "~", "version": 1}]}"#, "relation \"~\": use"),
            (r#"{"if": [{"path": "/a", "relation": "<", "owner": 1}]}"#, "only be compared with"),
        ] {
            let error = script(json).expect_err(json);
            assert!(error.contains(part), "{json}: {error}");
        }
    }
}
