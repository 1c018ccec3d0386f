use crate::Component;
use crate::plan::{Cast, ComponentDtypes, TextEncoder};
use trinart_ckpt_formats::tensor::Overflow;

/// How to treat the exponential moving average (EMA) of the weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Ema {
    /// Keep it beside the weights.
    Keep,
    /// Drop it.
    Drop,
    /// Replace the weights by it.
    Use,
}

/// The options of a conversion. The default keeps everything.
#[derive(Debug, Clone, Copy, Default)]
#[non_exhaustive]
pub struct ConvertOptions {
    /// Casts the floating-point tensors.
    pub cast: Option<Cast>,
    /// The EMA. `None` keeps it, or drops it if `prune` is set and `component` is not the EMA.
    pub ema: Option<Ema>,
    /// Drops what is known to be useless for inference: averages, schedule buffers, training residue.
    pub prune: bool,
    /// Keeps only this component.
    pub component: Option<Component>,
    /// Keeps only one of the text encoders, if `component` is the text encoder, under keys without prefix.
    pub only: Option<TextEncoder>,
    /// Corrects position_ids, and adds missing ones.
    pub fix_position_ids: bool,
    /// The dtypes of components that do not follow `cast`.
    pub dtypes: ComponentDtypes,
    /// How `dtypes` treat values that overflow, as well as dequantized weights.
    pub overflow: Overflow,
    /// Dequantizes quantized weights even without a cast, as a folder needs them.
    pub dequantize: bool,
    /// Leaves out tensors that the output has no place for, instead of failing.
    pub allow_loss: bool,
}

impl ConvertOptions {
    /// Casts the floating-point tensors.
    #[must_use]
    pub fn cast(self, cast: Cast) -> Self {
        ConvertOptions { cast: Some(cast), ..self }
    }

    /// Sets how to treat the EMA. By default it is kept, or dropped when pruning.
    #[must_use]
    pub fn ema(self, ema: Ema) -> Self {
        ConvertOptions { ema: Some(ema), ..self }
    }

    /// Drops what is known to be useless for inference: averages, schedule buffers, training residue. Keeps a file of unknown
    /// architecture whole.
    #[must_use]
    pub fn prune(self, prune: bool) -> Self {
        ConvertOptions { prune, ..self }
    }

    /// Keeps only this component.
    #[must_use]
    pub fn component(self, component: Component) -> Self {
        ConvertOptions { component: Some(component), ..self }
    }

    /// Keeps only this text encoder, under keys without prefix.
    #[must_use]
    pub fn text_encoder(self, only: TextEncoder) -> Self {
        ConvertOptions { component: Some(Component::TextEncoder), only: Some(only), ..self }
    }

    /// Corrects position_ids, and adds missing ones.
    #[must_use]
    pub fn fix_position_ids(self, fix: bool) -> Self {
        ConvertOptions { fix_position_ids: fix, ..self }
    }

    /// Leaves out tensors that the output has no place for, instead of failing.
    #[must_use]
    pub fn allow_loss(self, allow: bool) -> Self {
        ConvertOptions { allow_loss: allow, ..self }
    }

    /// Sets the dtypes of components that do not follow [`Self::cast`], and how they treat values that overflow.
    #[must_use]
    pub fn dtypes(self, dtypes: ComponentDtypes, overflow: Overflow) -> Self {
        ConvertOptions { dtypes, overflow, ..self }
    }

    /// Dequantizes quantized weights even without a cast.
    #[must_use]
    pub fn dequantize(self, dequantize: bool) -> Self {
        ConvertOptions { dequantize, ..self }
    }

    /// Returns the cast of the tensors of a component.
    pub(super) fn cast_of(&self, component: Component) -> Option<Cast> {
        self.dtypes.cast(component, self.cast, self.overflow)
    }

    /// The action for the EMA: the requested one, or the default.
    pub(super) fn ema_action(&self) -> Ema {
        let keeps_ema = !self.prune || self.component == Some(Component::Ema);
        self.ema.unwrap_or(if keeps_ema { Ema::Keep } else { Ema::Drop })
    }
}
