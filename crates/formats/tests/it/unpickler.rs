//! Compares the pickle machine with Python's unpicklers on mutated pickles: it sees every name that they would import
//! and builds the same values. Python imports and calls nothing here either; see `tests/peers/unpickle.py`.
//!
//! By default it runs a small fixed set; `TRINART_FUZZ_SECONDS` and `TRINART_FUZZ_SEED` work as for the fuzz tests of the
//! program.

use std::collections::HashMap;
use std::env;
use std::fmt::Write as _;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::support::hostile::{KEYS, PAYLOAD, SYSTEM, legacy, tensor_and};
use crate::support::mutate::{Random, mutate, pickles};
use crate::support::repository;
use serde::Deserialize;
use trinart_ckpt_formats::error::Kind;
use trinart_ckpt_formats::pickle::{Id, Node, OddUse, Oddity, Pickle, parse, parse_lenient};

/// Number of pickles per Python process.
const BATCH: u64 = 3000;

/// What Python reads from a pickle.
#[derive(Deserialize)]
struct Seen {
    names: Vec<(String, String)>,
    plain: Vec<(String, String)>,
    value: Option<String>,
    error: Option<String>,
}

/// The Python to compare with, if there is one.
fn python() -> Option<PathBuf> {
    let peers = repository().join("target/peers/bin/python");
    let found = [peers, "python3".into()].into_iter().find(|python| {
        let status = Command::new(python).arg("-c").arg("import pickle, resource").stderr(Stdio::null()).status();
        status.is_ok_and(|status| status.success())
    });
    let is_required = env::var_os("TRINART_PEERS_REQUIRED").is_some_and(|value| value == "1");
    assert!(found.is_some() || !is_required, "no python3 to compare with");
    if found.is_none() {
        eprintln!("skipped: no python3 to compare with");
    }
    found
}

fn ask(python: &Path, inputs: &[Vec<u8>]) -> Vec<Seen> {
    let script = repository().join("tests/peers/unpickle.py");
    let mut command = Command::new(python);
    let mut child = command.arg("-B").arg(script).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let all: Vec<u8> =
        inputs.iter().flat_map(|input| [&(input.len() as u32).to_le_bytes()[..], input].concat()).collect();
    let writer = std::thread::spawn(move || stdin.write_all(&all).unwrap());
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    let lines = std::str::from_utf8(&output.stdout).unwrap().lines();
    // Python's JSON may contain lone surrogates; such names are compared lossily.
    let seen: Vec<Seen> = lines.map(|line| serde_json::from_str(&without_halves(line)).unwrap()).collect();
    assert_eq!(seen.len(), inputs.len(), "Python stopped early");
    seen
}

/// Replaces escaped surrogates (`\ud800` to `\udfff`), alone or in pairs.
fn without_halves(line: &str) -> String {
    let mut out = String::new();
    let mut rest = line;
    while let Some(at) = rest.find("\\ud") {
        let (before, escape) = rest.split_at(at);
        out.push_str(before);
        let is_half = escape.as_bytes().get(3).is_some_and(|digit| b"89abcdef".contains(digit));
        out.push_str(if is_half { "\\ufffd" } else { &escape[..6] });
        rest = &escape[6..];
    }
    out + rest
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Describes a value in the format of `unpickle.py`. `None` if arguments are not a tuple: Python iterates over them.
fn describe(pickle: &Pickle, root: Id) -> Option<String> {
    let mut words: Vec<String> = Vec::new();
    let mut numbers: HashMap<Id, usize> = HashMap::new();
    let mut pending = vec![root];
    while let Some(id) = pending.pop() {
        let (word, parts) = match pickle.node(id) {
            Node::None => ("N".to_owned(), None),
            Node::Bool(value) => ((if *value { "T" } else { "F" }).to_owned(), None),
            Node::Int(value) => (format!("i{value}"), None),
            Node::BigInt { .. } => ("I".to_owned(), None),
            Node::Float(value) if value.is_nan() => ("fnan".to_owned(), None),
            Node::Float(value) => (format!("f{}", hex(&value.to_be_bytes())), None),
            Node::Str(text) => (format!("s{}", hex(pickle.text(text))), None),
            Node::Bytes(text) => (format!("b{}", hex(pickle.text(text))), None),
            Node::Global(name) => (format!("g{}.{}", hex(name.module.as_bytes()), hex(name.name.as_bytes())), None),
            Node::Tuple(items) if items.is_empty() => ("t0".to_owned(), None),
            Node::Tuple(items) => ("t".to_owned(), Some(items.clone())),
            Node::List(items) => ("l".to_owned(), Some(items.clone())),
            Node::Set(items) => ("e".to_owned(), Some(items.clone())),
            Node::Dict(pairs) => ("d".to_owned(), Some(pairs.iter().flat_map(|&(key, value)| [key, value]).collect())),
            Node::Persistent(target) => ("p".to_owned(), Some(vec![*target])),
            Node::Unknown => ("?".to_owned(), None),
            Node::Object(object) => {
                let args = pickle.tuple(object.args)?.to_vec();
                let mut word = String::new();
                write!(word, "o{},{},{},", args.len(), object.items.len(), object.pairs.len()).unwrap();
                let pairs = object.pairs.iter().flat_map(|&(key, value)| [key, value]);
                let parts = [object.callable].into_iter().chain(args).chain(object.items.iter().copied()).chain(pairs);
                (word, Some(parts.chain(object.state.iter().copied()).collect()))
            }
        };
        let Some(parts) = parts else {
            words.push(word);
            continue;
        };
        if let Some(number) = numbers.get(&id) {
            words.push(format!("@{number}"));
            continue;
        }
        numbers.insert(id, numbers.len());
        words.push(format!("{word}{}", parts.len()));
        pending.extend(parts.iter().rev());
    }
    Some(words.join(" "))
}

/// Errors for pickles that Python accepts and this reader deliberately rejects: readers disagree about them, or no
/// checkpoint contains them.
const STRICTER: &[&str] = &[
    "left on the stack",
    "frame",
    "a second PROTO",
    "takes no items",
    "BUILD on a value",
    "memo entry",
    "a memo index",
    "not decimal digits",
    "a FLOAT that is not a number",
    "digits, the limit",
    "longer than",
    "OUT_OF_BAND",
    "not UTF-8",
    "NEXT_BUFFER",
    "READONLY_BUFFER",
];

/// Compares one pickle. Fails with a description of the difference.
fn compare(input: &[u8], seen: &Seen) -> Result<(), String> {
    let lenient = parse_lenient(input);
    let names: Vec<(String, String)> =
        lenient.pickle.globals().iter().map(|global| (global.name.module.clone(), global.name.name.clone())).collect();
    // What a lenient parse cannot determine is dangerous; it stops at a limit and reports that.
    let is_lost = |odd: &OddUse| matches!(odd.oddity, Oddity::ComputedName | Oddity::Straddle | Oddity::Reserve);
    let is_followed = !lenient.pickle.oddities().iter().any(is_lost)
        && lenient.broken.as_ref().is_none_or(|at| at.error.kind() != Kind::Limit);
    for theirs in [&seen.names, &seen.plain] {
        let is_seen = theirs.iter().zip(&names).all(|(theirs, ours)| theirs == ours || ours.0.contains('\u{fffd}'));
        if is_followed && !(is_seen && theirs.len() <= names.len()) {
            return Err(format!("Python imports {theirs:?}, the lenient parse sees {names:?}"));
        }
    }
    // A scan ignores what follows an error, so Python must have stopped there too.
    let end = lenient.broken.as_ref().map_or(u64::MAX, |at| at.offset);
    let last = seen.names.len().checked_sub(1).and_then(|last| lenient.pickle.globals().get(last));
    if is_followed && last.is_some_and(|last| last.offset > end) {
        return Err(format!("Python imports {:?} after the malformed byte {end}", seen.names));
    }
    match (parse(input), &seen.value) {
        (Ok(pickle), Some(value)) => {
            let Some(ours) = describe(&pickle, pickle.root()) else { return Ok(()) };
            if ours == *value { Ok(()) } else { Err(format!("here:\n{ours}\nin Python:\n{value}")) }
        }
        (Err(error), Some(_)) => {
            let is_known = STRICTER.iter().any(|reason| error.to_string().contains(reason));
            if is_known { Ok(()) } else { Err(format!("accepted by Python, rejected here: {error}")) }
        }
        // Python fails if a call or a key needs real objects, which do not exist here.
        (_, None) => {
            seen.error.as_ref().map(drop).ok_or_else(|| "Python returned neither a value nor an error".to_owned())
        }
    }
}

fn seeds() -> Vec<Vec<u8>> {
    let load = [b"\x80\x03ctorch.storage\n_load_from_bytes\nB\x04\0\0\0abcd\x85R.".to_vec()];
    let text = b"(dp0\nS'a'\np1\n(lp2\nI1\naL2L\naF1.5\naVx\\u00e9\\\\u0041\nas(I01\ntp3\n0S'\\x41\\n\\\\b'\n0.";
    let numbers = b"I0x10\nL-0b1L\nF1_0.5\nI 1_000\n(tcfoo\nBar\n)R.";
    let sets = b"\x80\x04\x95\x0f\0\0\0\0\0\0\0\x8c\x01a\x94\x8f\x94(K\x01\x90\x86\x91.";
    let objects =
        b"\x80\x04(cfoo\nBar\nK\x01K\x02oq\x00}X\x01\0\0\0aNsb(K\x01ifoo\nBaz\n\x8c\x01m\x8c\x01n\x93)\x81]h\x00a\x87.";
    let memo = b"\x80\x02Vposix\np1\n0Vsystem\np2\n0g1\ng2\n\x93(Vtrue\ntRq\x05h\x05\x86.";
    let mut seeds =
        vec![PAYLOAD.to_vec(), text.to_vec(), sets.to_vec(), objects.to_vec(), memo.to_vec(), numbers.to_vec()];
    seeds.extend(load);
    seeds.push(tensor_and(
        b"X\x03\0\0\0opt}(K\x01G?\xf0\0\0\0\0\0\0\x8a\x02\xff\x00\x8a\x09\xff\xff\xff\xff\xff\xff\xff\xff\x7fu",
    ));
    seeds.push(legacy(SYSTEM, &tensor_and(b""), KEYS));
    seeds
}

#[test]
fn agrees_with_pythons_unpicklers() {
    let Some(python) = python() else { return };
    let number = |name: &str| env::var(name).ok().map(|value| value.parse::<u64>().unwrap());
    let (seed, time) = (number("TRINART_FUZZ_SEED").unwrap_or_default(), number("TRINART_FUZZ_SECONDS"));
    let (begin, seeds) = (Instant::now(), seeds());
    let (mut count, mut taken) = (0, 0);
    loop {
        let inputs: Vec<Vec<u8>> = (count..count + BATCH)
            .map(|index| {
                let mut random = Random(seed.wrapping_mul(0x1_0000_0000).wrapping_add(index) ^ 0x5eed);
                let seed = random.pick(&seeds).clone();
                // The first inputs are the unchanged seeds.
                let whole = seeds.get(index as usize).cloned();
                let other = random.pick(&seeds).clone();
                whole.unwrap_or_else(|| {
                    if random.one_in(3) { mutate(&mut random, &seed, &other) } else { pickles(&mut random, &seed) }
                })
            })
            .collect();
        for (input, seen) in inputs.iter().zip(ask(&python, &inputs)) {
            taken += usize::from(seen.value.is_some());
            if let Err(found) = compare(input, &seen) {
                panic!("{}\n{found}\nof b\"{}\"", hex(input), input.escape_ascii());
            }
        }
        count += BATCH;
        if time.is_none_or(|time| begin.elapsed() >= Duration::from_secs(time)) {
            break;
        }
    }
    assert!(taken as u64 > count / 20, "Python accepts only {taken} of {count} pickles");
    if time.is_some() {
        eprintln!("unpickler: {count} pickles, {taken} accepted by Python");
    }
}
