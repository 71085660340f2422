//! The report as people see it, in Debian's Chromium.

mod browser;
mod stories;

use std::path::PathBuf;

use browser::Browser;
use conclave_checker::{
    Function, History, Judgement, Outcome, Refutation, Value, Verdict,
    history::NO_TIME,
    report::{Report, render},
};
use serde_json::{Value as Json, json};

const WIDE: (u32, u32) = (1440, 900);
const NARROW: (u32, u32) = (420, 900);

struct Shown {
    browser: Browser,
    page: PathBuf,
    _directory: tempfile::TempDir,
}

impl Shown {
    fn new((width, height): (u32, u32), report: &Report<'_>) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let page = directory.path().join("report.html");
        std::fs::write(&page, render(report)).unwrap();
        let mut browser = Browser::start(width, height);
        browser.open(&page);
        Self { browser, page, _directory: directory }
    }

    fn lock(size: (u32, u32)) -> (Self, History, Refutation) {
        let (history, judgement) = stories::double_grant(7);
        let invariants = stories::invariants();
        let lanes = stories::servers();
        let shown = Self::new(
            size,
            &Report {
                lanes: &lanes,
                invariants: &invariants,
                replay: Some("conclave-chaos sim --replay 7"),
                ..Report::new("lock.jsonl", "fenced-mutex", &history, &judgement)
            },
        );
        let refutation = judgement.refutations[0].clone();
        (shown, history, refutation)
    }

    fn ask(&mut self, of: &str) -> Json {
        self.browser.ask(&format!("conclaveReport.{of}"))
    }

    fn view(&mut self) -> (f64, f64) {
        let view = self.ask("view");
        (view["from"].as_f64().unwrap(), view["to"].as_f64().unwrap())
    }

    fn bar(&mut self, operation: u32) -> [f64; 4] {
        let bar = self.ask(&format!("bar({operation})"));
        ["x", "y", "w", "h"].map(|name| bar[name].as_f64().unwrap_or_else(|| panic!("{operation} has no bar: {bar}")))
    }

    /// Red, green, blue of the timeline at a place in the window.
    fn colour(&mut self, x: f64, y: f64) -> [i64; 3] {
        // Through a canvas of its own, as reading the page's would make the browser change how it draws.
        let pixel = self.browser.ask(&format!(
            "(() => {{
                const canvas = document.getElementById('canvas'), area = canvas.getBoundingClientRect();
                const one = document.createElement('canvas').getContext('2d', {{ willReadFrequently: true }});
                one.drawImage(canvas, Math.round({x} - area.left), Math.round({y} - area.top), 1, 1, 0, 0, 1, 1);
                return [...one.getImageData(0, 0, 1, 1).data];
            }})()"
        ));
        [0, 1, 2].map(|part| pixel[part].as_i64().unwrap())
    }

    fn clean(mut self) {
        assert_eq!(self.browser.complaints(&self.page), Vec::<String>::new());
    }
}

/// The strongest red on a line from above the bar into it: a frame's.
fn redness(shown: &mut Shown, operation: u32) -> i64 {
    let [x, y, w, _] = shown.bar(operation);
    (-4..=1).map(|above| shown.colour(x + w / 2.0, y + f64::from(above))).map(|[r, g, b]| r - g.max(b)).max().unwrap()
}

#[test]
fn it_opens_zoomed_on_the_offending_operations_and_frames_the_right_ones() {
    let (mut shown, history, refutation) = Shown::lock(WIDE);
    shown.browser.picture("lock-wide");
    assert_eq!(shown.ask("framed"), json!(refutation.operations));
    assert_eq!(shown.ask("culprit"), json!(refutation.culprit));
    let (from, to) = shown.view();
    let (first, last) = (history.operations[0].called_ns, history.operations.last().unwrap().called_ns);
    #[expect(clippy::cast_precision_loss, reason = "milliseconds matter here")]
    let since = |ns: i64| (ns - history.operations[0].called_ns.min(0)) as f64;
    assert!(to - from < since(last - first) / 2.0, "not zoomed: {from} to {to}");
    for &operation in &refutation.operations {
        let operation = &history.operations[operation as usize];
        assert!(
            from <= since(operation.called_ns) && since(operation.returned_ns) <= to,
            "{operation:?} is out of view"
        );
    }
    // As pixels: frames around these, none around others.
    for (at, operation) in (0_u32..).zip(&history.operations) {
        let framed = refutation.operations.contains(&at);
        if framed || (operation.called_ns > 650_000_000 && operation.called_ns < 690_000_000) {
            assert_eq!(redness(&mut shown, at) > 100, framed, "operation {at}");
        }
    }
    // The culprit's frame holds what the pointer finds there, with the sentence.
    let [x, y, w, h] = shown.bar(refutation.culprit);
    shown.browser.mouse("mouseMoved", x + w / 2.0, y + h / 2.0, false, 0.0);
    let tip = shown.browser.ask("document.getElementById('tip').innerText").as_str().unwrap().to_owned();
    let culprit = &history.operations[refutation.culprit as usize];
    for part in ["acquire by client", &refutation.cause, &culprit.result.to_string(), "/locks/orders/42"] {
        assert!(tip.contains(part), "{part:?} is not in {tip:?}");
    }
    let note = shown.browser.ask(
        "[document.querySelector('#note p').innerText, getComputedStyle(document.getElementById('note')).visibility]",
    );
    assert_eq!(note, json!([refutation.cause, "visible"]));
    // The sentence stands below its operation and covers none of the framed ones.
    let note_top = shown.browser.ask("document.getElementById('note').getBoundingClientRect().top").as_f64().unwrap();
    assert!(note_top >= y + h, "the sentence covers its operation");
    // Locks that were held, with their tokens, and servers have lanes.
    let lanes = shown.ask("lanes").to_string();
    for lane in [
        r#"{"kind":"lock","label":"/locks/orders/42"}"#,
        r#""label":"n2""#,
        r#""label":"client 8""#,
        r#""kind":"fault""#,
    ] {
        assert!(lanes.contains(lane), "{lane} is not in {lanes}");
    }
    shown.clean();
}

#[test]
fn keys_move_zoom_jump_and_help() {
    let (mut shown, history, refutation) = Shown::lock(WIDE);
    let (from, to) = shown.view();
    shown.browser.press("ArrowRight");
    let panned = shown.view();
    assert!(panned.0 > from && (panned.1 - panned.0 - (to - from)).abs() < 1.0, "{panned:?}");
    shown.browser.press("ArrowLeft");
    shown.browser.press("+");
    let zoomed = shown.view();
    assert!(zoomed.1 - zoomed.0 < to - from);
    shown.browser.press("-");
    shown.browser.press("0");
    let all = shown.view();
    assert!(all.0 <= 0.0 && all.1 >= shown.ask("view.end").as_f64().unwrap());

    // n and p go round the offending operations in order, from the culprit on.
    let at = refutation.operations.iter().position(|&one| one == refutation.culprit).unwrap();
    let count = refutation.operations.len();
    for step in 1..=count {
        shown.browser.press("n");
        assert_eq!(shown.ask("selected"), json!(refutation.operations[(at + step) % count]));
    }
    shown.browser.press("p");
    assert_eq!(shown.ask("selected"), json!(refutation.operations[(at + count - 1) % count]));

    shown.browser.press("t");
    assert_eq!(shown.ask("view.axis"), json!("order"));
    assert_eq!(shown.ask("view.end"), json!(history.events));
    shown.browser.press("t");
    assert_eq!(shown.ask("view.axis"), json!("time"));

    shown.browser.press("?");
    assert_eq!(shown.browser.ask("document.getElementById('help').open"), json!(true));
    shown.browser.picture("help");
    shown.browser.press("Escape");
    shown.browser.wait("!document.getElementById('help').open");
    shown.browser.press("/");
    assert_eq!(shown.browser.ask("document.activeElement.id"), json!("filter"));
    // Letters typed there are text, not commands.
    shown.browser.press("t");
    assert_eq!(shown.ask("view.axis"), json!("time"));
    shown.browser.press("Escape");
    assert_eq!(shown.browser.ask("document.getElementById('filter').value"), json!(""));
    shown.clean();
}

#[test]
fn the_filter_keeps_what_matches_by_key_process_function_and_text() {
    let (mut shown, history, refutation) = Shown::lock(WIDE);
    let count =
        |keep: &dyn Fn(&conclave_checker::Operation) -> bool| history.operations.iter().filter(|one| keep(one)).count();
    let token = history.operations[refutation.culprit as usize].result.to_string();
    let cases = [
        ("key:/locks/invoices".to_owned(), count(&|one| one.key == 1)),
        ("process:3".into(), count(&|one| one.process == 3)),
        ("f:try_acquire".into(), count(&|one| one.function == Function::TryAcquire)),
        ("key:\"/locks/orders/42\" f:release".into(), count(&|one| one.key == 0 && one.function == Function::Release)),
        (format!("f:acquire {token}"), 1),
        (
            "process:1 process:2 f:release".into(),
            count(&|one| [1, 2].contains(&one.process) && one.function == Function::Release),
        ),
        ("no such thing".into(), 0),
    ];
    for (text, expected) in cases {
        assert!(expected > 0 || text.starts_with("no"), "{text} would prove nothing");
        shown.browser.press("/");
        shown.browser.call("Input.insertText", json!({"text": text}));
        shown.browser.wait(&format!("conclaveReport.shown === {expected}"));
        shown.browser.settle();
        let said = shown.browser.ask("document.getElementById('shown').textContent");
        assert!(said.as_str().unwrap().starts_with(&format!("{expected} of ")), "{text}: {said}");
        if text == "process:3" {
            let clients = shown.browser.ask("conclaveReport.lanes.filter((lane) => lane.kind === 'client')");
            assert_eq!(clients, json!([{"kind": "client", "label": "client 3"}]));
            shown.browser.picture("filter");
        }
        shown.browser.press("Escape");
        shown.browser.wait(&format!("conclaveReport.shown === {}", history.operations.len()));
    }
    // A chip hides its function; going to a hidden operation brings it back.
    shown.browser.ask("document.querySelector('[data-function=acquire]').click()");
    assert_eq!(shown.ask("shown"), json!(count(&|one| one.function != Function::Acquire)));
    shown.browser.ask("document.querySelector('tr.culprit .goto').click()");
    assert_eq!(shown.ask("shown"), json!(history.operations.len()));
    assert_eq!(shown.ask("selected"), json!(refutation.culprit));
    shown.clean();
}

#[test]
fn wheel_drag_and_two_fingers() {
    let (mut shown, _, refutation) = Shown::lock(WIDE);
    let [x, y, w, h] = shown.bar(refutation.culprit);
    let (x, y) = (x + w / 2.0, y + h / 2.0);
    let before = shown.view();
    let under = |view: (f64, f64)| view.0 + (x - 132.0) / (1440.0 - 132.0) * (view.1 - view.0);
    shown.browser.mouse("mouseWheel", x, y, false, -240.0);
    let closer = shown.view();
    assert!(closer.1 - closer.0 < before.1 - before.0, "{before:?} {closer:?}");
    // What was under the pointer still is, within a few pixels for the scroll bar.
    assert!((under(closer) - under(before)).abs() < (before.1 - before.0) * 0.02);
    shown.browser.mouse("mousePressed", x, y, true, 0.0);
    for by in [20.0, 60.0, 100.0] {
        shown.browser.mouse("mouseMoved", x - by, y, true, 0.0);
    }
    shown.browser.mouse("mouseReleased", x - 100.0, y, false, 0.0);
    let dragged = shown.view();
    assert!(dragged.0 > closer.0, "{closer:?} {dragged:?}");
    shown.browser.call("Emulation.setTouchEmulationEnabled", json!({"enabled": true, "maxTouchPoints": 2}));
    let fingers = |apart: f64| json!([{"x": x - apart, "y": y, "id": 0}, {"x": x + apart, "y": y, "id": 1}]);
    for (kind, points) in [
        ("touchStart", fingers(60.0)),
        ("touchMove", fingers(90.0)),
        ("touchMove", fingers(160.0)),
        ("touchEnd", json!([])),
    ] {
        shown.browser.call("Input.dispatchTouchEvent", json!({"type": kind, "touchPoints": points}));
        shown.browser.settle();
    }
    let pinched = shown.view();
    assert!(pinched.1 - pinched.0 < (dragged.1 - dragged.0) * 0.8, "{dragged:?} {pinched:?}");
    shown.clean();
}

#[test]
fn histories_without_times_operations_or_a_verdict_are_drawn_too() {
    // No times: the axis is the order of events, and there is no other.
    let (mut history, judgement) = stories::registers(5, 400, 6, &["x"], true);
    for operation in &mut history.operations {
        (operation.called_ns, operation.returned_ns) = (NO_TIME, NO_TIME);
    }
    let mut shown = Shown::new(WIDE, &Report::new("untimed.edn", "register", &history, &judgement));
    assert_eq!(shown.ask("view.axis"), json!("order"));
    assert_eq!(shown.browser.ask("document.getElementById('axis').hidden"), json!(true));
    shown.browser.press("t");
    assert_eq!(shown.ask("view.axis"), json!("order"));
    let culprit = judgement.refutations[0].culprit;
    assert!(redness(&mut shown, culprit) > 100);
    shown.browser.picture("untimed");
    shown.clean();

    // Nothing at all, and a limit that was hit.
    let empty = History::default();
    let verdict = Verdict::Unknown("The search reached its limit of 60 s after 12 of 40 keys.".into());
    let unknown = Judgement { verdict, ..stories::judgement(&empty, Vec::new()) };
    let mut shown = Shown::new(WIDE, &Report::new("empty.jsonl", "kv", &empty, &unknown));
    for key in ["0", "+", "-", "ArrowRight", "n", "p", "t"] {
        shown.browser.press(key);
    }
    assert_eq!(shown.ask("framed"), json!([]));
    assert_eq!(shown.browser.ask("document.querySelector('h1').innerText"), json!("Unknown"));
    shown.browser.picture("empty");
    shown.clean();
}

#[test]
fn many_crashed_processes_and_several_bad_keys() {
    // Each operation by a process of its own, as after crashes; every second key has a stale read.
    let keys: Vec<String> = (0..12).map(|key| format!("k{key}")).collect();
    let mut calls = Vec::new();
    let mut wrong = Vec::new();
    for number in 0..2_400_u32 {
        let (key, from_ns) = (number % 12, i64::from(number) * 10_000);
        let round = i64::from(number / 12);
        let stale = key % 2 == 0 && round == 101;
        let read = round % 2 == 1;
        calls.push(stories::Call {
            process: number,
            key,
            function: if read { Function::Read } else { Function::Write },
            argument: if read { Value::Null } else { Value::Int(round) },
            result: if stale {
                Value::Int(0)
            } else if read {
                Value::Int(round - 1)
            } else {
                Value::Null
            },
            outcome: Outcome::Ok,
            from_ns,
            until_ns: Some(from_ns + 9_000),
        });
        if stale {
            wrong.push(Refutation {
                key,
                operations: vec![number - 12, number],
                culprit: number,
                cause: format!("read of k{key} returned 0 after 100 had been written"),
            });
        }
    }
    let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
    let (history, _) = stories::history(&calls, 2_400, &keys, &[]);
    let judgement = stories::judgement(&history, wrong.clone());
    let mut shown = Shown::new(WIDE, &Report::new("crashes.jsonl", "register", &history, &judgement));
    shown.browser.picture("several");
    // Processes that follow each other share a lane.
    assert_eq!(shown.ask("lanes.length"), json!(1));
    assert_eq!(shown.ask("shown"), json!(2_400));
    assert_eq!(wrong.len(), 6);
    let mut seen = Vec::new();
    for _ in 0..12 {
        shown.browser.press("n");
        let (culprit, selected) = (shown.ask("culprit"), shown.ask("selected"));
        let at = wrong.iter().position(|one| json!(one.culprit) == culprit).unwrap();
        // The frame is there, the operation is in the window, and the sentence is its key's.
        let operation = u32::try_from(selected.as_u64().unwrap()).unwrap();
        assert!(wrong[at].operations.contains(&operation));
        let [x, y, ..] = shown.bar(operation);
        assert!(x > 132.0 && x < 1440.0 && y > 0.0 && y < 900.0, "{x} {y}");
        assert!(redness(&mut shown, operation) > 100);
        assert_eq!(shown.browser.ask("document.querySelector('#note p').textContent"), json!(wrong[at].cause));
        seen.push(operation);
    }
    seen.sort_unstable();
    let mut all: Vec<u32> = wrong.iter().flat_map(|one| one.operations.clone()).collect();
    all.sort_unstable();
    assert_eq!(seen, all);
    shown.clean();
}

/// WCAG's contrast of two colours given as `#rrggbb`.
fn contrast(one: &str, other: &str) -> f64 {
    let luminance = |colour: &str| {
        let part = |at: usize| {
            let value =
                f64::from(u8::from_str_radix(&colour[at..at + 2], 16).unwrap_or_else(|_| panic!("{colour}"))) / 255.0;
            if value <= 0.04045 { value / 12.92 } else { ((value + 0.055) / 1.055).powf(2.4) }
        };
        0.2126 * part(1) + 0.7152 * part(3) + 0.0722 * part(5)
    };
    let (one, other) = (luminance(one), luminance(other));
    (one.max(other) + 0.05) / (one.min(other) + 0.05)
}

#[test]
fn both_colour_schemes_are_drawn_and_legible() {
    let (mut shown, _, _) = Shown::lock(WIDE);
    let mut backgrounds = Vec::new();
    for scheme in ["light", "dark"] {
        let features = json!({"features": [{"name": "prefers-color-scheme", "value": scheme}]});
        shown.browser.call("Emulation.setEmulatedMedia", features);
        shown.browser.settle();
        shown.browser.picture(&format!("lock-{scheme}"));
        let area = shown.browser.ask("(() => { const area = document.getElementById('canvas').getBoundingClientRect(); return [area.left, area.top]; })()");
        let corner = shown.colour(area[0].as_f64().unwrap() + 3.0, area[1].as_f64().unwrap() + 3.0);
        backgrounds.push(corner);
        let mut colour = |name: &str| {
            let asked = format!("getComputedStyle(document.documentElement).getPropertyValue('--{name}').trim()");
            let hex = shown.browser.ask(&asked).as_str().unwrap().to_owned();
            if hex.len() == 4 {
                hex.chars().flat_map(|c| if c == '#' { vec![c] } else { vec![c, c] }).collect()
            } else {
                hex
            }
        };
        let mut pairs = vec![("ink", "page"), ("ink", "card"), ("soft", "page"), ("soft", "card"), ("soft", "lane")];
        pairs.extend([("bad", "page"), ("good", "page"), ("unsure", "page"), ("bad", "raised"), ("hold-ink", "hold")]);
        pairs.extend([
            ("read-ink", "read"),
            ("write-ink", "write"),
            ("swap-ink", "swap"),
            ("take-ink", "take"),
            ("give-ink", "give"),
        ]);
        for (text, ground) in pairs {
            let found = contrast(&colour(text), &colour(ground));
            // WCAG 2.2, 1.4.3: at least 4.5 for text.
            assert!(found >= 4.5, "{scheme}: {text} on {ground} has a contrast of {found:.2}");
        }
        for edge in ["read-edge", "write-edge", "swap-edge", "take-edge", "give-edge", "hold-edge", "bad", "fault"] {
            let found = contrast(&colour(edge), &colour("lane"));
            // 1.4.11: at least 3 for what is not text.
            assert!(found >= 3.0, "{scheme}: {edge} on lane has a contrast of {found:.2}");
        }
    }
    assert!(backgrounds[0].iter().sum::<i64>() > 600 && backgrounds[1].iter().sum::<i64>() < 200, "{backgrounds:?}");
    // The button overrules the system.
    shown.browser.press("d");
    assert_eq!(shown.browser.ask("document.documentElement.dataset.theme"), json!("light"));
    shown.clean();
}

#[test]
fn a_narrow_window_shows_the_culprit_too_and_nothing_is_wider_than_it() {
    let (mut shown, _, refutation) = Shown::lock(NARROW);
    shown.browser.picture("lock-narrow");
    let [x, _, w, _] = shown.bar(refutation.culprit);
    assert!(x + w > 78.0 && x < f64::from(NARROW.0));
    assert_eq!(shown.browser.ask("document.documentElement.scrollWidth <= innerWidth"), json!(true));
    shown.browser.ask("document.getElementById('offending').scrollIntoView()");
    shown.browser.picture("tables-narrow");
    shown.clean();
}

#[test]
fn tables_buttons_and_the_replay_command_can_be_reached_without_a_mouse() {
    let (mut shown, history, refutation) = Shown::lock(WIDE);
    let rows = shown.browser.ask("[...document.querySelectorAll('tr[data-op]')].map((row) => Number(row.dataset.op))");
    assert_eq!(rows, json!(refutation.operations));
    assert_eq!(
        shown.browser.ask("[...document.querySelectorAll('tr.culprit')].map((row) => Number(row.dataset.op))"),
        json!([refutation.culprit])
    );
    let nameless = "[...document.querySelectorAll('button, input, [tabindex]')].filter((one) =>
        !(one.getAttribute('aria-label') || one.innerText || one.closest('label')?.innerText)).map((one) => one.outerHTML)";
    assert_eq!(shown.browser.ask(nameless), json!([]));
    let standings = shown.browser.ask("[...document.querySelectorAll('.standing')].map((one) => one.innerText)");
    assert_eq!(standings, json!(["FAIL", "pass", "not exercised"]));
    // What is selected is told to those who cannot see it.
    shown.browser.press("n");
    let selected = shown.ask("selected").as_u64().unwrap();
    let told = shown.browser.ask("document.getElementById('selected').textContent");
    let name = history.operations[usize::try_from(selected).unwrap()].function.name();
    assert!(told.as_str().unwrap().starts_with(&format!("{name} by client")), "{told}");
    shown.browser.ask("document.getElementById('copy').click()");
    shown.browser.wait("['Copied', 'Selected'].includes(document.getElementById('copy').textContent)");
    shown.browser.ask("document.getElementById('offending').scrollIntoView()");
    shown.browser.settle();
    shown.browser.picture("tables");
    shown.clean();
}

#[test]
fn a_hundred_thousand_operations_stay_usable() {
    let (history, judgement) = stories::registers(3, 100_000, 25, &["x", "y", "z"], true);
    let page = render(&Report::new("large.jsonl", "cas-register", &history, &judgement));
    assert!(page.len() < 10_000_000, "{} bytes", page.len());
    let mut shown = Shown::new(WIDE, &Report::new("large.jsonl", "cas-register", &history, &judgement));
    assert_eq!(shown.ask("shown"), json!(100_000));
    assert_eq!(shown.ask("culprit"), json!(judgement.refutations[0].culprit));
    let picture = "document.getElementById('canvas').toDataURL()";
    shown.browser.press("0");
    shown.browser.picture("large");
    let mut seen = vec![shown.browser.ask(picture)];
    for _ in 0..5 {
        let frames = shown.ask("frames.length");
        shown.browser.press("+");
        assert!(shown.ask("frames.length").as_u64() > frames.as_u64(), "no frame was drawn");
        shown.browser.press("ArrowRight");
        let now = shown.browser.ask(picture);
        assert!(!seen.contains(&now), "the picture did not change");
        seen.push(now);
    }
    shown.browser.picture("large-zoomed");
    // For people to read, in the processor time of the page's thread: a busy machine does not change it much.
    shown.browser.call("Performance.enable", json!({"timeDomain": "threadTicks"}));
    for (zoom, key) in [("as it is", None), ("everything", Some("0"))] {
        if let Some(key) = key {
            shown.browser.press(key);
        }
        let before = shown.browser.busy_seconds();
        for key in ["ArrowLeft", "ArrowRight"].repeat(20) {
            shown.browser.press(key);
        }
        println!("a frame of a pan, {zoom}: {:.1} ms", (shown.browser.busy_seconds() - before) / 40.0 * 1e3);
    }
    shown.clean();
}

#[test]
fn a_hostile_history_is_only_text() {
    const HOSTILE: &str = "</script><img src=x onerror=\"document.title='broken'\">\"'\0\u{202e}";
    let call = |process: u32, function, argument: Value, from_ns: i64| stories::Call {
        process,
        key: 0,
        function,
        argument,
        result: HOSTILE.into(),
        outcome: Outcome::Ok,
        from_ns,
        until_ns: Some(from_ns + 5_000),
    };
    let calls = [call(0, Function::Put, HOSTILE.into(), 0), call(1, Function::Get, Value::Null, 10_000)];
    let (mut history, _) = stories::history(&calls, 2, &[HOSTILE], &[(HOSTILE, HOSTILE, 1_000, 12_000)]);
    history.processes[0] = HOSTILE.into();
    let refutation = Refutation { key: 0, operations: vec![0, 1], culprit: 1, cause: HOSTILE.into() };
    let judgement: Judgement = stories::judgement(&history, vec![refutation]);
    let mut shown =
        Shown::new(WIDE, &Report { replay: Some(HOSTILE), ..Report::new(HOSTILE, HOSTILE, &history, &judgement) });
    shown.browser.picture("hostile");
    let [x, y, w, h] = shown.bar(1);
    shown.browser.mouse("mouseMoved", x + w / 2.0, y + h / 2.0, false, 0.0);
    let tip = shown.browser.ask("document.getElementById('tip').innerText");
    assert!(
        tip.as_str().unwrap().contains("</script><img src=x") && tip.as_str().unwrap().contains("‹U+202E›"),
        "{tip}"
    );
    // Its own key can be asked for: the lane's name makes the filter.
    shown.browser.ask("document.getElementById('filter').value = document.querySelector('#suggestions option').value");
    shown.browser.ask("document.getElementById('filter').dispatchEvent(new Event('input'))");
    shown.browser.wait("document.getElementById('shown').textContent === '2 operations'");
    assert_eq!(
        shown.browser.ask("document.querySelectorAll('img, script:not([id])').length"),
        json!(1),
        "the page's own script"
    );
    assert!(shown.browser.ask("document.title").as_str().unwrap().starts_with("Not linearizable: </script>"));
    shown.clean();
}
