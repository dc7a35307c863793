//! Names that few certificates have, behind one pointer.

use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;

use crate::template::insert_all;

/// Names that few certificates have: URIs, organizational units and a serial number in the subject. Without any of
/// them, a value is as large as a pointer and owns no memory.
///
/// URIs and organizational units are sets: sorted, without duplicates. All names compare byte for byte.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct RareNames(Option<Box<Names>>);

/// The names of a [`RareNames`] that has any.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct Names {
    uris: Vec<String>,
    organizational_units: Vec<String>,
    serial_number: String,
}

impl RareNames {
    /// Makes a value without names.
    pub const fn new() -> Self {
        Self(None)
    }

    /// Adds URIs to the subject alternative names.
    pub fn with_uris<S: Into<String>>(mut self, uris: impl IntoIterator<Item = S>) -> Self {
        self.change(|names| insert_all(&mut names.uris, uris.into_iter().map(Into::into)));
        self
    }

    /// Adds organizational units (`OU`) to the subject.
    pub fn with_organizational_units<S: Into<String>>(mut self, units: impl IntoIterator<Item = S>) -> Self {
        self.change(|names| insert_all(&mut names.organizational_units, units.into_iter().map(Into::into)));
        self
    }

    /// Sets the serial number in the subject. An empty text removes the serial number.
    pub fn with_serial_number(mut self, number: impl Into<String>) -> Self {
        self.change(|names| names.serial_number = number.into());
        self
    }

    /// URIs among the subject alternative names, sorted.
    pub fn uris(&self) -> &[String] {
        self.0.as_deref().map_or(&[], |names| &names.uris)
    }

    /// The subject's organizational units, sorted.
    pub fn organizational_units(&self) -> &[String] {
        self.0.as_deref().map_or(&[], |names| &names.organizational_units)
    }

    /// The serial number in the subject (X.520 `serialNumber`), such as that of a device (IEEE 802.1AR). Not the serial
    /// number of the certificate. Empty if there is none.
    pub fn serial_number(&self) -> &str {
        self.0.as_deref().map_or("", |names| &names.serial_number)
    }

    /// True if there are no names.
    pub const fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// True if `other` has every name of `self`.
    pub(crate) fn is_within(&self, other: &Self) -> bool {
        let Some(names) = &self.0 else { return true };
        names.uris.iter().all(|uri| other.uris().contains(uri))
            && names.organizational_units.iter().all(|unit| other.organizational_units().contains(unit))
            && (names.serial_number.is_empty() || names.serial_number == other.serial_number())
    }

    /// Changes the names. Drops the allocation if no name is left, so that equal values have equal fields.
    fn change(&mut self, change: impl FnOnce(&mut Names)) {
        let mut names = self.0.take().unwrap_or_default();
        change(&mut names);
        self.0 = (*names != Names::default()).then_some(names);
    }
}
