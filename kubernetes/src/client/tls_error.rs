//! Sentences for TLS errors: rustls' own messages show names of Rust enums.

use perennial_pki::describe;
use rustls::pki_types::CertificateDer;
use rustls::{AlertDescription, CertificateError, Error, InvalidMessage};

use super::exchange_error::ExchangeError;

impl ExchangeError {
    /// Converts an error of rustls. `presented` is the chain that the server presented; empty if TLS failed before
    /// that.
    #[allow(clippy::wildcard_enum_match_arm, reason = "a foreign, growing list; pki has sentences for the rest")]
    pub(crate) fn from_tls(error: &Error, presented: &[CertificateDer<'_>]) -> Self {
        match error {
            Error::AlertReceived(alert) => match alert_name(*alert) {
                (name, true) => Self::CertificateRefused(name),
                (name, false) => Self::Tls(format!("the server ended the handshake or the connection (alert {name})")),
            },
            Error::InvalidCertificate(CertificateError::UnknownIssuer | CertificateError::BadSignature) => {
                Self::UnknownIssuer(describe(error, presented))
            }
            Error::InvalidCertificate(_) => Self::Untrusted(describe(error, presented)),
            Error::InvalidMessage(message) => Self::Tls(invalid(message).to_owned()),
            error => Self::Tls(describe(error, presented)),
        }
    }
}

#[allow(clippy::wildcard_enum_match_arm, reason = "a foreign, growing list of which only these have a cause")]
const fn invalid(message: &InvalidMessage) -> &'static str {
    match message {
        InvalidMessage::InvalidContentType | InvalidMessage::UnknownProtocolVersion => {
            "the server does not speak TLS on this port"
        }
        InvalidMessage::HandshakePayloadTooLarge
        | InvalidMessage::CertificatePayloadTooLarge
        | InvalidMessage::MessageTooLarge => {
            "the server sent a handshake message of more than 64 KiB: its certificate chain or its list of acceptable \
             CAs is too long; configure the server to send its certificate and intermediates only"
        }
        _ => "the server sent a TLS message that is malformed",
    }
}

/// The name of an alert (RFC 8446 §6). The boolean is true for an alert by which a server refuses a client's
/// certificate, or a client without a certificate (§6.2).
#[allow(clippy::wildcard_enum_match_arm, reason = "a foreign, growing list")]
fn alert_name(alert: AlertDescription) -> (String, bool) {
    let (name, about_certificate) = match alert {
        AlertDescription::NoCertificate => ("no_certificate", true),
        AlertDescription::BadCertificate => ("bad_certificate", true),
        AlertDescription::UnsupportedCertificate => ("unsupported_certificate", true),
        AlertDescription::CertificateRevoked => ("certificate_revoked", true),
        AlertDescription::CertificateExpired => ("certificate_expired", true),
        AlertDescription::CertificateUnknown => ("certificate_unknown", true),
        AlertDescription::UnknownCA => ("unknown_ca", true),
        AlertDescription::AccessDenied => ("access_denied", true),
        AlertDescription::CertificateRequired => ("certificate_required", true),
        AlertDescription::CloseNotify => ("close_notify", false),
        AlertDescription::UnexpectedMessage => ("unexpected_message", false),
        AlertDescription::BadRecordMac => ("bad_record_mac", false),
        AlertDescription::RecordOverflow => ("record_overflow", false),
        AlertDescription::HandshakeFailure => (
            "handshake_failure: no cipher suite or kind of key in common; the server's key may be of a kind that \
             perennial's crypto library does not support, such as ECDSA P-521",
            false,
        ),
        AlertDescription::IllegalParameter => ("illegal_parameter", false),
        AlertDescription::DecodeError => ("decode_error", false),
        AlertDescription::DecryptError => ("decrypt_error", false),
        AlertDescription::ProtocolVersion => ("protocol_version: perennial speaks TLS 1.2 and 1.3", false),
        AlertDescription::InsufficientSecurity => ("insufficient_security", false),
        AlertDescription::InternalError => ("internal_error", false),
        AlertDescription::UserCanceled => ("user_canceled", false),
        AlertDescription::MissingExtension => ("missing_extension", false),
        AlertDescription::UnsupportedExtension => ("unsupported_extension", false),
        AlertDescription::UnrecognisedName => ("unrecognized_name: it serves no such host name", false),
        AlertDescription::NoApplicationProtocol => ("no_application_protocol: it does not speak HTTP/1.1", false),
        other => return (format!("number {}", u8::from(other)), false),
    };
    (name.to_owned(), about_certificate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_tls_alert_is_shown_by_name_or_number() {
        for number in 0..=u8::MAX {
            let alert = AlertDescription::from(number);
            let text = ExchangeError::from_tls(&Error::AlertReceived(alert), &[]).to_string();
            assert!(!text.contains(&format!("{alert:?}")), "{text}");
            assert!(text.contains('_') || text.contains(&format!("number {number}")), "{text}");
        }
        assert!(matches!(
            ExchangeError::from_tls(&Error::AlertReceived(AlertDescription::UnknownCA), &[]),
            ExchangeError::CertificateRefused(name) if name == "unknown_ca"
        ));
    }

    #[test]
    fn invalid_tls_message_is_reported_with_probable_cause() {
        for (message, words) in [
            (InvalidMessage::InvalidContentType, "does not speak TLS"),
            (InvalidMessage::HandshakePayloadTooLarge, "certificate chain"),
            (InvalidMessage::CertificatePayloadTooLarge, "certificate chain"),
            (InvalidMessage::TrailingData("x"), "malformed"),
            (InvalidMessage::MissingData("x"), "malformed"),
        ] {
            let text = ExchangeError::from_tls(&Error::InvalidMessage(message), &[]).to_string();
            assert!(text.contains(words), "{text}");
        }
    }
}
