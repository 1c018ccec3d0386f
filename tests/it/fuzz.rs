//! Passes mutated files to every reader. Each file must be read, or rejected with an error that names it.
//!
//! By default, the run is short and uses the same inputs every time. `fuzz/README.md` describes longer runs.

use std::env;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::support::hostile::{KEYS, PAYLOAD, SYSTEM, legacy, record, safetensors, tensor_and, torch, torch_with};
use crate::support::mutate::{Random, json, mutate, pickles};
use crate::support::promises;
use crate::support::{self, fixture};
use tempfile::TempDir;

/// Environment variable: the number of seconds to run, instead of testing [`MUTANTS`] inputs.
const SECONDS: &str = "TRINART_FUZZ_SECONDS";

/// Environment variable: the seed of the random numbers.
const SEED: &str = "TRINART_FUZZ_SEED";

/// Number of inputs per test by default.
const MUTANTS: u64 = 150;

/// Files above this size are picked rarely, because they exercise the same code and take a hundred times as long.
const SMALL: u64 = 20_000;

fn environment_number(name: &str) -> Option<u64> {
    let value = env::var(name).ok()?;
    Some(value.parse().unwrap_or_else(|_| panic!("{name}={value}: expected a number")))
}

/// Returns the folder of failing inputs and of inputs in progress. After an abort, it contains the last input.
fn kept() -> PathBuf {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/fuzz");
    fs::create_dir_all(&folder).unwrap();
    folder
}

/// Passes mutated inputs to `check`, up to the count or the time limit. A violated property or a panic fails with the
/// path of the input.
fn run(name: &str, mut make: impl FnMut(&mut Random) -> Vec<u8>, check: impl Fn(&[u8]) -> Result<(), String>) {
    let seed = environment_number(SEED).unwrap_or_default();
    let time = environment_number(SECONDS).map(Duration::from_secs);
    let begin = Instant::now();
    let mut slowest = (Duration::ZERO, Vec::new());
    let mut count = 0;
    while time.map_or(count < MUTANTS, |time| begin.elapsed() < time) {
        // Each input has a separate seed, so it can be reproduced alone.
        let mut random = Random(seed.wrapping_mul(0x1_0000_0000).wrapping_add(count));
        let input = make(&mut random);
        let started = Instant::now();
        let outcome = catch_unwind(AssertUnwindSafe(|| check(&input)));
        if started.elapsed() > slowest.0 {
            slowest = (started.elapsed(), input.clone());
        }
        let broken = match outcome {
            Ok(Ok(())) => None,
            Ok(Err(broken)) => Some(broken),
            Err(_) => Some("panicked".to_owned()),
        };
        if let Some(broken) = broken {
            let path = kept().join(format!("{name}-{seed}-{count}"));
            fs::write(&path, &input).unwrap();
            panic!("{broken}; the input is in {}", path.display());
        }
        count += 1;
    }
    if time.is_some() {
        let path = kept().join(format!("{name}-slowest"));
        fs::write(&path, &slowest.1).unwrap();
        eprintln!("{name}: {count} inputs, the slowest took {:?}: {}", slowest.0, path.display());
    }
}

/// Returns all files in a folder, recursively, sorted by path.
fn files_below(folder: &Path) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { files.extend(files_below(&path)) } else { files.push(path) }
    }
    files.sort();
    files
}

/// The files to mutate: the fixtures that are checkpoints, and small files of every kind.
struct Seeds {
    small: Vec<Vec<u8>>,
    large: Vec<Vec<u8>>,
}

impl Seeds {
    fn new() -> Self {
        let is_checkpoint = |path: &PathBuf| {
            path.extension().is_some_and(|ending| ["ckpt", "pt", "bin", "safetensors"].iter().any(|end| *end == ending))
        };
        let files: Vec<PathBuf> = files_below(&fixture("")).into_iter().filter(is_checkpoint).collect();
        let (small, large): (Vec<_>, Vec<_>) =
            files.into_iter().partition(|path| path.metadata().unwrap().len() < SMALL);
        assert!(small.len() >= 4 && large.len() >= 8, "{small:?} {large:?}");
        let read = |files: Vec<PathBuf>| files.iter().map(|path| fs::read(path).unwrap()).collect::<Vec<_>>();
        let (mut small, large) = (read(small), read(large));
        let deflated = record("archive/data.pkl", &tensor_and(b"")).deflated();
        let header = br#"{"__metadata__":{"k":"v"},"a":{"dtype":"F32","shape":[2,1],"data_offsets":[0,8]},"b":{"dtype":"U8","shape":[3],"data_offsets":[8,11]}}"#;
        // A parameter around a tensor, metadata of every kind, an opaque value and a NumPy scalar.
        let rich = b"X\x05\0\0\0epochK\x07sX\x04\0\0\0args}(X\x01\0\0\0a]K\x01aX\x01\0\0\0bG?\xf0\0\0\0\0\0\0X\x01\0\0\0c\x88us\
            X\x03\0\0\0optcfoo\nBar\n)\x81}bsX\x02\0\0\0npcnumpy.core.multiarray\nscalar\ncnumpy\ndtype\nX\x02\0\0\0f8K\0K\x01\x87R\
            c_codecs\nencode\nX\x08\0\0\0\0\0\0\0\0\0\0\0X\x06\0\0\0latin1\x86R\x86Rs";
        small.extend([
            torch(&tensor_and(rich)),
            torch(&tensor_and(b"X\x01\0\0\0xcposix\nsystem\nX\x04\0\0\0true\x85Rs")),
            torch_with(deflated, &[record("archive/byteorder", b"little")]),
            legacy(SYSTEM, &tensor_and(rich), KEYS),
            safetensors(header, 11),
            PAYLOAD.to_vec(),
            [
                b"\x80\x03ctorch.storage\n_load_from_bytes\nB",
                &(PAYLOAD.len() as u32).to_le_bytes()[..],
                PAYLOAD,
                b"\x85R.",
            ]
            .concat(),
            b"\x80\x04\x95\x0d\0\0\0\0\0\0\0\x8c\x01a\x94\x8f\x94(K\x01\x90\x86.".to_vec(),
            b"(dp0\nS'a'\np1\n(lp2\nI1\naL2L\naF1.5\naVx\\u00e9\nas(I01\ntp3\n0.".to_vec(),
        ]);
        Seeds { small, large }
    }

    /// Picks a small file most of the time.
    fn pick(&self, random: &mut Random) -> &[u8] {
        if random.one_in(12) { random.pick::<Vec<u8>>(&self.large) } else { random.pick::<Vec<u8>>(&self.small) }
    }

    fn broken(&self, random: &mut Random) -> Vec<u8> {
        let (input, other) = (self.pick(random), self.pick(random));
        mutate(random, input, other)
    }
}

fn work_folder() -> TempDir {
    TempDir::with_prefix_in("work-", kept()).unwrap()
}

#[test]
fn reads_or_rejects_mutated_containers() {
    let seeds = Seeds::new();
    for seed in seeds.small.iter().chain(&seeds.large) {
        let folder = work_folder();
        let path = folder.path().join("whole");
        fs::write(&path, seed).unwrap();
        promises::open(&path, folder.path()).unwrap();
        promises::scan(&path).unwrap();
    }
    let folder = work_folder();
    let path = folder.path().join("file.ckpt");
    run(
        "containers",
        |random| seeds.broken(random),
        |input| {
            fs::write(&path, input).unwrap();
            promises::open(&path, folder.path())?;
            promises::scan(&path)
        },
    );
    let left: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["file.ckpt"], "a rejected input left files behind");
}

#[test]
fn parses_or_rejects_mutated_pickles() {
    let folder = work_folder();
    let seeds = Seeds::new();
    let mut bare: Vec<Vec<u8>> =
        seeds.small.iter().filter(|seed| seed[0] != b'P' && seed.get(8) != Some(&b'{')).cloned().collect();
    for name in ["views.ckpt", "dtypes.ckpt", "hostile/calls-system.ckpt", "tiny-vae.ckpt"] {
        let mut archive = zip::ZipArchive::new(fs::File::open(fixture(name)).unwrap()).unwrap();
        let index =
            (0..archive.len()).find(|&index| archive.by_index(index).unwrap().name_raw().ends_with(b"data.pkl"));
        let mut pickle = Vec::new();
        std::io::copy(&mut archive.by_index(index.unwrap()).unwrap(), &mut pickle).unwrap();
        bare.push(pickle);
    }
    let path = folder.path().join("file.pkl");
    let make = |random: &mut Random| {
        let (input, other) = (random.pick(&bare).clone(), random.pick(&bare).clone());
        if random.one_in(3) { mutate(random, &input, &other) } else { pickles(random, &input) }
    };
    run("pickles", make, |input| {
        promises::pickle(input)?;
        fs::write(&path, input).unwrap();
        promises::scan(&path)
    });
}

/// Mutates one JSON file of a diffusers folder at a time.
#[test]
fn reads_or_rejects_folders_with_mutated_json() {
    let folder = work_folder();
    let outputs = work_folder();
    let folders = ["sd1", "unet-shards", "vae-bin", "vae-fp16"].map(|name| {
        let copy = support::copy_folder(&fixture(&format!("diffusers/{name}")), &folder.path().join(name));
        let files = files_below(&copy).into_iter().filter(|path| path.extension().is_some_and(|end| end == "json"));
        let files: Vec<(PathBuf, Vec<u8>)> = files.map(|path| (path.clone(), fs::read(&path).unwrap())).collect();
        assert!(!files.is_empty() && crate::support::open(&copy).is_ok());
        (copy, files)
    });
    // The first byte of an input selects the file.
    let all: Vec<_> = folders.iter().flat_map(|(copy, files)| files.iter().map(move |file| (copy, file))).collect();
    let make = |random: &mut Random| {
        let index = random.below(all.len());
        let mut text = all[index].1.1.clone();
        if random.one_in(5) {
            text = mutate(random, &text, b"{\"a\":[1]}")
        } else {
            json(random, &mut text)
        }
        [vec![index as u8], text].concat()
    };
    run("folders", make, |input| {
        let (copy, (path, whole)) = all[usize::from(input[0])];
        fs::write(path, &input[1..]).unwrap();
        let outcome = promises::open(copy, outputs.path());
        fs::write(path, whole).unwrap();
        outcome
    });
}
