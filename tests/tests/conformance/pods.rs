//! kubelet's manager of pod certificates (KEP-4317): the cases of podcertificatemanager_test.go, and the behaviour that
//! only podcertificatemanager.go shows.

pub(crate) mod life;
pub(crate) mod requests;
mod scenes;
pub(crate) mod states;

const TEST: &str = "podcertificatemanager_test.go";
const MANAGER: &str = "podcertificatemanager.go";
