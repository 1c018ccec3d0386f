use std::fmt;

use super::{Error, Kind};

impl Error {
    /// Replaces the tensor's key, to convert the key of an output to that of its input.
    #[must_use]
    pub fn rename_tensor(mut self, key: impl Into<String>) -> Self {
        if let Some(place) = self.place() {
            place.tensor = Some(key.into());
        }
        self
    }

    /// Adds to the message what the program was doing with another file: `, merging into model.ckpt`.
    #[must_use]
    pub fn during(mut self, action: impl fmt::Display) -> Self {
        if let Some(place) = self.place().filter(|place| place.kind != Kind::Internal) {
            place.message = format!("{}, {action}", place.message);
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_the_input_of_an_output_and_the_other_file() {
        let error = Error::mismatch("shape [7], expected [4]").in_tensor("first_stage_model.a").in_file("vae.pt");
        let error = error.rename_tensor("a").during("merging into model.ckpt");
        assert_eq!(error.to_string(), "vae.pt: tensor a: shape [7], expected [4], merging into model.ckpt");
        assert_eq!(Error::interrupted().rename_tensor("a").during("b").to_string(), "interrupted");
    }
}
