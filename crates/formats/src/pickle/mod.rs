//! Parses Python pickles as data, into an arena of values, without importing, calling or recursing; and writes them as
//! CPython does. Independent of torch.

mod calls;
mod chain;
mod containers;
mod cursor;
mod encoder;
mod first_call;
mod joblib;
mod lenient;
mod literals;
mod machine;
mod names;
pub mod op;
mod strict;
mod text;
mod value;

pub(crate) use chain::Chain;
pub use encoder::Encoder;
pub(crate) use first_call::first_call;
pub(crate) use lenient::parse_lenient_without_arrays;
pub use lenient::{Break, LenientParse, parse_lenient};
pub use strict::parse;
pub(crate) use strict::parse_vec;
pub use value::{GlobalUse, Id, Name, Node, Object, OddUse, Oddity, Pickle, Text};
