//! Failed handshakes, in words.

use std::io;

use rustls::{AlertDescription, CertificateError, Error};

use crate::Files;

/// What a failure of TLS means. `host` is the server that a client wanted; none on a server.
pub(crate) fn explain(error: &io::Error, files: &Files, host: Option<&str>) -> String {
    let Some(tls) = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) else {
        return match (error.kind(), host) {
            (io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset, Some(_)) => {
                "the server closed the connection in the middle of the TLS handshake: does it speak TLS there?"
                    .to_owned()
            }
            _ => error.to_string(),
        };
    };
    let whose = if host.is_some() { "the server's certificate" } else { "the client's certificate" };
    match tls {
        Error::InvalidCertificate(why) => match why {
            CertificateError::UnknownIssuer | CertificateError::BadSignature => {
                format!("{whose} was not signed by the CA in {}", files.ca.display())
            }
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                format!("{whose} has expired{}", rest(why))
            }
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                format!("{whose} is not valid yet{}: is a clock wrong?", rest(why))
            }
            CertificateError::NotValidForNameContext { presented, .. } => format!(
                "{whose} is not for {}: it is for {}",
                host.unwrap_or("its host"),
                if presented.is_empty() { "no host at all".to_owned() } else { presented.join(", ") }
            ),
            CertificateError::NotValidForName => format!("{whose} is not for {}", host.unwrap_or("its host")),
            CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => format!(
                "{whose} is not made for {}",
                if host.is_some() { "servers (extended key usage)" } else { "clients (extended key usage)" }
            ),
            other => format!("{whose} is refused: {other}"),
        },
        Error::NoCertificatesPresented => "it shows no certificate, and here one is needed".to_owned(),
        Error::AlertReceived(alert) => alerted(*alert, host.is_some()),
        Error::InvalidMessage(_) if host.is_some() => {
            "the server does not speak TLS there: write http:// if it is to be plain text".to_owned()
        }
        other => other.to_string(),
    }
}

/// From when it was valid, or until when.
fn rest(why: &CertificateError) -> String {
    match why {
        CertificateError::ExpiredContext { time, not_after } => {
            format!(" {} s ago", time.as_secs().saturating_sub(not_after.as_secs()))
        }
        CertificateError::NotValidYetContext { time, not_before } => {
            format!(" for another {} s", not_before.as_secs().saturating_sub(time.as_secs()))
        }
        _ => String::new(),
    }
}

fn alerted(alert: AlertDescription, client: bool) -> String {
    let (who, ours) = if client { ("the server", "our certificate") } else { ("the client", "our certificate") };
    match alert {
        AlertDescription::CertificateRequired => format!("{who} wants a certificate, and none was shown"),
        // With the same name on two CAs, the signature is what does not fit.
        AlertDescription::UnknownCA | AlertDescription::DecryptError => {
            format!("{who} refuses {ours}: it was not signed by the CA that {who} knows")
        }
        AlertDescription::CertificateExpired => format!("{who} refuses {ours}: it has expired"),
        AlertDescription::BadCertificate
        | AlertDescription::UnsupportedCertificate
        | AlertDescription::CertificateRevoked
        | AlertDescription::CertificateUnknown
        | AlertDescription::AccessDenied => format!("{who} refuses {ours}: {alert:?}"),
        AlertDescription::ProtocolVersion => format!("{who} does not speak TLS 1.3"),
        AlertDescription::NoApplicationProtocol => format!("{who} speaks another protocol (HTTP/1.1 or HTTP/2) there"),
        other => format!("{who} ended the TLS handshake: {other:?}"),
    }
}
