//! Python pickles as data: read into an arena of values without calling, importing or recursing; written as CPython
//! writes them. Knows no torch.

mod calls;
mod containers;
mod cursor;
mod encoder;
mod literals;
mod machine;
mod names;
pub mod op;
mod survey;
mod text;
mod value;

pub use encoder::Encoder;
pub use machine::{parse, parse_vec};
pub use survey::{OddUse, Oddity, Survey, survey};
pub use value::{GlobalUse, Id, Name, Node, Object, Pickle, Text};
