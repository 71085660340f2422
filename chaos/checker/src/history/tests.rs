use proptest::prelude::*;

use super::*;

fn json(text: &str) -> Result<History, ParseError> {
    parse(text.as_bytes(), Format::Json)
}

fn edn(text: &str) -> Result<History, ParseError> {
    parse(text.as_bytes(), Format::Edn { independent: false })
}

const REGISTER_JSON: &str = r#"
{"process":0,"type":"invoke","f":"write","value":1,"time":10,"index":0}
{"process":1,"type":"invoke","f":"read","value":null,"time":11}
{"process":"nemesis","type":"info","f":"start-partition","value":"n1"}
{"process":0,"type":"ok","f":"write","value":1,"time":12}
 { "process" : 1 , "type" : "ok", "f" : "read", "value" : 1, "time" : 13, "node": {"a":[1,{}]} }
{"process":2,"type":"invoke","f":"cas","value":[1,2]}
{"process":2,"type":"info","f":"cas","value":[1,2],"error":["timeout",5]}
{"process":"nemesis","type":"info","f":"stop-partition"}
{"process":3,"type":"invoke","f":"cas","value":[9,2]}
{"process":3,"type":"fail","f":"cas","value":[9,2]}
"#;

const REGISTER_EDN: &str = r#"
; a history
[{:process 0, :type :invoke, :f :write, :value 1, :time 10 :index 0}
 #jepsen.history.Op{:process 1 :type :invoke :f :read :value nil :time 11}
 {:process :nemesis :type :info :f :start-partition :value "n1"} #_ {:ignored [1 2]}
 {:type :ok :process 0 :f :write :value 1 :time 12}
 {:type :ok :process 1 :f :read :value 1 :time 13 :node {:a #{1 2}}}
 {:process 2 :type :invoke :f :cas :value [1 2]}
 {:process 2 :type :info :f :cas :value [1 2] :error [:timeout 5]}
 {:process :nemesis :type :info :f :stop-partition}
 {:process 3 :type :invoke :f :cas :value (9 2)}
 {:process 3 :type :fail :f :cas :value [9 2]}]
"#;

#[test]
fn both_forms_read_the_same() {
    let history = json(REGISTER_JSON).unwrap();
    assert_eq!(history, edn(REGISTER_EDN).unwrap());
    // One map a line.
    let lines = REGISTER_EDN.replace("\n[", "\n").replace("]\n", "\n").replace("[9 2]}]", "[9 2]}");
    assert_eq!(history, edn(&lines).unwrap());

    assert_eq!(history.operations.len(), 4);
    assert_eq!(history.events, 10);
    let [write, read, unknown, failed] = &history.operations[..] else { panic!() };
    assert_eq!((write.called, write.returned, write.outcome), (0, 3, Outcome::Ok));
    assert_eq!((write.called_ns, write.returned_ns), (10, 12));
    assert_eq!((&read.argument, &read.result), (&Value::Null, &Value::Int(1)));
    assert_eq!((unknown.outcome, unknown.returned), (Outcome::Unknown, NEVER));
    assert_eq!(unknown.argument, Value::List([1.into(), 2.into()].into()));
    assert_eq!((failed.outcome, &failed.result), (Outcome::Fail, &Value::Null));
    let [fault] = &history.faults[..] else { panic!() };
    assert_eq!((fault.what.as_str(), fault.target.as_str(), fault.from, fault.until), ("partition", "n1", 2, 7));
}

#[test]
fn faults_end_with_their_counterparts() {
    let lines =
        ["start", "start", "stop", "kill", "restart", "partition-halves", "heal", "pause", "resume", "bump-clock"];
    let text: String = lines.iter().map(|f| format!("{{:process :nemesis :type :info :f :{f}}}\n")).collect();
    let faults: Vec<_> = edn(&text).unwrap().faults.into_iter().map(|f| (f.what, f.from, f.until)).collect();
    let expected =
        [("fault", 0, 2), ("kill", 3, 4), ("partition-halves", 5, 6), ("pause", 7, 8), ("bump-clock", 9, NEVER)];
    assert_eq!(faults, expected.map(|(what, from, until)| (what.to_owned(), from, until)));
}

/// As jepsen.nemesis.combined does it, each line written when asked for and when done.
#[test]
fn jepsens_own_nemeses_make_bands() {
    let lines = [
        (":start-partition", ":majority"),
        (":start-partition", "[:isolated {\"n1\" #{\"n2\" \"n3\"}}]"),
        (":kill", ":minority"),
        (":kill", "{\"n2\" :killed}"),
        (":check-clock-offsets", "nil"),
        (":check-clock-offsets", "{\"n1\" -1/2}"),
        (":start", ":all"),
        (":start", "{\"n2\" :started}"),
        (":bump-clock", "{\"n1\" 262144N}"),
        (":bump-clock", "{\"n1\" 262144N}"),
        (":stop-partition", "nil"),
        (":stop-partition", ":network-healed"),
        (":reset-clock", "[\"n1\"]"),
        (":reset-clock", "nil"),
        (":pause", ":primaries"),
        (":pause", "{\"n3\" :paused}"),
        (":resume", ":all"),
        (":resume", "{\"n3\" :resumed}"),
    ];
    let line = |(at, (f, value)): (usize, &(&str, &str))| {
        format!("{{:type :info, :process :nemesis, :f {f}, :value {value}, :time {at}, :index {at}}}\n")
    };
    let text: String = lines.iter().enumerate().map(line).collect();
    let faults: Vec<_> =
        edn(&text).unwrap().faults.into_iter().map(|f| (f.what, f.target, f.from, f.until, f.until_ns)).collect();
    let expected = [
        ("partition", "[isolated [[n1 [n2 n3]]]]", 0, 10),
        ("kill", "[[n2 killed]]", 2, 6),
        ("bump-clock", "[[n1 262144]]", 8, 12),
        ("pause", "[[n3 paused]]", 14, 16),
    ];
    let expected =
        expected.map(|(what, to, from, until)| (what.to_owned(), to.to_owned(), from, until, i64::from(until)));
    assert_eq!(faults, expected);
}

/// Whatever EDN allows and Clojure prints.
#[test]
fn odd_but_legal_edn_is_read() {
    let text = r#"
;; test: etcd, #{:odd}
#_#_ {:not "read"} [this, either]
#jepsen.history.Op{:index 0, :time 2112N, :type :invoke, :process 0, :f :write, :value :unset}
#jepsen.history.Op{:index 1, :time 2113, :type :ok, :process 0, :f :write, :value :unset, :clock-offsets {"n1" -0.25M, "n2" 1/3}}
{:jepsen/index 2 :op/type :op.type/invoke, :op/process 1, :op/f :register/read, :op/value nil :when #inst "2026-11-21T15:00:00.000-00:00"}
^{:line 7} {:index 3 :type :ok :process 1 :f read :value :unset, :id #uuid "f81d4fae-7dec-11d0-a765-00a0c91e6bf6" #_:gone #_(1 2)}
#:op{:type :invoke :process 2 :f :write :value #{:b :a}}{:type :info :process 2 :f :write :value #{:a :b} :error [:indeterminate, \newline ##NaN]}
(comment)
"#;
    let error = edn(text).unwrap_err();
    assert!(error.reason.starts_with("an event is a map"), "{error}");
    assert_eq!(error.line, 9);
    let history = edn(&text.replace("(comment)\n", "; comment\n")).unwrap();
    let [write, read, unknown] = &history.operations[..] else { panic!("{history:?}") };
    assert_eq!((write.called_ns, &write.argument), (2112, &"unset".into()));
    assert_eq!((read.outcome, &read.result), (Outcome::Ok, &"unset".into()));
    assert_eq!(unknown.argument, Value::List(["a".into(), "b".into()].into()));
    assert_eq!(unknown.outcome, Outcome::Unknown);

    let value = |text: &str| {
        let text = format!("{{:process 0 :type :invoke :f :put :value {text}}}");
        edn(&text).map(|history| history.operations[0].argument.to_string())
    };
    for (text, read) in [
        ("+5", "5"),
        ("-7N", "-7"),
        ("99999999999999999999N", "99999999999999999999"),
        ("22/7", "22/7"),
        ("1.50M", "1.50M"),
        ("6.02e23", "6.02e23"),
        (":jepsen.nemesis/kill", "jepsen.nemesis/kill"),
        ("::local", "local"),
        ("some-ns/sym?", "some-ns/sym?"),
        ("\\a", "\\a"),
        ("\\newline", "\\newline"),
        ("##-Inf", "-Inf"),
        ("[1 #_2 3 #_ #_ 4 5]", "[1 3]"),
        ("{:a 1, \"b\" {:c #{}}}", "[[a 1] [b [[c []]]]]"),
        ("#clj-time/date-time \"2026\"", "2026"),
        ("\"tab\\there \\u00e9\\\\\"", "tab\there é\\"),
        ("()", "[]"),
        ("#jepsen.independent.Tuple[9 true]", "true"),
    ] {
        assert_eq!(value(text).as_deref(), Ok(read), "{text}");
    }
    for (text, reason) in [
        ("#{1", "expected '}', found the end"),
        ("\"no end", "a text has no end"),
        ("{:a}", "a map has a name without a value"),
        ("[1)", "expected a value, found ')'"),
        ("#jepsen.independent.Tuple 5", "a tuple is [key value], not 5"),
        ("\"\\u12\"", "\\u takes four hexadecimal digits"),
    ] {
        let error = value(text).unwrap_err();
        assert!(error.reason.starts_with(reason), "{text}: {error}");
    }
    let error = edn("{:valid? true, :count 5}").unwrap_err();
    assert_eq!(error.reason, "the event has no process");
}

#[test]
fn independent_keys_are_taken_from_values() {
    let text = "{:process 0 :type :invoke :f :read :value [7 nil]}\n{:process 0 :type :ok :f :read :value [7 3]}";
    let history = parse(text.as_bytes(), Format::Edn { independent: true }).unwrap();
    assert_eq!(history.keys, [Value::Int(7)]);
    assert_eq!(history.operations[0].result, Value::Int(3));
    let tagged = text.replace("[7", "#jepsen.independent.Tuple[7");
    assert_eq!(edn(&tagged).unwrap(), history);
    let record = "{:process 0 :type :invoke :f :read :value #jepsen.independent.Tuple{:key 7, :val nil}}
        {:process 0 :type :ok :f :read :value #jepsen.independent.Tuple{:key 7 :val 3}}";
    assert_eq!(edn(record).unwrap(), history);
}

#[test]
fn a_reason_of_failure_is_kept() {
    let text = r#"{"process":0,"type":"invoke","f":"acquire","key":"l"}
{"process":0,"type":"fail","f":"acquire","key":"l","error":"Timed out"}
{"process":0,"type":"invoke","f":"acquire","key":"l"}
{"process":0,"type":"fail","f":"acquire","value":"timeout"}
{"process":0,"type":"invoke","f":"acquire","key":"l"}
{"process":0,"type":"fail","f":"acquire","value":null}"#;
    let history = json(text).unwrap();
    assert_eq!(history.operations.iter().map(Operation::timed_out).collect::<Vec<_>>(), [true, true, false]);
    assert!(history.operations.iter().all(|operation| history.keys[operation.key as usize] == "l".into()));
}

#[test]
fn values_of_all_kinds_are_read() {
    let value = |text: &str| {
        let line = format!(r#"{{"process":0,"type":"invoke","f":"put","value":{text}}}"#);
        json(&line).map(|history| history.operations[0].argument.clone())
    };
    assert_eq!(value("-5").unwrap(), Value::Int(-5));
    assert_eq!(value("true").unwrap(), Value::Bool(true));
    assert_eq!(value(r#""a\"\u00e4\n""#).unwrap(), "a\"ä\n".into());
    assert_eq!(value("[]").unwrap(), Value::List([].into()));
    assert_eq!(value("[1, [null] ,\"x\"]").unwrap().to_string(), "[1 [nil] x]");
    assert_eq!(value("{\"b\":1,\"a\":{}}").unwrap().to_string(), "[[a []] [b 1]]");
    assert_eq!(value("1.5").unwrap(), "1.5".into());
    assert_eq!(value("99999999999999999999").unwrap(), "99999999999999999999".into());
    for bad in ["", "nope", "[1", "[1,]", "{\"a\"}", "{1:2}", "+5", "1 2", "\"x", "\"\\q\""] {
        assert!(value(bad).is_err(), "{bad}");
    }
}

#[test]
fn what_is_wrong_is_said_with_its_line() {
    let ok = r#"{"process":0,"type":"invoke","f":"read"}"#;
    for (line, reason) in [
        (r#"{"process":0,"type":"invoke","f":"read"}"#, "process 0 calls read while its read is under way"),
        (r#"{"process":1,"type":"ok","f":"read"}"#, "process 1 returns from read, which it did not call"),
        (r#"{"process":0,"type":"ok","f":"write"}"#, "process 0 returns from write, but called read"),
        (r#"{"process":0,"type":"ok","f":"read","key":"x"}"#, "process 0 called read with key nil, not x"),
        (r#"{"process":1,"type":"maybe","f":"read"}"#, "the type is invoke, ok, fail or info, not \"maybe\""),
        (r#"{"process":1,"type":"ok","f":"reed"}"#, "no operation is called \"reed\""),
        (r#"{"process":1,"f":"read"}"#, "the event has no type"),
        (r#"{"type":"ok","f":"read"}"#, "the event has no process"),
        (r#"{"process":1,"type":"ok"}"#, "the event has no f"),
        (r#"{"process":1,"type":"ok","f":"read","time":"noon"}"#, "the time is whole nanoseconds, not \"noon\""),
        (r#"{"process":1"#, "expected a comma or the end of the object, found the end of the line"),
        (r#"{"process":1} x"#, "expected one event a line, found 'x'"),
        ("[]", "expected '{', found '['"),
    ] {
        let error = json(&format!("\n{ok}\n\n{line}\n")).unwrap_err();
        assert_eq!((error.line, error.reason.as_str()), (4, reason), "{line}");
    }
    for (text, line, reason) in [
        ("{:process 0 :type :ok :f :read}", 1, "process 0 returns from read, which it did not call"),
        ("[{:process 0 :type :invoke\n :f :read}\n 5]", 3, "an event is a map"),
        ("[{:process 0 :type :invoke :f :read}\n", 2, "the vector of events has no end"),
        ("\n{:process 0 :type", 2, "expected '}', found the end"),
        ("{:process 0 :type}", 1, "a map has a name without a value"),
        ("[] 5", 1, "expected nothing after the vector of events"),
        ("{:process 0 :type :invoke :f :reed}", 1, "no operation is called \"reed\""),
    ] {
        let error = edn(text).unwrap_err();
        assert_eq!(error.line, line, "{text}: {error}");
        assert!(error.reason.starts_with(reason), "{text}: {error}");
    }
    let deep = "[".repeat(100_000);
    assert!(edn(&deep).is_err());
    assert!(edn(&"#_".repeat(100_000)).is_err());
    assert!(edn(&"^".repeat(100_000)).is_err());
    assert!(edn(&"#_[".repeat(100_000)).is_err());
    assert!(edn(&"#a ".repeat(100_000)).is_err());
    assert!(json(&format!("{{\"value\":{deep}")).is_err());
    assert!(json(&format!("{{\"x\":{deep}")).is_err());
}

#[test]
fn lines_of_events_are_found_again() {
    let history = json(REGISTER_JSON).unwrap();
    let line = |position| line_of(REGISTER_JSON.as_bytes(), Format::Json, position);
    assert_eq!(line(history.operations[3].called), Some(10));
    assert_eq!(line(100), None);
    let line = |position| line_of(REGISTER_EDN.as_bytes(), Format::Edn { independent: false }, position);
    assert_eq!(line(history.operations[3].called), Some(11));
}

/// Longer than a chunk: what is read in parallel is put together right.
#[test]
fn chunks_meet_without_a_seam() {
    let operations = 150_000;
    let mut text = String::new();
    for at in 0..operations {
        let process = at % 7;
        text += &format!(
            "{{\"process\":{process},\"type\":\"invoke\",\"f\":\"put\",\"key\":\"k{}\",\"value\":\"v{at}\"}}\n",
            at % 3
        );
        text += &format!("{{\"process\":{process},\"type\":\"ok\",\"f\":\"put\",\"key\":\"k{}\"}}\n", at % 3);
    }
    assert!(text.len() > 3 * (4 << 20));
    let history = json(&text).unwrap();
    assert_eq!(history.operations.len(), operations);
    assert_eq!((history.processes.len(), history.keys.len()), (7, 3));
    for (at, operation) in history.operations.iter().enumerate() {
        assert_eq!(operation.argument, format!("v{at}").as_str().into());
        assert_eq!((operation.called, operation.returned), (2 * at as u32, 2 * at as u32 + 1));
    }
    let error = json(&(text + "?")).unwrap_err();
    assert_eq!(error.line, 2 * operations as u32 + 1);
}

/// What is told as it happens is what would be read of a file.
#[test]
fn what_is_recorded_is_what_is_read() {
    let text = r#"
{"process":"a","type":"invoke","f":"acquire","key":"l","time":1}
{"process":"b","type":"invoke","f":"acquire","key":"l","time":2}
{"process":"a","type":"ok","f":"acquire","key":"l","value":7,"time":3}
{"process":"c","type":"invoke","f":"try_acquire","key":"l","time":4}
{"process":"c","type":"fail","f":"try_acquire","key":"l","error":"held","time":5}
"#;
    let mut seen = Recorder::default();
    let one = seen.call("a", "l", Function::Acquire, (), 1);
    seen.call("b", "l", Function::Acquire, (), 2);
    seen.ok(one, 7, 3);
    let refused = seen.call("c", "l", Function::TryAcquire, (), 4);
    seen.fail(refused, "held", 5);
    assert_eq!(seen.finish(), json(text).unwrap());
}

#[test]
#[should_panic(expected = "a has a call under way")]
fn a_process_does_one_thing_at_a_time() {
    let mut seen = Recorder::default();
    seen.call("a", "l", Function::Acquire, (), 1);
    seen.call("a", "l", Function::Acquire, (), 2);
}

fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::Bool),
        any::<i64>().prop_map(Value::Int),
        any::<String>().prop_map(|text| Value::Text(text.into())),
    ];
    leaf.prop_recursive(3, 12, 4, |inner| {
        proptest::collection::vec(inner, 0..4).prop_map(|values| Value::List(values.into()))
    })
}

fn to_json(value: &Value) -> serde_json::Value {
    match value {
        Value::Null => serde_json::Value::Null,
        Value::Bool(value) => (*value).into(),
        Value::Int(value) => (*value).into(),
        Value::Text(value) => (**value).into(),
        Value::List(values) => values.iter().map(to_json).collect(),
    }
}

fn to_edn(value: &Value) -> String {
    match value {
        Value::Null => "nil".into(),
        Value::Text(text) => format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\"")),
        Value::List(values) => format!("[{}]", values.iter().map(to_edn).collect::<Vec<_>>().join(" ")),
        other => other.to_string(),
    }
}

proptest! {
    #[test]
    fn what_is_written_is_read_back(values in proptest::collection::vec(value(), 1..8)) {
        let mut lines = String::new();
        let mut maps = String::new();
        for (process, value) in values.iter().enumerate() {
            lines += &serde_json::json!({"process": process, "type": "invoke", "f": "put", "value": to_json(value)}).to_string();
            lines += "\n";
            maps += &format!("{{:process {process} :type :invoke :f :put :value {}}}\n", to_edn(value));
        }
        let history = json(&lines).unwrap();
        let read: Vec<_> = history.operations.iter().map(|operation| operation.argument.clone()).collect();
        prop_assert_eq!(&read, &values);
        prop_assert_eq!(edn(&maps).unwrap(), history);
    }

    #[test]
    fn nothing_makes_it_panic(mut bytes in Just(REGISTER_JSON.as_bytes().to_vec()), edits in proptest::collection::vec((any::<usize>(), any::<u8>(), any::<bool>()), 1..6)) {
        for (at, byte, cut) in edits {
            let at = at % bytes.len();
            if cut { bytes.truncate(at.max(1)); } else { bytes[at] = byte; }
        }
        let _ = parse(&bytes, Format::Json);
        let _ = parse(&bytes, Format::Edn { independent: true });
    }

    #[test]
    fn nothing_makes_edn_panic(mut bytes in Just(REGISTER_EDN.as_bytes().to_vec()), edits in proptest::collection::vec((any::<usize>(), any::<u8>(), any::<bool>()), 1..6)) {
        for (at, byte, cut) in edits {
            let at = at % bytes.len();
            if cut { bytes.truncate(at.max(1)); } else { bytes[at] = byte; }
        }
        let _ = parse(&bytes, Format::Edn { independent: false });
    }
}
