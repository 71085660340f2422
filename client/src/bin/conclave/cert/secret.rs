//! Certificates as Kubernetes Secrets, made from inside a pod with its service account.
//!
//! Two Secrets of type `kubernetes.io/tls`: NAME (tls.crt, tls.key, ca.crt: what a server mounts) and NAME-ca (the CA's
//! certificate and key, for making more). What exists is left alone, so that this can run at every install and upgrade.

use std::{fs, path::Path, sync::Arc, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use conclave_tls::{
    Files, First, Identity,
    make::{Authority, Made, Whose},
};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{
    Method, Request, StatusCode,
    header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HOST},
};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpStream;

use super::new_authority;
use crate::{
    args,
    exit::{self, Failure},
    output::Out,
};

/// One question to the API server.
const ASK_WITHIN: Duration = Duration::from_secs(15);
/// Most bytes of an answer; a Secret is at most 1 MiB, base64 a third more.
const ANSWER_BYTES_MAX: usize = 4 << 20;

/// The Secrets, made where they are missing.
pub async fn run(args: &args::Cert, valid: Duration, out: &mut Out) -> Result<(), Failure> {
    let name = args.to_secret.as_deref().unwrap_or_default();
    if args.names.is_empty() {
        return Err(Failure::usage("--to-secret needs --name: the DNS names by which the servers are reached"));
    }
    let api = Api::in_cluster(&args.service_account, args.namespace.as_deref())?;
    let ca_name = format!("{name}-ca");
    if api.get(name).await?.is_some() {
        return out.line(format!("Secret {}/{name} is there: left alone", api.namespace));
    }
    let authority = match api.get(&ca_name).await? {
        Some(secret) => Authority::from_pem(made(&secret, &ca_name)?)?,
        None => {
            let authority = new_authority()?;
            let own = authority.made();
            if api.create(&ca_name, own, &own.cert).await? {
                out.line(format!("Secret {}/{ca_name} made: the CA and its key", api.namespace))?;
                authority
            } else {
                // Somebody else was quicker: theirs is the one that counts.
                let theirs = api.get(&ca_name).await?;
                let theirs = theirs
                    .ok_or_else(|| Failure::new(exit::UNAVAILABLE, format!("Secret {ca_name} comes and goes")))?;
                Authority::from_pem(made(&theirs, &ca_name)?)?
            }
        }
    };
    let server = authority.issue(Whose::Server(&args.names), valid)?;
    if api.create(name, &server, &authority.made().cert).await? {
        out.line(format!("Secret {}/{name} made: a server's, for {}", api.namespace, args.names.join(", ")))
    } else {
        out.line(format!("Secret {}/{name} is there: left alone", api.namespace))
    }
}

/// The pair in a Secret.
fn made(secret: &Value, name: &str) -> Result<Made, Failure> {
    let text = |key: &str| {
        let base64 = secret["data"][key].as_str()?;
        String::from_utf8(STANDARD.decode(base64).ok()?).ok()
    };
    match (text("tls.crt"), text("tls.key")) {
        (Some(cert), Some(key)) => Ok(Made { cert, key }),
        _ => Err(Failure::new(exit::REFUSED, format!("Secret {name} has no tls.crt and tls.key"))),
    }
}

/// The API server as a pod sees it.
struct Api {
    host: String,
    port: u16,
    namespace: String,
    token: String,
    identity: Arc<Identity>,
}

impl Api {
    fn in_cluster(account: &Path, namespace: Option<&str>) -> Result<Self, Failure> {
        let outside = "--to-secret works in a pod, with a service account that may get and create Secrets";
        let variable = |name: &str| {
            let missing = || Failure::usage(format!("{name} is not set")).with_hint(outside);
            std::env::var(name).map_err(|_| missing())
        };
        let read = |file: &str| {
            let path = account.join(file);
            let text = fs::read_to_string(&path);
            text.map(|text| text.trim().to_owned())
                .map_err(|error| Failure::local(path.display(), &error).with_hint(outside))
        };
        let host = variable("KUBERNETES_SERVICE_HOST")?;
        let port = variable("KUBERNETES_SERVICE_PORT")?;
        let port = port.parse().map_err(|_| Failure::usage(format!("KUBERNETES_SERVICE_PORT is {port:?}, no port")))?;
        let namespace = match namespace {
            Some(namespace) => namespace.to_owned(),
            None => read("namespace")?,
        };
        let identity = Identity::load(Files { ca: account.join("ca.crt"), pair: None })
            .map_err(|error| Failure::new(exit::LOCAL_IO, error.to_string()).with_hint(outside))?;
        Ok(Self { host, port, namespace, token: read("token")?, identity })
    }

    async fn get(&self, name: &str) -> Result<Option<Value>, Failure> {
        let (status, answer) = self.ask(Method::GET, &format!("/{name}"), None).await?;
        match status {
            StatusCode::OK => Ok(Some(answer)),
            StatusCode::NOT_FOUND => Ok(None),
            _ => Err(self.refused(&format!("get Secret {name}"), status, &answer)),
        }
    }

    /// False: it is there already.
    async fn create(&self, name: &str, pair: &Made, ca: &str) -> Result<bool, Failure> {
        let secret = json!({
            "apiVersion": "v1",
            "kind": "Secret",
            "type": "kubernetes.io/tls",
            "metadata": {
                "name": name,
                "namespace": self.namespace,
                "labels": { "app.kubernetes.io/managed-by": "conclave-cert" },
            },
            "data": {
                "tls.crt": STANDARD.encode(&pair.cert),
                "tls.key": STANDARD.encode(&pair.key),
                "ca.crt": STANDARD.encode(ca),
            },
        });
        let (status, answer) = self.ask(Method::POST, "", Some(&secret)).await?;
        match status {
            StatusCode::CREATED | StatusCode::OK => Ok(true),
            StatusCode::CONFLICT => Ok(false),
            _ => Err(self.refused(&format!("create Secret {name}"), status, &answer)),
        }
    }

    fn refused(&self, what: &str, status: StatusCode, answer: &Value) -> Failure {
        let code = match status {
            StatusCode::FORBIDDEN | StatusCode::UNAUTHORIZED => exit::DENIED,
            _ => exit::REFUSED,
        };
        let why = answer["message"].as_str().unwrap_or("without a reason");
        Failure::new(code, format!("{what} in namespace {}: the API server says {status}: {why}", self.namespace))
    }

    async fn ask(&self, method: Method, rest: &str, body: Option<&Value>) -> Result<(StatusCode, Value), Failure> {
        let lost = |why: String| {
            Failure::new(exit::UNAVAILABLE, format!("the API server at {}:{}: {why}", self.host, self.port))
        };
        let asked = tokio::time::timeout(ASK_WITHIN, self.exchange(method, rest, body)).await;
        asked.map_err(|_| lost("no answer in time".to_owned()))?.map_err(|error| lost(error.to_string()))
    }

    async fn exchange(
        &self,
        method: Method,
        rest: &str,
        body: Option<&Value>,
    ) -> Result<(StatusCode, Value), Box<dyn std::error::Error + Send + Sync>> {
        let tcp = TcpStream::connect((&*self.host, self.port)).await?;
        let stream = self.identity.connect(tcp, &self.host, First::Client).await?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        let connection = tokio::spawn(connection);
        let bytes = body.map(Value::to_string).unwrap_or_default();
        let request = Request::builder()
            .method(method)
            .uri(format!("/api/v1/namespaces/{}/secrets{rest}", self.namespace))
            .header(HOST, format!("{}:{}", self.host, self.port))
            .header(AUTHORIZATION, format!("Bearer {}", self.token))
            .header(ACCEPT, "application/json")
            .header(CONTENT_TYPE, "application/json")
            .body(Full::new(bytes::Bytes::from(bytes)))?;
        let answer = sender.send_request(request).await?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), ANSWER_BYTES_MAX).collect().await?.to_bytes();
        connection.abort();
        Ok((status, serde_json::from_slice(&body).unwrap_or(Value::Null)))
    }
}
