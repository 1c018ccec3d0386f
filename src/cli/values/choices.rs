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
    word.to_ascii_lowercase().replace(['_', ' '], "-")
}

/// The name that a mistyped word probably means. Takes words, each with the name that it is a word for.
pub(super) fn similar<W: AsRef<str>, N>(text: &str, words: impl IntoIterator<Item = (W, N)>) -> Option<N> {
    let text = folded(text);
    let rated = words.into_iter().map(|(word, name)| (strsim::jaro(&text, &folded(word.as_ref())), name));
    let best = rated.max_by(|(a, _), (b, _)| a.total_cmp(b));
    best.filter(|(similarity, _)| *similarity >= SIMILAR).map(|(_, name)| name)
}

/// Returns the error for a word that is unknown. It lists the known words, and suggests a word if one is similar.
pub(super) fn unknown(
    (command, argument, value): (&Command, Option<&Arg>, &OsStr),
    words: impl IntoIterator<Item = PossibleValue>,
    similar: Option<String>,
) -> Error {
    let mut error = match PossibleValuesParser::new(words).parse_ref(command, argument, value) {
        Err(error) => error,
        // The caller knows the same words, and more spellings of them.
        Ok(_) => Error::new(ErrorKind::InvalidValue).with_cmd(command),
    };
    match similar {
        Some(name) => error.insert(ContextKind::SuggestedValue, ContextValue::String(name)),
        None => error.remove(ContextKind::SuggestedValue),
    };
    error
}

impl<T: Clone> Choices<T> {
    fn find(&self, text: &str) -> Option<T> {
        let text = folded(text);
        let choice = self.0.iter().find(|choice| choice.words().any(|word| folded(word) == text));
        choice.map(|choice| choice.value.clone())
    }

    fn similar(&self, text: &str) -> Option<String> {
        let words = self.0.iter().flat_map(|choice| choice.words().map(move |word| (word, choice.name)));
        similar(text, words).map(str::to_owned)
    }
}

impl<T: Clone + Send + Sync + 'static> TypedValueParser for Choices<T> {
    type Value = T;

    fn parse_ref(&self, command: &Command, argument: Option<&Arg>, value: &OsStr) -> Result<T, Error> {
        let text = value.to_string_lossy();
        if let Some(value) = self.find(&text) {
            return Ok(value);
        }
        let words = self.0.iter().map(Choice::possible_value);
        Err(unknown((command, argument, value), words, self.similar(&text)))
    }

    fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue> + '_>> {
        Some(Box::new(self.0.iter().map(Choice::possible_value)))
    }
}
