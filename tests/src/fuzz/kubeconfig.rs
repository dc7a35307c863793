//! Kubeconfig files of any content, naming files of any content.

use std::cell::RefCell;
use std::io;
use std::path::Path;

use perennial_kubernetes::cluster::Cluster;
use perennial_kubernetes::kubeconfig::{Endpoint, Kubeconfig, KubeconfigError, Selected, kubeconfig_with_token};
use perennial_rotation::Identity;

use super::text;

const PATH: &str = "/etc/x/kubeconfig";
/// Stands where only a secret can stand, and must be shown nowhere.
const SECRET: &str = "Zs3cretZ";
/// The fields that hold one.
const FIELDS: [&str; 4] = ["token: ", "password: ", "client-key-data: ", "\"token\":"];
/// What is shown of a text is not much longer than the text, and the text is shown a few times at most.
const LONGEST_MESSAGE: usize = 4096;

/// Whatever the text, and whatever the files hold: there is a cluster and who we are to it, or an error that names a
/// place in the text and shows no secret. What can be read can be written, and reads the same.
pub fn kubeconfig(bytes: &[u8]) {
    let mut pieces = text::pieces(bytes);
    let words = FIELDS.map(|field| format!("{field}{SECRET}").into_bytes());
    let config = text::expand(pieces.next().unwrap_or_default(), &words);
    let config = String::from_utf8_lossy(&config);
    let files: Vec<Vec<u8>> = pieces.map(<[u8]>::to_vec).collect();
    let files = RefCell::new(files);
    // The last letter of its name says which file it is.
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

/// What is written reads the same.
fn check_written(endpoint: &Endpoint, token: &str, read: &mut Read<'_>) {
    let written = kubeconfig_with_token(endpoint, "user", token);
    let again = Kubeconfig::parse(Path::new(PATH), &written).expect("it was written by us");
    let selected = again.select(None).expect("it was written by us");
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
