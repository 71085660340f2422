//! Both ends of real connections: who gets in, what the others are told, and what a change of files changes.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use conclave_tls::{
    AcceptError, Accepted, Files, First, Identity, Pair, Port, Stream,
    make::{Authority, Made, Whose},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

const DAY: Duration = Duration::from_secs(86_400);
const HOST: &str = "server.test";

struct Yard {
    dir: tempfile::TempDir,
    ca: Authority,
}

impl Yard {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().expect("a directory"), ca: Authority::new("test", DAY).expect("a CA") }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn write(&self, name: &str, made: &Made) -> Pair {
        let pair = Pair { cert: self.path(&format!("{name}.crt")), key: self.path(&format!("{name}.key")) };
        fs::write(&pair.cert, &made.cert).expect("writes");
        fs::write(&pair.key, &made.key).expect("writes");
        pair
    }

    fn files(&self, name: &str, made: Option<&Made>) -> Files {
        let ca = self.path("ca.crt");
        fs::write(&ca, &self.ca.made().cert).expect("writes");
        Files { ca, pair: made.map(|made| self.write(name, made)) }
    }

    fn identity(&self, name: &str, made: Option<&Made>) -> Arc<Identity> {
        Identity::load(self.files(name, made)).expect("good files")
    }

    fn server(&self) -> Arc<Identity> {
        self.identity("server", Some(&self.server_made()))
    }

    fn server_made(&self) -> Made {
        self.ca.issue(Whose::Server(&[HOST.to_owned(), "127.0.0.1".to_owned()]), DAY).expect("made")
    }
}

/// What each end gets; a server says "x" first, as one of HTTP/2 would say something.
async fn meet(
    server: &Arc<Identity>,
    port: Port,
    client: &Identity,
    host: &str,
) -> (Result<Accepted, AcceptError>, io::Result<Stream>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound");
    let acceptor = server.acceptor(port);
    let accept = async move {
        let (tcp, _) = listener.accept().await.expect("accepts");
        let mut accepted = acceptor.accept(tcp).await?;
        accepted.stream.write_all(b"x").await?;
        accepted.stream.flush().await?;
        Ok(accepted)
    };
    let connect = async {
        let tcp = TcpStream::connect(address).await.expect("connects");
        client.connect(tcp, host, First::Server).await
    };
    tokio::join!(accept, connect)
}

fn told(error: Option<impl ToString>, words: &str) {
    let error = error.expect("it must be refused").to_string();
    assert!(error.contains(words), "{words:?} is not in {error:?}");
}

#[tokio::test]
async fn a_client_is_known_by_its_certificate_and_a_peer_needs_one() {
    let yard = Yard::new();
    let server = yard.server();
    let alice = yard.identity("alice", Some(&yard.ca.issue(Whose::Client("alice"), DAY).expect("made")));
    let nobody = yard.identity("nobody", None);

    let (accepted, stream) = meet(&server, Port::Clients, &alice, HOST).await;
    let certificate = accepted.expect("good").certificate.expect("shown");
    assert_eq!((certificate.name(), certificate.is_for_servers()), ("alice", false));
    let mut first = [0; 1];
    stream.expect("good").read_exact(&mut first).await.expect("what came first is not lost");
    assert_eq!(&first, b"x");

    assert!(meet(&server, Port::Clients, &nobody, "127.0.0.1").await.0.expect("good").certificate.is_none());
    let (accepted, stream) = meet(&server, Port::Peers, &nobody, HOST).await;
    told(accepted.err(), "it shows no certificate");
    told(stream.err(), "the server wants a certificate, and none was shown");

    let (accepted, _) = meet(&server, Port::Peers, &server, HOST).await;
    let certificate = accepted.expect("good").certificate.expect("shown");
    assert!(certificate.is_for_servers() && certificate.is_for_host(HOST) && certificate.is_for_host("127.0.0.1"));
    assert!(!certificate.is_for_host("other.test") && !certificate.is_for_host("127.0.0.2"));
}

#[tokio::test]
async fn who_is_refused_is_told_why() {
    let (yard, other) = (Yard::new(), Yard::new());
    let server = yard.server();
    let nobody = yard.identity("nobody", None);

    told(meet(&server, Port::Clients, &other.identity("x", None), HOST).await.1.err(), "not signed by the CA in");
    told(meet(&server, Port::Clients, &nobody, "else.test").await.1.err(), "is not for else.test: it is for");

    // Signed by somebody else, but it takes our server for its own.
    let stranger = Files {
        ca: yard.path("ca.crt"),
        ..other.files("mallory", Some(&other.ca.issue(Whose::Client("mallory"), DAY).expect("made")))
    };
    let stranger = Identity::load(stranger).expect("good files");
    let (accepted, stream) = meet(&server, Port::Clients, &stranger, HOST).await;
    told(accepted.err(), "the client's certificate was not signed by the CA in");
    told(stream.err(), "the server refuses our certificate");

    let (then, before) = (SystemTime::now() - DAY, SystemTime::now() - DAY / 2);
    let old = yard.ca.issue_between(Whose::Client("old"), then, before).expect("made");
    let (accepted, stream) = meet(&server, Port::Clients, &yard.identity("old", Some(&old)), HOST).await;
    told(accepted.err(), "the client's certificate has expired");
    told(stream.err(), "the server refuses our certificate: it has expired");
    let old = yard.ca.issue_between(Whose::Server(&[HOST.to_owned()]), then, before).expect("made");
    let old = yard.identity("old-server", Some(&old));
    told(meet(&old, Port::Clients, &nobody, HOST).await.1.err(), "the server's certificate has expired");

    // A client cannot play the server.
    let client = yard.ca.issue(Whose::Client(HOST), DAY).expect("made");
    let client = yard.identity("client", Some(&client));
    told(meet(&client, Port::Clients, &nobody, HOST).await.1.err(), "not made for servers");
}

#[tokio::test]
async fn plain_text_is_answered_in_its_own_protocol() {
    let yard = Yard::new();
    let acceptor = yard.server().acceptor(Port::Clients);
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound");
    let server = tokio::spawn(async move {
        let mut results = Vec::new();
        for _ in 0..3 {
            let (tcp, _) = listener.accept().await.expect("accepts");
            results.push(acceptor.accept(tcp).await.map(|_| ()));
        }
        results
    });
    for (asked, answer) in
        [(&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..], "write https://"), (b"GET / HTTP/1.1\r\n\r\n", "400")]
    {
        let mut tcp = TcpStream::connect(address).await.expect("connects");
        tcp.write_all(asked).await.expect("writes");
        let mut said = Vec::new();
        tcp.read_to_end(&mut said).await.expect("an end, not a reset");
        let said = String::from_utf8_lossy(&said).into_owned();
        assert!(said.contains(answer) && said.contains("this port speaks TLS"), "{said:?}");
    }
    drop(TcpStream::connect(address).await.expect("connects"));
    let results = server.await.expect("no panic");
    assert!(matches!(
        results[..],
        [Err(AcceptError::PlainText), Err(AcceptError::PlainText), Err(AcceptError::Silent)]
    ));
}

#[tokio::test]
async fn new_files_are_taken_over_and_bad_ones_change_nothing() {
    let yard = Yard::new();
    let server = yard.server();
    let nobody = yard.identity("nobody", None);
    let serial = |identity: &Arc<Identity>| identity.own().expect("its own").not_after_seconds();
    let first = serial(&server);
    assert!(!server.refresh().expect("unchanged"));

    let next = yard.ca.issue(Whose::Server(&["next.test".to_owned()]), 2 * DAY).expect("made");
    let pair = yard.write("server", &next);
    assert!(server.refresh().expect("good"));
    assert!(serial(&server) > first);
    meet(&server, Port::Clients, &nobody, "next.test").await.1.expect("the new name");
    told(meet(&server, Port::Clients, &nobody, HOST).await.1.err(), "it is for");

    // Half of a pair, as between two writes; then garbage.
    fs::write(&pair.cert, yard.server_made().cert).expect("writes");
    told(server.refresh().err(), "does not belong to the certificate");
    assert!(!server.refresh().expect("told once"));
    fs::write(&pair.key, "garbage").expect("writes");
    told(server.refresh().err(), "holds no private key in PEM form");
    meet(&server, Port::Clients, &nobody, "next.test").await.1.expect("the old one is kept");
    assert_eq!(server.failures(), 2);

    // Another CA: those whom the old one signed are strangers from now on.
    let other = Yard::new();
    let alice = yard.identity("alice", Some(&yard.ca.issue(Whose::Client("alice"), DAY).expect("made")));
    yard.write("server", &next);
    assert!(!server.refresh().expect("back to what is in force"));
    meet(&server, Port::Clients, &alice, "next.test").await.1.expect("known");
    fs::write(yard.path("ca.crt"), &other.ca.made().cert).expect("writes");
    assert!(server.refresh().expect("good"));
    told(meet(&server, Port::Clients, &alice, "next.test").await.0.err(), "was not signed by the CA");
}

#[test]
fn what_is_wrong_with_files_is_told() {
    let yard = Yard::new();
    let good = yard.files("server", Some(&yard.server_made()));
    let pair = good.pair.clone().expect("there");
    let with = |path: &Path, text: &str| {
        fs::write(path, text).expect("writes");
        let error = Identity::load(good.clone()).err().map(|error| error.to_string());
        yard.files("server", Some(&yard.server_made()));
        error
    };
    told(with(&good.ca, ""), "ca.crt holds no CA in PEM form: expected -----BEGIN CERTIFICATE-----");
    told(with(&pair.cert, &yard.ca.made().key), "server.crt holds no certificate in PEM form");
    told(with(&pair.key, &yard.ca.made().cert), "server.key holds no private key in PEM form");
    told(with(&pair.key, &yard.ca.made().key), "does not belong to the certificate");
    let broken = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    told(with(&pair.cert, broken), "server.crt is no certificate that can be used");
    told(with(&good.ca, broken), "ca.crt is no CA that can be used");
    fs::remove_file(&pair.key).expect("there");
    told(Identity::load(good.clone()).err(), "cannot read the private key");
    use std::os::unix::fs::PermissionsExt as _;
    yard.write("server", &yard.server_made());
    fs::set_permissions(&pair.key, fs::Permissions::from_mode(0o640)).expect("ours");
    assert_eq!(good.key_open_to_others().map(|(_, mode)| mode), Some(0o640));
    fs::set_permissions(&pair.key, fs::Permissions::from_mode(0o600)).expect("ours");
    assert_eq!(good.key_open_to_others(), None);
}
