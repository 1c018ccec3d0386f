//! Conditions on calls of NumPy, which trusts the numbers in the state of a dtype or an array.

use super::bytes::byte_count;
use crate::danger::values::{Values, arguments};
use crate::danger::vouched::{Kind, split_dtype_code};
use crate::pickle::{Id, Node, Object};

/// The letter and number of a dtype.
fn dtype(values: &Values<'_>, id: Id) -> Option<(char, u64)> {
    let object = values.pickle.object(id).filter(|_| values.kind(id) == Some(Kind::NumpyDtype))?;
    split_dtype_code(values.pickle.word(*arguments(values.pickle, object).first()?)?)
}

/// Whether the state of a dtype is the one that NumPy writes for its code. Other sizes or flags make NumPy read beyond
/// an array, or take its bytes for addresses.
pub(super) fn has_the_state_of_its_dtype(values: &Values<'_>, object: &Object) -> bool {
    let pickle = values.pickle;
    let code = arguments(pickle, object).first().and_then(|&code| split_dtype_code(pickle.word(code)?));
    let Some((letter, number)) = code else { return false };
    let is_none = |id: Id| matches!(pickle.node(id), Node::None);
    object.state.iter().all(|&state| {
        if letter == 'V' && is_structured(values, state, number) {
            return true;
        }
        let Some(&[version, order, base, names, fields, size, alignment, flags, ref metadata @ ..]) =
            pickle.tuple(state)
        else {
            return false;
        };
        let expected = match letter {
            'S' | 'V' => number as i64,
            'U' => 4 * number as i64,
            _ => -1,
        };
        let expected_flags = match letter {
            'O' => 63,
            'U' => 8,
            _ => 0,
        };
        // Versions before 1.7 wrote no flags for strings.
        let has_flags = pickle.int(flags).is_some_and(|flags| flags == expected_flags || flags == 0 && letter == 'U');
        let is_unit = |id: &Id| matches!(letter, 'm' | 'M') && pickle.tuple(*id).is_some_and(|unit| unit.len() == 2);
        matches!(pickle.int(version), Some(3 | 4))
            && matches!(pickle.word(order), Some("<" | ">" | "=" | "|"))
            && is_none(base)
            && is_none(names)
            && is_none(fields)
            && pickle.int(size) == Some(expected)
            && pickle.int(alignment).is_some_and(|alignment| (-1..=16).contains(&alignment))
            && has_flags
            && matches!(metadata, []) | matches!(metadata, [unit] if is_unit(unit))
    })
}

/// Bytes of an item of a dtype; `None` if it holds objects. The dtype itself is judged by its own call.
fn item_bytes(values: &Values<'_>, id: Id) -> Option<u64> {
    match dtype(values, id)? {
        // Without a number, the size is that of the machine.
        ('O', _) | ('b' | 'i' | 'u' | 'f' | 'c', 0) => None,
        ('U', characters) => Some(4 * characters),
        ('m' | 'M', _) => Some(8),
        (_, bytes) => Some(bytes),
    }
}

/// Whether this is the state of a dtype with items of `bytes` bytes that consist of fields or of an array, none of which
/// holds objects or reaches past the item.
fn is_structured(values: &Values<'_>, state: Id, bytes: u64) -> bool {
    /// Flags of fields that start as zeros, of dtypes with fields, and of aligned fields.
    const FLAGS: i64 = 8 | 16 | 128;
    let pickle = values.pickle;
    let Some(&[version, order, base, names, fields, size, alignment, flags]) = pickle.tuple(state) else {
        return false;
    };
    let is_field = |&(_, field): &(Id, Id)| {
        // The third part is a title.
        let Some(&[dtype, offset, ref title @ ..]) = pickle.tuple(field) else { return false };
        let end =
            pickle.int(offset).and_then(|offset| u64::try_from(offset).ok()?.checked_add(item_bytes(values, dtype)?));
        title.len() <= 1
            && title.iter().all(|&title| pickle.word(title).is_some())
            && end.is_some_and(|end| end <= bytes)
    };
    let has_fields = || match (pickle.tuple(names), pickle.node(fields)) {
        (Some(names), Node::Dict(fields)) => {
            names.len() == fields.len()
                && names
                    .iter()
                    .zip(fields)
                    .all(|(&name, &(key, _))| pickle.word(name).is_some_and(|name| pickle.word(key) == Some(name)))
                && fields.iter().all(is_field)
                && matches!(pickle.node(base), Node::None)
        }
        _ => false,
    };
    let is_array = || {
        let Some(&[dtype, shape]) = pickle.tuple(base) else { return false };
        let all = values.ints(shape).zip(item_bytes(values, dtype)).and_then(|(shape, item)| {
            shape.iter().try_fold(item, |all, &size| all.checked_mul(u64::try_from(size).ok()?))
        });
        all == Some(bytes) && matches!((pickle.node(names), pickle.node(fields)), (Node::None, Node::None))
    };
    matches!(pickle.int(version), Some(3 | 4))
        && pickle.word(order) == Some("|")
        && pickle.int(size) == Some(bytes as i64)
        && pickle.int(alignment).is_some_and(|alignment| (1..=16).contains(&alignment))
        && pickle.int(flags).is_some_and(|flags| flags & !FLAGS == 0)
        && (has_fields() || is_array())
}

/// The bytes of the array that is the first argument of a call.
pub(in super::super) fn array_bytes(values: &Values<'_>, object: &Object) -> Option<u64> {
    let array = values.pickle.object(*arguments(values.pickle, object).first()?)?;
    let content = match array.state.first() {
        Some(&state) => *values.pickle.tuple(state)?.last()?,
        None => *arguments(values.pickle, array).first()?,
    };
    byte_count(values, content)
}

/// Whether a scalar is not an object: NumPy takes its bytes for an address then.
pub(super) fn is_a_scalar(values: &Values<'_>, object: &Object) -> bool {
    let dtype = arguments(values.pickle, object).first().and_then(|&first| dtype(values, first));
    dtype.is_some_and(|(letter, _)| letter != 'O')
}

/// Whether an array is made empty and gets the state that NumPy writes: its content has the length of its shape.
pub(super) fn has_the_state_of_an_array(values: &Values<'_>, object: &Object) -> bool {
    let pickle = values.pickle;
    let &[_, empty, ..] = arguments(pickle, object) else { return false };
    let is_empty = values.ints(empty).is_some_and(|shape| shape == [0]);
    let has_state = |&state: &Id| {
        let Some(&[_, shape, of, is_fortran, content]) = pickle.tuple(state) else { return false };
        let elements = values
            .ints(shape)
            .and_then(|shape| shape.iter().try_fold(1_u64, |all, &size| all.checked_mul(u64::try_from(size).ok()?)));
        let (Some(elements), Some((letter, _))) = (elements, dtype(values, of)) else { return false };
        let fits = match pickle.node(content) {
            Node::List(items) => letter == 'O' && items.len() as u64 == elements,
            _ => letter != 'O' && byte_count(values, content).is_some_and(|count| elements <= count),
        };
        fits && matches!(pickle.node(is_fortran), Node::Bool(_) | Node::Int(0 | 1))
    };
    is_empty && object.state.iter().all(has_state)
}

/// Whether attributes describe an array as joblib does, each of them once: with elements that are no objects, and whose bytes
/// the parser of the pickle has skipped.
pub(super) fn describes_an_array(values: &Values<'_>, object: &Object) -> bool {
    const NAMES: [&str; 6] = ["subclass", "shape", "order", "dtype", "allow_mmap", "numpy_array_alignment_bytes"];
    let pickle = values.pickle;
    object.state.iter().all(|&state| {
        let Node::Dict(attributes) = pickle.node(state) else { return false };
        let attribute = |name: &str| {
            let mut found = attributes.iter().filter(|(key, _)| pickle.word(*key) == Some(name));
            found.next().map(|&(_, value)| value).filter(|_| found.next().is_none())
        };
        let found = NAMES.map(attribute);
        let [Some(class), Some(shape), Some(order), Some(of), Some(is_mappable), alignment] = found else {
            return false;
        };
        attributes.len() == found.iter().flatten().count()
            && values.kind(class) == Some(Kind::ArrayClass)
            && values.ints(shape).is_some_and(|shape| shape.iter().all(|&size| size >= 0))
            && matches!(pickle.word(order), Some("C" | "F"))
            && item_bytes(values, of).is_some()
            && matches!(pickle.node(is_mappable), Node::Bool(_))
            && alignment.is_none_or(|alignment| matches!(pickle.node(alignment), Node::Int(_) | Node::None))
    })
}
