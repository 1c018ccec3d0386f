//! Judges what a pickle could do when Python loads it: each global name, and each call with its arguments.
//!
//! This program never executes pickles, so these lists do not protect its users. They protect people who load the same
//! file with Python. Only known data types are safe. Other names of the standard library are dangerous, classes of
//! other packages unknown.

mod bomb;
mod examine;
mod names;
mod packages;
mod stdlib;

pub use examine::{Finding, Usage, examine};
pub use names::{Judgement, Level, judge};
