//! The lock of the incident: GET, and if nobody is there SET with NX and an expiry; on leaving DEL, whoever's it is by
//! then. No owner is checked and nothing is fenced. And the key-value server it runs against: the few commands of Redis
//! that it needs, as Redis answers them, expiry included; `--redis` uses a real one instead.

use std::{
    collections::HashMap,
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

/// How often a waiter looks again.
const RETRY_EVERY: Duration = Duration::from_millis(5);
/// Bytes of one command at the most.
const COMMAND_BYTES_MAX: u64 = 4_096;
/// Connections served at once.
const CONNECTIONS_MAX: usize = 256;

/// A worker's connection.
pub struct NaiveLock {
    stream: BufReader<TcpStream>,
}

impl NaiveLock {
    /// Connects.
    ///
    /// # Errors
    /// The socket's.
    pub fn connect(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        Ok(Self { stream: BufReader::new(stream) })
    }

    /// Waits for the lock; false if it was not free within `wait`.
    ///
    /// # Errors
    /// The socket's, or what the server complained of.
    pub fn lock(&mut self, key: &str, ttl: Duration, wait: Duration) -> io::Result<bool> {
        let until = Instant::now() + wait;
        loop {
            if self.command(&format!("GET {key}"))?.is_none()
                && self.command(&format!("SET {key} held NX PX {}", ttl.as_millis()))?.is_some()
            {
                return Ok(true);
            }
            if Instant::now() >= until {
                return Ok(false);
            }
            thread::sleep(RETRY_EVERY);
        }
    }

    /// Lets go of whatever is there.
    ///
    /// # Errors
    /// As [`NaiveLock::lock`].
    pub fn unlock(&mut self, key: &str) -> io::Result<()> {
        self.command(&format!("DEL {key}")).map(drop)
    }

    /// The reply: a text, or none for Redis's nil.
    fn command(&mut self, line: &str) -> io::Result<Option<String>> {
        self.stream.get_mut().write_all(format!("{line}\r\n").as_bytes())?;
        let reply = self.line()?;
        match reply.split_at_checked(1) {
            Some(("+" | ":", text)) => Ok(Some(text.to_owned())),
            Some(("$", "-1")) => Ok(None),
            Some(("$", _)) => self.line().map(Some),
            _ => Err(io::Error::other(format!("{line:?} was answered {reply:?}"))),
        }
    }

    fn line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        if self.stream.read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(line.trim_end().to_owned())
    }
}

type Store = Arc<Mutex<HashMap<String, (String, Instant)>>>;

/// Serves until the process ends.
///
/// # Errors
/// The listener's.
pub fn serve(listener: &TcpListener) -> io::Result<()> {
    let store = Store::default();
    let connections = Arc::new(AtomicUsize::new(0));
    for stream in listener.incoming() {
        let stream = stream?;
        if connections.fetch_add(1, Ordering::Relaxed) >= CONNECTIONS_MAX {
            connections.fetch_sub(1, Ordering::Relaxed);
            continue;
        }
        let (store, connections) = (Arc::clone(&store), Arc::clone(&connections));
        thread::spawn(move || {
            // Whatever went wrong on this connection, it is over and its client knows.
            let _ = serve_one(&stream, &store);
            connections.fetch_sub(1, Ordering::Relaxed);
        });
    }
    Ok(())
}

fn serve_one(stream: &TcpStream, store: &Store) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut reader = BufReader::new(stream);
    let mut writer = stream;
    loop {
        let mut line = String::new();
        if (&mut reader).take(COMMAND_BYTES_MAX).read_line(&mut line)? == 0 {
            return Ok(());
        }
        let reply = answer(&mut store.lock().expect("nobody panics while holding it"), &line, Instant::now());
        writer.write_all(reply.as_bytes())?;
    }
}

fn answer(store: &mut HashMap<String, (String, Instant)>, line: &str, now: Instant) -> String {
    let words: Vec<&str> = line.split_whitespace().collect();
    let (["GET", key] | ["SET", key, ..] | ["DEL", key]) = words[..] else {
        return format!("-ERR unknown command {:?}\r\n", words.first().copied().unwrap_or_default());
    };
    if store.get(key).is_some_and(|(_, ends)| *ends <= now) {
        store.remove(key);
    }
    match words[..] {
        ["GET", _] => store.get(key).map_or("$-1\r\n".into(), |(value, _)| format!("${}\r\n{value}\r\n", value.len())),
        ["DEL", _] => format!(":{}\r\n", u8::from(store.remove(key).is_some())),
        ["SET", _, value, "NX", "PX", ttl] => match ttl.parse() {
            Ok(ttl) if store.contains_key(key) => {
                let _: u64 = ttl;
                "$-1\r\n".into()
            }
            Ok(ttl) => {
                store.insert(key.into(), (value.into(), now + Duration::from_millis(ttl)));
                "+OK\r\n".into()
            }
            Err(_) => "-ERR value is not an integer or out of range\r\n".into(),
        },
        _ => "-ERR syntax error\r\n".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_as_redis_does() {
        let (mut store, start) = (HashMap::new(), Instant::now());
        let mut ask = |line: &str, after_ms: u64| answer(&mut store, line, start + Duration::from_millis(after_ms));
        assert_eq!(ask("GET a", 0), "$-1\r\n");
        assert_eq!(ask("SET a held NX PX 200", 0), "+OK\r\n");
        assert_eq!(ask("SET a held NX PX 200", 100), "$-1\r\n");
        assert_eq!(ask("GET a", 199), "$4\r\nheld\r\n");
        assert_eq!(ask("GET a", 200), "$-1\r\n");
        assert_eq!(ask("SET a held NX PX 200", 200), "+OK\r\n");
        assert_eq!(ask("DEL a", 300), ":1\r\n");
        assert_eq!(ask("DEL a", 300), ":0\r\n");
        assert!(ask("SET a held NX PX soon", 0).starts_with("-ERR value"));
        assert!(ask("SET a held", 0).starts_with("-ERR syntax"));
        assert!(ask("FLUSHALL", 0).starts_with("-ERR unknown"));
        assert!(ask("", 0).starts_with("-ERR unknown"));
    }

    #[test]
    fn it_excludes_until_it_expires_and_then_frees_what_is_not_its_own() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        thread::spawn(move || serve(&listener));
        let connect = || NaiveLock::connect(address).expect("connect");
        let (mut paused, mut next, mut third) = (connect(), connect(), connect());
        let (ttl, soon, patience) = (Duration::from_millis(300), Duration::from_millis(20), Duration::from_secs(30));
        assert!(paused.lock("order", ttl, soon).expect("lock"));
        assert!(!next.lock("order", Duration::from_secs(60), soon).expect("lock"), "it is held");
        assert!(next.lock("order", Duration::from_secs(60), patience).expect("lock"), "it expired");
        assert!(!third.lock("order", ttl, soon).expect("lock"), "it is held");
        paused.unlock("order").expect("unlock");
        assert!(third.lock("order", ttl, soon).expect("lock"), "the late one let a third in beside the second");
    }
}
