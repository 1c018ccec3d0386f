//! Options whose value is one of a few words.

use std::ffi::OsStr;

use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Arg, Command, Error};

/// A mistyped word is taken for one that is at least this similar: `fp-16` for `fp16`, but not `int8` for `fp8`.
const SIMILAR: f64 = 0.75;

/// Parses a word into its value. Upper and lower case are the same, and so are `_` and `-`. Errors list the words and
/// suggest the most similar one, also for a mistyped alias.
#[derive(Clone)]
pub(in crate::cli) struct Choices<T>(pub Vec<Choice<T>>);

/// A word, and what it stands for.
#[derive(Clone)]
pub(in crate::cli) struct Choice<T> {
    /// The value.
    pub value: T,
    /// The word in help and errors.
    pub name: &'static str,
    /// Other words for it.
    pub aliases: &'static [&'static str],
    /// What it does, if the word does not say it.
    pub help: Option<&'static str>,
}

impl<T> Choice<T> {
    fn words(&self) -> impl Iterator<Item = &'static str> {
        [self.name].into_iter().chain(self.aliases.iter().copied())
    }

    fn possible_value(&self) -> PossibleValue {
        let value = PossibleValue::new(self.name).aliases(self.aliases.iter().copied());
        match self.help {
            Some(help) => value.help(help),
            None => value,
        }
    }
}

/// One spelling of a word.
fn folded(word: &str) -> String {
    word.to_ascii_lowercase().replace('_', "-")
}

impl<T: Clone> Choices<T> {
    fn find(&self, text: &str) -> Option<T> {
        let text = folded(text);
        let choice = self.0.iter().find(|choice| choice.words().any(|word| folded(word) == text));
        choice.map(|choice| choice.value.clone())
    }

    /// The name of the choice that a mistyped word probably means.
    fn similar(&self, text: &str) -> Option<&'static str> {
        let text = folded(text);
        let words = self.0.iter().flat_map(|choice| choice.words().map(move |word| (word, choice.name)));
        let rated = words.map(|(word, name)| (strsim::jaro(&text, &folded(word)), name));
        let best = rated.max_by(|(a, _), (b, _)| a.total_cmp(b));
        best.filter(|(similarity, _)| *similarity >= SIMILAR).map(|(_, name)| name)
    }
}

impl<T: Clone + Send + Sync + 'static> TypedValueParser for Choices<T> {
    type Value = T;

    fn parse_ref(&self, command: &Command, argument: Option<&Arg>, value: &OsStr) -> Result<T, Error> {
        let text = value.to_string_lossy();
        if let Some(value) = self.find(&text) {
            return Ok(value);
        }
        let words = PossibleValuesParser::new(self.0.iter().map(Choice::possible_value));
        let mut error = match words.parse_ref(command, argument, value) {
            Err(error) => error,
            // Both know the same words, and this one knows more spellings.
            Ok(_) => Error::new(ErrorKind::InvalidValue).with_cmd(command),
        };
        match self.similar(&text) {
            Some(name) => error.insert(ContextKind::SuggestedValue, ContextValue::String(name.to_owned())),
            None => error.remove(ContextKind::SuggestedValue),
        };
        Err(error)
    }

    fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue> + '_>> {
        Some(Box::new(self.0.iter().map(Choice::possible_value)))
    }
}
