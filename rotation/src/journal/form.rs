//! [`Form`]: how a journal represents a value whose type does not implement serde's traits, alone or inside `Option`
//! and `Arc`.
//!
//! `#[serde(with = "form")]` on a field serializes the form of its value.

use std::error::Error;
use std::sync::Arc;

use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A type whose values have a representation, the form, that serde can serialize.
pub(super) trait Form: Sized {
    type Form: Serialize + DeserializeOwned;

    fn form(&self) -> Self::Form;

    fn read(form: Self::Form) -> Result<Self, Box<dyn Error>>;
}

/// Implements [`Form`] for a type by two closures: the first turns a value into its form, the second turns a form back
/// into a value.
macro_rules! form {
    ($value:ty as $form:ty, $write:expr, $read:expr) => {
        impl Form for $value {
            type Form = $form;

            fn form(&self) -> Self::Form {
                let write: fn(&Self) -> Self::Form = $write;
                write(self)
            }

            fn read(form: Self::Form) -> Result<Self, Box<dyn Error>> {
                let read: fn(Self::Form) -> Result<Self, Box<dyn Error>> = $read;
                read(form)
            }
        }
    };
}
pub(super) use form;

impl<T: Form> Form for Option<T> {
    type Form = Option<T::Form>;

    fn form(&self) -> Self::Form {
        self.as_ref().map(T::form)
    }

    fn read(form: Self::Form) -> Result<Self, Box<dyn Error>> {
        form.map(T::read).transpose()
    }
}

impl<T: Form> Form for Arc<T> {
    type Form = T::Form;

    fn form(&self) -> Self::Form {
        T::form(self)
    }

    fn read(form: Self::Form) -> Result<Self, Box<dyn Error>> {
        T::read(form).map(Self::new)
    }
}

pub(super) fn serialize<T: Form, S: Serializer>(value: &T, serializer: S) -> Result<S::Ok, S::Error> {
    value.form().serialize(serializer)
}

pub(super) fn deserialize<'de, T: Form, D: Deserializer<'de>>(deserializer: D) -> Result<T, D::Error> {
    T::read(T::Form::deserialize(deserializer)?).map_err(D::Error::custom)
}
