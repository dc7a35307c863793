//! Fuzzes kubeconfig files, and the files that they name, with any contents.

use std::cell::RefCell;
use std::io;
use std::path::Path;

use perennial_kubernetes::cluster::Cluster;
use perennial_kubernetes::kubeconfig::{Endpoint, Kubeconfig, KubeconfigError, Selected, kubeconfig_with_token};
use perennial_rotation::Identity;

use super::text;

const PATH: &str = "/etc/x/kubeconfig";
/// A secret that the input has only in the fields for secrets. No output may contain it.
const SECRET: &str = "Zs3cretZ";
/// The fields for secrets. There is a word for each field: the field, with [`SECRET`] as its value.
const FIELDS: [&str; 4] = ["token: ", "password: ", "client-key-data: ", "\"token\":"];
/// A limit on the length of a message in bytes: each message is shorter than this plus four times the length of the
/// kubeconfig, parts of which the message may quote.
const LONGEST_MESSAGE: usize = 4096;

/// Checks the reader of kubeconfigs with any text, and with any contents of the files that the text names. The reader
/// must return a cluster and an identity, or an error that names a place in the text. No output may show a secret. An
/// endpoint that was read must be the same after it is written to a new kubeconfig and read again.
pub fn kubeconfig(bytes: &[u8]) {
    let mut pieces = text::pieces(bytes);
    let words = FIELDS.map(|field| format!("{field}{SECRET}").into_bytes());
    let config = text::expand(pieces.next().unwrap_or_default(), &words);
    let config = String::from_utf8_lossy(&config);
    let files: Vec<Vec<u8>> = pieces.map(<[u8]>::to_vec).collect();
    let files = RefCell::new(files);
    // The last letter of a path selects one of the files.
    let mut read = |path: &Path| {
        let letter = path.as_os_str().as_encoded_bytes().last().copied().unwrap_or_default();
        let file = files.borrow().get(usize::from(letter.wrapping_sub(b'a'))).cloned();
        file.ok_or_else(|| io::Error::from_raw_os_error(2))
    };
    let kubeconfig = match Kubeconfig::parse(Path::new(PATH), &config) {
        Ok(kubeconfig) => kubeconfig,
        Err(error) => return check_error(&error, &config),
    };
    assert!(!format!("{kubeconfig:?}").contains(SECRET));
    kubeconfig.warnings().iter().for_each(|warning| check_message(warning, &config));
    for context in kubeconfig.contexts().map(Some).chain([None, Some("no such context")]) {
        match kubeconfig.select(context) {
            Ok(selected) => {
                assert!(context.is_none_or(|context| context == selected.context()));
                selected.warnings().iter().for_each(|warning| check_message(warning, &config));
                check_selected(&selected, &config, &mut read);
            }
            Err(error) => check_error(&error, &config),
        }
    }
}

type Read<'a> = dyn FnMut(&Path) -> io::Result<Vec<u8>> + 'a;

fn check_selected(selected: &Selected<'_>, config: &str, read: &mut Read<'_>) {
    assert!(!format!("{selected:?}").contains(SECRET));
    let endpoint = selected.cluster(read);
    let credentials = selected.identity(read);
    if let Err(error) = &endpoint {
        check_error(error, config);
    }
    match &credentials {
        Ok(credentials) => assert!(!format!("{credentials:?}").contains(SECRET)),
        Err(error) => check_error(error, config),
    }
    let Ok(endpoint) = endpoint else { return };
    let _usable = Cluster::from_url(&endpoint.server).is_ok();
    assert!(endpoint.ca_pem.is_none() || !endpoint.insecure_skip_tls_verify);
    let token = match &credentials {
        Ok(Identity::Token(token) | Identity::CertificateAndToken(_, token)) => token.reveal(),
        _ => "a.b",
    };
    check_written(&endpoint, token, read);
}

/// Writes a kubeconfig with this endpoint and token as perennial does, and reads it again. Checks that the result has
/// the same endpoint and token.
fn check_written(endpoint: &Endpoint, token: &str, read: &mut Read<'_>) {
    let written = kubeconfig_with_token(endpoint, "user", token);
    let again = Kubeconfig::parse(Path::new(PATH), &written).expect("our own encoding can be read");
    let selected = again.select(None).expect("our own encoding can be read");
    assert_eq!(selected.cluster(read).as_ref().ok(), Some(endpoint));
    match selected.identity(read) {
        Ok(Identity::Token(read)) => assert_eq!(read.reveal(), token),
        other => panic!("{other:?}"),
    }
}

fn check_error(error: &KubeconfigError, config: &str) {
    assert!(!format!("{error:?}").contains(SECRET), "{error:?}");
    check_message(&error.to_string(), config);
}

fn check_message(message: &str, config: &str) {
    let place = message.strip_prefix(PATH).and_then(|rest| rest.strip_prefix(':')).expect("a place");
    let mut numbers = place.splitn(3, ':').map(|number| number.parse::<usize>());
    let (line, column) = (numbers.next().expect("a line"), numbers.next().expect("a column"));
    // The end of the text may be the place. YAML has more kinds of line break than `lines`.
    let lines = config.split(['\n', '\r', '\u{85}', '\u{2028}', '\u{2029}']).count();
    assert!(line.is_ok_and(|line| (1..=lines + 1).contains(&line)), "{message} in {lines} lines");
    assert!(column.is_ok_and(|column| (1..=config.len() + 2).contains(&column)), "{message}");
    assert!(!message.contains(SECRET), "{message}");
    assert!(!message.contains(char::is_control), "{message:?}");
    assert!(message.len() < LONGEST_MESSAGE + 4 * config.len(), "{message}");
}
