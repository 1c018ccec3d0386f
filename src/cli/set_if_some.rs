/// Sets the options of a builder that the command line has. The others keep the library's defaults.
pub(super) trait SetIfSome: Sized {
    /// Calls `set`, a method of the builder, if the option has a value.
    fn set_if_some<T>(self, value: Option<T>, set: impl FnOnce(Self, T) -> Self) -> Self {
        match value {
            Some(value) => set(self, value),
            None => self,
        }
    }
}

impl<B> SetIfSome for B {}
