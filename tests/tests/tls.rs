//! TLS and who may come in: real servers, real files, the client and the command line.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::TcpStream,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant, SystemTime},
};

use conclave_client::{Client, Config, ErrorKind, Session, SessionOptions};
use conclave_tests::{Cluster, Options, PATIENCE, binary, eventually, metrics::Metrics};
use conclave_tls::{
    Pair,
    make::{Authority, Made, Whose},
};

const DAY: Duration = Duration::from_secs(86_400);
const TOKEN: &str = "a-token-that-nobody-guesses";

fn options() -> Options {
    Options { tls: true, env: vec![("CONCLAVE_TLS_RELOAD_EVERY".into(), "200ms".into())], ..Options::default() }
}

/// For a client that waits for no server that will not have it.
fn config(cluster: &Cluster) -> Config {
    Config::new(cluster.endpoints()).with_ca(cluster.ca()).with_request_timeout(Duration::from_secs(4))
}

fn with_pair(config: Config, pair: &Pair) -> Config {
    config.with_certificate(&pair.cert, &pair.key)
}

async fn session(client: &Client) -> Session {
    client.session(SessionOptions::new().ttl(Duration::from_secs(10)).name("tls")).await.expect("a session")
}

/// What a client with these options is told.
async fn refused(config: Config) -> String {
    match Client::new(config).expect("options").get("/").await {
        Ok(_) => panic!("it must be refused"),
        Err(error) => error.to_string(),
    }
}

fn told(said: &str, words: &[&str]) {
    for words in words {
        assert!(said.contains(words), "{words:?} is not in {said:?}");
    }
}

fn write(path: PathBuf, made: &Made) -> Pair {
    let pair = Pair { cert: path.with_extension("crt"), key: path.with_extension("key") };
    fs::write(&pair.key, &made.key).expect("writes");
    fs::write(&pair.cert, &made.cert).expect("writes");
    pair
}

/// The command line, with nothing of this process's own environment.
struct Cli(Vec<(&'static str, String)>);

impl Cli {
    fn run(&self, args: &[&str]) -> (i32, String) {
        let mut command = Command::new(binary("conclave").expect("built"));
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.as_encoded_bytes().starts_with(b"CONCLAVE_")) {
            command.env_remove(name);
        }
        command.envs(self.0.iter().map(|(name, value)| (name, value))).args(args);
        let output = command.output().expect("it runs");
        let said = [output.stdout, output.stderr].concat();
        (output.status.code().unwrap_or(-1), String::from_utf8_lossy(&said).into_owned())
    }
}

fn cli(cluster: &Cluster, pair: Option<&Pair>) -> Cli {
    let text = |path: &Path| path.display().to_string();
    let mut variables =
        vec![("CONCLAVE_ENDPOINTS", cluster.endpoints().join(",")), ("CONCLAVE_CA", text(&cluster.ca()))];
    if let Some(pair) = pair {
        variables.extend([("CONCLAVE_CERT", text(&pair.cert)), ("CONCLAVE_KEY", text(&pair.key))]);
    }
    Cli(variables)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lock_passes_on_over_tls_when_a_server_dies_and_strangers_are_told_why_not() {
    let mut cluster = Cluster::start_with(Options { peer_ports: true, ..options() }).await.expect("three servers");
    let alice = cluster.certify("alice", Whose::Client("alice")).expect("made");
    let client = Client::connect(with_pair(config(&cluster), &alice)).await.expect("a client");
    let session = session(&client).await;
    let first = session.lock("/locks/tls").wait(PATIENCE).acquire().await.expect("granted");
    let token = first.token();
    first.release().await.expect("released");

    // Plain text, on both of a server's ports.
    for address in [cluster.address(1), cluster.peer_address(1)] {
        let plain = Config::new([format!("http://{address}")]).with_request_timeout(Duration::from_secs(4));
        told(&refused(plain).await, &["this port speaks TLS: write https:// and name the CA"]);
    }
    // Somebody else's CA: the client says at which endpoint, and why.
    let other = Authority::new("another CA", DAY).expect("a CA");
    let others = cluster.dir().join("other.crt");
    fs::write(&others, &other.made().cert).expect("writes");
    let said =
        refused(Config::new([cluster.endpoint(2)]).with_ca(&others).with_request_timeout(Duration::from_secs(4))).await;
    told(&said, &[&cluster.endpoint(2), "the server's certificate was not signed by the CA in", "other.crt"]);
    // Signed by somebody else, and expired.
    let mallory = write(cluster.dir().join("mallory"), &other.issue(Whose::Client("mallory"), DAY).expect("made"));
    told(&refused(with_pair(config(&cluster), &mallory)).await, &["the server refuses our certificate"]);
    let (from, until) = (SystemTime::now() - 2 * DAY, SystemTime::now() - DAY);
    let old = cluster.authority().expect("tls").issue_between(Whose::Client("old"), from, until).expect("made");
    let old = write(cluster.dir().join("old"), &old);
    told(&refused(with_pair(config(&cluster), &old)).await, &["refuses our certificate: it has expired"]);
    // A client at the peers' port: it needs a certificate there, and finds no service for clients.
    let at_peers = Config::new([format!("https://{}", cluster.peer_address(1))]).with_ca(cluster.ca());
    let at_peers = at_peers.with_request_timeout(Duration::from_secs(4));
    told(&refused(at_peers.clone()).await, &["the server wants a certificate, and none was shown"]);
    refused(with_pair(at_peers, &alice)).await;

    let leader = cluster.wait_leader(PATIENCE).await.expect("a leader");
    cluster.kill(leader).expect("it ran");
    let second = session.lock("/locks/tls").wait(PATIENCE).acquire().await.expect("granted by those who are left");
    assert!(second.token() > token);
    second.release().await.expect("released");
    cluster.start_server(leader).expect("again");
    cluster.wait_healthy(PATIENCE).await.expect("all three");
    session.close().await.expect("closed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_command_line_speaks_tls_and_says_so() {
    let cluster = Cluster::start_with(options()).await.expect("three servers");
    let alice = cluster.certify("alice", Whose::Client("alice")).expect("made");
    let cli = cli(&cluster, Some(&alice));
    let (code, said) = cli.run(&["verify"]);
    assert_eq!(code, 0, "{said}");
    told(
        &said,
        &["3 of 3 endpoints answer, encrypted, and know this client as alice", "which is larger", "read /verify"],
    );
    let (code, said) = cli.run(&["cluster", "status", "-o", "json"]);
    assert_eq!(code, 0, "{said}");
    let status: serde_json::Value = serde_json::from_str(&said).expect("json");
    for server in status.as_array().expect("a list") {
        assert_eq!((&server["tls"], &server["peers_tls"]), (&true.into(), &true.into()));
        assert_eq!(server["caller"], "alice");
    }
    let (_, said) = cli.run(&["cluster", "status"]);
    assert_eq!(said.matches(" yes ").count(), 3, "{said}");
    // Sessions are asked of the leader, from whichever server.
    let (code, said) = cli.run(&["session", "ls"]);
    assert_eq!(code, 0, "{said}");
    let (code, said) = cli.run(&["lock", "deploy", "--", "true"]);
    assert_eq!(code, 0, "{said}");
    // host:port means https where there is a CA.
    let bare = cluster.address(1).to_string();
    assert_eq!(cli.run(&["--endpoints", &bare, "get", "/"]).0, 0);

    for (args, words) in [
        (&["--endpoints", "http://127.0.0.1:1", "--cert", "x", "get", "/"][..], "No such file"),
        (&["--key", "/no/key", "get", "/"], "cannot read the private key /no/key"),
        (&["--ca", "/no/ca", "get", "/"], "cannot read the CA /no/ca"),
    ] {
        let (code, said) = cli.run(args);
        assert_eq!(code, 64, "{said}");
        told(&said, &[words]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_must_say_who_they_are_is_known_by_certificate_or_token() {
    let tokens = tempfile::NamedTempFile::new().expect("a file");
    fs::write(tokens.path(), format!("# for the test\nbob {TOKEN}\n")).expect("writes");
    let token_file = tokens.path().display().to_string();
    let mut options = Options { servers: 1, ..options() };
    options.env.push(("CONCLAVE_AUTH_MODE".into(), "required".into()));
    options.env.push(("CONCLAVE_AUTH_TOKEN_FILE".into(), token_file));
    let cluster = Cluster::start_with(options).await.expect("the probe has a certificate");

    let nobody = Client::new(config(&cluster)).expect("options");
    let error = nobody.get("/").await.expect_err("anonymous");
    assert_eq!(error.kind(), ErrorKind::Denied);
    told(&error.to_string(), &["this server wants to know who calls"]);
    assert!(nobody.session(SessionOptions::new()).await.is_err(), "streams too");
    assert!(nobody.admin().status().await[0].status.is_err(), "and administration");

    let file = |name: &str, text: &str| {
        let path = cluster.dir().join(name);
        fs::write(&path, text).expect("writes");
        path
    };
    let with_token = |path: &Path| Client::new(config(&cluster).with_token_file(path)).expect("options");
    let bob = with_token(&file("bob.token", &format!("{TOKEN}\n")));
    session(&bob).await.close().await.expect("closed");
    assert_eq!(bob.admin().status().await[0].status.as_ref().expect("let in").caller, "bob");
    let wrong = with_token(&file("wrong.token", "a-token-that-somebody-guessed"));
    told(&wrong.get("/").await.expect_err("wrong").to_string(), &["unknown token"]);
    let alice = cluster.certify("alice", Whose::Client("alice")).expect("made");
    let alice = Client::new(with_pair(config(&cluster), &alice)).expect("options");
    assert_eq!(alice.admin().status().await[0].status.as_ref().expect("let in").caller, "alice");

    // Tokens change without a restart.
    fs::write(tokens.path(), format!("carol {TOKEN}\n")).expect("writes");
    eventually("the new name", || async {
        match &bob.admin().status().await[0].status {
            Ok(status) if status.caller == "carol" => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    let log = cluster.log(1);
    assert!(log.contains("new tokens are in force") && !log.contains(TOKEN), "tokens are never logged");
    let metrics = Metrics::scrape(cluster.http(1)).await.expect("metrics");
    assert!(metrics.sum("conclave_unauthenticated_total") >= 4.0);
    let left = metrics.sum("conclave_tls_certificate_expiry_seconds");
    assert!((80_000.0..=86_400.0).contains(&left), "{left}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn new_certificates_are_taken_over_by_running_servers() {
    let cluster = Cluster::start_with(Options { servers: 1, ..options() }).await.expect("a server");
    let client = Client::connect(config(&cluster)).await.expect("a client");
    let held = session(&client).await;
    let localhost = format!("https://localhost:{}", cluster.address(1).port());
    let to =
        |endpoint: &str| Config::new([endpoint]).with_ca(cluster.ca()).with_request_timeout(Duration::from_millis(500));

    // For another name only: whoever comes anew by the address is refused, who is there stays.
    cluster.certify("server", Whose::Server(&["localhost".to_owned()])).expect("made");
    eventually("the new certificate", || async {
        match Client::new(to(&cluster.endpoint(1))).expect("options").get("/").await {
            Ok(_) => Err("still the old one".to_owned()),
            Err(error) => {
                told(&error.to_string(), &["is not for 127.0.0.1: it is for", "localhost"]);
                Ok(())
            }
        }
    })
    .await;
    Client::new(to(&localhost)).expect("options").get("/").await.expect("by its new name");
    held.put("/still", "here").await.expect("an open session goes on");

    // Garbage, and a key of another pair: refused, told once, and the one in force stays.
    let pair = cluster.pair("server");
    fs::write(&pair.cert, "garbage").expect("writes");
    let said = "new certificates are refused, the old ones stay in force";
    eventually("a complaint", || async { if cluster.log(1).contains(said) { Ok(()) } else { Err("none yet") } }).await;
    tokio::time::sleep(Duration::from_millis(700)).await;
    assert_eq!(cluster.log(1).matches(said).count(), 1, "told once");
    told(&cluster.log(1), &["server.crt holds no certificate in PEM form"]);
    Client::new(to(&localhost)).expect("options").get("/").await.expect("the one in force");
    held.put("/still", "here").await.expect("an open session goes on");
    held.close().await.expect("closed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silent_connections_are_in_nobodys_way() {
    let cluster = Cluster::start_with(Options { servers: 1, ..options() }).await.expect("a server");
    // More than there may be handshakes under way.
    let silent: Vec<TcpStream> = (0..600).map(|_| TcpStream::connect(cluster.address(1)).expect("connects")).collect();
    let begun = Instant::now();
    Client::connect(config(&cluster)).await.expect("let in at once");
    assert!(begun.elapsed() < Duration::from_secs(4), "{:?}: it waited for the silent ones", begun.elapsed());
    // They are cut off in the end, and no longer counted.
    eventually("silent ones are cut", || async {
        let metrics = Metrics::scrape(cluster.http(1)).await.map_err(|error| error.to_string())?;
        match metrics.sum("conclave_connections") {
            few if few < 20.0 => Ok(()),
            many => Err(format!("{many} are open")),
        }
    })
    .await;
    drop(silent);
}

/// A server with a certificate of the right CA, for a host that is no member's, gets nothing from the others.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_alone_makes_nobody_a_peer() {
    let mut cluster = Cluster::start_with(options()).await.expect("three servers");
    let away = cluster.ids().into_iter().find(|id| Some(*id) != leader_of(&cluster)).expect("a follower");
    cluster.stop(away).expect("it ran");
    let other = cluster.ids().into_iter().find(|id| *id != away).expect("another");
    let as_another = |name: &str| {
        let pair = cluster.pair(name);
        [("CONCLAVE_TLS_CERT_FILE", pair.cert), ("CONCLAVE_TLS_KEY_FILE", pair.key)]
            .map(|(variable, path)| (variable, path.display().to_string()))
    };
    let (intruder, guest) = (as_another("intruder"), as_another("127.0.0.1"));
    cluster.certify("intruder", Whose::Server(&["intruder.test".to_owned()])).expect("made");
    cluster.certify("127.0.0.1", Whose::Client("127.0.0.1")).expect("made");

    cluster.start_server_with(away, &intruder.each_ref().map(|(name, path)| (*name, &**path))).expect("it starts");
    let words = format!("the certificate for intruder.test is not for server {away}");
    // Refused by those it connects to, told so, and not taken for a server by those who connect to it.
    for (server, words) in [(other, &*words), (away, "a peer refuses us"), (other, "is not for 127.0.0.1: it is for")] {
        in_log(&cluster, server, words).await;
    }
    // The right name, but a client's.
    cluster.kill(away).expect("it ran");
    cluster.start_server_with(away, &guest.each_ref().map(|(name, path)| (*name, &**path))).expect("it starts");
    let words = format!("the certificate of 127.0.0.1 is a client's: it cannot speak as server {away}");
    for (server, words) in [(other, &*words), (other, "the server's certificate is not made for servers")] {
        in_log(&cluster, server, words).await;
    }
    // With its own certificate it is welcome again.
    cluster.kill(away).expect("it ran");
    cluster.start_server(away).expect("again");
    cluster.wait_healthy(PATIENCE).await.expect("all three");
}

async fn in_log(cluster: &Cluster, server: u64, words: &str) {
    let log = || cluster.log(server);
    eventually(words, || async { if log().contains(words) { Ok(()) } else { Err(log()) } }).await;
}

fn leader_of(cluster: &Cluster) -> Option<u64> {
    tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(cluster.leader()))
}

/// A newcomer joins; then one that was away meanwhile is spoken to by it, and takes it on a member's word.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_newcomer_is_a_peer_once_it_was_added() {
    let mut cluster = Cluster::start_with(options()).await.expect("three servers");
    let client = Client::connect(config(&cluster)).await.expect("a client");
    let away = cluster.ids().into_iter().find(|id| Some(*id) != leader_of(&cluster)).expect("a follower");
    cluster.kill(away).expect("it ran");
    let newcomer = cluster.add_server();
    cluster.start_server(newcomer).expect("it starts");
    let address = cluster.address(newcomer).to_string();
    let leader = |cluster: &Cluster| leader_of(cluster).map(|id| cluster.endpoint(id));
    let at_leader = async |cluster: &Cluster| {
        let endpoint = leader(cluster).ok_or("no leader")?;
        Client::connect(Config::new([endpoint]).with_ca(cluster.ca())).await.map_err(|_| "not reached")
    };
    let id = conclave_client::ServerId(newcomer);
    eventually("added", || async {
        let admin = at_leader(&cluster).await.map_err(str::to_owned)?.admin();
        admin.add_learner(id, &address, &address).await.map_err(|error| error.to_string())
    })
    .await;
    eventually("promoted", || async {
        let admin = at_leader(&cluster).await.map_err(str::to_owned)?.admin();
        admin.promote(id).await.map_err(|error| error.to_string())
    })
    .await;
    eventually("it leads", || async {
        let admin = at_leader(&cluster).await.map_err(str::to_owned)?.admin();
        admin.transfer_leadership(Some(id)).await.map_err(|error| error.to_string())
    })
    .await;
    client.put("/while", "away").await.expect("written");
    cluster.start_server(away).expect("again");
    let back = Client::new(Config::new([cluster.endpoint(away)]).with_ca(cluster.ca())).expect("options");
    eventually("it has caught up with a leader that it did not know", || async {
        match back.get("/while").stale_ok().await {
            Ok(Some(_)) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_http_port_speaks_tls_where_it_is_told_to() {
    let mut options = Options { servers: 1, ..options() };
    options.env.push(("CONCLAVE_TLS_HTTP".into(), "true".into()));
    let cluster = Cluster::start_with(options).await.expect("a server");
    let mut tcp = TcpStream::connect(cluster.http(1)).expect("connects");
    tcp.write_all(b"GET /readyz HTTP/1.1\r\nHost: x\r\n\r\n").expect("writes");
    let mut said = String::new();
    tcp.read_to_string(&mut said).expect("an end");
    told(&said, &["400", "this port speaks TLS"]);

    let pair = cluster.pair("server");
    let health = |ca: &Path| {
        let mut command = Command::new(binary("conclaved").expect("built"));
        command.args(["healthcheck", "--id", "1", "--cluster", "test", "--data-dir", "/none", "--members", "1=h:1"]);
        command.args(["--http", &cluster.http(1).to_string()]);
        command.env("CONCLAVE_TLS_HTTP", "true").env("CONCLAVE_TLS_CA_FILE", ca);
        command.env("CONCLAVE_TLS_CERT_FILE", &pair.cert).env("CONCLAVE_TLS_KEY_FILE", &pair.key);
        let output = command.output().expect("it runs");
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (code, said) = health(&cluster.ca());
    assert_eq!(code, Some(0), "{said}");
    let other = cluster.dir().join("other.crt");
    fs::write(&other, &Authority::new("another CA", DAY).expect("a CA").made().cert).expect("writes");
    let (code, said) = health(&other);
    assert_eq!(code, Some(1));
    told(&said, &["was not signed by the CA in"]);
}

#[test]
fn files_that_cannot_be_used_are_told_of_at_the_start() {
    let dir = tempfile::tempdir().expect("a directory");
    let authority = Authority::new("a CA", DAY).expect("a CA");
    let names = ["localhost".to_owned()];
    let pair = write(dir.path().join("server"), &authority.issue(Whose::Server(&names), DAY).expect("made"));
    let other = write(dir.path().join("other"), &authority.issue(Whose::Server(&names), DAY).expect("made"));
    let ca = dir.path().join("ca.crt");
    fs::write(&ca, &authority.made().cert).expect("writes");
    let tokens = dir.path().join("tokens");
    fs::write(&tokens, "alice short\n").expect("writes");
    let start = |variables: &[(&str, &Path)]| {
        let mut command = Command::new(binary("conclaved").expect("built"));
        command.args(["--id", "1", "--cluster", "test", "--members", "1=127.0.0.1:1"]);
        command.args(["--listen", "127.0.0.1:0", "--http", "127.0.0.1:0"]);
        command.arg("--data-dir").arg(dir.path().join("data"));
        command.envs(variables.iter().copied());
        let output = command.output().expect("it runs");
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (cert, key, of_ca) = ("CONCLAVE_TLS_CERT_FILE", "CONCLAVE_TLS_KEY_FILE", "CONCLAVE_TLS_CA_FILE");
    let none = dir.path().join("none");
    for (variables, words) in [
        (&[(cert, &*pair.cert), (key, &*pair.key)][..], "tls: cert_file and key_file given, ca_file not"),
        (&[(cert, &*pair.cert), (key, &*other.key), (of_ca, &*ca)], "does not belong to the certificate"),
        (&[(cert, &*pair.key), (key, &*pair.key), (of_ca, &*ca)], "holds no certificate in PEM form"),
        (&[(cert, &*pair.cert), (key, &*pair.key), (of_ca, &*none)], "cannot read the CA"),
        (&[("CONCLAVE_AUTH_TOKEN_FILE", &*tokens)], "tokens: line 1: a token has at least 16 characters"),
    ] {
        let (code, said) = start(variables);
        assert_eq!(code, Some(78), "{said}");
        told(&said, &[words]);
    }
}
