//! Looks up keys whatever wraps them, and the conditions that rules consist of.

use std::cell::OnceCell;

use memchr::memmem;

use trinart_ckpt_formats::state_dict::StateDict;

/// The keys and dimensions of the tensors of a file.
pub(super) struct View<'a> {
    tensors: Vec<(&'a str, &'a [u64])>,
    /// All keys, each with a line break before and behind it, in which rules search at once. `None` if a key has a line break.
    text: OnceCell<Option<String>>,
}

/// Separates the keys of [`View::text`].
const BREAK: &str = "\n";

/// What rules ask about the keys of a file. A part of a key begins where a name begins: at the start of the key or after
/// `.` or `/`, so that it is found whatever wraps the network.
#[derive(Debug, Clone, Copy)]
pub(super) enum Part {
    /// Some key has this part.
    Has(&'static str),
    /// Some key ends with this part.
    End(&'static str),
    /// Some key starts with this.
    Start(&'static str),
    /// Some key contains this, anywhere.
    Within(&'static str),
    /// No key has this part.
    No(&'static str),
    /// The tensor whose key ends with this has this dimension: its index and its size.
    Dim(&'static str, usize, u64),
    /// The tensor whose key ends with this has this number of dimensions.
    Rank(&'static str, usize),
    /// The file has at most this number of tensors.
    AtMost(usize),
}

impl<'a> View<'a> {
    pub(super) fn of(state_dict: &'a StateDict) -> Self {
        let dims =
            |(key, tensor): (&'a str, &'a trinart_ckpt_formats::tensor::LazyTensor)| (key, tensor.shape().dims());
        Self::of_tensors(state_dict.iter().map(dims).collect())
    }

    pub(super) fn of_tensors(tensors: Vec<(&'a str, &'a [u64])>) -> Self {
        View { tensors, text: OnceCell::new() }
    }

    fn text(&self) -> Option<&str> {
        let join = || {
            let mut text = String::from(BREAK);
            for key in self.keys() {
                if key.contains(BREAK) {
                    return None;
                }
                text.push_str(key);
                text.push_str(BREAK);
            }
            Some(text)
        };
        self.text.get_or_init(join).as_deref()
    }

    /// Whether a key contains a text, where `is_begin` accepts the byte before it: a line break at the beginning of a key.
    fn contains(&self, part: &str, is_begin: impl Fn(u8) -> bool) -> Option<bool> {
        let text = self.text()?.as_bytes();
        let before = |at: usize| at.checked_sub(1).and_then(|at| text.get(at)).copied();
        Some(memmem::find_iter(text, part).any(|at| before(at).is_some_and(&is_begin)))
    }

    #[cfg(test)]
    pub(super) fn new(tensors: Vec<(&'a str, &'a [u64])>) -> Self {
        Self::of_tensors(tensors)
    }

    /// The tensors whose keys start with a prefix, without it.
    pub(super) fn under(&self, prefix: &str) -> View<'a> {
        let under = |&(key, dims): &(&'a str, &'a [u64])| Some((key.strip_prefix(prefix)?, dims));
        Self::of_tensors(self.tensors.iter().filter_map(under).collect())
    }

    /// The tensors whose keys do not satisfy a condition.
    pub(super) fn without(&self, is_out: impl Fn(&str) -> bool) -> View<'a> {
        Self::of_tensors(self.tensors.iter().filter(|(key, _)| !is_out(key)).copied().collect())
    }

    pub(super) fn len(&self) -> usize {
        self.tensors.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.tensors.is_empty()
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = &'a str> + '_ {
        self.tensors.iter().map(|(key, _)| *key)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&'a str, &'a [u64])> + '_ {
        self.tensors.iter().copied()
    }

    pub(super) fn has(&self, part: &str) -> bool {
        let found = self.contains(part, |before| is_boundary(before) || before == b'\n');
        found.unwrap_or_else(|| self.keys().any(|key| has_part(key, part)))
    }

    /// Whether a key ends with a part.
    fn has_end(&self, part: &str) -> bool {
        let found = self.contains(&format!("{part}{BREAK}"), |before| is_boundary(before) || before == b'\n');
        found.unwrap_or_else(|| self.keys().any(|key| ends_with_part(key, part)))
    }

    /// Returns the dimensions of the first tensor whose key ends with a part.
    pub(super) fn dims(&self, part: &str) -> Option<&'a [u64]> {
        self.tensors.iter().find(|(key, _)| ends_with_part(key, part)).map(|(_, dims)| *dims)
    }

    /// Returns a dimension of the first tensor whose key ends with a part.
    pub(super) fn dim(&self, part: &str, index: usize) -> Option<u64> {
        self.dims(part)?.get(index).copied()
    }

    /// Returns one more than the largest number that follows a part in a key: the number of blocks of a network.
    pub(super) fn blocks(&self, part: &str) -> usize {
        let number = |key: &str| {
            let rest = key.get(find_part(key, part)? + part.len()..)?;
            let end = rest.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(rest.len());
            rest.get(..end)?.parse::<usize>().ok()
        };
        if !self.has(part) {
            return 0;
        }
        self.keys().filter_map(number).max().map_or(0, |last| last.saturating_add(1))
    }

    pub(super) fn holds(&self, parts: &[Part]) -> bool {
        parts.iter().all(|part| match *part {
            Part::Has(part) => self.has(part),
            Part::End(part) => self.has_end(part),
            Part::Start(part) => self
                .contains(part, |before| before == b'\n')
                .unwrap_or_else(|| self.keys().any(|key| key.starts_with(part))),
            Part::Within(part) => {
                self.contains(part, |_| true).unwrap_or_else(|| self.keys().any(|key| key.contains(part)))
            }
            Part::No(part) => !self.has(part),
            Part::Dim(part, index, size) => self.dim(part, index) == Some(size),
            Part::Rank(part, rank) => self.dims(part).is_some_and(|dims| dims.len() == rank),
            Part::AtMost(most) => self.len() <= most,
        })
    }
}

fn is_boundary(byte: u8) -> bool {
    matches!(byte, b'.' | b'/')
}

/// Returns where a part begins in a key.
fn find_part(key: &str, part: &str) -> Option<usize> {
    let begins = |&(index, _): &(usize, &str)| {
        index.checked_sub(1).is_none_or(|before| key.as_bytes().get(before).is_some_and(|&byte| is_boundary(byte)))
    };
    key.match_indices(part).find(begins).map(|(index, _)| index)
}

fn has_part(key: &str, part: &str) -> bool {
    find_part(key, part).is_some()
}

fn ends_with_part(key: &str, part: &str) -> bool {
    let Some(before) = key.strip_suffix(part) else { return false };
    before.bytes().next_back().is_none_or(is_boundary)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file has the same parts whether its keys are searched at once or, because one has a line break, one by one.
    #[test]
    fn finds_parts_in_all_keys_at_once_as_in_each() {
        let keys = ["a.b.c.weight", "b/c.bias", "xb.c", "emb_params"];
        let with_break = [&keys[..], &["odd\nkey"]].concat();
        let of = |keys: &[&'static str]| View::new(keys.iter().map(|key| (*key, &[][..])).collect());
        let (joined, single) = (of(&keys), of(&with_break));
        assert!(joined.text().is_some() && single.text().is_none());
        let texts =
            ["b.c", "c.", "a.b", "xb", "emb", "weight", "bias", "b/c", "c", "params", "eight", "c.bias", "odd", ""];
        for part in texts.into_iter().filter(|part| *part != "odd") {
            assert_eq!(joined.has(part), single.has(part), "{part}");
            for rule in [Part::Has, Part::End, Part::Start, Part::Within, Part::No] {
                assert_eq!(joined.holds(&[rule(part)]), single.holds(&[rule(part)]), "{:?}", rule(part));
            }
        }
    }
}
