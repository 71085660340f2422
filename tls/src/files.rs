//! The files of an identity: read, parsed and held against each other.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};

/// Where an identity lies, in PEM form.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Files {
    /// The CA's certificates: whose word is taken for the other end.
    pub ca: PathBuf,
    /// Our own certificate and its key; without them a client is nobody in particular.
    pub pair: Option<Pair>,
}

/// A certificate and its key.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Pair {
    /// The certificate, and those between it and the CA's.
    pub cert: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

/// Why files make no identity.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// Not there, or not ours to read.
    #[error("cannot read the {what} {}: {source}", .path.display())]
    Read {
        /// Certificate, key or CA.
        what: &'static str,
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Something else is in it.
    #[error("{} holds no {what} in PEM form: expected {expected}", .path.display())]
    NotPem {
        /// Certificate, key or CA.
        what: &'static str,
        /// Which file.
        path: PathBuf,
        /// How it would begin.
        expected: &'static str,
    },
    /// It looks like one, and is none.
    #[error("{} is no {what} that can be used: {why}", .path.display())]
    Unusable {
        /// Certificate, key or CA.
        what: &'static str,
        /// Which file.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// Halves of two pairs.
    #[error("the key {} does not belong to the certificate {}", .key.display(), .cert.display())]
    Mismatch {
        /// The key.
        key: PathBuf,
        /// The certificate.
        cert: PathBuf,
    },
}

/// What is in the files, as bytes: the same bytes are the same identity.
#[derive(Clone, Eq, PartialEq)]
pub(crate) struct Contents {
    ca: Vec<u8>,
    pair: Option<(Vec<u8>, Vec<u8>)>,
}

pub(crate) const CERTIFICATE: &str = "certificate";
const KEY: &str = "private key";
const CA: &str = "CA";
const CERTIFICATE_BEGINS: &str = "-----BEGIN CERTIFICATE-----";
const KEY_BEGINS: &str = "-----BEGIN PRIVATE KEY----- (or EC, or RSA PRIVATE KEY), without a password";

impl Files {
    pub(crate) fn read(&self) -> Result<Contents, FileError> {
        let read = |what, path: &Path| {
            fs::read(path).map_err(|source| FileError::Read { what, path: path.to_owned(), source })
        };
        let pair = match &self.pair {
            None => None,
            Some(Pair { cert, key }) => Some((read(CERTIFICATE, cert)?, read(KEY, key)?)),
        };
        Ok(Contents { ca: read(CA, &self.ca)?, pair })
    }

    /// Whether others than its owner may read the key; the file's mode, if so.
    #[must_use]
    pub fn key_open_to_others(&self) -> Option<(&Path, u32)> {
        use std::os::unix::fs::PermissionsExt as _;
        let key = &self.pair.as_ref()?.key;
        let mode = fs::metadata(key).ok()?.permissions().mode() & 0o777;
        (mode & 0o077 != 0).then_some((key, mode))
    }
}

/// What is in the files, parsed.
pub(crate) struct Parsed {
    pub(crate) ca: Vec<CertificateDer<'static>>,
    pub(crate) pair: Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>,
}

impl Contents {
    pub(crate) fn parse(&self, files: &Files) -> Result<Parsed, FileError> {
        let pair = match (&self.pair, &files.pair) {
            (Some((cert, key)), Some(paths)) => {
                let parsed_key = PrivateKeyDer::from_pem_slice(key).map_err(|_| FileError::NotPem {
                    what: KEY,
                    path: paths.key.clone(),
                    expected: KEY_BEGINS,
                })?;
                Some((certificates(CERTIFICATE, &paths.cert, cert)?, parsed_key))
            }
            _ => None,
        };
        Ok(Parsed { ca: certificates(CA, &files.ca, &self.ca)?, pair })
    }
}

fn certificates(what: &'static str, path: &Path, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, FileError> {
    let wrong = || FileError::NotPem { what, path: path.to_owned(), expected: CERTIFICATE_BEGINS };
    let list: Vec<_> = CertificateDer::pem_slice_iter(pem).collect::<Result<_, _>>().map_err(|_| wrong())?;
    if list.is_empty() { Err(wrong()) } else { Ok(list) }
}

/// A failure of rustls over these files, in the terms of the files.
pub(crate) fn blame(error: &rustls::Error, what: &'static str, files: &Files) -> FileError {
    if let (rustls::Error::InconsistentKeys(_), Some(Pair { cert, key })) = (error, &files.pair) {
        return FileError::Mismatch { key: key.clone(), cert: cert.clone() };
    }
    let path = match (&files.pair, what) {
        (Some(pair), CERTIFICATE) => pair.cert.clone(),
        _ => files.ca.clone(),
    };
    FileError::Unusable { what, path, why: error.to_string() }
}

pub(crate) fn unusable_ca(error: impl ToString, files: &Files) -> FileError {
    FileError::Unusable { what: CA, path: files.ca.clone(), why: error.to_string() }
}
