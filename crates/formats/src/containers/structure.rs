//! Where the tensors are in the object of a PyTorch file.

use std::collections::HashMap;
use std::sync::Arc;

use indexmap::IndexMap;

use crate::error::{Error, Result};
use crate::limits;

/// Where the tensors of a PyTorch file are in its object. A copy keeps it if readers depend on it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Structure {
    /// Under `state_dict`, with the metadata beside it.
    #[default]
    StateDict,
    /// The object is the state dict.
    Bare,
    /// Elsewhere: under another name, or in dicts and lists within the state dict.
    Nested(Nesting),
}

/// A step from an object to a value in it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Step {
    /// A key of a dict.
    Key(String),
    /// An integer as the key of a dict.
    Number(i64),
    /// An index of a list.
    Item(usize),
    /// An index of a tuple.
    Element(usize),
}

impl Step {
    /// The step as a part of a key that is joined by dots.
    pub fn text(&self) -> String {
        match self {
            Step::Key(key) => key.clone(),
            Step::Number(number) => number.to_string(),
            Step::Item(index) | Step::Element(index) => index.to_string(),
        }
    }
}

/// The paths of nested tensors, by key.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Nesting {
    paths: Arc<HashMap<String, Vec<Step>>>,
}

/// A value of the object that holds nested tensors.
#[derive(Debug)]
pub(super) enum Branch {
    /// The index of a tensor in the state dict.
    Tensor(usize),
    /// A dict.
    Dict(IndexMap<Step, Branch>),
    /// A list.
    List(Vec<Branch>),
    /// A tuple.
    Tuple(Vec<Branch>),
}

impl Nesting {
    pub(super) fn new(paths: HashMap<String, Vec<Step>>) -> Self {
        Nesting { paths: Arc::new(paths) }
    }

    /// Returns the object for a state dict with these keys.
    ///
    /// Fails if a key has no path, or if a list would lack an item.
    pub(super) fn object<'a>(&self, keys: impl Iterator<Item = &'a str>) -> Result<IndexMap<Step, Branch>> {
        let mut object = Branch::Dict(IndexMap::new());
        for (index, key) in keys.enumerate() {
            let path = self.paths.get(key).ok_or_else(|| lost().in_tensor(key))?;
            insert(&mut object, path, index).map_err(|error| error.in_tensor(key))?;
        }
        match object {
            Branch::Dict(items) => Ok(items),
            _ => Err(Error::internal("the object of a nested file is not a dict")),
        }
    }
}

fn lost() -> Error {
    Error::unsupported(
        "the tensors of the input are nested in dicts and lists, and a .ckpt cannot keep this structure after this change; \
         write a .safetensors instead",
    )
}

fn insert(mut branch: &mut Branch, path: &[Step], tensor: usize) -> Result<()> {
    for (depth, step) in path.iter().enumerate() {
        if depth > limits::METADATA_DEPTH {
            return Err(Error::limit(format!("nested deeper than {} levels", limits::METADATA_DEPTH)));
        }
        let new = || match path.get(depth + 1) {
            None => Branch::Tensor(tensor),
            Some(Step::Key(_) | Step::Number(_)) => Branch::Dict(IndexMap::new()),
            Some(Step::Item(_)) => Branch::List(Vec::new()),
            Some(Step::Element(_)) => Branch::Tuple(Vec::new()),
        };
        branch = match (branch, step) {
            (Branch::Dict(items), Step::Key(_) | Step::Number(_)) => items.entry(step.clone()).or_insert_with(new),
            (Branch::List(items), &Step::Item(index)) | (Branch::Tuple(items), &Step::Element(index)) => {
                if index == items.len() {
                    items.push(new());
                }
                // A gap: an item of the input is not a tensor.
                items.get_mut(index).ok_or_else(lost)?
            }
            _ => return Err(Error::internal("two paths of a nested file contradict each other")),
        };
    }
    match branch {
        Branch::Tensor(found) if *found == tensor => Ok(()),
        _ => Err(Error::conflict("two tensors of a nested file have the same path")),
    }
}
