//! Names of Python's standard library.

use super::kind::{Args, Call, Check, Entry, Is, Kind};

const BUILTINS: &[&str] = &["builtins", "__builtin__"];
const COLLECTIONS: &[&str] = &["collections", "_collections"];
const PATHLIB: &[&str] = &["pathlib", "pathlib._local"];

const NO_ARGUMENTS: Args = Args::Exactly(&[]);

pub(super) const ENTRIES: &[Entry] = &[
    Entry::named(
        BUILTINS,
        &["bool", "dict", "float", "int", "list", "long", "object", "str", "tuple", "unicode"],
        Kind::PlainClass,
    ),
    Entry::named(BUILTINS, &["Ellipsis", "NotImplemented"], Kind::Value),
    Entry {
        modules: BUILTINS,
        names: &["frozenset", "set"],
        is: Kind::PlainClass,
        call: Some(Call { args: &[NO_ARGUMENTS, Args::Exactly(&[Is::Keys])], items: true, key: true, ..Call::VALUE }),
    },
    // Protocols below 3 write empty bytes as `bytes()`.
    Entry {
        modules: BUILTINS,
        names: &["bytes"],
        is: Kind::PlainClass,
        call: Some(Call { gives: Kind::Bytes, key: true, ..Call::VALUE }),
    },
    Entry {
        modules: BUILTINS,
        names: &["bytearray"],
        is: Kind::PlainClass,
        call: Some(Call {
            args: &[NO_ARGUMENTS, Args::Exactly(&[Is::Bytes]), Args::Exactly(&[Is::Text, Is::Word(is_plain_codec)])],
            gives: Kind::Bytes,
            ..Call::VALUE
        }),
    },
    Entry {
        modules: BUILTINS,
        names: &["complex"],
        is: Kind::PlainClass,
        call: Some(Call { args: &[Args::Exactly(&[Is::Number, Is::Number])], key: true, ..Call::VALUE }),
    },
    // A range is small until something iterates over it. No pattern for arguments that are iterated over accepts one.
    Entry::class(
        BUILTINS,
        &["range", "slice", "xrange"],
        Call { args: &[Args::Exactly(&[OPTIONAL_INT, OPTIONAL_INT, OPTIONAL_INT])], ..Call::VALUE },
    ),
    Entry {
        modules: COLLECTIONS,
        names: &["OrderedDict"],
        is: Kind::PlainClass,
        call: Some(Call {
            args: &[NO_ARGUMENTS, Args::Exactly(&[Is::Pairs])],
            gives: Kind::OrderedDict,
            state: Some(Is::Attributes),
            pairs: true,
            ..Call::VALUE
        }),
    },
    Entry {
        modules: COLLECTIONS,
        names: &["Counter"],
        is: Kind::PlainClass,
        call: Some(Call { args: &[NO_ARGUMENTS, Args::Exactly(&[Is::Dict])], pairs: true, ..Call::VALUE }),
    },
    Entry::class(
        COLLECTIONS,
        &["defaultdict"],
        Call {
            args: &[NO_ARGUMENTS, Args::Exactly(&[Is::Either(&[Is::None, Is::A(Kind::PlainClass)])])],
            pairs: true,
            ..Call::VALUE
        },
    ),
    Entry::class(
        COLLECTIONS,
        &["deque"],
        Call {
            args: &[
                NO_ARGUMENTS,
                Args::Exactly(&[Is::List]),
                Args::Exactly(&[Is::List, Is::Either(&[Is::None, Is::Count])]),
            ],
            items: true,
            ..Call::VALUE
        },
    ),
    Entry::class(&["argparse"], &["Namespace"], Call { state: Some(Is::Attributes), ..Call::VALUE }),
    Entry::class(&["types"], &["SimpleNamespace"], Call { state: Some(Is::Attributes), ..Call::VALUE }),
    Entry::function(
        &["_codecs"],
        &["encode"],
        Call {
            args: &[Args::Exactly(&[Is::Text]), Args::Exactly(&[Is::Text, Is::Word(is_plain_codec)])],
            gives: Kind::Bytes,
            key: true,
            ..Call::VALUE
        },
    ),
    // Protocols 0 and 1 write an object without arguments as `_reconstructor(class, object, None)`.
    Entry::function(
        &["copyreg", "copy_reg"],
        &["_reconstructor"],
        Call {
            args: &[Args::Exactly(&[Is::A(Kind::Class), Is::A(Kind::PlainClass), Is::None])],
            check: Check::Reconstructs,
            state: Some(Is::TypedAttributes),
            ..Call::VALUE
        },
    ),
    Entry::class(
        &["datetime"],
        &["date", "datetime", "time"],
        Call {
            args: &[Args::Exactly(&[RAW]), Args::Exactly(&[RAW, Is::A(Kind::Value)])],
            check: Check::FewBytes,
            key: true,
            ..Call::VALUE
        },
    ),
    Entry::class(
        &["datetime"],
        &["timedelta"],
        Call { args: &[Args::Exactly(&[Is::Int, Is::Int, Is::Int])], key: true, ..Call::VALUE },
    ),
    Entry::class(
        &["datetime"],
        &["timezone"],
        Call {
            args: &[Args::Exactly(&[Is::A(Kind::Value)]), Args::Exactly(&[Is::A(Kind::Value), Is::Str])],
            key: true,
            ..Call::VALUE
        },
    ),
    Entry::class(
        &["decimal"],
        &["Decimal"],
        Call { args: &[Args::Exactly(&[Is::Word(is_decimal)])], key: true, ..Call::VALUE },
    ),
    Entry::class(
        &["fractions"],
        &["Fraction"],
        Call {
            args: &[Args::Exactly(&[Is::Word(is_fraction)]), Args::Exactly(&[Is::Int, Is::Int])],
            key: true,
            ..Call::VALUE
        },
    ),
    Entry::class(
        PATHLIB,
        &["Path", "PosixPath", "PurePath", "PurePosixPath", "PureWindowsPath", "WindowsPath"],
        Call { args: &[Args::Each(Is::Str)], key: true, ..Call::VALUE },
    ),
    Entry::named(&["typing"], &["Any"], Kind::AnyType),
    Entry::class(
        &["uuid"],
        &["UUID"],
        Call { check: Check::NumberState, state: Some(Is::Attributes), key: true, ..Call::VALUE },
    ),
    // Members of enumerations: a call returns the member of this value.
    Entry::class(&["calendar"], &["Day", "Month"], MEMBER),
    Entry::class(&["http"], &["HTTPStatus"], MEMBER),
    Entry::class(&["inspect"], &["_ParameterKind"], MEMBER),
    Entry::class(&["re"], &["RegexFlag"], MEMBER),
    Entry::class(&["signal"], &["Handlers", "Sigmasks", "Signals"], MEMBER),
    Entry::class(&["socket"], &["AddressFamily", "SocketKind"], MEMBER),
    Entry::class(&["uuid"], &["SafeUUID"], Call { args: &[Args::Exactly(&[OPTIONAL_INT])], ..MEMBER }),
    Entry::class(&["http"], &["HTTPMethod"], Call { args: &[Args::Exactly(&[Is::Word(is_capitals)])], ..MEMBER }),
    // A network is small until something iterates over it, like a range.
    Entry::class(
        &["ipaddress"],
        &["IPv4Address", "IPv4Interface", "IPv4Network", "IPv6Address", "IPv6Interface", "IPv6Network"],
        Call { args: &[Args::Exactly(&[Is::Either(&[Is::AnyInt, Is::Word(is_address)])])], key: true, ..Call::VALUE },
    ),
    Entry::class(
        &["array"],
        &["array"],
        Call { args: &[Args::Exactly(&[Is::Word(is_type_code), Is::List])], ..Call::VALUE },
    ),
    Entry::function(
        &["array"],
        &["_array_reconstructor"],
        Call {
            args: &[Args::Exactly(&[Is::A(Kind::Class), Is::Word(is_type_code), Is::Count, Is::Bytes])],
            ..Call::VALUE
        },
    ),
];

/// A call with a number that may be a key.
const MEMBER: Call = Call { args: &[Args::Exactly(&[Is::Int])], key: true, ..Call::VALUE };

/// Bytes, which Python 2 writes as a string.
const RAW: Is = Is::Either(&[Is::Bytes, Is::Text]);

const OPTIONAL_INT: Is = Is::Either(&[Is::None, Is::Int]);

/// Whether this is a short word of capitals, such as `GET`.
fn is_capitals(word: &str) -> bool {
    word.len() <= 16 && word.bytes().all(|byte| byte.is_ascii_uppercase())
}

/// Whether this has the form of an IP address or network, such as `10.0.0.0/8` or `fe80::1%eth0`.
fn is_address(text: &str) -> bool {
    text.len() <= 80 && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".:/%_-".contains(&byte))
}

/// Whether this is the code of numbers in an `array.array`.
fn is_type_code(code: &str) -> bool {
    matches!(code, "b" | "B" | "h" | "H" | "i" | "I" | "l" | "L" | "q" | "Q" | "f" | "d" | "u" | "w")
}

/// Whether a codec only maps characters to bytes.
fn is_plain_codec(codec: &str) -> bool {
    matches!(codec, "ascii" | "latin-1" | "latin1" | "utf-8" | "utf8")
}

/// Whether this is a decimal number with at most four digits in its exponent.
fn is_decimal(text: &str) -> bool {
    let text = text.strip_prefix('-').unwrap_or(text);
    if matches!(text, "Infinity" | "NaN" | "sNaN") {
        return true;
    }
    let (digits, exponent) = text.split_once(['e', 'E']).unwrap_or((text, "0"));
    let exponent = exponent.strip_prefix(['+', '-']).unwrap_or(exponent);
    let are_digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    are_digits(&digits.replacen('.', "", 1)) && are_digits(exponent) && exponent.len() <= 4
}

/// Whether this is one integer, or two with a slash between them.
fn is_fraction(text: &str) -> bool {
    let text = text.strip_prefix('-').unwrap_or(text);
    text.starts_with(|first: char| first.is_ascii_digit())
        && text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'/')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_the_exponents_of_numbers() {
        assert!(["1", "-1.5", "1E-7", "0E+10", "NaN"].into_iter().all(is_decimal));
        assert!(!["", "1e99999", "1e", "1_0", "x", "1e5e5"].into_iter().any(is_decimal));
        assert!(["1", "-1/3"].into_iter().all(is_fraction));
        assert!(!["1e9", "1.5", "", "/2"].into_iter().any(is_fraction));
    }
}
