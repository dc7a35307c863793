//! Parses the values of flags.

use std::net::IpAddr;
use std::time::Duration;

use perennial_kubernetes::PodCertificateSigner;
use perennial_kubernetes::addresses::{check_dns_name, check_node_ip};

use crate::spans;

/// Parses the prefix of a certificate's file names.
pub(crate) fn prefix(text: &str) -> Result<String, String> {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    if text.is_empty() || text.len() > 64 || text.starts_with('.') || !text.bytes().all(fits) {
        return Err(
            "expected a file name prefix of at most 64 letters, digits, '-', '_' and '.', not beginning with '.'"
                .into(),
        );
    }
    Ok(text.to_owned())
}

/// Parses the name of a signer. The rules of the API are those for a signer of any kind of request.
pub(crate) fn signer_name(text: &str) -> Result<String, String> {
    PodCertificateSigner::check_signer_name(text).map(|()| text.to_owned())
}

/// Parses one `--node-ip`. Accepts 0.0.0.0 and ::, which stand for the node's own addresses. Combinations of addresses
/// are checked later, when all flags are parsed.
pub(super) fn node_ip(text: &str) -> Result<IpAddr, String> {
    let text = text.trim();
    // The zone of a link-local address (fe80::1%eth0): check_node_ip refuses such an address with a better reason.
    let ip: IpAddr = text.split('%').next().unwrap_or_default().parse().map_err(|_| {
        "this is not an IP address; expected one like 10.0.0.7 or fd00::7, or several with commas".to_owned()
    })?;
    let ip = ip.to_canonical();
    if !ip.is_unspecified() {
        check_node_ip(ip)?;
    }
    Ok(ip)
}

pub(super) fn dns_name(text: &str) -> Result<String, &'static str> {
    check_dns_name(text).map(|()| text.to_owned())
}

/// Parses `--certificate-check-interval`: a duration, or 0, which switches the checks off.
pub(super) fn span_or_never(text: &str) -> Result<Duration, String> {
    if text.trim() == "0" {
        Ok(Duration::ZERO)
    } else {
        spans::parse(text).map_err(|why| format!("{why}, or 0 for never"))
    }
}

/// Parses `--requested-lifetime`: from 600 s, the least `spec.expirationSeconds` that the API accepts, to 2³¹ − 1 s,
/// the most that this int32 field can hold.
pub(crate) fn requested_lifetime(text: &str) -> Result<Duration, String> {
    let span = spans::parse(text)?;
    match span.as_secs() {
        0..600 => Err("the API accepts ten minutes at least, for example 10m or 24h".into()),
        600..=0x7fff_ffff => Ok(span),
        _ => Err("the API accepts at most 68 years, for example 365d".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requested_lifetime_outside_api_bounds_is_refused() {
        assert_eq!(requested_lifetime("10m").unwrap().as_secs(), 600);
        assert!(requested_lifetime("9m").is_err_and(|why| why.contains("ten minutes")));
        assert!(requested_lifetime("70000d").is_err());
    }

    #[test]
    fn signer_name_that_the_api_refuses_is_refused() {
        for name in ["kubernetes.io/kube-apiserver-client", "example.com/mesh", "example.com/shop.issuer"] {
            assert_eq!(signer_name(name).as_deref(), Ok(name));
        }
        for name in ["", "mesh", "com/mesh", "example.com/", "example.com/a b", "Example.com/mesh"] {
            assert!(signer_name(name).is_err_and(|why| why.contains("`example.com/signer-name`")), "{name}");
        }
    }
}
