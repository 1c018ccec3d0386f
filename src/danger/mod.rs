//! What a pickle could do to whoever loads it with Python: each name it mentions and each call it would make, judged.
//!
//! Nothing of a pickle is run here, so these lists protect nobody who uses this program; they are for those who would
//! load the same file with Python. What is not known to be harmless is not called harmless: a name of the standard
//! library that is no data type is dangerous, a class of some other package suspicious.

mod examine;
mod names;
mod packages;
mod stdlib;
mod unfold;

pub use examine::{Act, Finding, examine};
pub use names::{Judgement, judge};

/// How bad a name is. The worse, the greater.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Level {
    /// Known, and data.
    Harmless,
    /// Unknown to this program: a class of some package, which runs that package's code.
    Suspicious,
    /// Lets the file's author act on whoever loads it.
    Dangerous,
}

impl Level {
    /// Every level, from the worst on.
    pub const ALL: [Level; 3] = [Level::Dangerous, Level::Suspicious, Level::Harmless];

    /// Its name for people and scripts.
    pub fn name(self) -> &'static str {
        match self {
            Level::Harmless => "harmless",
            Level::Suspicious => "suspicious",
            Level::Dangerous => "dangerous",
        }
    }
}
