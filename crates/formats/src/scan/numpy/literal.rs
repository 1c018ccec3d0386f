//! Python literals in the form in which NumPy writes headers. Python accepts more: comments, escapes, strings that follow one
//! another and are one, numbers in other bases. Nothing else is read here.

/// Deepest nesting of lists and tuples.
const DEEPEST: usize = 32;

/// Most keys of a dict. A header has three.
const MOST_KEYS: usize = 8;

/// The value of a literal.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Literal<'a> {
    Str(&'a str),
    Int(usize),
    Bool(bool),
    Tuple(Vec<Literal<'a>>),
    List(Vec<Literal<'a>>),
    /// Keys and values. No key occurs twice.
    Dict(Vec<(&'a str, Literal<'a>)>),
}

impl Literal<'_> {
    pub(super) fn int(&self) -> Option<usize> {
        match self {
            Literal::Int(value) => Some(*value),
            _ => None,
        }
    }
}

/// Parses a header: one literal, with space around it.
pub(super) fn parse(text: &str) -> Option<Literal<'_>> {
    let mut parser = Parser { rest: text };
    let value = parser.value(DEEPEST)?;
    parser.skip_space();
    parser.rest.is_empty().then_some(value)
}

struct Parser<'a> {
    rest: &'a str,
}

impl<'a> Parser<'a> {
    fn skip_space(&mut self) {
        self.rest = self.rest.trim_start_matches([' ', '\n']);
    }

    /// Takes a text behind any space.
    fn take(&mut self, text: &str) -> bool {
        self.skip_space();
        let rest = self.rest.strip_prefix(text);
        self.rest = rest.unwrap_or(self.rest);
        rest.is_some()
    }

    fn value(&mut self, depth: usize) -> Option<Literal<'a>> {
        self.skip_space();
        match self.rest.chars().next()? {
            '\'' | '"' => self.string().map(Literal::Str),
            '0'..='9' => self.int(),
            'T' => self.take("True").then_some(Literal::Bool(true)),
            'F' => self.take("False").then_some(Literal::Bool(false)),
            '(' => self.tuple(depth.checked_sub(1)?),
            '[' => self.list(depth.checked_sub(1)?),
            '{' => self.dict(depth.checked_sub(1)?),
            _ => None,
        }
    }

    fn string(&mut self) -> Option<&'a str> {
        self.skip_space();
        let quote = self.rest.chars().next().filter(|first| matches!(first, '\'' | '"'))?;
        let (text, rest) = self.rest.strip_prefix(quote)?.split_once(quote)?;
        self.rest = rest;
        (!text.contains(['\\', '\n'])).then_some(text)
    }

    /// A decimal number, with the `L` that Python 2 writes.
    fn int(&mut self) -> Option<Literal<'a>> {
        let digits = self.rest.bytes().take_while(u8::is_ascii_digit).count();
        let (digits, rest) = self.rest.split_at_checked(digits)?;
        self.rest = rest.strip_prefix('L').unwrap_or(rest);
        let value = digits.parse().ok().filter(|_| digits == "0" || !digits.starts_with('0'))?;
        Some(Literal::Int(value))
    }

    /// Values with commas between them. Returns whether there was a comma.
    fn values(&mut self, end: &str, depth: usize) -> Option<(Vec<Literal<'a>>, bool)> {
        let (mut values, mut has_comma) = (Vec::new(), false);
        loop {
            if self.take(end) {
                return Some((values, has_comma));
            }
            values.push(self.value(depth)?);
            if !self.take(",") {
                return self.take(end).then_some((values, has_comma));
            }
            has_comma = true;
        }
    }

    fn tuple(&mut self, depth: usize) -> Option<Literal<'a>> {
        self.take("(");
        let (values, has_comma) = self.values(")", depth)?;
        (values.is_empty() || has_comma).then_some(Literal::Tuple(values))
    }

    fn list(&mut self, depth: usize) -> Option<Literal<'a>> {
        self.take("[");
        self.values("]", depth).map(|(values, _)| Literal::List(values))
    }

    fn dict(&mut self, depth: usize) -> Option<Literal<'a>> {
        self.take("{");
        let mut pairs: Vec<(&str, Literal<'_>)> = Vec::new();
        loop {
            if self.take("}") {
                return Some(Literal::Dict(pairs));
            }
            let key = self.string()?;
            let is_new = pairs.len() < MOST_KEYS && !pairs.iter().any(|(known, _)| *known == key);
            if !self.take(":") || !is_new {
                return None;
            }
            pairs.push((key, self.value(depth)?));
            if !self.take(",") {
                return self.take("}").then_some(Literal::Dict(pairs));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_numpy_writes_and_nothing_else() {
        let dict = parse("{'a': 'x', 'b': (1, 2L), 'c': [True, ()], }  \n").unwrap();
        let tuple = Literal::Tuple(vec![Literal::Int(1), Literal::Int(2)]);
        let list = Literal::List(vec![Literal::Bool(true), Literal::Tuple(Vec::new())]);
        assert_eq!(dict, Literal::Dict(vec![("a", Literal::Str("x")), ("b", tuple), ("c", list)]));
        let deep = format!("{}{}", "[".repeat(DEEPEST + 1), "]".repeat(DEEPEST + 1));
        for other in [
            "",
            "'a' 'b'",
            "u'a'",
            "(1)",
            "01",
            "1_0",
            "0x1",
            "{'a': 1, 'a': 2}",
            "'a\\x62'",
            "1 # x",
            "-1",
            "(,)",
            "1,",
        ] {
            assert_eq!(parse(other), None, "{other}");
        }
        assert_eq!(parse(&deep), None);
    }
}
