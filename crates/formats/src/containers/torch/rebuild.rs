//! Interprets the calls with which PyTorch rebuilds a tensor, without executing them.

use super::dtype::{Elements, dtype};
use super::python::shorten;
use super::storages::Storages;
use crate::error::{Error, Result};
use crate::limits;
use crate::pickle::{Id, Name, Node, Pickle};
use crate::tensor::{Dtype, LazyTensor, Shape, View};

/// The result of [`rebuild`].
pub(super) enum Rebuilt {
    /// A tensor.
    Tensor(LazyTensor),
    /// A tensor of an unsupported kind, with the reason.
    Unreadable(String),
    /// Not a tensor.
    NotATensor,
}

/// Interprets the value at `id` as a tensor.
///
/// Fails if it is a call that builds a tensor with invalid arguments.
pub(super) fn rebuild(pickle: &Pickle, storages: &Storages, id: Id) -> Result<Rebuilt> {
    let outermost = id;
    let mut id = id;
    for _ in 0..limits::REBUILD_DEPTH {
        let Some((name, args, _)) = pickle.call(id) else {
            return if id == outermost {
                Ok(Rebuilt::NotATensor)
            } else {
                Err(Error::malformed("a parameter that wraps something other than a tensor"))
            };
        };
        match wrapper(pickle, name, args)? {
            Wrapper::Around(inner) => id = inner,
            Wrapper::Call(name, args) => return call(pickle, storages, name, args),
        }
    }
    Err(Error::limit(format!("a tensor wrapped more than {} times", limits::REBUILD_DEPTH)))
}

/// One step of unwrapping a tensor.
enum Wrapper<'a> {
    /// The call wraps the tensor at this value.
    Around(Id),
    /// This call builds the tensor.
    Call(&'a Name, &'a [Id]),
}

/// Removes one wrapper from a tensor: a parameter, a subclass or attributes.
fn wrapper<'a>(pickle: &'a Pickle, name: &'a Name, args: &'a [Id]) -> Result<Wrapper<'a>> {
    let first = || args.first().copied().ok_or_else(|| Error::malformed(format!("{name} without arguments")));
    match (name.module.as_str(), name.name.as_str()) {
        ("torch._utils", "_rebuild_parameter" | "_rebuild_parameter_with_state")
        | ("torch.nn.parameter", "Parameter" | "Buffer") => Ok(Wrapper::Around(first()?)),
        ("torch._tensor" | "torch.tensor", "_rebuild_from_type_v2" | "_rebuild_from_type") => {
            // The arguments are (func, type, args, state): the result of `func(*args)` as an object of class `type`.
            let (Some(func), Some(args)) =
                (args.first().and_then(|&func| pickle.global(func)), args.get(2).and_then(|&args| pickle.tuple(args)))
            else {
                return Err(Error::malformed(format!("{name} without a function and its arguments")));
            };
            match (func.module.as_str(), func.name.as_str()) {
                ("torch._utils", "_rebuild_parameter" | "_rebuild_parameter_with_state") => {
                    let inner = args.first().copied();
                    Ok(Wrapper::Around(inner.ok_or_else(|| Error::malformed(format!("{func} without arguments")))?))
                }
                _ => Ok(Wrapper::Call(func, args)),
            }
        }
        _ => Ok(Wrapper::Call(name, args)),
    }
}

/// Interprets a call that builds a tensor.
fn call(pickle: &Pickle, storages: &Storages, name: &Name, args: &[Id]) -> Result<Rebuilt> {
    if name.module != "torch._utils" {
        return Ok(Rebuilt::NotATensor);
    }
    let unreadable = |what: &str| Ok(Rebuilt::Unreadable(what.to_owned()));
    match (name.name.as_str(), args) {
        ("_rebuild_tensor", &[storage, start, shape, strides]) => {
            strided(pickle, storages, storage, start, shape, strides, None)
        }
        ("_rebuild_tensor_v2", &[storage, start, shape, strides, _, _, ref rest @ ..]) => {
            if let Some(reason) = pending_operation(pickle, rest.first().copied()) {
                return unreadable(reason);
            }
            strided(pickle, storages, storage, start, shape, strides, None)
        }
        ("_rebuild_tensor_v3", &[storage, start, shape, strides, _, _, class, ref rest @ ..]) => {
            let Some(class) = pickle.global(class) else {
                return Err(Error::malformed("_rebuild_tensor_v3 without a dtype"));
            };
            let Some(class) = dtype(class) else {
                return Ok(Rebuilt::Unreadable(format!("a tensor of {}", shorten(&class.to_string()))));
            };
            if let Some(reason) = pending_operation(pickle, rest.first().copied()) {
                return unreadable(reason);
            }
            strided(pickle, storages, storage, start, shape, strides, Some(class))
        }
        ("_rebuild_tensor" | "_rebuild_tensor_v2" | "_rebuild_tensor_v3", _) => {
            Err(Error::malformed(format!("{name} with {} arguments", args.len())))
        }
        ("_rebuild_qtensor", _) => unreadable("a quantized tensor; dequantize it with PyTorch first"),
        ("_rebuild_sparse_tensor" | "_rebuild_sparse_csr_tensor", _) => {
            unreadable("a sparse tensor; make it dense with PyTorch first")
        }
        ("_rebuild_nested_tensor", _) => unreadable("a nested tensor"),
        ("_rebuild_meta_tensor_no_storage", _) => unreadable("a meta tensor, which has no data"),
        (other, _) if other.starts_with("_rebuild_") => {
            Ok(Rebuilt::Unreadable(format!("a tensor built by {}", shorten(other))))
        }
        _ => Ok(Rebuilt::NotATensor),
    }
}

/// Returns the reason why a tensor with pending operations is unsupported: PyTorch stores lazy conjugation and negation as
/// flags, and the stored values are then not the tensor's.
fn pending_operation(pickle: &Pickle, metadata: Option<Id>) -> Option<&'static str> {
    match metadata.map(|id| pickle.node(id)) {
        Some(Node::Dict(flags)) if !flags.is_empty() => Some("a tensor with a pending conjugation or negation"),
        _ => None,
    }
}

/// Builds a strided tensor. `own` is the dtype of the tensor if the call gives one.
#[allow(clippy::too_many_arguments)]
fn strided(
    pickle: &Pickle,
    storages: &Storages,
    storage: Id,
    start: Id,
    shape: Id,
    strides: Id,
    own: Option<Dtype>,
) -> Result<Rebuilt> {
    let found = storages.resolve(pickle, storage)?;
    let (storage, elements, window) = found.ok_or_else(|| Error::malformed("a tensor without a storage"))?;
    // Without a dtype in the call, torch treats an untyped storage as bytes.
    let dtype = match (own, elements) {
        (Some(own), _) => own,
        (None, Elements::Typed(dtype)) => dtype,
        (None, Elements::Untyped) => Dtype::U8,
        (None, Elements::Quantized(_)) => return Ok(Rebuilt::Unreadable("a tensor of quantized elements".into())),
    };
    // The window counts elements of the storage's dtype, the tensor counts elements of its own.
    let scale = |count: u64| count.checked_mul(elements.size()).map(|bytes| bytes / dtype.size() as u64);
    let overflow = || Error::malformed("a storage larger than any file can hold");
    let (base, available) = scale(window.start).zip(scale(window.len)).ok_or_else(overflow)?;
    let start = number(pickle, start)?;
    let view = View::new(Shape::new(numbers(pickle, shape)?)?, numbers(pickle, strides)?, start, available)?;
    let view = if base == 0 {
        view
    } else {
        let end = base.checked_add(available).ok_or_else(overflow)?;
        // Cannot overflow: the view starts within the window, which ends at `end`.
        View::new(view.shape().clone(), view.strides().to_vec(), base + start, end)?
    };
    Ok(Rebuilt::Tensor(LazyTensor::stored(storage, dtype, view)?))
}

/// Reads a tuple, list or `torch.Size` of non-negative integers.
fn numbers(pickle: &Pickle, id: Id) -> Result<Vec<u64>> {
    let id = match pickle.call(id) {
        Some((name, &[items], _)) if name.is("torch", "Size") => items,
        _ => id,
    };
    let (Node::Tuple(items) | Node::List(items)) = pickle.node(id) else {
        return Err(Error::malformed("a shape that is not a tuple"));
    };
    items.iter().map(|&item| number(pickle, item)).collect()
}

fn number(pickle: &Pickle, id: Id) -> Result<u64> {
    let value = pickle.int(id).and_then(|value| u64::try_from(value).ok());
    value.ok_or_else(|| Error::malformed("a size, stride or offset that is not a non-negative integer"))
}
