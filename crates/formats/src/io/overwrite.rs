/// How to treat an existing destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Overwrite {
    /// Fail and keep what exists.
    #[default]
    Refuse,
    /// Replace it in one step, once the output is complete.
    Replace,
}

impl Overwrite {
    /// Returns [`Overwrite::Replace`] if an existing destination may be replaced.
    pub fn allowed(may_replace: bool) -> Self {
        if may_replace { Overwrite::Replace } else { Overwrite::Refuse }
    }
}
