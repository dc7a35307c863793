//! The value of `--trust-bundle`: the ClusterTrustBundles to follow, and the file to write.

use std::path::PathBuf;

use perennial::printable;
use perennial_kubernetes::BundleSelection;
use perennial_rotation::FileOptions;

/// ClusterTrustBundles, and the file that gets their CA certificates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TrustBundle {
    pub(crate) selection: BundleSelection,
    pub(crate) path: PathBuf,
    /// Owner and mode of the file, and whether it may replace a file of another program.
    pub(crate) options: FileOptions,
}

const EXAMPLE: &str = "signer=example.com/mesh,path=/etc/mesh/ca.pem";

/// Parses `signer=NAME,path=FILE` or `name=NAME,path=FILE`, with `replaceForeign=true` or `labels=SELECTOR` if wanted.
/// `labels` is the last key and takes the rest of the text, since a label selector may contain commas.
pub(super) fn trust_bundle(text: &str) -> Result<TrustBundle, String> {
    let (mut signer, mut name, mut path, mut labels, mut replaces_foreign) = (None, None, None, None, None);
    let mut rest = text;
    while !rest.is_empty() {
        let (key, after) = rest
            .split_once('=')
            .ok_or_else(|| format!("`{}` is no KEY=VALUE; expected a value like {EXAMPLE}", printable(rest)))?;
        let key = key.trim();
        let (value, others) = match key {
            "labels" => (after, ""),
            _ => after.split_once(',').unwrap_or((after, "")),
        };
        let value = value.trim();
        if value.is_empty() {
            return Err(format!("`{}` has no value; expected a value like {EXAMPLE}", printable(key)));
        }
        let place = match key {
            "signer" => &mut signer,
            "name" => &mut name,
            "path" => &mut path,
            "labels" => &mut labels,
            "replaceForeign" => &mut replaces_foreign,
            _ => {
                let key = printable(key);
                return Err(format!("unknown key `{key}`; the keys are signer, name, path, replaceForeign and labels"));
            }
        };
        if place.replace(value).is_some() {
            return Err(format!("`{key}` is given twice; give --trust-bundle once for each file"));
        }
        rest = others;
    }
    let selection = match (signer, name, labels) {
        (Some(signer), None, labels) => {
            BundleSelection::Signer { name: signer.to_owned(), labels: labels.unwrap_or_default().to_owned() }
        }
        (None, Some(_), Some(_)) => return Err("`labels` select among the bundles of a signer; use signer=NAME".into()),
        (None, Some(name), None) => BundleSelection::Name(name.to_owned()),
        (Some(_), Some(_), _) => return Err("`signer` and `name` exclude each other; leave one of them out".into()),
        (None, None, _) => {
            return Err(format!("signer=NAME or name=NAME is missing; expected a value like {EXAMPLE}"));
        }
    };
    selection.check()?;
    let path = path.ok_or_else(|| format!("path=FILE is missing; expected a value like {EXAMPLE}"))?;
    let replaces_foreign = match replaces_foreign {
        None | Some("false") => false,
        Some("true") => true,
        Some(_) => return Err("`replaceForeign` is true or false".into()),
    };
    let options = FileOptions { replaces_foreign, ..FileOptions::default() };
    Ok(TrustBundle { selection, path: path.into(), options })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trust_bundle_of_signer_or_name_is_parsed() {
        let signer = |labels: &str| BundleSelection::Signer { name: "example.com/mesh".into(), labels: labels.into() };
        for (text, selection, path, replaces_foreign) in [
            ("signer=example.com/mesh,path=/etc/ca.pem", signer(""), "/etc/ca.pem", false),
            ("path=ca=1.pem , signer = example.com/mesh", signer(""), "ca=1.pem", false),
            (
                "name=example.com:mesh:1,path=a,replaceForeign=true",
                BundleSelection::Name("example.com:mesh:1".into()),
                "a",
                true,
            ),
            ("signer=example.com/mesh,path=a,labels=live,tier in (a,b)", signer("live,tier in (a,b)"), "a", false),
        ] {
            let options = FileOptions { replaces_foreign, ..FileOptions::default() };
            let expected = TrustBundle { selection, path: path.into(), options };
            assert_eq!(trust_bundle(text), Ok(expected), "{text}");
        }
    }

    #[test]
    fn trust_bundle_error_names_key_and_remedy() {
        for (text, why) in [
            ("", "signer=NAME or name=NAME is missing; expected a value like signer="),
            ("/etc/ca.pem", "`/etc/ca.pem` is no KEY=VALUE; expected a value like signer="),
            ("signer=example.com/mesh", "path=FILE is missing; expected a value like signer="),
            ("path=a", "signer=NAME or name=NAME is missing"),
            ("signer=mesh,path=a", "the signer name `mesh` has not the form `example.com/signer-name`"),
            ("signer=example.com/mesh,path=a,labels=tier in", "the label selector ends too early"),
            ("name=Mesh,path=a", "`Mesh` is no name of a ClusterTrustBundle"),
            ("signer=example.com/mesh,path=", "`path` has no value"),
            ("signer=example.com/mesh,path=a,path=b", "`path` is given twice"),
            ("signer=example.com/mesh,name=b,path=a", "`signer` and `name` exclude each other"),
            ("name=b,path=a,labels=x", "`labels` select among the bundles of a signer"),
            ("signer=example.com/mesh,file=a", "unknown key `file`; the keys are signer, name, path"),
            ("signer=example.com/mesh,path=a,replaceForeign=yes", "`replaceForeign` is true or false"),
        ] {
            let error = trust_bundle(text).unwrap_err();
            assert!(error.starts_with(why), "{text}: {error}");
        }
    }
}
