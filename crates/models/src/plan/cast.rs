use crate::ledger::Change;
use crate::parameterization::is_mark_key;
use crate::{Component, position_ids};
use trinart_ckpt_formats::error::Result;
use trinart_ckpt_formats::tensor::{Dtype, LazyTensor, Overflow};

/// A cast of floating-point tensors. Integer tensors and position_ids never change.
#[derive(Debug, Clone, Copy)]
pub struct Cast {
    /// The new dtype.
    pub to: Dtype,
    /// How to treat values that overflow the new dtype.
    pub overflow: Overflow,
}

impl Cast {
    /// Returns the tensor with this key in the new dtype, and the change if there is one.
    ///
    /// position_ids keep their dtype even if they are floats: rounding would turn a wrong position such as 75.9975 into
    /// another one. Marks keep theirs too: they are constants, not weights.
    pub(crate) fn apply(cast: Option<Self>, key: &str, tensor: &LazyTensor) -> Result<(LazyTensor, Option<Change>)> {
        let from = tensor.dtype();
        match cast {
            Some(cast) if from.is_float() && from != cast.to && !is_constant(key) => {
                Ok((tensor.clone().cast(cast.to, cast.overflow)?, Some(Change::cast(from, cast.to))))
            }
            _ => Ok((tensor.clone(), None)),
        }
    }
}

/// Whether the tensor with this key is a constant whose value a cast must not round.
fn is_constant(key: &str) -> bool {
    position_ids::is_key(key) || is_mark_key(key)
}

/// The dtype of a component in the output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ComponentDtype {
    /// The dtypes of the input: the tensors stay bit-identical.
    Keep,
    /// This dtype.
    As(Dtype),
}

/// The dtypes of components that do not follow the dtype of the whole output.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ComponentDtypes {
    /// The dtype of the UNet; `None` follows the whole output.
    pub unet: Option<ComponentDtype>,
    /// The dtype of the VAE; `None` follows the whole output.
    pub vae: Option<ComponentDtype>,
    /// The dtype of the text encoders; `None` follows the whole output.
    pub text_encoder: Option<ComponentDtype>,
}

impl ComponentDtypes {
    /// The components with a dtype of their own.
    pub(crate) fn set(&self) -> impl Iterator<Item = Component> {
        let set = |component: &Component| self.get(*component).is_some();
        [Component::Unet, Component::Vae, Component::TextEncoder]
            .into_iter()
            .filter(set)
            .collect::<Vec<_>>()
            .into_iter()
    }

    /// Returns the cast of a component, if `whole` is the cast of the whole output.
    pub(crate) fn cast(&self, component: Component, whole: Option<Cast>, overflow: Overflow) -> Option<Cast> {
        match self.get(component) {
            Some(ComponentDtype::Keep) => None,
            Some(ComponentDtype::As(to)) => Some(Cast { to, overflow }),
            None => whole,
        }
    }

    fn get(&self, component: Component) -> Option<ComponentDtype> {
        match component {
            Component::Unet => self.unet,
            Component::Vae => self.vae,
            Component::TextEncoder => self.text_encoder,
            _ => None,
        }
    }
}
