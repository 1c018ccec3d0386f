//! Conditions on calls of torch.

use super::bytes::byte_count;
use crate::danger::values::{Values, arguments};
use crate::danger::vouched::{Check, Kind};
use crate::pickle::{Id, Node, Object, op};

/// Whether a tensor lies within its storage. torch enlarges a storage that is too small, so a wrong shape allocates.
pub(super) fn fits_its_storage(values: &Values<'_>, object: &Object) -> bool {
    fits(values, object).is_some()
}

/// Whether a tensor lies within its storage, and has no more elements: torch allocates them.
pub(super) fn fits_its_storage_whole(values: &Values<'_>, object: &Object) -> bool {
    whole(values, object).is_some()
}

/// The capacity and the number of elements of a tensor that has no more elements than its storage.
fn whole(values: &Values<'_>, object: &Object) -> Option<(u64, u64)> {
    let (capacity, shape) = fits(values, object)?;
    let elements = shape.iter().try_fold(1_u64, |all, &size| all.checked_mul(size.unsigned_abs()))?;
    (elements <= capacity).then_some((capacity, elements))
}

/// The tensor that is the first argument of a call: the key of its storage, its capacity, and the elements of the tensor.
/// Storages that have no key count as one.
pub(in super::super) fn copied_tensor<'a>(values: &Values<'a>, object: &Object) -> Option<(&'a str, u64, u64)> {
    let pickle = values.pickle;
    let tensor = pickle.object(*arguments(pickle, object).first()?)?;
    let (capacity, elements) = whole(values, tensor)?;
    let key = match pickle.node(*arguments(pickle, tensor).first()?) {
        Node::Persistent(target) => pickle.tuple(*target).and_then(|parts| pickle.word(*parts.get(2)?)),
        _ => None,
    };
    Some((key.unwrap_or_default(), capacity, elements))
}

/// Whether the first argument is a tensor with no more elements than its storage: the call copies it.
pub(super) fn takes_a_whole_tensor(values: &Values<'_>, object: &Object) -> bool {
    let Some(&tensor) = arguments(values.pickle, object).first() else { return false };
    values.pickle.object(tensor).is_some_and(|tensor| fits_its_storage_whole(values, tensor))
}

/// The capacity and the shape of a tensor that lies within its storage.
fn fits(values: &Values<'_>, object: &Object) -> Option<(u64, Vec<i64>)> {
    let &[storage, offset, shape, strides, ..] = arguments(values.pickle, object) else { return None };
    let capacity = capacity(values, storage)?;
    let (shape, strides) = (values.ints(shape)?, values.ints(strides)?);
    let numbers = || shape.iter().chain(&strides);
    if shape.len() != strides.len() || numbers().any(|&number| number < 0) {
        return None;
    }
    if shape.contains(&0) {
        return Some((capacity, shape));
    }
    let mut last = values.pickle.int(offset)?.unsigned_abs();
    for (&size, &stride) in shape.iter().zip(&strides) {
        last = last.checked_add((size.unsigned_abs() - 1).checked_mul(stride.unsigned_abs())?)?;
    }
    (last < capacity).then_some((capacity, shape))
}

/// The number of elements of a storage, or an upper bound.
fn capacity(values: &Values<'_>, storage: Id) -> Option<u64> {
    match values.pickle.node(storage) {
        Node::Persistent(target) => {
            let &[_, _, _, _, count, ..] = values.pickle.tuple(*target)? else { return None };
            values.pickle.int(count).map(i64::unsigned_abs)
        }
        Node::Object(object) => byte_count(values, *arguments(values.pickle, object).first()?),
        _ => None,
    }
}

/// Whether `_rebuild_from_type_v2` calls a function that is vouched for with these arguments and returns a tensor.
pub(super) fn rebuilds_a_vouched_type(values: &Values<'_>, object: &Object) -> bool {
    let &[function, _, args, _] = arguments(values.pickle, object) else { return false };
    let Some(call) = values.global(function).and_then(|entry| entry.call) else { return false };
    let Some(inner) = values.pickle.tuple(args) else { return false };
    // As if the function had been called directly. A function that calls another one does not
    // nest.
    let direct = Object::called(function, args, None, op::REDUCE, object.offset);
    let fits = match call.check {
        Check::Nothing => true,
        Check::FitsStorage => fits_its_storage(values, &direct),
        Check::FitsStorageWhole => fits_its_storage_whole(values, &direct),
        _ => false,
    };
    call.gives == Kind::Tensor && values.accepts(call.args, inner) && fits
}
