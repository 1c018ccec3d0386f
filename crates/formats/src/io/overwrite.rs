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
