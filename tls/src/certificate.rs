//! A certificate that was verified, and what it says.

use std::fmt;

use rustls::{
    client::verify_server_name,
    pki_types::{CertificateDer, ServerName},
    server::ParsedCertificate,
};
use x509_parser::{extensions::GeneralName, prelude::*};

/// The other end's certificate, or our own.
#[derive(Clone, Eq, PartialEq)]
pub struct Certificate {
    der: CertificateDer<'static>,
    name: String,
    names: Vec<String>,
    not_after: i64,
    for_servers: bool,
}

impl Certificate {
    /// Reads one. Whether it is signed by anybody is not looked at here.
    ///
    /// # Errors
    /// It is no certificate.
    pub fn parse(der: CertificateDer<'static>) -> Result<Self, String> {
        let (_, parsed) = X509Certificate::from_der(&der).map_err(|error| error.to_string())?;
        let mut names = Vec::new();
        let mut first = None;
        if let Ok(Some(alternative)) = parsed.subject_alternative_name() {
            for general in &alternative.value.general_names {
                match general {
                    GeneralName::DNSName(name) | GeneralName::URI(name) => {
                        first.get_or_insert_with(|| (*name).to_owned());
                        names.push((*name).to_owned());
                    }
                    GeneralName::IPAddress(bytes) => names.extend(ip(bytes)),
                    _ => {}
                }
            }
        }
        let common = parsed.subject().iter_common_name().next().and_then(|name| name.as_str().ok());
        let name = first.or_else(|| common.map(str::to_owned)).unwrap_or_default();
        let for_servers = match parsed.extended_key_usage() {
            Ok(Some(usage)) => usage.value.server_auth || usage.value.any,
            Ok(None) => true,
            Err(_) => false,
        };
        let not_after = parsed.validity().not_after.timestamp();
        Ok(Self { name, names, not_after, for_servers, der })
    }

    /// Whom it names: its first DNS or URI name, else its common name; empty if it has neither.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Every DNS name, URI and IP address in it.
    #[must_use]
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// A host that it is for; an asterisk stands for any name. None if it is for no host.
    #[must_use]
    pub fn some_host(&self) -> Option<String> {
        self.names.iter().map(|name| name.replace('*', "any")).find(|name| self.is_for_host(name))
    }

    /// When it ends, in seconds since the Unix epoch.
    #[must_use]
    pub fn not_after_seconds(&self) -> i64 {
        self.not_after
    }

    /// Whether it may be a server's: certificates of clients alone say that they are no more.
    #[must_use]
    pub fn is_for_servers(&self) -> bool {
        self.for_servers
    }

    /// Whether it is valid for this host (a DNS name or an IP address), by the rules of clients: wildcards stand for one
    /// label, the common name counts for nothing.
    #[must_use]
    pub fn is_for_host(&self, host: &str) -> bool {
        let (Ok(parsed), Ok(name)) = (ParsedCertificate::try_from(&self.der), ServerName::try_from(host)) else {
            return false;
        };
        verify_server_name(&parsed, &name).is_ok()
    }
}

fn ip(bytes: &[u8]) -> Option<String> {
    if let Ok(four) = <[u8; 4]>::try_from(bytes) {
        return Some(std::net::Ipv4Addr::from(four).to_string());
    }
    <[u8; 16]>::try_from(bytes).ok().map(|sixteen| std::net::Ipv6Addr::from(sixteen).to_string())
}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificate").field("name", &self.name).field("names", &self.names).finish_non_exhaustive()
    }
}
