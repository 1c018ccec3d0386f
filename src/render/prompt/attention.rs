//! WebUI's attention syntax: which words count more.

use crate::error::{Error, Result};

/// What a bracket multiplies by.
const BRACKET: f64 = 1.1;

/// How WebUI notes a `BREAK` among the texts: by this word and weight. A weight that a bracket has changed makes it a word
/// like any other, and so it is here.
const BREAK: (&str, f64) = ("BREAK", -1.0);

/// A piece of a prompt.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Piece {
    /// A text and its weight.
    Text(String, f64),
    /// `BREAK` outside of brackets: what follows begins a new chunk.
    Break,
}

/// Takes a prompt apart.
///
/// `(a)` multiplies by 1.1, `[a]` divides by it, `(a:1.5)` multiplies by 1.5, nested ones by all; a backslash takes the
/// meaning from a bracket; brackets that are not closed reach to the end.
pub(super) fn parse(prompt: &str) -> Result<Vec<Piece>> {
    let mut parser = Parser { pieces: Vec::new(), round: Vec::new(), square: Vec::new() };
    let mut rest = prompt;
    while let Some(first) = rest.chars().next() {
        let taken = match first {
            '\\' => {
                let escaped = rest.chars().nth(1).filter(|next| "()[]\\".contains(*next));
                parser.text(&escaped.map(String::from).unwrap_or_default());
                1 + escaped.map_or(0, char::len_utf8)
            }
            '(' => {
                parser.round.push(parser.pieces.len());
                1
            }
            '[' => {
                parser.square.push(parser.pieces.len());
                1
            }
            ':' => match weight(rest) {
                Some((weight, len)) => {
                    match parser.round.pop() {
                        Some(begin) => {
                            let weight = weight.parse().map_err(|_| bad_weight(&weight))?;
                            parser.multiply(begin, weight);
                        }
                        None => parser.text(rest.get(..len).unwrap_or_default()),
                    }
                    len
                }
                None => {
                    parser.text(":");
                    1
                }
            },
            ')' | ']' => {
                let (open, factor) =
                    if first == ')' { (&mut parser.round, BRACKET) } else { (&mut parser.square, 1.0 / BRACKET) };
                match open.pop() {
                    Some(begin) => parser.multiply(begin, factor),
                    None => parser.text(&first.to_string()),
                }
                1
            }
            _ => {
                let len = rest.find(['\\', '(', ')', '[', ']', ':']).unwrap_or(rest.len());
                parser.with_breaks(rest.get(..len).unwrap_or_default());
                len
            }
        };
        rest = rest.get(taken..).unwrap_or_default();
    }
    Ok(parser.finish())
}

fn bad_weight(weight: &str) -> Error {
    Error::usage(format!("{weight:?} in the prompt is not a weight"))
}

/// `:1.5)` at the beginning: the number, and the length of all.
fn weight(text: &str) -> Option<(String, usize)> {
    let (inside, _) = text.strip_prefix(':')?.split_once(')')?;
    let number: String = inside.trim().chars().map(narrow_digit).collect();
    let digits = number.strip_prefix(['+', '-']).unwrap_or(&number);
    let is_number = !digits.is_empty() && digits.chars().all(|it| it == '.' || it.is_ascii_digit());
    is_number.then_some((number, inside.len() + 2))
}

/// Digits of full width are digits to Python too.
fn narrow_digit(character: char) -> char {
    let digit = u32::from(character).checked_sub(u32::from('\u{ff10}')).filter(|digit| *digit < 10);
    digit.and_then(|digit| char::from_digit(digit, 10)).unwrap_or(character)
}

struct Parser {
    pieces: Vec<(String, f64)>,
    /// Where brackets begin that are open.
    round: Vec<usize>,
    square: Vec<usize>,
}

impl Parser {
    fn text(&mut self, text: &str) {
        self.pieces.push((text.to_owned(), 1.0));
    }

    fn with_breaks(&mut self, text: &str) {
        let mut rest = text;
        while let Some(at) = find_word(rest, BREAK.0) {
            self.text(rest.get(..at).unwrap_or_default().trim_end());
            self.pieces.push((BREAK.0.to_owned(), BREAK.1));
            rest = rest.get(at + BREAK.0.len()..).unwrap_or_default().trim_start();
        }
        self.text(rest);
    }

    fn multiply(&mut self, begin: usize, factor: f64) {
        for (_, weight) in self.pieces.iter_mut().skip(begin) {
            *weight *= factor;
        }
    }

    fn finish(mut self) -> Vec<Piece> {
        for begin in std::mem::take(&mut self.round) {
            self.multiply(begin, BRACKET);
        }
        for begin in std::mem::take(&mut self.square) {
            self.multiply(begin, 1.0 / BRACKET);
        }
        let mut merged: Vec<(String, f64)> = Vec::new();
        for (text, weight) in self.pieces {
            match merged.last_mut() {
                // Weights that are the same make one text, so that its words may share tokens.
                Some((before, same)) if *same == weight => before.push_str(&text),
                _ => merged.push((text, weight)),
            }
        }
        let piece = |(text, weight): (String, f64)| match (text.as_str(), weight) == BREAK {
            true => Piece::Break,
            false => Piece::Text(text, weight),
        };
        merged.into_iter().map(piece).collect()
    }
}

/// Where a word stands by itself.
pub(super) fn find_word(text: &str, word: &str) -> Option<usize> {
    let is_part = |character: Option<char>| character.is_some_and(|it| it.is_alphanumeric() || it == '_');
    let stands_alone = |&(at, _): &(usize, &str)| {
        let before = text.get(..at).unwrap_or_default().chars().next_back();
        let behind = text.get(at + word.len()..).unwrap_or_default().chars().next();
        !is_part(before) && !is_part(behind)
    };
    text.match_indices(word).find(stands_alone).map(|(at, _)| at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn assert_pieces(prompt: &str, expected: &[(&str, f64)]) {
        let found = parse(prompt).unwrap();
        assert_eq!(found.len(), expected.len(), "{found:?}");
        for (piece, (text, weight)) in found.iter().zip(expected) {
            match piece {
                Piece::Text(found, of) => assert!(found == text && (of - weight).abs() < 1e-9, "{piece:?} for {text}"),
                Piece::Break => assert_eq!((*text, *weight), BREAK),
            }
        }
    }

    #[test]
    fn webui_documents_these() {
        assert_pieces("normal text", &[("normal text", 1.0)]);
        assert_pieces("an (important) word", &[("an ", 1.0), ("important", 1.1), (" word", 1.0)]);
        assert_pieces("(unbalanced", &[("unbalanced", 1.1)]);
        assert_pieces("\\(literal\\]", &[("(literal]", 1.0)]);
        assert_pieces("(unnecessary)(parens)", &[("unnecessaryparens", 1.1)]);
        let house = "a (((house:1.3)) [on] a (hill:0.5), sun, (((sky))).";
        let (on, sky) = (1.0, 1.1 * 1.1 * 1.1 * 1.1);
        let expected = [
            ("a ", 1.0),
            ("house", 1.3 * 1.1 * 1.1),
            (" ", 1.1),
            ("on", on),
            (" a ", 1.1),
            ("hill", 0.55),
            (", sun, ", 1.1),
            ("sky", sky),
            (".", 1.1),
        ];
        assert_pieces(house, &expected);
    }

    #[test]
    fn breaks_numbers_and_stray_signs() {
        assert_pieces("one BREAK two", &[("one", 1.0), BREAK, ("two", 1.0)]);
        assert_pieces("BREAKFAST", &[("BREAKFAST", 1.0)]);
        // A bracket changes what WebUI knows a BREAK by.
        assert_pieces("(one BREAK two)", &[("one", 1.1), ("BREAK", -1.1), ("two", 1.1)]);
        assert_pieces("(one BREAK two:1)", &[("one", 1.0), ("BREAK", -1.0), ("two", 1.0)]);
        assert_pieces("(a:１.5)", &[("a", 1.5)]);
        assert_pieces("(a: -0.5 )b", &[("a", -0.5), ("b", 1.0)]);
        assert_pieces("a:1.2) b] \\ c: d", &[("a:1.2) b]  c: d", 1.0)]);
        assert_pieces("", &[]);
        assert!(parse("(a:1.2.3)").is_err());
    }
}
