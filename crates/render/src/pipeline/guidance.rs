//! Classifier-free guidance: the weighted sum of the UNet's predictions for the prompts and for the negative prompt.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;

use candle_core::{Result as CandleResult, Tensor};

use super::text::EncodedText;
use crate::errors::from_candle;
use crate::networks::{Conditioning, PreparedPrompt, Unet};
use crate::sampling::{Denoiser, NoiseSchedule, Prediction};
use crate::settings::{GuidanceSkips, PromptPadding, Settings};
use trinart_ckpt_formats::error::{Error, Result};

/// Maximum number of selections of texts that stay prepared. An alternation of four words has four.
const PREPARED: usize = 8;

/// Encoded prompts over time, with their guidance factors.
pub(super) struct Guidance<'a> {
    text: &'a EncodedText,
    /// The CFG scale, in the sampler's terms.
    cfg: f64,
    padding: PromptPadding,
    keeps_negative: bool,
    skips: GuidanceSkips,
    /// The number of calls that WebUI expects.
    steps: usize,
    /// Gives the noise level of a time. `None` for samplers over times, for which WebUI takes the time.
    levels: Option<(Denoiser, NoiseSchedule)>,
    /// The image that the UNet takes besides the latent, `[1, channels, height, width]`.
    image: Option<Tensor>,
    /// The texts of the latest calls, by their indices in each part and in the negative prompt.
    prepared: RefCell<VecDeque<Prepared>>,
}

/// The indices of texts, and the batches of them.
type Prepared = (Vec<usize>, Rc<Vec<Group>>);

/// A prompt with its place among the prompts and its guidance factor.
type Member<'a> = (usize, f64, &'a Conditioning);

/// A batch of prompts.
struct Group {
    prepared: PreparedPrompt,
    /// The factor of each prompt.
    factors: Vec<f64>,
    /// The prompt whose prediction is wanted as that of the negative prompt.
    kept: Option<usize>,
}

impl<'a> Guidance<'a> {
    /// `image` is what the UNet takes besides the latent.
    pub(super) fn new(
        settings: &Settings,
        text: &'a EncodedText,
        image: Option<Tensor>,
        denoiser: Denoiser,
        schedule: NoiseSchedule,
    ) -> Self {
        Guidance {
            text,
            cfg: settings.cfg / settings.sampler.cfg_divisor(),
            padding: settings.padding,
            keeps_negative: settings.sampler.needs_negative(),
            skips: settings.webui.skips,
            steps: settings.sampler.prompt_steps(settings.steps),
            levels: settings.sampler.has_schedule().then_some((denoiser, schedule)),
            image,
            prepared: RefCell::default(),
        }
    }

    /// Returns the prompts of a call, batched by length.
    fn groups(&self, unet: &Unet, call: usize, skips: bool) -> Result<Rc<Vec<Group>>> {
        let schedules = self.text.parts.iter().map(|(_, part)| part).chain([&self.text.negative]);
        let selection: Vec<usize> =
            schedules.map(|schedule| schedule.index_at(call)).chain([usize::from(skips)]).collect();
        let mut prepared = self.prepared.borrow_mut();
        if let Some((_, groups)) = prepared.iter().find(|(of, _)| *of == selection) {
            return Ok(Rc::clone(groups));
        }
        let groups = Rc::new(self.batch(unet, call, skips)?);
        prepared.truncate(PREPARED - 1);
        prepared.push_front((selection, Rc::clone(&groups)));
        Ok(groups)
    }

    /// Batches prompts of equal length, like WebUI. `skips` leaves out the negative prompt: the first part takes its place,
    /// and the CFG scale is 1.
    fn batch(&self, unet: &Unet, call: usize, skips: bool) -> Result<Vec<Group>> {
        let parts: Vec<_> = self.text.parts.iter().map(|(weight, part)| (*weight, part.at(call).clone())).collect();
        let parts = stacked(&parts).map_err(from_candle)?;
        let (parts, negative) = self.padded(parts, self.text.negative.at(call)).map_err(from_candle)?;
        let cfg = if skips { 1.0 } else { self.cfg };
        let of_negative = 1.0 - parts.iter().map(|(weight, _)| cfg * weight).sum::<f64>();
        let of_first = if skips { of_negative } else { 0.0 };
        let prompts = parts.iter().enumerate();
        let prompts =
            prompts.map(|(index, (weight, prompt))| (cfg * weight + if index == 0 { of_first } else { 0.0 }, prompt));
        let prompts = prompts.chain((!skips).then_some((of_negative, &negative)));
        // At CFG scale 1, the negative prompt has factor 0 and needs no call.
        let kept = if skips { 0 } else { parts.len() };
        let is_needed = |index: usize, factor: f64| factor != 0.0 || (self.keeps_negative && index == kept);
        let prompts: Vec<_> = prompts.enumerate().filter(|(index, (factor, _))| is_needed(*index, *factor)).collect();
        let mut groups: Vec<(usize, Vec<Member<'_>>)> = Vec::new();
        for (index, (factor, prompt)) in prompts {
            let tokens = prompt.context.dim(1).map_err(from_candle)?;
            match groups.iter_mut().find(|(length, _)| *length == tokens) {
                Some((_, members)) => members.push((index, factor, prompt)),
                None => groups.push((tokens, vec![(index, factor, prompt)])),
            }
        }
        let prepare = |(_, members): (usize, Vec<Member<'_>>)| {
            let prompts: Vec<&Conditioning> = members.iter().map(|(_, _, prompt)| *prompt).collect();
            let prepared = unet.prepare(&Conditioning::batch(&prompts)?)?;
            let of_kept = members.iter().position(|(index, _, _)| self.keeps_negative && *index == kept);
            Ok(Group { prepared, factors: members.into_iter().map(|(_, factor, _)| factor).collect(), kept: of_kept })
        };
        groups.into_iter().map(prepare).collect()
    }

    /// Pads the prompt and the negative prompt to equal length by the options of WebUI.
    fn padded(
        &self,
        mut parts: Vec<(f64, Conditioning)>,
        negative: &Conditioning,
    ) -> CandleResult<(Vec<(f64, Conditioning)>, Conditioning)> {
        let length = |prompt: &Conditioning| prompt.context.dim(1);
        let lengths = parts.first().map(|(_, first)| length(first)).transpose()?.zip(Some(length(negative)?));
        let Some((ours, theirs)) = lengths.filter(|(ours, theirs)| ours != theirs) else {
            return Ok((parts, negative.clone()));
        };
        let negative = match self.padding {
            PromptPadding::None => negative.clone(),
            PromptPadding::LastVector if theirs > ours => {
                negative.clone().with_context(negative.context.narrow(1, 0, ours)?)
            }
            PromptPadding::LastVector => repeat_last(negative, ours - theirs)?,
            PromptPadding::EmptyPrompt => {
                let empty = &self.text.empty.context;
                let fill = |prompt: &Conditioning, missing: usize| {
                    let count = missing / empty.dim(1)?;
                    let context = Tensor::cat(&[&prompt.context, &empty.repeat((1, count, 1))?], 1)?;
                    CandleResult::Ok(prompt.clone().with_context(context))
                };
                match theirs > ours {
                    true => {
                        for (_, part) in &mut parts {
                            *part = fill(part, theirs - ours)?;
                        }
                        negative.clone()
                    }
                    false => fill(negative, ours - theirs)?,
                }
            }
        };
        Ok((parts, negative))
    }

    /// Calls the UNet with a latent and an empty prompt, without guidance.
    pub(super) fn unguided(&self, unet: &Unet, x: &Tensor, time: f64) -> Result<Tensor> {
        unet.forward(&self.with_image(x)?, time, &unet.prepare(&self.text.empty)?)
    }

    /// The input of the UNet: a latent, and the image that it takes besides.
    fn with_image(&self, x: &Tensor) -> Result<Tensor> {
        match &self.image {
            Some(image) => Tensor::cat(&[x, image], 1).map_err(from_candle),
            None => Ok(x.clone()),
        }
    }

    /// Calls the UNet with a latent, with guidance. `call` is the number of calls before this one.
    pub(super) fn predict(&self, unet: &Unet, x: &Tensor, time: f64, call: usize) -> Result<Prediction> {
        let mut total: Option<Tensor> = None;
        let mut negative = None;
        let sigma = self.levels.as_ref().map_or(time, |(denoiser, schedule)| denoiser.sigma(time, schedule));
        let skips = self.skips.skips(call, self.steps, sigma);
        let x = self.with_image(x)?;
        for Group { prepared, factors, kept } in self.groups(unet, call, skips)?.iter() {
            let batch = x.repeat((factors.len(), 1, 1, 1)).map_err(from_candle)?;
            let predicted = unet.forward(&batch, time, prepared)?;
            for (index, factor) in factors.iter().enumerate() {
                let add = || {
                    let term = predicted.narrow(0, index, 1)?.affine(*factor, 0.0)?;
                    total.as_ref().map_or(Ok(term.clone()), |total| total + &term)
                };
                total = Some(add().map_err(from_candle)?);
            }
            if let Some(index) = kept {
                negative = Some(predicted.narrow(0, *index, 1).map_err(from_candle)?);
            }
        }
        let guided =
            total.ok_or_else(|| Error::usage("every part of the prompt has weight 0: set a nonzero weight"))?;
        Ok(Prediction { guided, negative })
    }
}

/// Pads the parts of a prompt to equal length by repeating the last vector, like WebUI. WebUI does not pad the negative
/// prompt; if its length differs, it gets a separate call.
fn stacked(parts: &[(f64, Conditioning)]) -> CandleResult<Vec<(f64, Conditioning)>> {
    let lengths = parts.iter().map(|(_, prompt)| prompt.context.dim(1)).collect::<CandleResult<Vec<_>>>()?;
    let Some(longest) = lengths.iter().copied().max() else { return Ok(Vec::new()) };
    let stack = |((weight, prompt), length): (&(f64, Conditioning), usize)| {
        Ok((*weight, if length == 0 { prompt.clone() } else { repeat_last(prompt, longest - length)? }))
    };
    parts.iter().zip(lengths).map(stack).collect()
}

/// Appends the last vector of a prompt `missing` times.
fn repeat_last(prompt: &Conditioning, missing: usize) -> CandleResult<Conditioning> {
    if missing == 0 {
        return Ok(prompt.clone());
    }
    let context = &prompt.context;
    let last = context.narrow(1, context.dim(1)? - 1, 1)?.repeat((1, missing, 1))?;
    Ok(prompt.clone().with_context(Tensor::cat(&[context, &last], 1)?))
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    #[test]
    fn pads_shorter_parts_with_their_last_vector() {
        let part = |values: &[f32]| {
            Conditioning::from(Tensor::new(values, &Device::Cpu).unwrap().reshape((1, (), 2)).unwrap())
        };
        let parts = [(1.0, part(&[1.0, 2.0, 3.0, 4.0])), (0.5, part(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0]))];
        let found = stacked(&parts).unwrap();
        let values = |index: usize| found[index].1.context.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert_eq!(values(0), [1.0, 2.0, 3.0, 4.0, 3.0, 4.0, 3.0, 4.0]);
        assert_eq!(values(1), [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0]);
        assert_eq!((found[0].0, found[1].0), (1.0, 0.5));
    }
}
