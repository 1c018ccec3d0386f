//! Serializes enums as their names: the words that JSON reports use.

use serde::{Serialize, Serializer};

use crate::Component;
use crate::family::{Architecture, Prediction, Task};
use crate::ledger::DropReason;

macro_rules! serialize_as_name {
    ($($type:ty),*) => {
        $(impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(self.name())
            }
        })*
    };
}

serialize_as_name!(Architecture, Component, DropReason, Prediction, Task);
