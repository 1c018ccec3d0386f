/// Sets the options of a builder that were given on the command line.
pub(super) trait Given: Sized {
    /// Applies a method of the builder if the option has a value.
    fn given<T>(self, value: Option<T>, set: impl FnOnce(Self, T) -> Self) -> Self {
        match value {
            Some(value) => set(self, value),
            None => self,
        }
    }
}

impl<B> Given for B {}
