//! Serializes enums as their names: the words that JSON reports use.

use trinart_ckpt_formats::serialize_as_name;

use crate::family::{Architecture, Prediction, Task};
use crate::file_kind::{Model, Use};
use crate::ledger::DropReason;
use crate::quantization::Method;
use crate::{Component, FileKind};

serialize_as_name!(Architecture, Component, DropReason, FileKind, Method, Model, Prediction, Task, Use);
