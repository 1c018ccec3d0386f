use std::fmt;
use std::str::FromStr;

/// Names with `*` in them, which stands for any characters, dots included: `model.diffusion_model.*`.
///
/// A pattern without `*` is one name. Each `*` takes as few characters as the rest of the pattern allows, from left to right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern {
    text: String,
}

impl Pattern {
    /// Returns what each `*` stands for in a name; `None` if the pattern is for other names.
    fn captures<'n>(&self, name: &'n str) -> Option<Vec<&'n str>> {
        let mut parts = self.text.split('*');
        let mut rest = name.strip_prefix(parts.next()?)?;
        let mut found = Vec::new();
        let Some(last) = parts.next_back() else {
            return rest.is_empty().then_some(found);
        };
        for part in parts {
            let (before, after) = rest.split_once(part)?;
            found.push(before);
            rest = after;
        }
        found.push(rest.strip_suffix(last)?);
        Some(found)
    }

    /// Returns whether the pattern is for this name.
    pub fn matches(&self, name: &str) -> bool {
        self.captures(name).is_some()
    }

    fn stars(&self) -> usize {
        self.text.matches('*').count()
    }
}

impl FromStr for Pattern {
    type Err = &'static str;

    /// Fails if the text is empty.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.is_empty() {
            true => Err("expected a name or a pattern, such as model.diffusion_model.*"),
            false => Ok(Pattern { text: text.to_owned() }),
        }
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// A pattern, and the name that tensors with such names get: `vae.*=first_stage_model.*`. Each `*` of the new name stands for
/// what the `*` in the same position stands for in the old one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Renaming {
    from: Pattern,
    to: Pattern,
}

impl Renaming {
    /// Returns the new name; `None` if the pattern is for other names.
    pub fn apply(&self, name: &str) -> Option<String> {
        let captures = self.from.captures(name)?;
        let mut parts = self.to.text.split('*');
        let mut renamed = parts.next()?.to_owned();
        for (part, captured) in parts.zip(captures) {
            renamed.push_str(captured);
            renamed.push_str(part);
        }
        Some(renamed)
    }
}

impl FromStr for Renaming {
    type Err = &'static str;

    /// Parses `FROM=TO`. Fails if either is empty, or if TO has more `*` than FROM.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const EXPECTED: &str = "expected FROM=TO, such as 'vae.*=first_stage_model.*'";
        let (from, to) = text.split_once('=').ok_or(EXPECTED)?;
        let (from, to): (Pattern, Pattern) = (from.parse().map_err(|_| EXPECTED)?, to.parse().map_err(|_| EXPECTED)?);
        match to.stars() > from.stars() {
            true => Err("the new name has more * than the old one"),
            false => Ok(Renaming { from, to }),
        }
    }
}

impl fmt::Display for Renaming {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.from, self.to)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_any_characters() {
        let matches = |pattern: &str, name: &str| pattern.parse::<Pattern>().unwrap().matches(name);
        for (pattern, name, expected) in [
            ("a.b", "a.b", true),
            ("a.b", "a.bc", false),
            ("*", "", true),
            ("*", "a.b", true),
            ("a.*", "a.", true),
            ("a.*", "a", false),
            ("*.weight", "a.b.weight", true),
            ("*.weight", "weight", false),
            ("a*a", "a", false),
            ("a*a", "aa", true),
            ("*.attn1.*.weight", "b.0.attn1.to_q.weight", true),
            ("*.attn1.*.weight", "b.0.attn2.to_q.weight", false),
            ("*ab*ab", "abab", true),
            ("*ab*ab", "ab", false),
            ("**", "a", true),
        ] {
            assert_eq!(matches(pattern, name), expected, "{pattern} {name}");
        }
        assert!("".parse::<Pattern>().is_err());
    }

    #[test]
    fn the_new_name_takes_what_the_stars_stand_for() {
        let apply = |rule: &str, name: &str| rule.parse::<Renaming>().unwrap().apply(name);
        assert_eq!(apply("vae.*=first_stage_model.*", "vae.a.b").as_deref(), Some("first_stage_model.a.b"));
        assert_eq!(apply("vae.*=first_stage_model.*", "unet.a"), None);
        assert_eq!(apply("*.to_q.*=*.q.*", "a.b.to_q.weight").as_deref(), Some("a.b.q.weight"));
        assert_eq!(apply("module.*=*", "module.module.a").as_deref(), Some("module.a"));
        assert_eq!(apply("*=x.*", "a").as_deref(), Some("x.a"));
        assert_eq!(apply("a=b", "a").as_deref(), Some("b"));
        assert_eq!(apply("a.*.b=c", "a.x.b").as_deref(), Some("c"));
        for wrong in ["", "a", "=b", "a=", "a=*", "*=**"] {
            assert!(wrong.parse::<Renaming>().is_err(), "{wrong}");
        }
    }
}
