//! Serializes enums as their names: the words that JSON reports use.

use trinart_ckpt_formats::serialize_as_name;

use crate::Component;
use crate::family::{Architecture, Prediction, Task};
use crate::ledger::DropReason;

serialize_as_name!(Architecture, Component, DropReason, Prediction, Task);
