//! Histories of other people's tests, as the checker reads them.

use conclave_checker::history::{Format, parse};

use crate::Target;

/// JSON lines.
pub const JSON: Target = Target {
    name: "history-json",
    about: "a history in JSON lines; what is refused names a line that is there",
    run: |data| read(data, &[Format::Json]),
    seeds: || {
        let line = |kind: &str, f: &str, value: &str| {
            format!(r#"{{"process":3,"type":"{kind}","f":"{f}","key":"l1","value":{value},"time":17}}"#)
        };
        let lines = [
            line("invoke", "acquire", "null"),
            line("ok", "acquire", "7"),
            line("invoke", "write", "5"),
            line("info", "write", "5"),
            line("invoke", "cas", "[1,2]"),
            line("fail", "cas", "[1,2]"),
            line("invoke", "append", r#"["x",{"a":1.5}]"#),
            r#"{"process":"nemesis","type":"info","f":"partition","value":"majority"}"#.to_owned(),
        ];
        let mut seeds: Vec<Vec<u8>> = lines.iter().map(|line| line.clone().into()).collect();
        seeds.extend([lines[..2].join("\n").into(), lines[2..4].join("\n").into(), lines[4..6].join("\n").into()]);
        seeds
    },
};

/// Jepsen's EDN.
pub const EDN: Target = Target {
    name: "history-edn",
    about: "a history in Jepsen's EDN, keys apart or not; what is refused names a line that is there",
    run: |data| read(data, &[Format::Edn { independent: false }, Format::Edn { independent: true }]),
    seeds: || {
        let pair = "{:process 0, :type :invoke, :f :read, :value nil, :time 1}\n\
                    {:process 0, :type :ok, :f :read, :value 3, :time 2}\n";
        let independent = "[{:process 1 :type :invoke :f :cas :value [8 [1 2]]} \
                           {:process 1 :type :fail :f :cas :value [8 [1 2]] :error :timeout}]";
        let records = "#jepsen.history.Op{:index 0, :process :nemesis, :type :info, :f :kill, :value #{\"n1\"}}";
        [pair, independent, records].map(|text| text.into()).into()
    },
};

fn read(data: &[u8], formats: &[Format]) {
    for format in formats {
        if let Err(error) = parse(data, *format) {
            let lines = data.iter().filter(|byte| **byte == b'\n').count() + 1;
            assert!((0..=lines).contains(&(error.line as usize)), "line {} of {lines}: {}", error.line, error.reason);
            assert!(!error.reason.is_empty());
        }
    }
}
