//! Snapshots on their way between servers: files in chunks, each with its checksum, resumable.

use std::{
    fs::{self, File, OpenOptions},
    io::{Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
    time::Duration,
};

use conclave_faults::point;
use conclave_proto::{
    ServerId,
    peer::{SnapshotChunk, SnapshotRequest, peer_client::PeerClient},
};
use conclave_state::Machine;
use raft::eraftpb::Message;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::{
    node::Request,
    peers::{Inbox, Local, connect},
};
use crate::storage::disk::{check_incoming, incoming_dir, snapshot_dir};

/// Bytes of data in one chunk.
const CHUNK_BYTES: usize = 1 << 20;
/// Chunks read ahead of the receiver.
const CHUNKS_AHEAD: usize = 4;
/// A transfer that broke is resumed this often without any progress before it is given up.
const ATTEMPTS_MAX: u32 = 10;
const ATTEMPT_PAUSE: Duration = Duration::from_millis(300);
/// A chunk takes at most this long.
const CHUNK_TIMEOUT: Duration = Duration::from_secs(15);

pub(super) type Chunks = ReceiverStream<Result<SnapshotChunk, Status>>;

/// Name and size of a snapshot's files, in the order in which they travel.
fn files(dir: &Path) -> std::io::Result<Vec<(String, u64)>> {
    let mut files = Vec::new();
    for item in fs::read_dir(dir)? {
        let item = item?;
        let name = item.file_name().into_string().unwrap_or_default();
        // RocksDB's own diary and lock are no part of the database.
        if item.file_type()?.is_file() && name != "LOCK" && !name.starts_with("LOG") {
            files.push((name, item.metadata()?.len()));
        }
    }
    files.sort();
    Ok(files)
}

/// Sends a snapshot's files from where the request says.
pub(super) fn serve(local: &Local, inbox: Inbox, request: SnapshotRequest) -> Result<Chunks, Status> {
    point!("snapshot-serve", |error| Err(Status::unavailable(error.to_string())));
    let dir = snapshot_dir(&local.data_dir, &request.snapshot)
        .filter(|dir| dir.is_dir())
        .ok_or_else(|| Status::not_found(format!("there is no snapshot {:?}", request.snapshot)))?;
    let (sender, receiver) = mpsc::channel(CHUNKS_AHEAD);
    tokio::task::spawn_blocking(move || {
        if let Err(error) = send_files(&dir, &request, &sender, &inbox) {
            let _ = sender.blocking_send(Err(Status::aborted(format!("cannot read the snapshot: {error}"))));
        }
    });
    Ok(ReceiverStream::new(receiver))
}

fn send_files(
    dir: &Path,
    request: &SnapshotRequest,
    sender: &mpsc::Sender<Result<SnapshotChunk, Status>>,
    inbox: &Inbox,
) -> std::io::Result<()> {
    point!("snapshot-files", Err);
    let files = files(dir)?;
    let start = usize::try_from(request.file).unwrap_or(usize::MAX);
    for (number, (name, size)) in files.iter().enumerate().skip(start) {
        point!("snapshot-open-file", Err);
        let mut file = File::open(dir.join(name))?;
        let mut offset = if number == start { request.offset } else { 0 };
        file.seek(SeekFrom::Start(offset))?;
        loop {
            let mut data = vec![0; CHUNK_BYTES.min(usize::try_from(size.saturating_sub(offset)).unwrap_or(usize::MAX))];
            point!("snapshot-read-chunk", Err);
            file.read_exact(&mut data)?;
            let crc = crc32fast::hash(&data);
            let end = offset + data.len() as u64;
            let chunk = SnapshotChunk {
                file: u32::try_from(number).map_err(std::io::Error::other)?,
                name: name.clone(),
                file_size: *size,
                offset,
                data: data.into(),
                crc,
                last: end >= *size && number + 1 == files.len(),
            };
            point!("snapshot-send-chunk", Err);
            if sender.blocking_send(Ok(chunk)).is_err() {
                return Ok(());
            }
            let _ = inbox.push(Request::SnapshotServed { to: ServerId(request.from), ok: true });
            offset = end;
            if offset >= *size {
                break;
            }
        }
    }
    Ok(())
}

/// Fetches the snapshot a message announces, and checks it: its state and where it lies.
pub(super) async fn fetch(local: &Local, address: &str, message: &Message) -> Result<(Box<Machine>, PathBuf), String> {
    let id = String::from_utf8(message.get_snapshot().data.clone()).map_err(|_| "its name is not text".to_owned())?;
    let dir = incoming_dir(&local.data_dir);
    let wanted = message.get_snapshot().get_metadata().index;
    prepare(&dir, &id).map_err(|error| format!("cannot prepare {}: {error}", dir.display()))?;
    tracing::info!(index = wanted, from = message.from, "fetching a snapshot");
    let mut attempts = 0;
    loop {
        let before = received(&dir);
        match fetch_once(local, address, &id, &dir).await {
            Ok(()) => break,
            Err(error) => {
                attempts = if received(&dir) == before { attempts + 1 } else { 0 };
                if error.hopeless || attempts >= ATTEMPTS_MAX {
                    return Err(error.why);
                }
                tracing::debug!(error = error.why, "a snapshot's transfer broke and is resumed");
                tokio::time::sleep(ATTEMPT_PAUSE).await;
            }
        }
    }
    let checking = dir.clone();
    let check = move || {
        point!("fetch-check", |error| Err(crate::storage::StoreError::io("read", &checking)(error)));
        check_incoming(&checking)
    };
    let checked = tokio::task::spawn_blocking(check).await;
    let (machine, at) = match checked {
        Ok(Ok(checked)) => checked,
        Ok(Err(error)) => {
            // What was received is not what was sent: all of it, again.
            let _ = fs::remove_dir_all(&dir);
            return Err(error.to_string());
        }
        Err(error) => return Err(error.to_string()),
    };
    if at.index != wanted {
        let _ = fs::remove_dir_all(&dir);
        return Err(format!("the snapshot is as of index {}, announced was {wanted}", at.index));
    }
    point!("fetch-done", |error| Err(error.to_string()));
    Ok((Box::new(machine), dir))
}

/// A chunk as it came. For the tests of decoders.
///
/// # Errors
/// It is not what was sent, or would leave the directory of the snapshot.
#[doc(hidden)]
pub fn check_chunk(chunk: &SnapshotChunk) -> Result<(), FetchError> {
    if crc32fast::hash(&chunk.data) != chunk.crc {
        let why = format!("checksum mismatch: file={} offset={}", chunk.name, chunk.offset);
        return Err(FetchError { why, hopeless: false });
    }
    let plain = !chunk.name.starts_with('.') && !chunk.name.contains(['/', '\\', '\0']) && !chunk.name.is_empty();
    if !plain {
        return Err(FetchError { why: format!("{:?} is not a file name", chunk.name), hopeless: true });
    }
    Ok(())
}

/// Why a snapshot was not fetched.
#[doc(hidden)]
#[derive(Debug)]
pub struct FetchError {
    why: String,
    hopeless: bool,
}

impl From<Status> for FetchError {
    fn from(status: Status) -> Self {
        let hopeless = matches!(status.code(), tonic::Code::NotFound | tonic::Code::FailedPrecondition);
        Self { why: status.to_string(), hopeless }
    }
}

impl From<std::io::Error> for FetchError {
    fn from(error: std::io::Error) -> Self {
        Self { why: error.to_string(), hopeless: false }
    }
}

/// What is left of the same snapshot is kept, of another one removed.
fn prepare(dir: &Path, id: &str) -> std::io::Result<()> {
    point!("fetch-prepare", Err);
    let note = dir.with_extension("id");
    if fs::read_to_string(&note).is_ok_and(|noted| noted == id) && dir.is_dir() {
        return Ok(());
    }
    if dir.exists() {
        fs::remove_dir_all(dir)?;
    }
    fs::create_dir_all(dir)?;
    fs::write(&note, id)
}

/// How far it came: the number of the file being written, and its bytes.
fn received(dir: &Path) -> (u32, u64) {
    match files(dir) {
        Ok(files) if !files.is_empty() => {
            (u32::try_from(files.len() - 1).unwrap_or(u32::MAX), files[files.len() - 1].1)
        }
        _ => (0, 0),
    }
}

async fn fetch_once(local: &Local, address: &str, id: &str, dir: &Path) -> Result<(), FetchError> {
    point!("fetch-connect", |error| Err(error.into()));
    let channel = connect(local, address).await?;
    let mut client = PeerClient::new(channel).max_decoding_message_size(4 * CHUNK_BYTES);
    let (file, offset) = received(dir);
    let request =
        SnapshotRequest { cluster: local.cluster.clone(), from: local.id.0, snapshot: id.to_owned(), file, offset };
    let mut chunks = client.snapshot(request).await?.into_inner();
    let mut open: Option<(u32, File)> = None;
    let bad = |why: String| FetchError { why, hopeless: false };
    loop {
        point!("fetch-receive", |error| Err(error.into()));
        let chunk = tokio::time::timeout(CHUNK_TIMEOUT, chunks.message())
            .await
            .map_err(|_| bad("the sender fell silent".to_owned()))??
            .ok_or_else(|| bad("the transfer ended early".to_owned()))?;
        point!("fetch-checksum", |error| Err(error.into()));
        check_chunk(&chunk)?;
        if open.as_ref().is_none_or(|(number, _)| *number != chunk.file) {
            if let Some((_, done)) = open.take() {
                point!("fetch-sync", |error| Err(error.into()));
                done.sync_all()?;
            }
            let path = dir.join(&chunk.name);
            point!("fetch-open-file", |error| Err(error.into()));
            open = Some((chunk.file, OpenOptions::new().create(true).append(true).open(path)?));
        }
        let (_, file) = open.as_mut().expect("just opened");
        if file.metadata()?.len() != chunk.offset {
            return Err(bad(format!("file={} continues at {}, which is elsewhere", chunk.name, chunk.offset)));
        }
        point!("fetch-write", |error| Err(error.into()));
        file.write_all(&chunk.data)?;
        if chunk.last {
            file.sync_all()?;
            return Ok(());
        }
    }
}
