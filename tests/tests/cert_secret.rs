//! `conclave cert --to-secret` against an API server that knows Secrets and nothing else.

use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    process::Command,
    sync::{Arc, Mutex},
    time::Duration,
};

use conclave_tests::binary;
use conclave_tls::{
    Files, Identity, Pair, Port,
    make::{Authority, Whose},
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};

const DAY: Duration = Duration::from_secs(86_400);
const TOKEN: &str = "the-pod's-token";

type Secrets = Arc<Mutex<BTreeMap<String, Value>>>;

/// One request: its first line, its headers, its body.
async fn request(stream: &mut (impl AsyncRead + Unpin)) -> Option<(String, String, Value)> {
    let mut bytes = Vec::new();
    let mut byte = [0];
    while !bytes.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).await.ok()?;
        bytes.push(byte[0]);
    }
    let head = String::from_utf8(bytes).expect("text");
    let length = head.lines().find_map(|line| line.to_lowercase().strip_prefix("content-length: ")?.parse().ok());
    let mut body = vec![0; length.unwrap_or(0)];
    stream.read_exact(&mut body).await.ok()?;
    let line = head.lines().next().expect("a first line").to_owned();
    Some((line, head, serde_json::from_slice(&body).unwrap_or(Value::Null)))
}

fn answer(secrets: &Secrets, line: &str, head: &str, body: Value) -> (u16, Value) {
    let mut words = line.split(' ');
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let why = |message: &str| json!({ "kind": "Status", "message": message });
    if !head.to_lowercase().contains(&format!("authorization: bearer {TOKEN}")) {
        return (401, why("Unauthorized"));
    }
    let Some(name) = path.strip_prefix("/api/v1/namespaces/prod/secrets") else {
        return (403, why("secrets is forbidden"));
    };
    let mut secrets = secrets.lock().expect("no panic");
    match method {
        "GET" => {
            secrets.get(name.trim_start_matches('/')).map_or((404, why("not found")), |found| (200, found.clone()))
        }
        "POST" => {
            let name = body["metadata"]["name"].as_str().expect("a name").to_owned();
            if secrets.contains_key(&name) {
                return (409, why("already exists"));
            }
            secrets.insert(name, body.clone());
            (201, body)
        }
        _ => (405, why("method not allowed")),
    }
}

/// Serves for as long as the test runs; its port.
async fn serve(identity: Arc<Identity>, secrets: Secrets) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("bound").port();
    let acceptor = identity.acceptor(Port::Http);
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            let Ok(mut accepted) = acceptor.accept(tcp).await else { continue };
            let Some((line, head, body)) = request(&mut accepted.stream).await else { continue };
            let (status, body) = answer(&secrets, &line, &head, body);
            let body = body.to_string();
            let text = format!("HTTP/1.1 {status} X\r\nContent-Length: {}\r\n\r\n{body}", body.len());
            let _ = accepted.stream.write_all(text.as_bytes()).await;
            let _ = accepted.stream.shutdown().await;
        }
    });
    port
}

async fn run(port: u16, account: &Path, namespace: &str, secret: &str) -> (i32, String) {
    let mut command = Command::new(binary("conclave").expect("built"));
    command.args(["cert", "--to-secret", secret, "--namespace", namespace, "--name", "*.headless.prod.svc"]);
    command.arg("--service-account").arg(account);
    command.env("KUBERNETES_SERVICE_HOST", "127.0.0.1").env("KUBERNETES_SERVICE_PORT", port.to_string());
    let output = tokio::task::spawn_blocking(move || command.output()).await.expect("no panic").expect("it runs");
    let said = [output.stdout, output.stderr].concat();
    (output.status.code().unwrap_or(-1), String::from_utf8_lossy(&said).into_owned())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn secrets_are_made_once_and_can_be_used() {
    let dir = tempfile::tempdir().expect("a directory");
    let at = |name: &str| dir.path().join(name);
    let authority = Authority::new("an API server's CA", DAY).expect("a CA");
    let own = authority.issue(Whose::Server(&["127.0.0.1".to_owned()]), DAY).expect("made");
    for (name, text) in [
        ("ca.crt", &authority.made().cert),
        ("api.crt", &own.cert),
        ("api.key", &own.key),
        ("token", &TOKEN.to_owned()),
    ] {
        fs::write(at(name), text).expect("writes");
    }
    let pair = Some(Pair { cert: at("api.crt"), key: at("api.key") });
    let identity = Identity::load(Files { ca: at("ca.crt"), pair }).expect("good files");
    let secrets = Secrets::default();
    let port = serve(identity, secrets.clone()).await;

    let (code, said) = run(port, dir.path(), "prod", "conclave-tls").await;
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("prod/conclave-tls-ca made") && said.contains("prod/conclave-tls made"), "{said}");
    let made = secrets.lock().expect("no panic").clone();
    assert_eq!(made.keys().collect::<Vec<_>>(), ["conclave-tls", "conclave-tls-ca"]);
    for (name, secret) in &made {
        assert_eq!(secret["type"], "kubernetes.io/tls");
        for (key, file) in [("tls.crt", "tls.crt"), ("tls.key", "tls.key"), ("ca.crt", "own-ca.crt")] {
            let base64 = secret["data"][key].as_str().expect("there");
            fs::write(at(&format!("{name}-{file}")), decode(base64)).expect("writes");
        }
    }
    // What a server mounts is an identity, for the name that was asked for.
    let pair = Some(Pair { cert: at("conclave-tls-tls.crt"), key: at("conclave-tls-tls.key") });
    let files = Files { ca: at("conclave-tls-own-ca.crt"), pair };
    let server = Identity::load(files).expect("good files").own().expect("its own");
    assert!(server.is_for_host("conclave-0.headless.prod.svc") && server.is_for_servers());

    // Again: nothing changes. Without the servers' one: the CA is used that is there.
    let (code, said) = run(port, dir.path(), "prod", "conclave-tls").await;
    assert_eq!((code, said.contains("left alone")), (0, true), "{said}");
    assert_eq!(*secrets.lock().expect("no panic"), made);
    secrets.lock().expect("no panic").remove("conclave-tls");
    let (code, said) = run(port, dir.path(), "prod", "conclave-tls").await;
    assert_eq!(code, 0, "{said}");
    let again = secrets.lock().expect("no panic").clone();
    assert_eq!(again["conclave-tls-ca"], made["conclave-tls-ca"]);
    assert_eq!(again["conclave-tls"]["data"]["ca.crt"], made["conclave-tls"]["data"]["ca.crt"]);
    assert_ne!(again["conclave-tls"]["data"]["tls.crt"], made["conclave-tls"]["data"]["tls.crt"]);

    // What the API server says is passed on, and another CA's server is not believed.
    let (code, said) = run(port, dir.path(), "other", "conclave-tls").await;
    assert_eq!((code, said.contains("secrets is forbidden")), (77, true), "{said}");
    fs::write(at("ca.crt"), &Authority::new("another", DAY).expect("a CA").made().cert).expect("writes");
    let (code, said) = run(port, dir.path(), "prod", "conclave-tls").await;
    assert_eq!((code, said.contains("was not signed by the CA in")), (69, true), "{said}");
    fs::remove_file(at("token")).expect("there");
    let (code, said) = run(port, dir.path(), "prod", "conclave-tls").await;
    assert_eq!((code, said.contains("works in a pod")), (74, true), "{said}");
}

/// Base64 by the letter, as another implementation than the one under test.
fn decode(text: &str) -> Vec<u8> {
    let value = |c: u8| match c {
        b'A'..=b'Z' => u32::from(c - b'A'),
        b'a'..=b'z' => u32::from(c - b'a') + 26,
        b'0'..=b'9' => u32::from(c - b'0') + 52,
        b'+' => 62,
        _ => 63,
    };
    let digits: Vec<u8> = text.bytes().filter(|c| *c != b'=').collect();
    let mut bytes = Vec::new();
    for four in digits.chunks(4) {
        let bits = four.iter().fold(0, |bits, c| bits << 6 | value(*c)) << (6 * (4 - four.len()));
        bytes.extend(&bits.to_be_bytes()[1..four.len()]);
    }
    bytes
}
