//! Keys that collide: Python compares each new key of a dict or set with all that have the same hash.
//!
//! Python's hashes of numbers and tuples are not randomized, so a file can contain any number of keys with one hash. A
//! hundred thousand take minutes to load.
//! Source: `Objects/tupleobject.c`, `Objects/setobject.c` and `Python/pyhash.c` of CPython 3.8 to 3.14.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher, RandomState};

use crate::pickle::{Id, Node, Pickle};

/// Most keys of one dict or set with the same hash. A key then takes a few microseconds.
const MOST: usize = 1000;

/// Most values of a key to look at. Keys with more are reported for their size.
const MOST_VALUES: usize = 200;

/// The modulus of the hashes of numbers.
const MODULUS: u64 = (1 << 61) - 1;

/// Classes whose hash is random: that of a string or of bytes.
const RANDOM: [&str; 4] = ["datetime", "ipaddress", "pathlib", "torch"];

/// Whether a class of one of these modules has the hash of numbers in it, of which a pickle may hold any.
fn is_computed(class: &str) -> bool {
    matches!(class, "timedelta" | "Size" | "IPv6Address" | "IPv6Interface" | "IPv6Network")
}

/// Whether more than [`MOST`] different keys have the same hash, or one that is not known.
pub(super) fn collide<'k>(pickle: &Pickle, keys: impl ExactSizeIterator<Item = &'k Id>) -> bool {
    if keys.len() <= MOST {
        return false;
    }
    let hashes = Hashes { pickle, random: RandomState::new() };
    let mut different = HashSet::new();
    let mut counts: HashMap<u64, usize> = HashMap::new();
    keys.into_iter().any(|&key| {
        let (mut budget, mut same_budget) = (MOST_VALUES, MOST_VALUES);
        if !different.insert(hashes.identity(key, &mut same_budget)) {
            return false;
        }
        let count = counts.entry(hashes.of(key, &mut budget)).or_insert(0);
        *count += 1;
        *count > MOST
    })
}

struct Hashes<'a> {
    pickle: &'a Pickle,
    /// Takes the place of Python's random hash of strings.
    random: RandomState,
}

impl Hashes<'_> {
    /// A number that is the same for equal keys, and for no others.
    fn identity(&self, id: Id, budget: &mut usize) -> u64 {
        *budget = budget.saturating_sub(1);
        match self.pickle.node(id) {
            Node::Int(value) => self.random.hash_one((0, value)),
            Node::Bool(value) => self.random.hash_one((0, i64::from(*value))),
            Node::Float(value) => self.random.hash_one((1, value.to_bits())),
            Node::Str(text) => self.random.hash_one((2, self.pickle.text(text))),
            Node::Bytes(text) => self.random.hash_one((3, self.pickle.text(text))),
            Node::Tuple(items) if *budget > 0 => {
                let items: Vec<u64> = items.iter().take(MOST_VALUES).map(|&item| self.identity(item, budget)).collect();
                self.random.hash_one((4, items))
            }
            _ => self.random.hash_one((5, id)),
        }
    }

    /// The hash of a value in Python; a constant if the pickle does not tell it.
    fn of(&self, id: Id, budget: &mut usize) -> u64 {
        *budget = budget.saturating_sub(1);
        if *budget == 0 {
            return 0;
        }
        match self.pickle.node(id) {
            Node::Int(value) => of_integer(*value),
            Node::Bool(value) => u64::from(*value),
            Node::Float(value) => of_float(*value),
            Node::Str(text) | Node::Bytes(text) => self.random.hash_one(self.pickle.text(text)),
            Node::Tuple(items) => {
                let hashes = items.iter().take(MOST_VALUES).map(|&item| self.of(item, budget));
                of_tuple(hashes, items.len())
            }
            Node::Set(items) => {
                let hashes = items.iter().take(MOST_VALUES).map(|&item| self.of(item, budget));
                let mixed = hashes.map(|hash| (hash ^ (hash << 16) ^ 89_869_747).wrapping_mul(3_644_798_167));
                mixed.fold(items.len() as u64, |all, hash| all ^ hash)
            }
            Node::Global(name) => self.random.hash_one(name),
            Node::Object(object) => match self.pickle.global(object.callable) {
                Some(name) if RANDOM.contains(&name.module.as_str()) && !is_computed(&name.name) => {
                    self.random.hash_one(id)
                }
                _ => 0,
            },
            Node::None | Node::BigInt { .. } | Node::List(_) | Node::Dict(_) | Node::Persistent(_) | Node::Unknown => 0,
        }
    }
}

fn of_integer(value: i64) -> u64 {
    let hash = (value.unsigned_abs() % MODULUS) as i64;
    let hash = if value < 0 { -hash } else { hash };
    (if hash == -1 { -2 } else { hash }) as u64
}

/// The hash of a number is its value modulo 2^61 - 1, of which a fraction has one, too.
fn of_float(value: f64) -> u64 {
    if !value.is_finite() {
        return 314_159;
    }
    if value == 0.0 {
        return 0;
    }
    // The mantissa as an integer, and its exponent.
    let bits = value.abs().to_bits();
    let (fraction, exponent) = (bits & ((1 << 52) - 1), (bits >> 52) as i64);
    let (mantissa, exponent) = if exponent == 0 { (fraction, -1074) } else { (fraction | 1 << 52, exponent - 1075) };
    // 2^61 is 1 for this modulus, so that a power of two rotates the bits.
    let rotation = exponent.rem_euclid(61) as u32;
    let product = u128::from(mantissa) << rotation;
    let hash = (product % u128::from(MODULUS)) as i64;
    let hash = if value < 0.0 { -hash } else { hash };
    (if hash == -1 { -2 } else { hash }) as u64
}

/// A variant of xxHash.
fn of_tuple(hashes: impl Iterator<Item = u64>, len: usize) -> u64 {
    const PRIMES: [u64; 3] = [11_400_714_785_074_694_791, 14_029_467_366_897_019_727, 2_870_177_450_012_600_261];
    let [first, second, fifth] = PRIMES;
    let mixed =
        hashes.fold(fifth, |all, hash| all.wrapping_add(hash.wrapping_mul(second)).rotate_left(31).wrapping_mul(first));
    mixed.wrapping_add(len as u64 ^ (fifth ^ 3_527_539))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pickle::parse;

    /// Whether `count` keys collide, each of which an opcode of a pickle pushes.
    fn found(count: u64, key: impl Fn(u64) -> Vec<u8>) -> bool {
        let keys: Vec<u8> = (0..count).flat_map(key).collect();
        let pickle = parse(&[b"\x80\x04(", &keys[..], b"\x91."].concat()).unwrap();
        let Node::Set(keys) = pickle.node(pickle.root()) else { panic!("not a set") };
        collide(&pickle, keys.iter())
    }

    fn long(value: u64) -> Vec<u8> {
        [b"\x8a\x09", &value.to_le_bytes()[..], b"\0"].concat()
    }

    #[test]
    fn knows_hashes_of_python() {
        assert_eq!(of_integer(-1) as i64, -2);
        assert_eq!(of_integer(1 << 61), 1);
        assert_eq!(of_float(1.5), 1_152_921_504_606_846_977);
        assert_eq!(of_float(-0.1) as i64, -230_584_300_921_369_408);
        assert_eq!(of_float(1e300), 1_224_995_262_755_759_164);
        assert_eq!(of_tuple([1, 2].into_iter(), 2) as i64, -3_550_055_125_485_641_917);
        assert_eq!(of_tuple([].into_iter(), 0), 5_740_354_900_026_072_187);
    }

    #[test]
    fn finds_addresses_that_may_have_one_hash() {
        let count = MOST as u64 + 1;
        for (class, is_found) in [
            ("IPv4Address", false),
            ("IPv4Interface", false),
            ("IPv6Address", true),
            ("IPv6Interface", true),
            ("IPv6Network", true),
        ] {
            let key = |index| [format!("cipaddress\n{class}\n").as_bytes(), &long(index)[..], b"\x85R"].concat();
            assert_eq!(found(count, key), is_found, "{class}");
        }
    }

    #[test]
    fn finds_keys_with_one_hash() {
        let count = MOST as u64 + 1;
        // Integers whose value is not kept may be multiples of the modulus.
        assert!(found(count, |index| long(u64::MAX - index)));
        assert!(!found(count - 1, |index| long(u64::MAX - index)));
        assert!(!found(count, |index| [b"J", &(index as u32).to_le_bytes()[..]].concat()));
        // Pairs whose second number makes up for the first.
        let pair = |first: u64, second: i64| {
            [b"\x8a\x08", &first.to_le_bytes()[..], b"\x8a\x08", &second.to_le_bytes()[..], b"\x86"].concat()
        };
        assert!(!found(count, |index| pair(index, index as i64)));
        assert!(found(6 * count, |index| {
            let prime = 14_029_467_366_897_019_727_u64;
            let inverse =
                (0..6).fold(prime, |inverse, _| inverse.wrapping_mul(2_u64.wrapping_sub(prime.wrapping_mul(inverse))));
            let after = |first: u64| of_prefix(first);
            let lane = after(0).wrapping_sub(after(index)).wrapping_mul(inverse);
            pair(index, lane as i64)
        }));
    }

    /// What the hash of a tuple is behind its first item.
    fn of_prefix(first: u64) -> u64 {
        2_870_177_450_012_600_261_u64
            .wrapping_add(first.wrapping_mul(14_029_467_366_897_019_727))
            .rotate_left(31)
            .wrapping_mul(11_400_714_785_074_694_791)
    }
}
