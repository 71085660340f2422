//! Certificates to begin with: a CA of one's own, and what it signs.
//!
//! Good for a cluster that stands by itself. Where there is a public key infrastructure already, it makes better ones.

use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose as For, IsCa, Issuer,
    KeyPair, KeyUsagePurpose as Use, SanType,
};
use time::OffsetDateTime;

/// Clocks differ: a certificate is valid from a little before it was made.
const SKEW: Duration = Duration::from_secs(3600);

/// A certificate and its key, in PEM form.
#[derive(Clone)]
pub struct Made {
    /// The certificate.
    pub cert: String,
    /// Its private key.
    pub key: String,
}

/// Whose certificate is to be made.
#[derive(Clone, Copy, Debug)]
pub enum Whose<'a> {
    /// A server's, for these DNS names (perhaps `*.…`) and IP addresses. A server is also a client of the others.
    Server(&'a [String]),
    /// A client's, known by this name.
    Client(&'a str),
}

/// Why a certificate cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum MakeError {
    /// It needs a name.
    #[error("a certificate for a server needs a name: the DNS name or IP address by which it is reached")]
    NoName,
    /// The name can be in no certificate.
    #[error("{0:?} can be in no certificate: names are ASCII")]
    Name(String),
    /// The CA.
    #[error("the CA cannot be used: {0}")]
    Ca(rcgen::Error),
    /// Anything else.
    #[error("the certificate cannot be made: {0}")]
    Other(#[from] rcgen::Error),
}

/// Signs certificates.
pub struct Authority {
    made: Made,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// A new one, which says of itself that it is `name`.
    ///
    /// # Errors
    /// See [`MakeError`].
    pub fn new(name: &str, valid: Duration) -> Result<Self, MakeError> {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![Use::KeyCertSign, Use::CrlSign, Use::DigitalSignature];
        params.distinguished_name = named(name);
        let now = SystemTime::now();
        (params.not_before, params.not_after) = (moment(now - SKEW), moment(now + valid));
        let key = KeyPair::generate()?;
        let cert = params.self_signed(&key)?;
        let made = Made { cert: cert.pem(), key: key.serialize_pem() };
        Ok(Self { issuer: Issuer::new(params, key), made })
    }

    /// One that was made before.
    ///
    /// # Errors
    /// See [`MakeError`].
    pub fn from_pem(made: Made) -> Result<Self, MakeError> {
        let key = KeyPair::from_pem(&made.key).map_err(MakeError::Ca)?;
        let issuer = Issuer::from_ca_cert_pem(&made.cert, key).map_err(MakeError::Ca)?;
        Ok(Self { made, issuer })
    }

    /// Its certificate, which everybody needs, and its key, which nobody else may have.
    #[must_use]
    pub fn made(&self) -> &Made {
        &self.made
    }

    /// Signs one that is valid for so long from now on.
    ///
    /// # Errors
    /// See [`MakeError`].
    pub fn issue(&self, whose: Whose<'_>, valid: Duration) -> Result<Made, MakeError> {
        let now = SystemTime::now();
        self.issue_between(whose, now - SKEW, now + valid)
    }

    /// Signs one that is valid from then until then.
    ///
    /// # Errors
    /// See [`MakeError`].
    pub fn issue_between(&self, whose: Whose<'_>, from: SystemTime, until: SystemTime) -> Result<Made, MakeError> {
        let mut params = CertificateParams::default();
        match whose {
            Whose::Server(names) => {
                let first = names.first().ok_or(MakeError::NoName)?;
                params.distinguished_name = named(first);
                params.subject_alt_names = names.iter().map(|name| alternative(name)).collect::<Result<_, _>>()?;
                params.extended_key_usages = vec![For::ServerAuth, For::ClientAuth];
            }
            Whose::Client(name) => {
                params.distinguished_name = named(name);
                params.subject_alt_names = vec![alternative(name)?];
                params.extended_key_usages = vec![For::ClientAuth];
            }
        }
        params.key_usages = vec![Use::DigitalSignature];
        params.use_authority_key_identifier_extension = true;
        (params.not_before, params.not_after) = (moment(from), moment(until));
        let key = KeyPair::generate()?;
        let cert = params.signed_by(&key, &self.issuer)?;
        Ok(Made { cert: cert.pem(), key: key.serialize_pem() })
    }
}

fn named(name: &str) -> DistinguishedName {
    let mut all = DistinguishedName::new();
    all.push(DnType::CommonName, name);
    all
}

fn alternative(name: &str) -> Result<SanType, MakeError> {
    match name.parse() {
        Ok(ip) => Ok(SanType::IpAddress(ip)),
        Err(_) => name.try_into().map(SanType::DnsName).map_err(|_| MakeError::Name(name.to_owned())),
    }
}

fn moment(at: SystemTime) -> OffsetDateTime {
    OffsetDateTime::from(at)
}
