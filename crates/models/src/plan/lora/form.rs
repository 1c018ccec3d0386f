//! The form of kohya's files that the names of diffusers and PEFT cannot express: the spelling of modules, and the dtype and
//! shape of each alpha. It is kept in the metadata, so that a file that is converted back is the same.

use indexmap::IndexMap;
use serde_json::{Map, Value, json};
use trinart_ckpt_formats::error::{OrInternal, Result};
use trinart_ckpt_formats::tensor::{Dtype, LazyTensor, Overflow, Shape};

use crate::lora::{ADAPTER_METADATA, CONFIG, Change, Lora, LoraNames, NETWORK, Spelling, scalar};

/// The dtype and the shape of an alpha.
#[derive(Debug, PartialEq, Eq)]
struct Form {
    dtype: Dtype,
    dims: Vec<u64>,
}

impl Form {
    fn of(tensor: &LazyTensor) -> Self {
        Form { dtype: tensor.dtype(), dims: tensor.shape().dims().to_vec() }
    }

    /// The form as a text: `F32`, and `F32 1` for a tensor with a dimension.
    fn to_text(&self) -> String {
        std::iter::once(self.dtype.to_string())
            .chain(self.dims.iter().map(u64::to_string))
            .collect::<Vec<_>>()
            .join(" ")
    }

    fn parse(text: &str) -> Option<Self> {
        let mut words = text.split(' ');
        let name = words.next()?;
        let dtype = [Dtype::F64, Dtype::F32, Dtype::F16, Dtype::BF16, Dtype::I64]
            .into_iter()
            .find(|it| it.to_string() == name)?;
        let dims = words.map(|word| word.parse().ok().filter(|dim| *dim == 1)).collect::<Option<Vec<u64>>>()?;
        Some(Form { dtype, dims })
    }
}

/// Returns what kohya's names had that those of diffusers and PEFT do not: the spelling, and the form of the alphas.
pub(super) fn record(lora: &Lora<'_>) -> Map<String, Value> {
    if lora.names != Some(LoraNames::Kohya) {
        let mut record = lora.record.clone();
        record.retain(|field, _| ![NETWORK, CONFIG, ADAPTER_METADATA].contains(&field.as_str()));
        return record;
    }
    let mut record = Map::new();
    let (found, usual) = (lora.spelling, Spelling::of(lora.architecture));
    for (field, found, usual) in
        [("is_ldm", found.is_ldm, usual.is_ldm), ("is_numbered", found.is_numbered, usual.is_numbered)]
    {
        record.extend((found != usual).then(|| (field.to_owned(), found.into())));
    }
    let mut forms: IndexMap<String, Vec<String>> = IndexMap::new();
    let mut without = Vec::new();
    for change in &lora.changes {
        let usual = change.parts.values().next().map(|part| Form { dtype: part.tensor.dtype(), dims: Vec::new() });
        match change.stored_alpha.map(|alpha| Form::of(alpha.tensor)) {
            Some(form) if usual.as_ref() == Some(&form) => {
                forms.entry(String::new()).or_default().push(of_network(change))
            }
            Some(form) => forms.entry(form.to_text()).or_default().push(of_network(change)),
            None => without.push(of_network(change)),
        }
    }
    match forms.iter().collect::<Vec<_>>().as_slice() {
        [(form, _)] if !form.is_empty() => {
            record.insert("alphas".to_owned(), json!({ "*": form }));
        }
        _ => {
            let unusual = forms.iter().filter(|(form, _)| !form.is_empty());
            let unusual: Map<_, _> = unusual
                .flat_map(|(form, modules)| modules.iter().map(move |module| (module.clone(), form.as_str().into())))
                .collect();
            record.extend((!unusual.is_empty()).then(|| ("alphas".to_owned(), Value::Object(unusual))));
        }
    }
    if forms.is_empty() {
        record.insert("without_alpha".to_owned(), json!("*"));
    } else if !without.is_empty() {
        record.insert("without_alpha".to_owned(), without.into());
    }
    record
}

/// Returns whether a module had no alpha in the file that the LoRA once was.
pub(super) fn is_without(lora: &Lora<'_>, change: &Change<'_>) -> bool {
    match lora.record.get("without_alpha") {
        Some(Value::Array(modules)) => modules.iter().any(|module| module.as_str() == Some(&of_network(change))),
        all => all.is_some_and(|all| all == "*"),
    }
}

/// Returns the tensor of an alpha, as the file that the LoRA once was had it, or as kohya's trainer writes it.
pub(super) fn alpha(lora: &Lora<'_>, change: &Change<'_>, alpha: f64) -> Result<LazyTensor> {
    let of_weights = change.parts.values().next().or_internal("a change has no tensors")?.tensor.dtype();
    let recorded = lora.record.get("alphas").and_then(Value::as_object);
    let form = recorded.and_then(|forms| forms.get(&of_network(change)).or_else(|| forms.get("*")));
    let form = form.and_then(|form| Form::parse(form.as_str()?));
    let Form { dtype, dims } = form.unwrap_or(Form { dtype: of_weights, dims: Vec::new() });
    let shape = Shape::new(dims)?;
    // The other forms are compared below, and f32 is the closest one.
    let (single, whole) = (alpha as f32, alpha as i64);
    let single = LazyTensor::owned(Dtype::F32, shape.clone(), single.to_le_bytes().to_vec())?;
    let wanted = match dtype {
        Dtype::I64 => LazyTensor::owned(Dtype::I64, shape, whole.to_le_bytes().to_vec())?,
        Dtype::F64 => LazyTensor::owned(Dtype::F64, shape, alpha.to_le_bytes().to_vec())?,
        dtype if dtype.is_float() => single.clone().cast(dtype, Overflow::Saturate)?,
        _ => single.clone(),
    };
    Ok(if scalar(&wanted).is_ok_and(|value| value == alpha) { wanted } else { single })
}

/// Returns the name of a module with that of its network.
fn of_network(change: &Change<'_>) -> String {
    format!("{}.{}", change.module.network.name(), change.module.name)
}
