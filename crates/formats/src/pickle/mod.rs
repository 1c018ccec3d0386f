//! Parses Python pickles as data, into an arena of values, without importing, calling or recursing; and writes them as
//! CPython does. Independent of torch.

mod calls;
mod containers;
mod cursor;
mod encoder;
mod joblib;
mod lenient;
mod literals;
mod machine;
mod names;
pub mod op;
mod strict;
mod text;
mod value;

pub use encoder::Encoder;
pub use lenient::{Break, LenientParse, parse_lenient};
pub use strict::parse;
pub(crate) use strict::parse_vec;
pub use value::{GlobalUse, Id, Name, Node, Object, OddUse, Oddity, Pickle, Text};
