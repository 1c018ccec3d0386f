//! Prompt editing and alternation: `[before:after:0.5]` and `[one|two]`.
//!
//! Follows the grammar of WebUI's `prompt_parser`. WebUI's parser chooses at random between several readings of prompts
//! with unmatched brackets; this one always chooses the reading with the most editing.

use std::collections::BTreeSet;
use std::ops::Range;

use super::python::is_space;
use super::schedule::{Schedule, Timeline};
use trinart_ckpt_formats::error::{Error, Result};

/// Maximum depth of editing inside editing.
const DEPTH: usize = 50;

/// Maximum length of all texts of a prompt in bytes. An alternation has a text for each step.
const TEXT: usize = 16 << 20;

/// Returns the texts of a prompt over time. A prompt that WebUI cannot parse is one text.
///
/// Fails if editing is nested too deeply, or if the texts are too long.
pub fn texts_over_time(prompt: &str, timeline: Timeline) -> Result<Schedule<String>> {
    let whole = || Schedule::new(vec![(timeline.steps, prompt.to_owned())]);
    if !prompt.contains('[') {
        return whole();
    }
    let parser = Parser { prompt, timeline, nodes: Vec::new(), open: Vec::new() };
    let Some(nodes) = parser.parse()? else { return whole() };
    let mut steps = BTreeSet::from([timeline.steps]);
    if has_alternation(&nodes) {
        steps.extend(1..=timeline.steps);
    }
    collect_steps(&nodes, &mut steps);
    if steps.len().saturating_mul(prompt.len()) > TEXT {
        return Err(Error::limit(format!("the texts of an edited prompt exceed {TEXT} bytes: shorten the prompt")));
    }
    let text = |step: usize| {
        let mut text = String::new();
        write(prompt, &nodes, step, &mut text);
        (step, text)
    };
    Schedule::new(steps.into_iter().map(text).collect())
}

/// A part of a prompt.
#[derive(Debug)]
enum Node {
    /// Text that stays as it is.
    Text(Range<usize>),
    /// `[before:after:step]`: the first until a step, then the second.
    Scheduled { before: Vec<Node>, after: Vec<Node>, step: i64, depth: usize },
    /// `[one|two|three]`.
    Alternate { options: Vec<Vec<Node>>, depth: usize },
}

impl Node {
    fn depth(&self) -> usize {
        match self {
            Node::Text(_) => 0,
            Node::Scheduled { depth, .. } | Node::Alternate { depth, .. } => *depth,
        }
    }
}

/// An open bracket.
struct Frame {
    at: usize,
    is_square: bool,
    /// Where the separators are, and what they are.
    separators: Vec<(usize, char)>,
    /// The nodes between the separators: one more than there are separators.
    segments: Vec<Vec<Node>>,
}

struct Parser<'a> {
    prompt: &'a str,
    timeline: Timeline,
    nodes: Vec<Node>,
    open: Vec<Frame>,
}

/// WebUI cannot parse the prompt, and uses it as it is.
struct Unparsable;

impl Parser<'_> {
    /// Returns the parts of the prompt, or `None` if WebUI cannot parse it.
    fn parse(mut self) -> Result<Option<Vec<Node>>> {
        let mut characters = self.prompt.char_indices().peekable();
        let mut begin = 0;
        while let Some((at, character)) = characters.next() {
            match character {
                // WebUI's pattern for an escaped character does not match at the end or before a line break.
                '\\' => match characters.next() {
                    None | Some((_, '\n')) => return Ok(None),
                    Some(_) => continue,
                },
                '[' | ']' | '(' | ')' | ':' | '|' => {}
                _ => continue,
            }
            self.text(begin..at);
            begin = at + 1;
            if self.sign(at, character)?.is_err() {
                return Ok(None);
            }
        }
        self.text(begin..self.prompt.len());
        Ok(self.dissolve().is_ok().then_some(self.nodes))
    }

    /// Adds text to the innermost open bracket.
    fn text(&mut self, range: Range<usize>) {
        if !range.is_empty() {
            self.target().push(Node::Text(range));
        }
    }

    fn target(&mut self) -> &mut Vec<Node> {
        match self.open.last_mut().and_then(|frame| frame.segments.last_mut()) {
            Some(segment) => segment,
            None => &mut self.nodes,
        }
    }

    /// Handles a bracket or a separator.
    fn sign(&mut self, at: usize, character: char) -> Result<Result<(), Unparsable>> {
        match (character, self.open.last_mut()) {
            ('[' | '(', _) => {
                let is_square = character == '[';
                self.open.push(Frame { at, is_square, separators: Vec::new(), segments: vec![Vec::new()] });
            }
            (']' | ')', _) => return self.close(at, character),
            (_, Some(frame)) => {
                frame.separators.push((at, character));
                frame.segments.push(Vec::new());
            }
            ('|', None) => return Ok(Err(Unparsable)),
            (_, None) => self.text(at..at + 1),
        }
        Ok(Ok(()))
    }

    fn close(&mut self, at: usize, character: char) -> Result<Result<(), Unparsable>> {
        let is_match = self.open.last().is_some_and(|frame| frame.is_square == (character == ']'));
        let Some(frame) = self.open.pop_if(|_| is_match) else {
            // No bracket that is open may contain an unmatched one.
            let dissolved = self.dissolve();
            self.text(at..at + 1);
            return Ok(dissolved);
        };
        match self.element(frame, at) {
            Ok(nodes) => {
                if nodes.iter().any(|node| node.depth() > DEPTH) {
                    return Err(Error::limit(format!("prompt editing is nested more than {DEPTH} times")));
                }
                self.target().extend(nodes);
                Ok(Ok(()))
            }
            Err(frame) => {
                self.open.push(frame);
                let dissolved = self.dissolve();
                self.text(at..at + 1);
                Ok(dissolved)
            }
        }
    }

    /// Returns what a closed bracket is, or the bracket if it is not an element of the grammar.
    fn element(&self, mut frame: Frame, end: usize) -> Result<Vec<Node>, Frame> {
        let depth = 1 + frame.segments.iter().flatten().map(Node::depth).max().unwrap_or(0);
        let signs: String = frame.separators.iter().map(|(_, sign)| *sign).collect();
        match (frame.is_square, signs.as_str()) {
            // Emphasis stays as it is.
            (_, "") | (false, ":") => Ok(literal(frame, Some(end))),
            (true, ":" | "::") => match number(self.prompt, frame.segments.last()) {
                Some(number) => {
                    let step = self.timeline.step(number);
                    frame.segments.pop();
                    let after = frame.segments.pop().unwrap_or_default();
                    let before = frame.segments.pop().unwrap_or_default();
                    Ok(vec![Node::Scheduled { before, after, step, depth }])
                }
                None => Err(frame),
            },
            (true, signs) if signs.chars().all(|sign| sign == '|') => {
                Ok(vec![Node::Alternate { options: frame.segments, depth }])
            }
            _ => Err(frame),
        }
    }

    /// Makes all open brackets plain text. Fails if one contains a `|`.
    fn dissolve(&mut self) -> Result<(), Unparsable> {
        for frame in std::mem::take(&mut self.open) {
            if frame.separators.iter().any(|(_, sign)| *sign == '|') {
                return Err(Unparsable);
            }
            self.nodes.extend(literal(frame, None));
        }
        Ok(())
    }
}

/// Returns the parts of a bracket with its signs as text. `end` is the place of the closing bracket.
fn literal(frame: Frame, end: Option<usize>) -> Vec<Node> {
    let sign = |at: usize| Node::Text(at..at + 1);
    let mut nodes = Vec::new();
    let before = [frame.at].into_iter().chain(frame.separators.into_iter().map(|(at, _)| at));
    for (at, segment) in before.zip(frame.segments) {
        nodes.push(sign(at));
        nodes.extend(segment);
    }
    nodes.extend(end.map(sign));
    nodes
}

/// Returns the number that a segment consists of.
fn number<'a>(prompt: &'a str, segment: Option<&Vec<Node>>) -> Option<&'a str> {
    let Some([Node::Text(range)]) = segment.map(Vec::as_slice) else { return None };
    let text = prompt.get(range.clone())?;
    let trimmed = text.trim_matches(is_space);
    is_number(trimmed).then_some(trimmed)
}

/// Whether a text is a number of the grammar: digits, optionally with a sign, a decimal point and an exponent.
fn is_number(text: &str) -> bool {
    let text = text.strip_prefix(['+', '-']).unwrap_or(text);
    let are_digits = |text: &str| text.bytes().all(|it| it.is_ascii_digit());
    let (mantissa, exponent) = match text.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, Some(exponent.strip_prefix(['+', '-']).unwrap_or(exponent))),
        None => (text, None),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let has_digits = !(whole.is_empty() && fraction.is_empty());
    has_digits
        && are_digits(whole)
        && are_digits(fraction)
        && exponent.is_none_or(|exponent| !exponent.is_empty() && are_digits(exponent))
}

// The length of the prompt bounds the number of nodes in these functions, and `DEPTH` their recursion.

fn has_alternation(nodes: &[Node]) -> bool {
    nodes.iter().any(|node| match node {
        Node::Text(_) => false,
        Node::Scheduled { before, after, .. } => has_alternation(before) || has_alternation(after),
        Node::Alternate { .. } => true,
    })
}

/// Adds the steps at which `[before:after:step]` changes.
fn collect_steps(nodes: &[Node], steps: &mut BTreeSet<usize>) {
    for node in nodes {
        match node {
            Node::Text(_) => {}
            Node::Scheduled { before, after, step, .. } => {
                // WebUI ignores steps before the first.
                steps.extend(usize::try_from(*step).ok().filter(|step| *step >= 1));
                collect_steps(before, steps);
                collect_steps(after, steps);
            }
            Node::Alternate { options, .. } => options.iter().for_each(|option| collect_steps(option, steps)),
        }
    }
}

/// Writes the text of a step, counted from 1.
fn write(prompt: &str, nodes: &[Node], step: usize, text: &mut String) {
    for node in nodes {
        match node {
            Node::Text(range) => text.push_str(prompt.get(range.clone()).unwrap_or_default()),
            Node::Scheduled { before, after, step: when, .. } => {
                let chosen = if step as i64 <= *when { before } else { after };
                write(prompt, chosen, step, text);
            }
            Node::Alternate { options, .. } => {
                let index = step.saturating_sub(1).checked_rem(options.len()).unwrap_or(0);
                if let Some(option) = options.get(index) {
                    write(prompt, option, step, text);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn assert_texts(prompt: &str, expected: &[(usize, &str)]) {
        let found = texts_over_time(prompt, Timeline::new(10)).unwrap();
        let found: Vec<(usize, &str)> = found.entries().map(|(until, text)| (until, text.as_str())).collect();
        assert_eq!(found, expected, "{prompt}");
    }

    #[test]
    fn parses_the_examples_of_webui() {
        assert_texts("test", &[(10, "test")]);
        assert_texts("a [b:3]", &[(3, "a "), (10, "a b")]);
        assert_texts("a [b: 3]", &[(3, "a "), (10, "a b")]);
        assert_texts("a [[[b]]:2]", &[(2, "a "), (10, "a [[b]]")]);
        assert_texts("[(a:2):3]", &[(3, ""), (10, "(a:2)")]);
        assert_texts("a [b : c : 1] d", &[(1, "a b  d"), (10, "a  c  d")]);
        assert_texts("a[b:[c:d:2]:1]e", &[(1, "abe"), (2, "ace"), (10, "ade")]);
        assert_texts("a [unbalanced", &[(10, "a [unbalanced")]);
        assert_texts("a [b:.5] c", &[(5, "a  c"), (10, "a b c")]);
        assert_texts("((a][:b:c [d:3]", &[(3, "((a][:b:c "), (10, "((a][:b:c d")]);
        let odd_and_even = |odd, even| (1..=10).map(move |step| (step, if step % 2 == 1 { odd } else { even }));
        assert_texts("[a|(b:1.1)]", &odd_and_even("a", "(b:1.1)").collect::<Vec<_>>());
        assert_texts("[fe|]male", &odd_and_even("female", "male").collect::<Vec<_>>());
    }

    #[test]
    fn a_prompt_that_webui_cannot_parse_stays_as_it_is() {
        for prompt in
            ["a | b [c:d:0.5]", "(a|b) [c:0.5]", "[a|b:c]", "[a:b:0.5] \\", "[a:b:c:0.5]", "[a\\|b]", "[a:b:0,5]"]
        {
            assert_texts(prompt, &[(10, prompt)]);
        }
        // A number with a decimal point is a share of the steps, and 1.3 of them never pass.
        assert_texts("[tag:1.3]", &[(10, "")]);
    }

    #[test]
    fn limits_depth_and_length() {
        let nested = |depth: usize| format!("{}a{}", "[".repeat(depth), "|]".repeat(depth));
        assert!(texts_over_time(&nested(DEPTH), Timeline::new(10)).is_ok());
        assert!(texts_over_time(&nested(DEPTH + 1), Timeline::new(10)).is_err());
        let long = |length: usize| format!("[a|{}]", "b".repeat(length - 4));
        assert!(texts_over_time(&long(TEXT / 1000), Timeline::new(1000)).is_ok());
        assert!(texts_over_time(&long(TEXT / 1000 + 1), Timeline::new(1000)).is_err());
        // Deep emphasis is no editing.
        assert!(texts_over_time(&"([".repeat(100_000), Timeline::new(10)).is_ok());
    }
}
