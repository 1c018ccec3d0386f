//! WebUI's attention syntax, which sets the weights of words.

use super::python::{is_space, is_word};
use trinart_ckpt_formats::error::{Error, Result};

/// The factor of a round bracket. A square bracket divides by it.
const BRACKET: f64 = 1.1;

/// WebUI's marker of a `BREAK`: a piece with this text and weight. A bracket around it changes the weight, which makes it
/// plain text.
const BREAK: (&str, f64) = ("BREAK", -1.0);

/// A piece of a prompt with one weight.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Piece {
    /// A text and its weight.
    Text(String, f64),
    /// `BREAK` outside of brackets: starts a new chunk.
    Break,
}

/// Parses a prompt.
///
/// `(a)` multiplies the weight by 1.1, `[a]` divides by it, `(a:1.5)` multiplies by 1.5, and nested brackets by all of
/// their factors. A backslash makes a bracket literal. Unclosed brackets extend to the end.
///
/// Fails if a weight is not a number.
pub(super) fn parse(prompt: &str) -> Result<Vec<Piece>> {
    let mut parser = Parser { rest: prompt, pieces: Vec::new(), round: Vec::new(), square: Vec::new() };
    while parser.step()? {}
    Ok(parser.finish())
}

fn bad_weight(weight: &str) -> Error {
    Error::usage(format!("invalid weight {weight:?} in the prompt: expected a number"))
}

/// Parses `1.5)`. Returns the number with ASCII digits, the text before the bracket, and the text after it.
fn weight(text: &str) -> Option<(String, &str, &str)> {
    let (inside, rest) = text.split_once(')')?;
    let number: String = inside.trim_matches(is_space).chars().map(ascii_digit).collect();
    let digits = number.strip_prefix(['+', '-']).unwrap_or(&number);
    let is_number = !digits.is_empty() && digits.chars().all(|it| it == '.' || it.is_ascii_digit());
    is_number.then_some((number, inside, rest))
}

/// Converts full-width digits, which Python parses too, to ASCII.
fn ascii_digit(character: char) -> char {
    let digit = u32::from(character).checked_sub(u32::from('\u{ff10}')).filter(|digit| *digit < 10);
    digit.and_then(|digit| char::from_digit(digit, 10)).unwrap_or(character)
}

/// Collects the pieces of a prompt with their weights.
struct Parser<'a> {
    /// The part of the prompt that has not been parsed yet.
    rest: &'a str,
    pieces: Vec<(String, f64)>,
    /// The number of pieces before each open bracket.
    round: Vec<usize>,
    square: Vec<usize>,
}

impl Parser<'_> {
    /// Parses a sign or a run of text. Returns whether there was one.
    fn step(&mut self) -> Result<bool> {
        let mut characters = self.rest.chars();
        let Some(first) = characters.next() else { return Ok(false) };
        let after = characters.as_str();
        self.rest = match first {
            '\\' => self.escape(after),
            '(' => {
                self.round.push(self.pieces.len());
                after
            }
            '[' => {
                self.square.push(self.pieces.len());
                after
            }
            ')' => {
                let begin = self.round.pop();
                self.close(begin, BRACKET, ")");
                after
            }
            ']' => {
                let begin = self.square.pop();
                self.close(begin, 1.0 / BRACKET, "]");
                after
            }
            ':' => self.colon(after)?,
            _ => {
                let end = self.rest.find(['\\', '(', ')', '[', ']', ':']).unwrap_or(self.rest.len());
                let (text, after) = self.rest.split_at(end);
                self.with_breaks(text);
                after
            }
        };
        Ok(true)
    }

    /// Parses the character after a backslash, if it can be escaped. Returns the rest.
    fn escape<'a>(&mut self, after: &'a str) -> &'a str {
        match after.strip_prefix(['(', ')', '[', ']', '\\']) {
            Some(rest) => {
                let (escaped, _) = after.split_at(1);
                self.text(escaped);
                rest
            }
            // WebUI drops the backslash, which still separates two pieces.
            None => {
                self.text("");
                after
            }
        }
    }

    /// Parses the text after a colon: a weight and the bracket that it closes, or plain text. Returns the rest.
    fn colon<'a>(&mut self, after: &'a str) -> Result<&'a str> {
        let Some((weight, inside, rest)) = weight(after) else {
            self.text(":");
            return Ok(after);
        };
        match self.round.pop() {
            Some(begin) => self.multiply(begin, weight.parse().map_err(|_| bad_weight(&weight))?),
            None => self.text(&format!(":{inside})")),
        }
        Ok(rest)
    }

    /// Applies the factor of a bracket to all pieces since it was opened. Adds an unmatched closing bracket as text.
    fn close(&mut self, begin: Option<usize>, factor: f64, bracket: &str) {
        match begin {
            Some(begin) => self.multiply(begin, factor),
            None => self.text(bracket),
        }
    }

    fn text(&mut self, text: &str) {
        self.pieces.push((text.to_owned(), 1.0));
    }

    /// Adds a text, split at each `BREAK`.
    fn with_breaks(&mut self, text: &str) {
        let mut rest = text;
        while let Some((before, after)) = split_at_word(rest, BREAK.0) {
            self.text(before.trim_end_matches(is_space));
            self.pieces.push((BREAK.0.to_owned(), BREAK.1));
            rest = after.trim_start_matches(is_space);
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
                // Join texts of the same weight, because a token may span two pieces.
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

/// Splits a text at the first occurrence of `word` that is not part of a longer word. Returns the texts around it.
pub(super) fn split_at_word<'a>(text: &'a str, word: &str) -> Option<(&'a str, &'a str)> {
    let is_part = |character: Option<char>| character.is_some_and(is_word);
    let around = |(at, found): (usize, &str)| {
        let (before, rest) = text.split_at_checked(at)?;
        let after = rest.strip_prefix(found)?;
        let stands_alone = !is_part(before.chars().next_back()) && !is_part(after.chars().next());
        stands_alone.then_some((before, after))
    };
    text.match_indices(word).find_map(around)
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
    fn parses_the_examples_of_webui() {
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
    fn parses_breaks_weights_and_unmatched_signs() {
        assert_pieces("one BREAK two", &[("one", 1.0), BREAK, ("two", 1.0)]);
        assert_pieces("BREAKFAST", &[("BREAKFAST", 1.0)]);
        // A bracket changes the weight that marks a BREAK.
        assert_pieces("(one BREAK two)", &[("one", 1.1), ("BREAK", -1.1), ("two", 1.1)]);
        assert_pieces("(one BREAK two:1)", &[("one", 1.0), ("BREAK", -1.0), ("two", 1.0)]);
        assert_pieces("(a:１.5)", &[("a", 1.5)]);
        assert_pieces("(a: -0.5 )b", &[("a", -0.5), ("b", 1.0)]);
        assert_pieces("a:1.2) b] \\ c: d", &[("a:1.2) b]  c: d", 1.0)]);
        assert_pieces("", &[]);
        assert!(parse("(a:1.2.3)").is_err());
    }
}
