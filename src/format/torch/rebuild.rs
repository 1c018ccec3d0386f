//! The calls by which PyTorch rebuilds a tensor, read as data.

use super::dtype::{Elements, dtype};
use super::plain::shorten;
use super::storages::Storages;
use crate::error::{Error, Result};
use crate::limits;
use crate::pickle::{Id, Name, Node, Pickle};
use crate::tensor::{Dtype, LazyTensor, Shape, View};

/// What a value turned out to be.
pub(super) enum Rebuilt {
    /// A tensor.
    Tensor(LazyTensor),
    /// A tensor of a kind that is not taken, and why.
    Unreadable(String),
    /// Something else.
    NotATensor,
}

/// Reads the value at `id` as a tensor.
pub(super) fn rebuild(pickle: &Pickle, storages: &Storages, id: Id) -> Result<Rebuilt> {
    let outermost = id;
    let mut id = id;
    for _ in 0..limits::REBUILD_DEPTH {
        let Some((name, args, _)) = pickle.call(id) else {
            return if id == outermost {
                Ok(Rebuilt::NotATensor)
            } else {
                Err(Error::malformed("a parameter around something that is no tensor"))
            };
        };
        match wrapper(pickle, name, args)? {
            Wrapper::Around(inner) => id = inner,
            Wrapper::Call(name, args) => return call(pickle, storages, name, args),
        }
    }
    Err(Error::limit(format!("a tensor wrapped more than {} times", limits::REBUILD_DEPTH)))
}

/// Whether the value at `id` is a call that makes a tensor of any kind. Looks at names only.
pub(super) fn is_tensor(pickle: &Pickle, id: Id) -> bool {
    pickle.call(id).is_some_and(|(name, ..)| {
        let module = name.module.as_str();
        matches!(module, "torch._utils" | "torch._tensor") && name.name.starts_with("_rebuild_")
            || module == "torch.nn.parameter" && matches!(name.name.as_str(), "Parameter" | "Buffer")
    })
}

enum Wrapper<'a> {
    /// The tensor is the one at this value.
    Around(Id),
    /// The tensor is made by this call.
    Call(&'a Name, &'a [Id]),
}

/// Takes off what is put around a tensor: parameters, subclasses, attributes.
fn wrapper<'a>(pickle: &'a Pickle, name: &'a Name, args: &'a [Id]) -> Result<Wrapper<'a>> {
    let first = || args.first().copied().ok_or_else(|| Error::malformed(format!("{name} without arguments")));
    match (name.module.as_str(), name.name.as_str()) {
        ("torch._utils", "_rebuild_parameter" | "_rebuild_parameter_with_state")
        | ("torch.nn.parameter", "Parameter" | "Buffer") => Ok(Wrapper::Around(first()?)),
        ("torch._tensor" | "torch.tensor", "_rebuild_from_type_v2" | "_rebuild_from_type") => {
            // (func, type, args, state): what func makes, as an object of a class with attributes.
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
            if let Some(reason) = lazy_bits(pickle, rest.first().copied()) {
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
            if let Some(reason) = lazy_bits(pickle, rest.first().copied()) {
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
        ("_rebuild_meta_tensor_no_storage", _) => unreadable("a meta tensor, which has no values"),
        (other, _) if other.starts_with("_rebuild_") => {
            Ok(Rebuilt::Unreadable(format!("a tensor made by {}", shorten(other))))
        }
        _ => Ok(Rebuilt::NotATensor),
    }
}

/// PyTorch notes conjugation and negation that it has not carried out yet; the stored values are then others.
fn lazy_bits(pickle: &Pickle, metadata: Option<Id>) -> Option<&'static str> {
    match metadata.map(|id| pickle.node(id)) {
        Some(Node::Dict(bits)) if !bits.is_empty() => {
            Some("a tensor with a conjugation or negation not yet carried out")
        }
        _ => None,
    }
}

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
    // An untyped storage under the older call is bytes, for torch too.
    let dtype = match (own, elements) {
        (Some(own), _) => own,
        (None, Elements::Typed(dtype)) => dtype,
        (None, Elements::Untyped) => Dtype::U8,
        (None, Elements::Quantized(_)) => return Ok(Rebuilt::Unreadable("a tensor of quantized elements".into())),
    };
    // The window counts elements of the storage's class, the tensor elements of its own type.
    let scale = |count: u64| count.checked_mul(elements.size()).map(|bytes| bytes / dtype.size() as u64);
    let overflow = || Error::malformed("a storage larger than any file can hold");
    let (base, available) = scale(window.start).zip(scale(window.len)).ok_or_else(overflow)?;
    let start = number(pickle, start)?;
    let view = View::new(Shape::new(numbers(pickle, shape)?)?, numbers(pickle, strides)?, start, available)?;
    let view = if base == 0 {
        view
    } else {
        let end = base.checked_add(available).ok_or_else(overflow)?;
        View::new(view.shape().clone(), view.strides().to_vec(), base + start, end)?
    };
    Ok(Rebuilt::Tensor(LazyTensor::stored(storage, dtype, view)?))
}

/// A tuple, list or `torch.Size` of numbers that are not negative.
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
    value.ok_or_else(|| Error::malformed("a size, stride or offset that is not a number of elements"))
}
