//! Debian's Chromium without a screen, driven over its DevTools protocol.
//!
//! With `--remote-debugging-pipe` the browser reads commands from descriptor 3 and writes answers to 4: JSON, each ended
//! by a zero byte. A shell puts its own input and output there, so that no port and no socket is needed.

#![allow(dead_code, reason = "of those who share this file, each uses a part")]

use std::{
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Child, ChildStdin, Command, Stdio},
    sync::mpsc::{self, Receiver},
    thread,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

/// How long the browser may take for anything; generous, for busy machines.
const PATIENCE: Duration = Duration::from_secs(120);

/// A browser with one page.
pub struct Browser {
    child: Child,
    commands: Option<ChildStdin>,
    answers: Receiver<Value>,
    session: Option<String>,
    last: u64,
    /// Everything that came unasked.
    events: Vec<Value>,
    _profile: tempfile::TempDir,
}

impl Browser {
    /// With a window of `width` x `height`.
    pub fn start(width: u32, height: u32) -> Self {
        let profile = tempfile::tempdir().expect("a directory for the profile");
        let mut child = Command::new("sh")
            .args(["-c", r#"exec "$0" "$@" 3<&0 4>&1 </dev/null >/dev/null"#, "chromium"])
            .args(["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"])
            .args(["--disable-extensions", "--disable-background-networking", "--disable-component-update"])
            .arg("--remote-debugging-pipe")
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .arg(format!("--window-size={width},{height}"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("sh starts");
        let mut output = BufReader::new(child.stdout.take().expect("piped"));
        let (tell, answers) = mpsc::channel();
        thread::spawn(move || {
            let mut message = Vec::new();
            while output.read_until(0, &mut message).is_ok_and(|bytes| bytes > 0) {
                message.pop();
                let Ok(value) = serde_json::from_slice(&message) else { break };
                if tell.send(value).is_err() {
                    break;
                }
                message.clear();
            }
        });
        let commands = child.stdin.take();
        let mut browser =
            Self { child, commands, answers, session: None, last: 0, events: Vec::new(), _profile: profile };
        let target = browser.call("Target.createTarget", json!({"url": "about:blank"}));
        let attached = browser.call("Target.attachToTarget", json!({"targetId": target["targetId"], "flatten": true}));
        browser.session = Some(attached["sessionId"].as_str().expect("a session").to_owned());
        for domain in ["Page", "Runtime", "Log", "Network"] {
            browser.call(&format!("{domain}.enable"), json!({}));
        }
        let metrics = json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": false});
        browser.call("Emulation.setDeviceMetricsOverride", metrics);
        browser
    }

    /// A command and its answer.
    pub fn call(&mut self, method: &str, parameters: Value) -> Value {
        self.last += 1;
        let mut command = json!({"id": self.last, "method": method, "params": parameters});
        if let Some(session) = &self.session {
            command["sessionId"] = json!(session);
        }
        let mut bytes = command.to_string().into_bytes();
        bytes.push(0);
        let sent = self.commands.as_mut().expect("open until dropped").write_all(&bytes);
        let until = Instant::now() + PATIENCE;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let message = match (&sent, self.answers.recv_timeout(left)) {
                (Ok(()), Ok(message)) => message,
                (sent, answer) => panic!(
                    "{method}: no answer from chromium ({sent:?}, {answer:?}); is it installed? `sh scripts/setup.sh --tests`"
                ),
            };
            if message["id"] == json!(self.last) {
                assert!(message.get("error").is_none(), "{method}: {}", message["error"]);
                return message["result"].clone();
            }
            self.events.push(message);
        }
    }

    /// The value of an expression in the page; a promise's once it is there.
    pub fn ask(&mut self, expression: &str) -> Value {
        let how = json!({"expression": expression, "returnByValue": true, "awaitPromise": true});
        let answer = self.call("Runtime.evaluate", how);
        assert!(answer.get("exceptionDetails").is_none(), "{expression}: {}", answer["exceptionDetails"]);
        answer["result"]["value"].clone()
    }

    /// Waits until an expression is true.
    pub fn wait(&mut self, expression: &str) {
        let until = Instant::now() + PATIENCE;
        while self.ask(expression) != json!(true) {
            assert!(Instant::now() < until, "never came true: {expression}");
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Opens a report from disk and waits until it says that it is ready and has been drawn.
    pub fn open(&mut self, page: &Path) {
        let answer = self.call("Page.navigate", json!({"url": format!("file://{}", page.display())}));
        assert!(answer.get("errorText").is_none(), "{answer}");
        self.wait("window.conclaveReport?.ready === true");
        self.settle();
    }

    /// Waits for two frames: what was asked for has been painted.
    pub fn settle(&mut self) {
        self.ask("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => done(true))))");
    }

    /// Presses and releases a key: a character, or a name such as `ArrowLeft`.
    pub fn press(&mut self, key: &str) {
        let mut down = json!({"type": "keyDown", "key": key});
        if key.chars().count() == 1 {
            down["text"] = json!(key);
        } else if key == "Escape" {
            // What the browser itself does on a key goes by its code.
            down["windowsVirtualKeyCode"] = json!(27);
        }
        self.call("Input.dispatchKeyEvent", down);
        self.call("Input.dispatchKeyEvent", json!({"type": "keyUp", "key": key}));
        self.settle();
    }

    /// A mouse event: `mouseMoved`, `mousePressed`, `mouseReleased`, `mouseWheel` (with `wheel` down or up).
    pub fn mouse(&mut self, kind: &str, x: f64, y: f64, pressed: bool, wheel: f64) {
        let button = if pressed || kind == "mouseReleased" { "left" } else { "none" };
        let event = json!({
            "type": kind, "x": x, "y": y, "button": button, "buttons": i32::from(pressed),
            "clickCount": i32::from(kind == "mousePressed" || kind == "mouseReleased"), "deltaX": 0, "deltaY": wheel,
        });
        self.call("Input.dispatchMouseEvent", event);
        self.settle();
    }

    /// What the page's thread has spent on tasks so far, by the clock that `Performance.enable` chose.
    pub fn busy_seconds(&mut self) -> f64 {
        let metrics = self.call("Performance.getMetrics", json!({}));
        let all = metrics["metrics"].as_array().expect("metrics");
        let busy = all.iter().find(|metric| metric["name"] == "TaskDuration").expect("a metric that there always is");
        busy["value"].as_f64().expect("seconds")
    }

    /// What the page did that a page without a network and without mistakes does not do.
    pub fn complaints(&mut self, page: &Path) -> Vec<String> {
        self.ask("true");
        let own = format!("file://{}", page.display());
        let mut complaints = Vec::new();
        for event in &self.events {
            let parameters = &event["params"];
            match event["method"].as_str().unwrap_or_default() {
                "Network.requestWillBeSent" if parameters["request"]["url"] != json!(own) => {
                    complaints.push(format!("request: {}", parameters["request"]["url"]));
                }
                "Runtime.exceptionThrown" => complaints.push(format!("exception: {}", parameters["exceptionDetails"])),
                "Runtime.consoleAPICalled" => complaints.push(format!("console: {}", parameters["args"])),
                "Log.entryAdded" => complaints.push(format!("log: {}", parameters["entry"])),
                "Page.javascriptDialogOpening" => complaints.push("a dialog opened".into()),
                _ => {}
            }
        }
        complaints
    }

    /// With `CONCLAVE_SCREENSHOTS=DIRECTORY`, a picture for people to look at.
    pub fn picture(&mut self, name: &str) {
        use base64::{Engine as _, engine::general_purpose::STANDARD};
        let Some(directory) = std::env::var_os("CONCLAVE_SCREENSHOTS") else { return };
        let shot = self.call("Page.captureScreenshot", json!({"format": "png"}));
        let png = STANDARD.decode(shot["data"].as_str().expect("a picture")).expect("base64");
        std::fs::write(Path::new(&directory).join(format!("{name}.png")), png).expect("the directory can be written");
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // A browser whose pipe is closed ends with all its processes.
        drop(self.commands.take());
        let until = Instant::now() + Duration::from_secs(5);
        while matches!(self.child.try_wait(), Ok(None)) {
            if Instant::now() > until {
                let _ = self.child.kill();
            }
            thread::sleep(Duration::from_millis(20));
        }
    }
}
