//! What a pickle does with a name.

/// What a pickle does with a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Usage {
    /// Imports it without calling it.
    Imports,
    /// Calls it, or sets its attributes.
    Calls,
    /// Contains it: a value, not a name.
    Contains,
}

impl Usage {
    /// The verb in reports and JSON.
    pub fn name(self) -> &'static str {
        match self {
            Usage::Imports => "imports",
            Usage::Calls => "calls",
            Usage::Contains => "contains",
        }
    }
}
