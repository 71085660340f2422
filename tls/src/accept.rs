//! The server's side of a connection.

use std::{io, sync::Arc, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use crate::{Certificate, Identity, explain::explain};

/// What a port is for, and so who must show a certificate there.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Port {
    /// Clients may show one; peers come by this port too as long as they have none of their own.
    Clients = 0,
    /// Peers must.
    Peers = 1,
    /// Nobody is asked for one: for probes and metrics, over HTTP/1.1.
    Http = 2,
}

/// Makes TLS out of the connections to one port.
#[derive(Clone, Debug)]
pub struct Acceptor {
    identity: Arc<Identity>,
    port: Port,
}

/// A connection after its handshake.
#[derive(Debug)]
pub struct Accepted {
    /// What to read from and write to.
    pub stream: Box<TlsStream<TcpStream>>,
    /// The other end's certificate, signed by our CA and valid now.
    pub certificate: Option<Certificate>,
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum AcceptError {
    /// It was closed before it said anything, as checks of a port do.
    #[error("closed before it said anything")]
    Silent,
    /// It speaks without TLS; it was told so.
    #[error("it speaks plain text, and this port speaks TLS")]
    PlainText,
    /// The handshake.
    #[error("{0}")]
    Handshake(String),
    /// The connection.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Every TLS connection begins with a record of this type.
const HANDSHAKE: u8 = 22;
/// Whoever is turned away is given so long to read why.
const LAST_WORD: Duration = Duration::from_secs(1);
/// An HTTP/2 client asks something so soon after it has connected.
const ASKS_WITHIN: Duration = Duration::from_millis(500);
const WORDS: &str = "this port speaks TLS: write https:// and name the CA";

impl Acceptor {
    pub(crate) fn new(identity: Arc<Identity>, port: Port) -> Self {
        Self { identity, port }
    }

    /// Waits for the other end to say who it is. Takes as long as it likes: the caller limits the time.
    ///
    /// # Errors
    /// See [`AcceptError`].
    pub async fn accept(&self, mut tcp: TcpStream) -> Result<Accepted, AcceptError> {
        let mut first = [0; 4];
        let seen = tcp.peek(&mut first).await?;
        if seen == 0 {
            return Err(AcceptError::Silent);
        }
        if first[0] != HANDSHAKE {
            let _ = tokio::time::timeout(LAST_WORD, turn_away(&mut tcp, &first[..seen])).await;
            return Err(AcceptError::PlainText);
        }
        let config = self.identity.loaded().server(self.port);
        let config = config.ok_or_else(|| AcceptError::Handshake("there is no certificate of our own".to_owned()))?;
        let stream = TlsAcceptor::from(config)
            .accept(tcp)
            .await
            .map_err(|error| AcceptError::Handshake(explain(&error, self.identity.files(), None)))?;
        let certificate = match stream.get_ref().1.peer_certificates().and_then(<[_]>::first) {
            None => None,
            Some(der) => Some(Certificate::parse(der.clone().into_owned()).map_err(AcceptError::Handshake)?),
        };
        Ok(Accepted { stream: Box::new(stream), certificate })
    }
}

/// Reads until a request has begun: the first HEADERS after the client's preface.
async fn until_asked(tcp: &mut TcpStream) -> io::Result<()> {
    const PREFACE_BYTES: usize = 24;
    const HEADERS: u8 = 1;
    const FRAMES_MAX: usize = 16;
    let mut preface = [0; PREFACE_BYTES];
    tcp.read_exact(&mut preface).await?;
    for _ in 0..FRAMES_MAX {
        let mut head = [0; 9];
        tcp.read_exact(&mut head).await?;
        if head[3] == HEADERS {
            break;
        }
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        tokio::io::copy(&mut (&mut *tcp).take(length.into()), &mut tokio::io::sink()).await?;
    }
    Ok(())
}

/// Says in the caller's own protocol what is wrong: a GOAWAY (RFC 9113, sections 6.8 and 7) to HTTP/2, a page to HTTP/1.
async fn turn_away(tcp: &mut TcpStream, first: &[u8]) -> io::Result<()> {
    if b"PRI ".starts_with(first) {
        const INADEQUATE_SECURITY: [u8; 4] = [0, 0, 0, 0xc];
        tcp.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await?; // SETTINGS, empty
        // A caller that has asked nothing yet would see a closed connection and no reason.
        let _ = tokio::time::timeout(ASKS_WITHIN, until_asked(tcp)).await;
        let length = u8::try_from(8 + WORDS.len()).expect("a short sentence");
        let mut goaway = vec![0, 0, length, 7, 0, 0, 0, 0, 0];
        goaway.extend([0; 4]); // nothing was looked at
        goaway.extend(INADEQUATE_SECURITY);
        goaway.extend(WORDS.as_bytes());
        tcp.write_all(&goaway).await?;
    } else {
        let page = format!(
            "HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{WORDS}\n",
            WORDS.len() + 1
        );
        tcp.write_all(page.as_bytes()).await?;
    }
    tcp.shutdown().await?;
    // Closing with unread bytes would take the words back.
    let mut rest = [0; 1024];
    while tcp.read(&mut rest).await? > 0 {}
    Ok(())
}
