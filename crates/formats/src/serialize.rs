//! Serializes enums as their names: the words that JSON reports use.

use serde::{Serialize, Serializer};

use crate::containers::{Container, Target};
use crate::danger::{Level, Usage};
use crate::error::{Hint, Kind};
use crate::tensor::Dtype;

macro_rules! serialize_as_name {
    ($($type:ty),*) => {
        $(impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(self.name())
            }
        })*
    };
}

serialize_as_name!(Container, Dtype, Hint, Kind, Level, Target, Usage);
