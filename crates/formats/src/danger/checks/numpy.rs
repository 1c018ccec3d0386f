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
