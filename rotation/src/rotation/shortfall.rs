//! The texts of errors about an issued or stored certificate that differs from what was requested.

use perennial::{Certificate, Failure, Policy, Template, UnixTime, Validity};
use perennial_pki::{Chain, Usage};

use perennial::printable;

/// The greatest number of missing names that an error lists. If more names are missing, the error only shows how many
/// more.
const MOST: usize = 5;

/// The error text for an issued `certificate` that the machine judged as `failure` at `now`.
pub(super) fn shortfall(
    failure: Failure,
    certificate: &Certificate,
    requested: Option<&Template>,
    now: UnixTime,
) -> String {
    let why = failure.describe();
    let validity = certificate.validity;
    match (failure, requested) {
        (Failure::Unsatisfying, Some(requested)) => format!("{why}: {}", missing(certificate, requested)),
        (Failure::BadCertificate, Some(requested)) if !requested.is_named_by(certificate) => format!(
            "{why}: its common name is {}, and {} was requested; check the signer",
            quoted(certificate.common_name()),
            quoted(requested.common_name())
        ),
        (Failure::BadCertificate, _) if validity.not_before() > now => {
            let begin = validity.not_before();
            format!("{why}: it is not valid before {begin}, which is too late to wait for; check the clocks")
        }
        // `Rotation::checked_pair` let it pass, since clocks may differ; the machine found it expired by both clocks.
        (Failure::BadCertificate, _) => {
            format!("{why}: it expired at {}; if it is new, check the clocks", validity.not_after())
        }
        (Failure::AlreadyDue, _) => format!(
            "{why}: it is valid from {} to {}; check the clocks and the signer's lifetimes",
            validity.not_before(),
            validity.not_after()
        ),
        _ => why.to_owned(),
    }
}

/// The error text for an issued chain that grants rights beyond the request; `None` if the chain grants none. Two kinds
/// of names can grant rights: organizations in a client certificate, which are groups in Kubernetes, and URIs, each a
/// second name of the holder (SPIFFE). DNS names, addresses, organizational units and a serial number in the subject
/// grant nothing. A usage alone grants nothing either, since an API server identifies a client by common name and
/// organizations.
pub(super) fn excess(chain: &Chain, requested: &Template) -> Option<String> {
    let organizations = chain.certificate().names.organizations().filter(|_| chain.is_for(Usage::ClientAuth));
    let organizations =
        organizations.filter(|name| !requested.organizations().any(|wanted| wanted == *name)).map(|name| ("O", name));
    let uris = chain.uris().filter(|uri| !requested.uris().any(|wanted| wanted == *uri)).map(|uri| ("URI", uri));
    let (kind, name) = organizations.chain(uris).next()?;
    let why = Failure::BadCertificate.describe();
    Some(format!("{why}: {kind} {}, which can grant rights, was not requested; check the signer", quoted(name)))
}

/// The error text for a stored certificate that is foreign, and so not used.
pub(super) fn foreign(held: &Certificate, wanted: &str) -> String {
    format!(
        "ignoring the stored certificate: its common name is {}, and {} is configured; check the configured name. \
         The file stays until a new certificate replaces it",
        quoted(held.common_name()),
        quoted(wanted)
    )
}

fn quoted(name: &str) -> String {
    format!("`{}`", printable(name))
}

/// The text of the warning about a lifetime that is too short for `policy`: the rotation window may open before spacing
/// and submission budget allow the next request. `None` for a sufficient lifetime. The lifetime counts from `now`, the
/// time of issuance, since signers backdate certificates.
pub(super) fn too_short(policy: &Policy, validity: Validity, now: UnixTime) -> Option<String> {
    let (left, shortest) = (validity.not_after().since(now), policy.shortest_lifetime());
    (left < shortest).then(|| {
        format!(
            "the issued lifetime of {:.1} s is too short for this policy, which needs {:.1} s to replace a certificate \
             in time: expect times without a valid certificate; configure the signer to issue longer lifetimes",
            left.as_secs_f64(),
            shortest.as_secs_f64(),
        )
    })
}

fn missing(certificate: &Certificate, requested: &Template) -> String {
    let is_missing = |wanted: &Template| !wanted.satisfied_by(certificate);
    // Name by name through `Template::satisfied_by`, so that this list agrees with the machine's judgement.
    let like = || Template::new(certificate.common_name());
    let organizations = requested.organizations().filter(|name| is_missing(&like().with_organizations([*name])));
    let dns_names = requested.dns_names().filter(|name| is_missing(&like().with_dns_names([*name])));
    let addresses = requested.ip_addresses().filter(|ip| is_missing(&like().with_ip_addresses([*ip])));
    let uris = requested.uris().filter(|uri| is_missing(&like().with_uris([*uri])));
    let units = requested.organizational_units();
    let units = units.filter(|unit| is_missing(&like().with_organizational_units([*unit])));
    let number = Some(requested.serial_number()).filter(|number| is_missing(&like().with_serial_number(*number)));
    let common_name = Some(requested.common_name()).filter(|name| *name != certificate.common_name());
    let mut names: Vec<String> = common_name.into_iter().map(|name| format!("CN {name}")).collect();
    names.extend(organizations.map(|name| format!("O {name}")));
    names.extend(dns_names.map(|name| format!("DNS {name}")));
    names.extend(addresses.map(|ip| format!("IP {ip}")));
    names.extend(uris.map(|uri| format!("URI {uri}")));
    names.extend(units.map(|unit| format!("OU {unit}")));
    names.extend(number.map(|number| format!("serialNumber {number}")));
    let more = names.len().saturating_sub(MOST);
    names.truncate(MOST);
    let names: Vec<String> = names.iter().map(|name| printable(name)).collect();
    if more == 0 { names.join(", ") } else { format!("{} and {more} more", names.join(", ")) }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};
    use std::sync::Arc;
    use std::time::Duration;

    use perennial::Fingerprint;
    use perennial_pki::{
        Credential, Issuer, KeyAlgorithm, KeyPair, Terms, certificate_request, read_request, self_signed,
    };

    use super::*;

    const NOW: UnixTime = UnixTime::from_secs(1_800_007_200);

    fn certificate() -> Certificate {
        let begin = UnixTime::from_secs(1_800_000_000);
        let validity = Validity::new(begin, begin.after(Duration::from_secs(3600))).unwrap();
        let names = Template::new("system:node:a").with_dns_names(["a"]);
        Certificate::for_template(names, validity, Fingerprint([0; 32]))
    }

    #[test]
    fn shortfall_lists_only_missing_names() {
        let ip = IpAddr::from(Ipv4Addr::new(10, 0, 0, 7));
        let requested = Template::node("a").with_dns_names(["a", "b"]).with_ip_addresses([ip]);
        assert_eq!(
            shortfall(Failure::Unsatisfying, &certificate(), Some(&requested), NOW),
            "the issued certificate lacks requested names: O system:nodes, DNS b, IP 10.0.0.7"
        );
        let rare = |uri| Template::new("system:node:a").with_uris([uri, "b:2"]).with_organizational_units(["u"]);
        let lacking = Certificate { names: Arc::new(rare("b:2")), ..certificate() };
        assert_eq!(
            shortfall(Failure::Unsatisfying, &lacking, Some(&rare("a:1").with_serial_number("7")), NOW),
            "the issued certificate lacks requested names: URI a:1, serialNumber 7"
        );
        let other = Template::new("b").with_dns_names((0..9).map(|n| format!("n{n}")));
        assert_eq!(
            shortfall(Failure::Unsatisfying, &certificate(), Some(&other), NOW),
            "the issued certificate lacks requested names: CN b, DNS n0, DNS n1, DNS n2, DNS n3 and 5 more"
        );
    }

    #[test]
    fn foreign_certificate_error_shows_both_common_names() {
        let masters = Certificate { names: Arc::new(Template::new("system:masters\n")), ..certificate() };
        assert_eq!(
            shortfall(Failure::BadCertificate, &masters, Some(&Template::node("a")), NOW),
            "an unusable certificate was issued: its common name is `system:masters`, and `system:node:a` was \
             requested; check the signer"
        );
        assert_eq!(
            foreign(&certificate(), "system:node:b"),
            "ignoring the stored certificate: its common name is `system:node:a`, and `system:node:b` is configured; \
             check the configured name. The file stays until a new certificate replaces it"
        );
    }

    #[test]
    fn shortfall_shows_validity_that_makes_certificate_unusable() {
        let text = |failure| shortfall(failure, &certificate(), None, NOW);
        assert_eq!(
            shortfall(Failure::BadCertificate, &certificate(), None, UnixTime::from_secs(0)),
            "an unusable certificate was issued: it is not valid before 2027-01-15T08:00:00Z, which is too late to \
             wait for; check the clocks"
        );
        assert_eq!(
            text(Failure::BadCertificate),
            "an unusable certificate was issued: it expired at 2027-01-15T09:00:00Z; if it is new, check the clocks"
        );
        assert_eq!(
            text(Failure::AlreadyDue),
            "the issued certificate is already due for rotation: it is valid from 2027-01-15T08:00:00Z to \
             2027-01-15T09:00:00Z; check the clocks and the signer's lifetimes"
        );
        assert_eq!(text(Failure::Denied), Failure::Denied.describe());
    }

    /// A chain for the names of `template` with these usages.
    fn issued(template: &Template, extended_key_usages: &[Usage]) -> Chain {
        let (key, validity) = (Arc::new(KeyPair::generate(KeyAlgorithm::default()).unwrap()), certificate().validity);
        let root = self_signed("root", &key, &[1], validity).unwrap();
        let issuer = Issuer::new(Credential::new(root, key.clone()).unwrap()).unwrap();
        let request = read_request(certificate_request(template, &key).unwrap().pem.as_bytes()).unwrap();
        issuer.issue(&request, &Terms { serial: &[2], validity, key_usages: &[], extended_key_usages }).unwrap()
    }

    #[test]
    fn unrequested_organization_is_excess_except_in_serving_certificate() {
        for (usages, is_refused) in [
            (&[Usage::ServerAuth][..], false),
            (&[Usage::ClientAuth], true),
            (&[Usage::ServerAuth, Usage::ClientAuth], true),
            (&[], true),
        ] {
            let chain = issued(&Template::node("a").with_organizations(["system:masters"]), usages);
            assert_eq!(excess(&chain, &Template::node("a")).is_some(), is_refused, "{usages:?}");
        }
    }

    #[test]
    fn unrequested_uri_is_excess_but_unit_and_serial_number_are_not() {
        let requested = Template::node("a").with_uris(["spiffe://x.example/a"]);
        let all = requested.clone().with_organizational_units(["unit"]).with_serial_number("7");
        assert_eq!(excess(&issued(&all, &[Usage::ClientAuth]), &requested), None);
        let other = Template::node("a").with_uris(["spiffe://x.example/b"]);
        assert_eq!(
            excess(&issued(&other, &[Usage::ServerAuth]), &requested).unwrap(),
            "an unusable certificate was issued: URI `spiffe://x.example/b`, which can grant rights, was not requested; \
             check the signer"
        );
    }
}
