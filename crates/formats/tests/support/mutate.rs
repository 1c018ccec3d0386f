//! Mutates inputs at random, reproducibly for a seed: bytes, the opcodes of pickles, the records of zips, and the
//! headers of safetensors files.

use std::io::{Cursor, Read};

use trinart_ckpt_formats::pickle::op;

use super::hostile::{raw_zip, record};

/// SplitMix64: small, and the same on every machine.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `end`; 0 if `end` is 0.
    pub(crate) fn below(&mut self, end: usize) -> usize {
        if end == 0 { 0 } else { (self.next() % end as u64) as usize }
    }

    pub(crate) fn one_in(&mut self, count: usize) -> bool {
        self.below(count) == 0
    }

    pub(crate) fn pick<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        &items[self.below(items.len())]
    }

    fn bytes(&mut self, count: usize) -> Vec<u8> {
        (0..count).map(|_| self.next() as u8).collect()
    }

    /// A number near the range limits of integer types or near a limit of this program.
    fn edge(&mut self) -> u64 {
        let edge = match self.below(6) {
            0 => 1_u64 << self.below(64),
            1 => u64::MAX,
            2 => *self.pick(&[0x7f, 0xff, 0x7fff, 0xffff, 0x7fff_ffff, 0xffff_ffff, i64::MAX as u64]),
            3 => *self.pick(&[4096, 100_000_000, 32 << 20, 1 << 30]),
            4 => 0,
            _ => return self.next() >> self.below(64),
        };
        edge.wrapping_add(self.below(5) as u64).wrapping_sub(2)
    }

    /// An offset: half the time near either end, where headers are.
    fn place(&mut self, len: usize) -> usize {
        match self.below(4) {
            0 => self.below(len.min(1000)),
            1 => len - 1 - self.below(len.min(1000)),
            _ => self.below(len),
        }
    }
}

/// Applies one to a few mutations to an input.
pub(crate) fn mutate(random: &mut Random, input: &[u8], other: &[u8]) -> Vec<u8> {
    let mut bytes = match random.below(3) {
        0 => Some(input.to_vec()),
        _ if input.starts_with(b"PK") => zip(random, input),
        _ if input.get(8) == Some(&b'{') => Some(safetensors(random, input)),
        _ if input.first().is_some_and(|&first| op::name(first).is_some()) => Some(pickles(random, input)),
        _ => None,
    }
    .unwrap_or_else(|| input.to_vec());
    // After a structural mutation, the bytes mostly stay unchanged.
    if bytes != input && !random.one_in(4) {
        return bytes;
    }
    for _ in 0..=random.below(3) {
        break_bytes(random, &mut bytes, other);
    }
    bytes
}

fn break_bytes(random: &mut Random, bytes: &mut Vec<u8>, other: &[u8]) {
    if bytes.is_empty() {
        *bytes = random.bytes(8);
        return;
    }
    let at = random.place(bytes.len());
    let most = 1 << random.below(12);
    let len = (1 + random.below(most)).min(bytes.len() - at);
    match random.below(10) {
        0 | 1 => bytes[at] ^= 1 << random.below(8),
        2 => bytes[at] = *random.pick(&[0, 1, b'.', b'(', b'{', b'0', 0x7f, 0x80, 0xfe, 0xff]),
        3 | 4 => {
            let width = (*random.pick(&[1, 2, 4, 8])).min(bytes.len() - at);
            let edge = random.edge().to_le_bytes();
            bytes[at..at + width].copy_from_slice(&edge[..width]);
        }
        5 => drop(bytes.drain(at..at + len)),
        6 => {
            let copy = bytes[at..at + len].to_vec();
            let to = random.place(bytes.len());
            bytes.splice(to..to, copy);
        }
        7 => {
            let noise = random.bytes(len.min(64));
            bytes.splice(at..at, noise);
        }
        8 if !other.is_empty() => {
            let from = random.place(other.len());
            let piece = other[from..(from + len).min(other.len())].to_vec();
            let end = if random.one_in(2) { at } else { at + len };
            bytes.splice(at..end, piece);
        }
        _ => bytes.truncate(at),
    }
}

/// Replaces a run of digits in text, if there is one.
pub(crate) fn number(random: &mut Random, text: &mut Vec<u8>) {
    let starts: Vec<usize> = (0..text.len())
        .filter(|&at| text[at].is_ascii_digit() && (at == 0 || !text[at - 1].is_ascii_digit()))
        .collect();
    if starts.is_empty() {
        return;
    }
    let start = *random.pick(&starts);
    let len = text[start..].iter().take_while(|byte| byte.is_ascii_digit()).count();
    let new = match random.below(6) {
        0 => format!("-{}", random.edge()),
        1 => format!("{}.5e{}", random.below(10), random.below(400)),
        2 => "9".repeat(1 + random.below(60)),
        _ => random.edge().to_string(),
    };
    text.splice(start..start + len, new.into_bytes());
}

/// Mutates numbers, strings and brackets of JSON.
pub(crate) fn json(random: &mut Random, text: &mut Vec<u8>) {
    for _ in 0..=random.below(3) {
        let words: Vec<usize> = (0..text.len()).filter(|&at| b"\"{}[],:".contains(&text[at])).collect();
        match random.below(5) {
            0 | 1 => number(random, text),
            2 if words.len() > 1 => {
                let (from, to) = (*random.pick(&words), *random.pick(&words));
                let piece = text[from.min(to)..from.max(to)].to_vec();
                let at = *random.pick(&words);
                text.splice(at..at, piece);
            }
            3 if words.len() > 1 => {
                let first = random.below(words.len() - 1);
                drop(text.drain(words[first]..words[first + 1]));
            }
            _ => {
                let word: &[u8] = random.pick::<&[u8]>(&[
                    b"null",
                    b"true",
                    b"{}",
                    b"[]",
                    b"\"\"",
                    b"\"\\ud800\"",
                    b"\"F64\"",
                    b"[[[[[[",
                    b"1e999",
                    b"\\u0000",
                ]);
                let at = if words.is_empty() { 0 } else { *random.pick(&words) };
                text.splice(at..at, word.iter().copied());
            }
        }
    }
}

/// Mutates the header of a safetensors file and sets its length accordingly.
fn safetensors(random: &mut Random, input: &[u8]) -> Vec<u8> {
    let length = u64::from_le_bytes(input[..8].try_into().unwrap()) as usize;
    let end = length.saturating_add(8).min(input.len());
    let mut header = input[8..end].to_vec();
    json(random, &mut header);
    [&(header.len() as u64).to_le_bytes()[..], &header, &input[end..]].concat()
}

/// Mutates the pickle of a zip and rebuilds the directory, or renames, drops or repeats records.
fn zip(random: &mut Random, input: &[u8]) -> Option<Vec<u8>> {
    let mut archive = zip::ZipArchive::new(Cursor::new(input)).ok()?;
    let mut records = Vec::new();
    for index in 0..archive.len() {
        let mut entry = archive.by_index(index).ok()?;
        let name = std::str::from_utf8(entry.name_raw()).ok()?.to_owned();
        let mut content = Vec::new();
        entry.read_to_end(&mut content).ok()?;
        records.push((name, content));
    }
    let whole = random.below(8);
    let mut made = Vec::new();
    for (name, content) in &mut records {
        if name.ends_with(".pkl") && whole > 0 {
            *content = pickles(random, content);
        }
        let mut one = record(name, content);
        if random.one_in(40) || name.ends_with(".pkl") && random.one_in(4) {
            one = one.deflated();
        }
        if whole == 0 && random.one_in(4) {
            one = match random.below(7) {
                0 => one.with_local_name("archive/data.pkl"),
                1 => one.with_flags(random.next() as u16, random.next() as u16),
                2 => one.with_wrong_crc32(),
                3 => one.with_method(random.next() as u16 % 16),
                4 => one.unlisted(),
                5 => one.with_sizes(random.edge() as u32, random.edge() as u32),
                _ => one.with_offset(random.below(input.len()) as u32),
            };
        }
        made.push(one);
    }
    if whole == 0 {
        let (from, to) = (random.below(made.len()), random.below(made.len()));
        match random.below(3) {
            0 => drop(made.remove(from)),
            1 => made.push(made[from].clone()),
            _ => made.swap(from, to),
        }
    }
    Some(raw_zip(b"", &made))
}

/// Splits consecutive pickles into opcodes with their arguments; the last piece is what does not parse.
fn opcodes(bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut pieces = Vec::new();
    let mut rest = bytes;
    while let Some(len) = opcode_len(rest).filter(|&len| len <= rest.len()) {
        pieces.push(rest[..len].to_vec());
        rest = &rest[len..];
    }
    pieces.push(rest.to_vec());
    pieces
}

fn opcode_len(bytes: &[u8]) -> Option<usize> {
    let &code = bytes.first()?;
    op::name(code)?;
    let lines = |count: usize| bytes.iter().enumerate().filter(|(_, byte)| **byte == b'\n').nth(count - 1);
    let counted = |width: usize| {
        let mut length = [0; 8];
        length[..width].copy_from_slice(bytes.get(1..1 + width)?);
        usize::try_from(u64::from_le_bytes(length)).ok()?.checked_add(1 + width)
    };
    match code {
        op::GLOBAL | op::INST => lines(2).map(|(end, _)| end + 1),
        op::INT | op::LONG | op::FLOAT | op::STRING | op::UNICODE | op::PERSID | op::GET | op::PUT => {
            lines(1).map(|(end, _)| end + 1)
        }
        op::BININT1 | op::BINGET | op::BINPUT | op::PROTO | op::EXT1 => Some(2),
        op::BININT2 | op::EXT2 => Some(3),
        op::BININT | op::LONG_BINGET | op::LONG_BINPUT | op::EXT4 => Some(5),
        op::BINFLOAT | op::FRAME => Some(9),
        op::LONG1 | op::SHORT_BINSTRING | op::SHORT_BINUNICODE | op::SHORT_BINBYTES => counted(1),
        op::LONG4 | op::BINSTRING | op::BINUNICODE | op::BINBYTES => counted(4),
        op::BINUNICODE8 | op::BINBYTES8 | op::BYTEARRAY8 => counted(8),
        _ => Some(1),
    }
}

/// A valid opcode with an arbitrary argument.
fn opcode(random: &mut Random) -> Vec<u8> {
    const NAMES: &[&[u8]] = &[
        b"ctorch\nFloatStorage\n",
        b"ctorch._utils\n_rebuild_tensor_v2\n",
        b"ctorch._utils\n_rebuild_parameter\n",
        b"ctorch._utils\n_rebuild_sparse_tensor\n",
        b"ctorch.storage\n_load_from_bytes\n",
        b"ccollections\nOrderedDict\n",
        b"ccollections\ndefaultdict\n",
        b"cnumpy.core.multiarray\nscalar\n",
        b"c_codecs\nencode\n",
        b"cposix\nsystem\n",
        b"ifoo\nBar\n",
        b"X\x05\0\0\0posix\x8c\x06system\x93",
    ];
    if random.one_in(4) {
        return random.pick(NAMES).to_vec();
    }
    loop {
        let code = random.next() as u8;
        if op::name(code).is_none() {
            continue;
        }
        let edge = random.edge().to_le_bytes();
        let small = random.below(6) as u8;
        let argument: Vec<u8> = match code {
            op::GLOBAL | op::INST => b"a\nb\n".to_vec(),
            op::INT | op::LONG | op::FLOAT | op::GET | op::PUT => {
                format!("{}\n", random.edge() as i64 >> random.below(64)).into_bytes()
            }
            op::STRING => b"'a\\x41\\n'\n".to_vec(),
            op::UNICODE | op::PERSID => b"a\\u0041\n".to_vec(),
            op::BININT1 | op::BINGET | op::BINPUT | op::PROTO | op::EXT1 => vec![small],
            op::BININT2 | op::EXT2 => edge[..2].to_vec(),
            op::BININT | op::EXT4 => edge[..4].to_vec(),
            op::LONG_BINGET | op::LONG_BINPUT => u32::from(small).to_le_bytes().to_vec(),
            op::BINFLOAT | op::FRAME => edge.to_vec(),
            op::LONG1 | op::SHORT_BINSTRING | op::SHORT_BINUNICODE | op::SHORT_BINBYTES => {
                [&[small][..], &vec![b'a'; small.into()]].concat()
            }
            op::LONG4 | op::BINSTRING | op::BINUNICODE | op::BINBYTES => {
                [&u32::from(small).to_le_bytes()[..], &vec![b'0'; small.into()]].concat()
            }
            op::BINUNICODE8 | op::BINBYTES8 | op::BYTEARRAY8 => {
                [&u64::from(small).to_le_bytes()[..], &vec![b'0'; small.into()]].concat()
            }
            _ => Vec::new(),
        };
        return [vec![code], argument].concat();
    }
}

/// Drops, inserts, swaps and repeats opcodes of pickles, or changes their arguments.
pub(crate) fn pickles(random: &mut Random, bytes: &[u8]) -> Vec<u8> {
    let mut pieces = opcodes(bytes);
    for _ in 0..=random.below(4) {
        let (at, to) = (random.below(pieces.len()), random.below(pieces.len()));
        match random.below(8) {
            0 => pieces[at] = opcode(random),
            1 => pieces.insert(at, opcode(random)),
            2 => pieces.insert(at, pieces[to].clone()),
            3 if pieces.len() > 1 => drop(pieces.remove(at)),
            4 => pieces.swap(at, to),
            5 => {
                let end = to.max(at).min(at.min(to) + 20);
                let run = pieces[at.min(to)..end].to_vec();
                let place = random.below(pieces.len());
                pieces.splice(place..place, run);
            }
            6 => number(random, &mut pieces[at]),
            _ => {
                let piece = &mut pieces[at];
                let width = piece.len().saturating_sub(1).min(*random.pick(&[1, 2, 4, 8]));
                let edge = random.edge().to_le_bytes();
                piece.iter_mut().skip(1).zip(&edge[..width]).for_each(|(byte, edge)| *byte = *edge);
            }
        }
    }
    pieces.concat()
}
