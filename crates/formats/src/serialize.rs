//! Serializes enums as their names: the words that JSON reports use.

use crate::containers::{Container, Target};
use crate::danger::{Level, Usage};
use crate::error::{Hint, Kind};
use crate::scan::ScannedFormat;
use crate::tensor::Dtype;

/// Implements `Serialize` for types by their method `name`. For the crates of this workspace.
#[doc(hidden)]
#[macro_export]
macro_rules! serialize_as_name {
    ($($type:ty),*) => {
        $(impl ::serde::Serialize for $type {
            fn serialize<S: ::serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(self.name())
            }
        }

        #[cfg(feature = "schema")]
        impl ::schemars::JsonSchema for $type {
            fn schema_name() -> ::std::borrow::Cow<'static, str> {
                stringify!($type).into()
            }

            fn json_schema(_: &mut ::schemars::SchemaGenerator) -> ::schemars::Schema {
                // Newer versions have more words.
                ::schemars::json_schema!({ "type": "string", "pattern": "^[A-Za-z0-9_.-]+$" })
            }
        })*
    };
}

serialize_as_name!(Container, Dtype, Hint, Kind, Level, ScannedFormat, Target, Usage);
