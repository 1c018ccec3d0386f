//! What a conversion drops, and why.

use std::collections::HashSet;

use crate::ledger::DropReason;
use crate::notice::{Notice, NoticeCode};
use crate::parameterization::is_mark_key;
use crate::plan::convert_options::{ConvertOptions, Ema};
use crate::quantization::Wanted;
use crate::{Component, Components, ema};
use trinart_ckpt_formats::state_dict::StateDict;

/// Decides which tensors a conversion drops.
pub(super) struct Drops {
    options: ConvertOptions,
    components: Components,
    /// Whether to drop what inference does not need. Not so for files of unknown architecture.
    prunes: bool,
    /// Whether the EMA is kept when pruning, because weights that it averages are missing.
    keeps_ema: bool,
}

impl Drops {
    /// `is_known` tells whether the file has a network of Stable Diffusion.
    pub(super) fn new(options: &ConvertOptions, source: &StateDict, is_known: bool) -> Self {
        let prunes = options.prune && is_known;
        let keeps_ema = options.prune && options.ema.is_none() && has_lone_ema(source);
        Drops { options: *options, components: Components::of(source), prunes, keeps_ema }
    }

    /// Returns the component of a key of the input.
    pub(super) fn component(&self, key: &str) -> Component {
        self.components.of_key(key)
    }

    /// Returns why a key is dropped; `None` if it is kept.
    pub(super) fn reason(&self, key: &str) -> Option<DropReason> {
        if is_mark_key(key) {
            let is_left = self.options.component.is_some_and(|wanted| wanted != Component::Unet);
            return is_left.then_some(DropReason::OtherComponent);
        }
        let component = self.component(key);
        let is_other = self.options.component.is_some_and(|wanted| wanted != component)
            || self.options.only.is_some_and(|only| !only.has(key));
        if component == Component::Ema {
            let keeps_whole = self.options.ema.is_none() && (self.keeps_ema || self.options.prune && !self.prunes);
            return match self.options.ema_action() {
                Ema::Use if self.options.component.is_some_and(|wanted| wanted != Component::Unet) => {
                    Some(DropReason::OtherComponent)
                }
                Ema::Use if ema::is_counter(key) => Some(DropReason::EmaCounter),
                Ema::Use => Some(DropReason::EmaUnmatched),
                Ema::Drop if keeps_whole && !is_other => None,
                Ema::Drop => Some(DropReason::Ema),
                Ema::Keep => is_other.then_some(DropReason::OtherComponent),
            };
        }
        if is_other {
            return Some(DropReason::OtherComponent);
        }
        let is_useless = matches!(component, Component::Schedule | Component::TrainingResidue);
        // A component that was asked for is kept.
        let is_pruned = self.prunes && is_useless && self.options.component.is_none();
        is_pruned.then_some(DropReason::Pruned(component))
    }

    /// Returns what the output needs of a weight, should it be quantized.
    pub(super) fn wanted(&self, key: &str) -> Wanted {
        // The EMA replaces the weights but none of their scales.
        let is_replaced = self.options.ema_action() == Ema::Use && self.component(key) == Component::Unet;
        match self.options.cast_of(self.component(key)) {
            _ if self.reason(key).is_some() => Wanted::Stored,
            Some(cast) => Wanted::In(cast.to),
            None if self.options.dequantize || is_replaced => Wanted::Values,
            None => Wanted::Stored,
        }
    }

    /// Returns the notice about what pruning kept.
    pub(super) fn notice(&self) -> Option<Notice> {
        if self.options.prune && !self.prunes {
            let text = "pruned nothing: the file is of no known architecture";
            return Some(Notice::new(NoticeCode::NotPruned, text));
        }
        self.keeps_ema.then(|| {
            let text = "kept the EMA: the file lacks weights that it averages";
            Notice::new(NoticeCode::EmaKept, text)
        })
    }
}

/// Returns whether the file has an EMA of weights that it lacks.
fn has_lone_ema(source: &StateDict) -> bool {
    // An EMA key is the key of the weight without dots, and without the name of the model if that is a part of another.
    let flat = |key: &str| key.replace('.', "");
    let weights = source.keys().filter(|key| !key.starts_with(ema::PREFIX));
    let weights: HashSet<String> =
        weights.flat_map(|key| [flat(key), flat(key.strip_prefix("model.").unwrap_or(key))]).collect();
    let averages = source.keys().filter(|key| !ema::is_counter(key)).filter_map(|key| key.strip_prefix(ema::PREFIX));
    averages.into_iter().any(|average| !weights.contains(average))
}
