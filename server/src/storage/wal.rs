//! Is a write-ahead log damaged, or only torn at its end?
//!
//! After a crash the last write of RocksDB's log may be there in part, and was acknowledged to nobody: RocksDB leaves it out
//! and goes on. It does the same at the first record that it cannot read, wherever that is (`kPointInTimeRecovery`): with one
//! flipped bit it forgets everything written later, and a voter that forgets what it acknowledged can cost the cluster a
//! committed entry. So the log is read before RocksDB reads it, and a server whose log is damaged does not start.
//!
//! The format is RocksDB's (wiki page "Write Ahead Log File Format"): blocks of 32 KiB, in them records of a checksum
//! (masked CRC-32C of what follows the length), a length, a type, and data; a write is one whole record, or several parts.

use std::{
    fs,
    io::{self, Read as _},
    path::{Path, PathBuf},
};

use crc::{CRC_32_ISCSI, Crc, Table};

const BLOCK: usize = 32 * 1_024;
const HEADER: usize = 4 + 2 + 1;
/// A disk writes so much as a whole, or not at all; what it did not write of a new file reads as zeros.
const SECTOR: usize = 512;
/// Types of records with which a write begins: a whole one, or its first part.
const WHOLE: u8 = 1;
const FIRST: u8 = 2;

static CRC: Crc<u32, Table<16>> = Crc::<u32, Table<16>>::new(&CRC_32_ISCSI);

/// A record that is not what was written, although what came later is there.
#[derive(Debug, Eq, PartialEq)]
pub struct Damage {
    /// In which file.
    pub file: PathBuf,
    /// Where it begins.
    pub offset: u64,
}

/// Reads every log in a database's directory. None of them need be there.
///
/// What cannot be told from a write that was under way: a last record that is cut short, or that was changed where its
/// length is.
///
/// # Errors
/// Of reading.
pub fn damage(database: &Path) -> io::Result<Option<Damage>> {
    let entries = match fs::read_dir(database) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        entries => entries?,
    };
    let mut files = Vec::new();
    for entry in entries {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "log") {
            files.push(path);
        }
    }
    files.sort_unstable();
    for file in files {
        if let Some(offset) = in_file(fs::File::open(&file)?)? {
            return Ok(Some(Damage { file, offset }));
        }
    }
    Ok(None)
}

/// Where the first damaged record begins, if there is one.
fn in_file(mut file: fs::File) -> io::Result<Option<u64>> {
    let mut block = Vec::with_capacity(BLOCK);
    let (mut from, mut bad) = (0, None);
    loop {
        block.clear();
        file.by_ref().take(BLOCK as u64).read_to_end(&mut block)?;
        if block.is_empty() {
            return Ok(None);
        }
        match (look(&block), bad) {
            (Seen::Good { .. }, None) | (Seen::Good { begins: false } | Seen::Bad { .. }, Some(_)) => {}
            (Seen::Good { begins: true } | Seen::Damaged { .. }, Some(bad)) => return Ok(Some(bad)),
            (Seen::Bad { at }, None) => bad = Some(from + at as u64),
            (Seen::Damaged { at }, None) => return Ok(Some(from + at as u64)),
        }
        from += block.len() as u64;
    }
}

/// What there is in a block.
enum Seen {
    /// Every record is right; in one of them a write begins.
    Good { begins: bool },
    /// From this one on nothing is: torn, unless a write begins in a later block.
    Bad { at: usize },
    /// This one is damaged: it is there as a whole, or a write begins behind it.
    Damaged { at: usize },
}

fn look(block: &[u8]) -> Seen {
    let (mut at, mut begins) = (0, false);
    // A shorter rest of a block is padding.
    while at + HEADER <= block.len() {
        match record(block, at) {
            Record::Right { kind, end } => {
                begins |= begin(kind);
                at = end;
            }
            Record::Wrong { torn } => {
                let later = |at| matches!(record(block, at), Record::Right { kind, .. } if begin(kind));
                let damaged = !torn || (at + 1..=block.len() - HEADER).any(later);
                return if damaged { Seen::Damaged { at } } else { Seen::Bad { at } };
            }
        }
    }
    Seen::Good { begins }
}

fn begin(kind: u8) -> bool {
    kind == WHOLE || kind == FIRST
}

enum Record {
    Right {
        kind: u8,
        end: usize,
    },
    /// `torn`: a write that was under way can look like this.
    Wrong {
        torn: bool,
    },
}

/// What there is at this place of a block, which has room for a header there.
fn record(block: &[u8], at: usize) -> Record {
    let (header, data) = block[at..].split_at(HEADER);
    let length = usize::from(u16::from_le_bytes([header[4], header[5]]));
    let kind = header[6];
    // Nothing was written here, or not all of it.
    let (true, Some(data)) = (kind != 0, data.get(..length)) else { return Record::Wrong { torn: true } };
    let mut crc = CRC.digest();
    crc.update(&[kind]);
    crc.update(data);
    // Masked, since a checksum of data that has checksums in it would be a poor one.
    let masked = crc.finalize().rotate_right(15).wrapping_add(0xa282_ead8);
    if header[..4] == masked.to_le_bytes() {
        return Record::Right { kind, end: at + HEADER + length };
    }
    Record::Wrong { torn: has_empty_sector(data, at + HEADER) }
}

/// Whether what it has of some sector is nothing but zeros. Blocks begin with a sector; `from` counts within one.
fn has_empty_sector(data: &[u8], from: usize) -> bool {
    let (first, rest) = data.split_at(data.len().min(SECTOR - from % SECTOR));
    let empty = |piece: &[u8]| !piece.is_empty() && piece.iter().all(|byte| *byte == 0);
    empty(first) || rest.chunks(SECTOR).any(empty)
}

#[cfg(test)]
mod tests {
    use std::fs::OpenOptions;

    use rocksdb::{DB, Options, WriteBatch, WriteOptions};

    use super::*;

    /// A database with a log of small writes and one of more than a block, in its directory, and where each write ends.
    fn log(dir: &Path) -> (PathBuf, Vec<u64>) {
        let mut options = Options::default();
        options.create_if_missing(true);
        let db = DB::open(&options, dir).expect("a database");
        let file = files(dir).pop().expect("a log");
        let mut sync = WriteOptions::default();
        sync.set_sync(true);
        let mut ends = Vec::new();
        for (key, size) in [(1_u8, 40), (2, 700), (3, 90_000), (4, 5), (5, 30_000), (6, 2_000)] {
            let mut batch = WriteBatch::default();
            batch.put([key], vec![key; size]);
            db.write_opt(batch, &sync).expect("written");
            ends.push(fs::metadata(&file).expect("the log").len());
        }
        drop(db);
        (file, ends)
    }

    fn files(dir: &Path) -> Vec<PathBuf> {
        let all = fs::read_dir(dir).expect("a directory").map(|entry| entry.expect("an entry").path());
        all.filter(|path| path.extension().is_some_and(|extension| extension == "log")).collect()
    }

    /// What is found if the file had these bytes.
    fn found(dir: &Path, file: &Path, bytes: &[u8]) -> Option<u64> {
        fs::write(file, bytes).expect("written");
        damage(dir).expect("read").map(|damage| damage.offset)
    }

    #[test]
    fn a_log_that_is_whole_or_not_there_is_not_damaged() {
        let dir = tempfile::tempdir().expect("a directory");
        assert_eq!(damage(&dir.path().join("nothing")).expect("read"), None);
        let _ = log(dir.path());
        assert_eq!(damage(dir.path()).expect("read"), None);
    }

    #[test]
    fn a_flipped_bit_is_found_unless_it_looks_like_an_end() {
        let dir = tempfile::tempdir().expect("a directory");
        let (file, ends) = log(dir.path());
        let whole = fs::read(&file).expect("the log");
        let last = ends[ends.len() - 2];
        for at in (0..whole.len()).step_by(61).chain(0..HEADER).chain(whole.len() - 50..whole.len()) {
            let mut bytes = whole.clone();
            bytes[at] ^= 1 << (at % 8);
            let damaged = found(dir.path(), &file, &bytes);
            // Of the last write the length alone says where it ends.
            let length = at as u64 >= last + 4 && (at as u64) < last + HEADER as u64;
            assert!(damaged.is_some() || length, "byte {at} of {}", whole.len());
            assert!(damaged.is_none_or(|offset| offset <= at as u64), "byte {at}: {damaged:?}");
        }
    }

    #[test]
    fn an_end_that_is_torn_is_no_damage_and_rocksdb_goes_on_before_it() {
        let dir = tempfile::tempdir().expect("a directory");
        let (file, ends) = log(dir.path());
        let whole = fs::read(&file).expect("the log");
        for length in (0..whole.len()).step_by(997) {
            assert_eq!(found(dir.path(), &file, &whole[..length]), None, "{length}");
        }
        let ends = ends.iter().map(|end| usize::try_from(*end).expect("small"));
        for length in (0..whole.len()).step_by(SECTOR).chain(ends) {
            let mut bytes = whole[..length].to_vec();
            bytes.resize(length.next_multiple_of(4_096), 0);
            assert_eq!(found(dir.path(), &file, &bytes), None, "{length} and zeros");
        }
        fs::write(&file, &whole[..whole.len() - 1]).expect("written");
        let db = DB::open(&Options::default(), dir.path()).expect("opens");
        assert_eq!(db.get([5]).expect("read").map(|value| value.len()), Some(30_000));
        assert_eq!(db.get([6]).expect("read"), None);
    }

    #[test]
    fn a_sector_that_is_gone_before_others_that_are_there_is_found() {
        let dir = tempfile::tempdir().expect("a directory");
        let (file, _) = log(dir.path());
        let open = OpenOptions::new().write(true).open(&file).expect("the log");
        std::os::unix::fs::FileExt::write_all_at(&open, &[0; SECTOR], 40_960).expect("written");
        assert!(damage(dir.path()).expect("read").is_some_and(|damage| damage.offset <= 40_960 && damage.file == file));
    }
}
