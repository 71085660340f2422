//! The client's side of a connection.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use rustls::pki_types::ServerName;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf},
    net::TcpStream,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::{Identity, explain::explain};

/// Who speaks first on a connection.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum First {
    /// The server, as in HTTP/2. In TLS 1.3 a client has done its part before the server has looked at its certificate: only
    /// the server's first byte shows that it was let in. So it is waited for (one more round trip), and a refusal is seen
    /// as what it is, before anything was sent.
    Server,
    /// The client, as in HTTP/1.1.
    Client,
}

/// A connection after its handshake.
#[derive(Debug)]
pub struct Stream {
    tls: Box<TlsStream<TcpStream>>,
    /// What came first.
    head: Vec<u8>,
    read: usize,
}

const HEAD_BYTES: usize = 64;

impl Identity {
    /// Makes TLS out of an open connection to `host`, whose certificate must be for that host and signed by our CA. Takes
    /// as long as the other end likes: the caller limits the time.
    ///
    /// # Errors
    /// What was wrong, in a sentence, as [`io::ErrorKind::InvalidData`]; or the connection's own failure.
    pub async fn connect(&self, tcp: TcpStream, host: &str, first: First) -> io::Result<Stream> {
        let refused = |words: String| io::Error::new(io::ErrorKind::InvalidData, words);
        let wrong = |error: io::Error| refused(explain(&error, self.files(), Some(host)));
        let name = ServerName::try_from(host.to_owned())
            .map_err(|_| refused(format!("{host:?} is neither a DNS name nor an IP address")))?;
        let loaded = self.loaded();
        let config = match first {
            First::Server => &loaded.clients[0],
            First::Client => &loaded.clients[1],
        };
        let mut tls = TlsConnector::from(config.clone()).connect(name, tcp).await.map_err(wrong)?;
        let mut head = Vec::new();
        if first == First::Server {
            head.resize(HEAD_BYTES, 0);
            let read = tls.read(&mut head).await.map_err(wrong)?;
            if read == 0 {
                return Err(refused("the server closed the connection right after the handshake".to_owned()));
            }
            head.truncate(read);
        }
        Ok(Stream { tls: Box::new(tls), head, read: 0 })
    }
}

impl AsyncRead for Stream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, to: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.read < this.head.len() {
            let rest = &this.head[this.read..];
            let taken = rest.len().min(to.remaining());
            to.put_slice(&rest[..taken]);
            this.read += taken;
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut this.tls).poll_read(cx, to)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, from: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tls).poll_write(cx, from)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tls).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tls).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        from: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tls).poll_write_vectored(cx, from)
    }

    fn is_write_vectored(&self) -> bool {
        self.tls.is_write_vectored()
    }
}
