//! The values of a file, read once.

use std::borrow::Cow;
use std::sync::Arc;

use trinart_ckpt_formats::containers::{Container, safetensors};
use trinart_ckpt_formats::io::{Progress, Source};
use trinart_ckpt_formats::tensor::{Dtype, LazyTensor, NonFiniteTensor};
use trinart_ckpt_formats::{Result, StateDict};
use trinart_ckpt_models::hash::{FileHashes, Request, TensorValues, bf16_hash, hash_of, read_values, rounded_hash};
use trinart_ckpt_models::toolkit::Sums;
use trinart_ckpt_models::{Checkpoint, Component, Components, vae};

/// The hashes of a file, and the values of its tensors by component.
pub(super) struct Contents<'c> {
    /// `None` for folders, and if only tensors were read.
    pub(super) file: Option<FileHashes>,
    tensors: Vec<Named<'c>>,
}

/// The hashes of the values of a VAE, by which it is compared with others whatever their dtypes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RoundedVae {
    pub(super) f16: String,
    pub(super) bf16: String,
    /// Whether it is stored in BF16.
    pub(super) is_bf16: bool,
}

impl RoundedVae {
    /// Whether two VAEs are equal by rounding: to F16, or to BF16 if one of them is no more precise.
    pub(super) fn is_equal(&self, other: &Self) -> bool {
        self.f16 == other.f16 || (self.is_bf16 || other.is_bf16) && self.bf16 == other.bf16
    }
}

/// A tensor with its component, its key in content hashes, and its values.
type Named<'c> = (Component, Cow<'c, str>, LazyTensor, TensorValues);

impl<'c> Contents<'c> {
    /// Reads all of a file or folder. `named` is the checkpoint in LDM names.
    pub(super) fn read(
        checkpoint: &Checkpoint,
        named: &'c StateDict,
        jobs: usize,
        progress: &dyn Progress,
    ) -> Result<Self> {
        let source = match checkpoint.container() {
            Container::Diffusers => None,
            Container::Safetensors => {
                let source = checkpoint.file()?;
                Some((source, Some(safetensors::data_offset(source)?)))
            }
            _ => Some((checkpoint.file()?, None)),
        };
        Self::of_tensors(checkpoint, source, named, |_, _| true, jobs, progress)
    }

    /// Reads some tensors.
    pub(super) fn read_only(
        checkpoint: &Checkpoint,
        wanted: impl Fn(Component, &LazyTensor) -> bool,
        jobs: usize,
        progress: &dyn Progress,
    ) -> Result<Contents<'static>> {
        let named = checkpoint.in_ldm_names();
        let found = Contents::of_tensors(checkpoint, None, named.state_dict(), wanted, jobs, progress)?;
        let owned = |(component, key, tensor, values): Named<'_>| (component, key.into_owned().into(), tensor, values);
        Ok(Contents { file: None, tensors: found.tensors.into_iter().map(owned).collect() })
    }

    /// Reads the wanted tensors of `named`, and with a source the whole file.
    fn of_tensors(
        checkpoint: &Checkpoint,
        source: Option<(&Arc<Source>, Option<u64>)>,
        named: &'c StateDict,
        wanted: impl Fn(Component, &LazyTensor) -> bool,
        jobs: usize,
        progress: &dyn Progress,
    ) -> Result<Self> {
        let of = Components::of(named);
        let all = named.iter().map(|(key, tensor)| (of.of_key(key), key, tensor));
        let tensors: Vec<_> = all.filter(|(component, _, tensor)| wanted(*component, tensor)).collect();
        let request = |(component, _, tensor): &(Component, &str, &'c LazyTensor)| Request {
            tensor,
            rounds_to_bf16: *component == Component::Vae,
        };
        let list: Vec<Request<'_>> = tensors.iter().map(request).collect();
        let read = read_values(source, &list, jobs, progress);
        let read = read.map_err(|error| error.in_file(checkpoint.path()))?;
        let named = |((component, key, tensor), values): ((Component, &'c str, &LazyTensor), TensorValues)| {
            (component, canonical(component, key), tensor.clone(), values)
        };
        Ok(Contents { file: read.file, tensors: tensors.into_iter().zip(read.tensors).map(named).collect() })
    }

    /// The contents without the tensors that are not wanted.
    pub(super) fn only(&self, wanted: impl Fn(Component, &LazyTensor) -> bool) -> Contents<'_> {
        let tensors = self.tensors.iter().filter(|(component, _, tensor, _)| wanted(*component, tensor));
        let borrowed = |(component, key, tensor, values): &'_ Named<'c>| {
            (*component, key.clone().into_owned().into(), tensor.clone(), values.clone())
        };
        Contents { file: None, tensors: tensors.map(borrowed).collect() }
    }

    /// The components that the file has.
    pub(super) fn components(&self) -> impl Iterator<Item = Component> + '_ {
        let has = |component: &Component| self.tensors.iter().any(|(found, ..)| found == component);
        Component::ALL.iter().copied().filter(move |component| has(component))
    }

    fn of(&self, component: Component) -> impl Iterator<Item = (&str, &LazyTensor, &TensorValues)> {
        let tensors = self.tensors.iter().filter(move |(found, ..)| *found == component);
        tensors.map(|(_, key, tensor, values)| (&**key, tensor, values))
    }

    /// The content hash of a component.
    pub(super) fn exact(&self, component: Component) -> String {
        hash_of(self.of(component))
    }

    /// The content hash of a component whatever its dtype; `None` if the file does not have it.
    pub(super) fn rounded(&self, component: Component) -> Option<String> {
        self.of(component).next().is_some().then(|| rounded_hash(self.of(component)))
    }

    /// The values of the VAE, to compare with other VAEs; `None` without one.
    pub(super) fn vae(&self) -> Option<RoundedVae> {
        let tensors = || self.of(Component::Vae);
        let floats = || tensors().map(|(_, tensor, _)| tensor.dtype()).filter(|dtype| dtype.is_float());
        let is_bf16 = floats().next().is_some() && floats().all(|dtype| dtype == Dtype::BF16);
        Some(RoundedVae { f16: self.rounded(Component::Vae)?, bf16: bf16_hash(tensors()), is_bf16 })
    }

    /// model-toolkit's sums.
    pub(super) fn sums(&self) -> Sums {
        let mut sums = Sums::default();
        self.tensors.iter().for_each(|(component, key, _, values)| sums.add(*component, key, values));
        sums
    }

    /// The tensors with NaN or infinite values.
    pub(super) fn non_finite(&self) -> Vec<NonFiniteTensor> {
        // In the order of reports: by component, then by key.
        let mut found: Vec<_> = self
            .tensors
            .iter()
            .filter_map(|(component, key, _, values)| Some((component, NonFiniteTensor::new(key, values.non_finite)?)))
            .collect();
        found.sort_by(|a, b| (a.0, &a.1.tensor).cmp(&(b.0, &b.1.tensor)));
        found.into_iter().map(|(_, found)| found).collect()
    }

    /// The weights of a UNet, VAE or text encoder that are all zero: matrices and kernels, which training does not leave so.
    pub(super) fn zeros(&self) -> Vec<&str> {
        let is_part = |it: Component| matches!(it, Component::Unet | Component::Vae | Component::TextEncoder);
        let is_weight = |key: &str, tensor: &LazyTensor| key.ends_with(".weight") && tensor.shape().dims().len() > 1;
        let zeros = self
            .tensors
            .iter()
            .filter(|(component, key, tensor, values)| is_part(*component) && is_weight(key, tensor) && values.is_zero);
        zeros.map(|(_, key, ..)| &**key).collect()
    }

    /// The tensors whose checksum is wrong.
    pub(super) fn damaged(&self) -> Vec<&str> {
        self.tensors.iter().filter(|(.., values)| values.is_damaged).map(|(_, key, ..)| &**key).collect()
    }
}

/// The key in a content hash: a VAE has the keys that it has in a checkpoint.
fn canonical(component: Component, key: &str) -> Cow<'_, str> {
    match component {
        Component::Vae => vae::canonical_key(key),
        _ => key.into(),
    }
}
