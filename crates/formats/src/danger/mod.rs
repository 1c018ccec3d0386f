//! Judges what a pickle could do when Python loads it: each global name, and each call with its arguments.
//!
//! This program never executes pickles, so these lists do not protect its users. They protect people who load the same
//! file with Python. Only what `vouched` lists is safe, and only if it is used as listed there. Everything else is
//! unknown. What the lists of dangerous modules and names contain is dangerous.

mod allowed;
mod bomb;
mod checks;
mod examine;
mod hashes;
mod keys;
mod names;
mod oddities;
mod packages;
mod shown;
mod stdlib;
mod usage;
mod uses;
mod values;
mod vouched;
mod zones;

pub use allowed::Allowed;
pub use examine::{Finding, examine, examine_allowing};
pub use names::{Judgement, Level, judge};
pub use usage::Usage;
