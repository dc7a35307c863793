//! [`Template::check`]: the rules for the names that a certificate can carry.

use alloc::borrow::ToOwned as _;
use alloc::string::String;
use core::error::Error;
use core::fmt;

use super::Template;
use crate::escaped::printable;

/// The most characters that an attribute of the subject may have (RFC 5280 appendix A.1: ub-common-name,
/// ub-organization-name, ub-organizational-unit-name, ub-serial-number).
const MOST: usize = 64;
/// The longest DNS name (RFC 1035 §2.3.4, without the root label).
const LONGEST_DNS_NAME: usize = 253;
/// Prefix of the names that Kubernetes gives to its own users and groups.
const SYSTEM: &str = "system:";
/// The longest name of a user or group of Kubernetes: `system:serviceaccount:`, a namespace of 63 characters, a colon,
/// and the name of a service account of 253.
const LONGEST_SYSTEM_NAME: usize = 22 + 63 + 1 + 253;
const SPIFFE: &str = "spiffe";

/// A rule for one name. Returns the rule that the name breaks, as a clause.
type Check = fn(&str) -> Result<(), &'static str>;

impl Template {
    /// Checks that a certificate can carry the names. Signers and peers refuse certificates that break these rules:
    ///
    /// - There is at least one name. A signer that chooses the names itself needs no such check.
    /// - The common name, each organization, each organizational unit and the serial number have 1 to 64 characters,
    ///   none of them a control character (RFC 5280 appendix A.1). A common name or organization that begins with
    ///   `system:` may have up to 339, since Kubernetes issues certificates to nodes and service accounts with names of
    ///   253.
    /// - The serial number is an ASN.1 PrintableString: letters, digits, space and `'()+,-./:=?` (X.520 §6.2.9).
    /// - DNS names are those of [`is_dns_name`].
    /// - URIs have a scheme, and only the characters of RFC 3986; their host has no empty label and no escape, and their
    ///   port is a number.
    /// - A SPIFFE ID (scheme `spiffe`) is that of a workload, in the characters of the SPIFFE-ID standard (§2), and the
    ///   only URI (X509-SVID §2, §3.1).
    ///
    /// An IP address is never refused.
    ///
    /// # Errors
    /// [`TemplateError`]: the first name that breaks a rule, and the rule.
    pub fn check(&self) -> Result<(), TemplateError> {
        if self.is_empty() {
            return Err(TemplateError::Empty);
        }
        let refused = |kind, name: &str, why| TemplateError::Name { kind, name: name.to_owned(), why };
        let each = |kind, names: &mut dyn Iterator<Item = &str>, check: Check| {
            for name in names {
                check(name).map_err(|why| refused(kind, name, why))?;
            }
            Ok(())
        };
        let one = |kind, name, check: Check| match name {
            "" => Ok(()),
            name => check(name).map_err(|why| refused(kind, name, why)),
        };
        one("common name", self.common_name(), check_user_or_group)?;
        each("organization", &mut self.organizations(), check_user_or_group)?;
        each("organizational unit", &mut self.organizational_units(), check_text)?;
        one("serial number in the subject", self.serial_number(), check_serial_number)?;
        each("DNS name", &mut self.dns_names(), check_dns_name)?;
        each("URI", &mut self.uris(), check_uri)?;
        match self.uris().find(|uri| is_spiffe(uri)) {
            Some(id) if self.uris().count() > 1 => {
                let why = "peers reject a certificate that has another URI beside a SPIFFE ID (X509-SVID §2)";
                Err(refused("URI", id, why))
            }
            _ => Ok(()),
        }
    }
}

/// Error of a template with names that no certificate can carry. See [`Template::check`] for the rules.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TemplateError {
    /// The template has no names.
    Empty,
    /// A name breaks a rule.
    Name {
        /// The kind of the name, such as `DNS name`.
        kind: &'static str,
        /// The name.
        name: String,
        /// The rule that the name breaks, as a clause.
        why: &'static str,
    },
}

impl fmt::Display for TemplateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => {
                f.write_str("cannot request a certificate without names: set a common name, a DNS name or a URI")
            }
            Self::Name { kind, name, why } => write!(f, "cannot request the {kind} `{}`: {why}", printable(name)),
        }
    }
}

impl Error for TemplateError {}

/// True for a DNS name that a certificate can carry (RFC 1123 §2.1): at most 253 bytes, with dots between the labels. A
/// label has 1 to 63 letters, digits, `-` and `_`, and does not begin or end with `-`. The first of several labels may
/// be `*` (RFC 6125 §6.4.3). Host names have no underscores, but Kubernetes and public CAs accept them.
pub fn is_dns_name(name: &str) -> bool {
    let is_label = |label: &str| {
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        (1..=63).contains(&label.len()) && label.bytes().all(fits) && !label.starts_with('-') && !label.ends_with('-')
    };
    name.len() <= LONGEST_DNS_NAME && name.strip_prefix("*.").unwrap_or(name).split('.').all(is_label)
}

fn check_dns_name(name: &str) -> Result<(), &'static str> {
    let rule = "a DNS name has labels of 1 to 63 letters, digits, `-` and `_`, with dots between them, and the `xn--` \
                form of an international name; the first label may be `*`";
    if is_dns_name(name) { Ok(()) } else { Err(rule) }
}

fn check_user_or_group(name: &str) -> Result<(), &'static str> {
    match name.starts_with(SYSTEM) && name.chars().count() <= LONGEST_SYSTEM_NAME {
        true if !name.contains(char::is_control) => Ok(()),
        _ => check_text(name),
    }
}

fn check_text(text: &str) -> Result<(), &'static str> {
    if text.is_empty() {
        return Err("it is empty");
    }
    if text.chars().count() > MOST {
        return Err("it has more than 64 characters, the most that X.509 allows (RFC 5280 appendix A.1)");
    }
    if text.contains(char::is_control) { Err("it contains a control character") } else { Ok(()) }
}

fn check_serial_number(number: &str) -> Result<(), &'static str> {
    check_text(number)?;
    let is_printable = |byte: u8| byte.is_ascii_alphanumeric() || b" '()+,-./:=?".contains(&byte);
    let rule = "it may contain letters, digits, spaces and '()+,-./:=? only (X.520, PrintableString)";
    if number.bytes().all(is_printable) { Ok(()) } else { Err(rule) }
}

fn is_spiffe(uri: &str) -> bool {
    uri.split_once(':').is_some_and(|(scheme, _)| scheme.eq_ignore_ascii_case(SPIFFE))
}

/// Checks a URI by RFC 5280 §4.2.1.6 and RFC 3986. Checks its host by the rules of Go's `net/url` and `crypto/x509`,
/// with which Kubernetes reads CSRs.
fn check_uri(uri: &str) -> Result<(), &'static str> {
    let Some((scheme, rest)) = uri.split_once(':') else {
        return Err("it has no scheme; expected a URI such as spiffe://example.com/payments");
    };
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte);
    if !scheme.starts_with(|c: char| c.is_ascii_alphabetic()) || !scheme.bytes().all(fits) {
        return Err("its scheme is not a letter followed by letters, digits, `+`, `-` and `.` (RFC 3986 §3.1)");
    }
    if rest.is_empty() {
        return Err("nothing follows its scheme");
    }
    let is_allowed = |byte: u8| byte.is_ascii_graphic() && !b"\"<>\\^`{|}".contains(&byte);
    let is_escape = |after: &str| after.get(..2).is_some_and(|hex| hex.bytes().all(|byte| byte.is_ascii_hexdigit()));
    if !uri.bytes().all(is_allowed) || !uri.split('%').skip(1).all(is_escape) {
        return Err(
            "it has characters that a URI must not have; write these as % and two hexadecimal digits (RFC 3986)",
        );
    }
    if is_spiffe(uri) {
        return check_spiffe_id(uri);
    }
    let authority = rest.strip_prefix("//").and_then(|rest| rest.split(['/', '?', '#']).next());
    check_host(authority.and_then(|authority| authority.rsplit('@').next()).unwrap_or_default())
}

/// Checks the host of a URI with its port, as in `example.com:443`.
fn check_host(host: &str) -> Result<(), &'static str> {
    let (name, port) = match host.strip_prefix('[') {
        Some(address) => match address.split_once(']') {
            Some((_, port)) => ("", port),
            None => return Err("its host begins with `[` and has no `]`"),
        },
        None => host.split_at(host.rfind(':').unwrap_or(host.len())),
    };
    if !port.is_empty() && !port.strip_prefix(':').is_some_and(|port| port.bytes().all(|byte| byte.is_ascii_digit())) {
        return Err("its port is not a number");
    }
    if name.contains('%') {
        return Err("its host has an escape with `%`; write the `xn--` form of an international name");
    }
    let is_good = name.is_empty() || host.split('.').all(|label| !label.is_empty());
    if is_good { Ok(()) } else { Err("its host has an empty label: two dots in a row, or a dot at an end") }
}

/// Checks the SPIFFE ID of a workload (SPIFFE-ID §2, X509-SVID §3.1).
fn check_spiffe_id(id: &str) -> Result<(), &'static str> {
    if id.len() > 2048 {
        return Err("a SPIFFE ID has at most 2048 bytes (SPIFFE-ID §2.3)");
    }
    let Some(rest) = id.strip_prefix("spiffe://") else {
        return Err("a SPIFFE ID begins with spiffe://, in lower case");
    };
    let Some((trust_domain, path)) = rest.split_once('/') else {
        return Err("it has no path: the SPIFFE ID of a workload is one such as spiffe://example.com/payments");
    };
    let in_domain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b".-_".contains(&byte);
    if !(1..=255).contains(&trust_domain.len()) || !trust_domain.bytes().all(in_domain) {
        return Err("its trust domain is not 1 to 255 lower-case letters, digits, `.`, `-` and `_` (SPIFFE-ID §2.1)");
    }
    let in_segment = |byte: u8| byte.is_ascii_alphanumeric() || b".-_".contains(&byte);
    let is_segment = |part: &str| !matches!(part, "" | "." | "..") && part.bytes().all(in_segment);
    let rule = "each segment of its path must have letters, digits, `.`, `-` and `_` only, and not be empty, `.` or `..` \
                (SPIFFE-ID §2.2)";
    if path.split('/').all(is_segment) { Ok(()) } else { Err(rule) }
}
