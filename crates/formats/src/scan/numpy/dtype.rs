//! Sizes of NumPy dtypes in headers.

use super::literal::Literal;

/// What an item of an array is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Item {
    /// Numbers and texts, with their size in bytes.
    Plain(usize),
    /// An object, or fields one of which is an object.
    Object,
}

impl Item {
    fn and(self, other: Item) -> Option<Item> {
        match (self, other) {
            (Item::Plain(a), Item::Plain(b)) => a.checked_add(b).map(Item::Plain),
            _ => Some(Item::Object),
        }
    }

    /// The items of an array of this shape. `None` if it has too many bytes, or not the form of a shape.
    pub(super) fn times(self, shape: &[Literal<'_>]) -> Option<Item> {
        let count = shape.iter().try_fold(1_usize, |all, size| all.checked_mul(size.int()?))?;
        match self {
            Item::Plain(bytes) => bytes.checked_mul(count).map(Item::Plain),
            Item::Object => Some(Item::Object),
        }
    }
}

/// Returns what an item of a dtype is: a type, or fields with types. `None` if NumPy did not write it.
pub(super) fn item(descr: &Literal<'_>) -> Option<Item> {
    match descr {
        Literal::Str("|O" | "O") => Some(Item::Object),
        Literal::Str(code) => plain(code).map(Item::Plain),
        Literal::List(fields) => fields.iter().try_fold(Item::Plain(0), |all, of| all.and(field(of)?)),
        _ => None,
    }
}

/// A field: a name, a type, and perhaps the shape of an array.
fn field(field: &Literal<'_>) -> Option<Item> {
    let Literal::Tuple(parts) = field else { return None };
    let (name, descr, shape) = match parts.as_slice() {
        [name, descr] => (name, descr, [].as_slice()),
        [name, descr, Literal::Tuple(shape)] => (name, descr, shape.as_slice()),
        _ => return None,
    };
    let is_name = match name {
        Literal::Str(_) => true,
        Literal::Tuple(parts) => matches!(parts.as_slice(), [Literal::Str(_), Literal::Str(_)]),
        _ => false,
    };
    item(descr).filter(|_| is_name)?.times(shape)
}

/// The bytes of a plain type as NumPy writes it, such as `<f4`. NumPy also reads types with commas between
/// them, which hold objects without beginning like them.
fn plain(code: &str) -> Option<usize> {
    let code = code.strip_prefix(['<', '>', '|', '=']).unwrap_or(code);
    let letter = code.chars().next().filter(|letter| "biufcSUVmM".contains(*letter))?;
    let rest = code.strip_prefix(letter)?;
    let digits = match rest.split_once('[') {
        // Dates have a unit behind the size: `M8[ns]`.
        Some((digits, unit)) if matches!(letter, 'm' | 'M') => {
            let unit = unit.strip_suffix(']')?;
            let is_unit = unit.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'/');
            Some(digits).filter(|_| is_unit)?
        }
        _ => rest,
    };
    let is_number = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    let size: usize = digits.parse().ok().filter(|_| is_number)?;
    size.checked_mul(if letter == 'U' { 4 } else { 1 })
}
