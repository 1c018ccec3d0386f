use super::attention::Piece;
use super::embeddings::LENGTH;
use super::tokenizer::{COMMA, END, START, Tokenizer};

/// How far a comma may be from the end of a full chunk for the tokens after it to move to the next chunk: WebUI's
/// "comma padding backtrack".
const BACKTRACK: usize = 20;

/// The tokens of one run of the text encoder.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Chunk {
    /// The 77 tokens. Those beyond CLIP's vocabulary are the vectors of [`Embeddings`](super::Embeddings) in their order.
    pub tokens: Vec<u32>,
    /// The weight of each token.
    pub weights: Vec<f32>,
}

impl Chunk {
    /// The chunk of an empty prompt.
    pub(super) fn empty() -> Self {
        Cutter::default().cut()
    }
}

/// Splits a prompt into chunks like WebUI: at each `BREAK`, and when a chunk is full, preferably after a recent comma.
/// Returns at least one chunk.
pub(super) fn chunks(pieces: &[Piece], tokenizer: &Tokenizer) -> Vec<Chunk> {
    let mut cutter = Cutter::default();
    for piece in pieces {
        match piece {
            Piece::Break => cutter.close(),
            Piece::Text(text, weight) => {
                let tokens = tokenizer.encode(text);
                let mut rest = tokens.as_slice();
                while let Some((&token, others)) = rest.split_first() {
                    cutter.make_room(token);
                    rest = match tokenizer.embedding_at(rest) {
                        None => {
                            cutter.open.push((token, *weight as f32));
                            others
                        }
                        Some((vectors, behind)) => {
                            if cutter.open.len() + vectors.len() > LENGTH {
                                cutter.close();
                            }
                            cutter.open.extend(vectors.map(|token| (token, *weight as f32)));
                            behind
                        }
                    };
                }
            }
        }
    }
    if !cutter.open.is_empty() || cutter.done.is_empty() {
        cutter.close();
    }
    cutter.done
}

#[derive(Default)]
struct Cutter {
    done: Vec<Chunk>,
    open: Vec<(u32, f32)>,
    /// The index of the last comma in the open chunk.
    comma: Option<usize>,
}

impl Cutter {
    /// Closes the open chunk if it has no room for a token.
    fn make_room(&mut self, token: u32) {
        let is_full = self.open.len() == LENGTH;
        if token == COMMA {
            self.comma = Some(self.open.len());
        } else if let Some(comma) = self.comma.filter(|comma| is_full && LENGTH - comma <= BACKTRACK) {
            let moved = self.open.split_off(comma + 1);
            self.close();
            self.open = moved;
        }
        if self.open.len() == LENGTH {
            self.close();
        }
    }

    fn close(&mut self) {
        let chunk = self.cut();
        self.done.push(chunk);
    }

    /// Pads the open chunk, and starts a new one.
    fn cut(&mut self) -> Chunk {
        let mut open = std::mem::take(&mut self.open);
        open.resize(LENGTH, (END, 1.0));
        let all = || [(START, 1.0)].into_iter().chain(open.iter().copied()).chain([(END, 1.0)]);
        self.comma = None;
        Chunk { tokens: all().map(|it| it.0).collect(), weights: all().map(|it| it.1).collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(text: &str) -> Vec<Chunk> {
        chunks(&super::super::attention::parse(text).unwrap(), &Tokenizer::new().unwrap())
    }

    fn lengths(chunks: &[Chunk]) -> Vec<usize> {
        chunks.iter().map(|chunk| chunk.tokens[1..].iter().position(|&token| token == END).unwrap()).collect()
    }

    #[test]
    fn pads_chunks_to_77_tokens() {
        for text in ["", "a cat", &"cat ".repeat(75)] {
            let chunks = cut(text);
            assert_eq!(chunks.len(), 1);
            assert_eq!((chunks[0].tokens.len(), chunks[0].weights.len()), (77, 77));
            assert_eq!((chunks[0].tokens[0], chunks[0].tokens[76]), (START, END));
        }
        assert_eq!(lengths(&cut(&"cat ".repeat(76))), [75, 1]);
    }

    #[test]
    fn splits_a_full_chunk_at_a_recent_comma() {
        let with_comma = |before: usize| format!("{}, {}", "cat ".repeat(before), "dog ".repeat(80 - before));
        // The comma is the 70th token, then the 50th.
        assert_eq!(lengths(&cut(&with_comma(69))), [70, 11]);
        assert_eq!(lengths(&cut(&with_comma(49))), [75, 6]);
        assert_eq!(lengths(&cut(&with_comma(55))), [56, 25]);
        assert_eq!(lengths(&cut(&with_comma(54))), [75, 6]);
    }

    #[test]
    fn a_break_starts_a_chunk_and_tokens_keep_their_weights() {
        let chunks = cut("cat BREAK (dog:1.5)");
        assert_eq!(lengths(&chunks), [1, 1]);
        assert_eq!(chunks[1].weights[..3], [1.0, 1.5, 1.0]);
    }
}
