//! The two autoencoders of Stable Video Diffusion.
//!
//! A file of the original code has one whose decoder has layers over time (`first_stage_model.`), without `quant_conv`, and
//! a whole VAE of Stable Diffusion, whose encoder takes the first frame (`conditioner.embedders.3.encoder.`). A folder has
//! one VAE: the encoder of the latter with its `quant_conv`, and the decoder of the former. ComfyUI encodes the first frame
//! with the former, so a file made from a folder gets that encoder with `quant_conv` folded into its last convolution.

use trinart_ckpt_formats::StateDict;
use trinart_ckpt_formats::error::{Error, OrInternal, Result};
use trinart_ckpt_formats::tensor::{Dtype, LazyTensor, Overflow, Shape};

use crate::file_kind::has_unet;
use crate::ledger::{Change, Disposition, DropReason, LedgerLine, Origin};
use crate::notice::{Notice, NoticeCode};
use crate::pipeline::FRAMES;
use crate::plan::Resolved;
use crate::vae::PREFIX;

/// The prefix of the autoencoder of the first frame.
pub(super) const FIRST_FRAME: &str = "conditioner.embedders.3.encoder.";

/// The prefix of the same autoencoder in Stable Video 3D.
const FIRST_FRAME_3D: &str = "conditioner.embedders.1.encoder.";

/// Returns whether a tensor is of the autoencoder of the first frame, in a file of the original code.
pub(super) fn is_of_first_frame(key: &str) -> bool {
    key.starts_with(FIRST_FRAME) || key.starts_with(FIRST_FRAME_3D)
}

/// The layers between an encoder and its latents.
const QUANT: [&str; 2] = ["quant_conv.weight", "quant_conv.bias"];

/// The last convolution of an encoder.
const CONV_OUT: [&str; 2] = ["encoder.conv_out.weight", "encoder.conv_out.bias"];

/// The most elements of a convolution that is folded (the published one has 36864), which is held in memory.
const MOST_ELEMENTS: u64 = 1 << 22;

/// Returns the notice about the frames of a folder that is made from tensors alone.
pub(super) fn frames_assumed() -> Notice {
    let text = format!(
        "assumed videos of {FRAMES} frames, as of img2vid-xt: no tensor shows it, and img2vid has 14 (num_frames in \
         unet/config.json)"
    );
    Notice::new(NoticeCode::FramesAssumed, text)
}

/// Returns the prefix of a VAE whose decoder has layers over time: that of a checkpoint, or none. `None` without such a VAE.
fn prefix_of(state_dict: &StateDict) -> Option<&'static str> {
    let is_video = |prefix: &&str| state_dict.contains(&format!("{prefix}decoder.mid.block_1.mix_factor"));
    [PREFIX, ""].into_iter().find(is_video)
}

/// Gives a video model in LDM names the VAE of a folder, unless it has it.
pub(super) fn for_folder(resolved: &mut Resolved) -> Result<()> {
    let Some(prefix) = prefix_of(&resolved.state_dict) else { return Ok(()) };
    let has = |prefix: &str, key: &str| resolved.state_dict.contains(&format!("{prefix}{key}"));
    if QUANT.iter().any(|key| has(prefix, key)) {
        return Ok(());
    }
    let encoder = resolved.state_dict.keys().filter_map(|key| key.strip_prefix(PREFIX));
    let has_encoder = encoder.filter(|key| key.starts_with("encoder.")).all(|key| has(FIRST_FRAME, key));
    if has_encoder && QUANT.iter().all(|key| has(FIRST_FRAME, key)) {
        take_first_frame(resolved)
    } else {
        add_identity(resolved, prefix)
    }
}

/// The key in the only VAE of a folder of a key of either autoencoder; `None` if that VAE lacks the tensor.
fn in_folder(key: &str) -> Option<String> {
    match key.strip_prefix(FIRST_FRAME) {
        Some(bare) => {
            let is_used = bare.starts_with("encoder.") || QUANT.contains(&bare);
            is_used.then(|| format!("{PREFIX}{bare}"))
        }
        None if key.strip_prefix(PREFIX).is_some_and(|bare| bare.starts_with("encoder.")) => None,
        None => Some(key.to_owned()),
    }
}

/// Replaces the encoder by that of the first frame.
fn take_first_frame(resolved: &mut Resolved) -> Result<()> {
    let mut state_dict = StateDict::new();
    for (key, tensor) in resolved.state_dict.iter() {
        if let Some(key) = in_folder(key) {
            state_dict.insert(key, tensor.clone())?;
        }
    }
    resolved.state_dict = state_dict;
    resolved.ledger.rewrite(|line| {
        let Disposition::Written { key, changes } = &line.disposition else { return vec![line] };
        let disposition = match in_folder(key) {
            None if line.from == Origin::Program => return Vec::new(),
            None => Disposition::Dropped { reason: DropReason::SecondAutoencoder },
            Some(other) if other == *key => return vec![line],
            Some(other) => Disposition::Written { key: other, changes: renamed(changes) },
        };
        vec![LedgerLine { disposition, ..line }]
    });
    Ok(())
}

/// Returns the changes of a tensor that also gets another name.
fn renamed(changes: &[Change]) -> Vec<Change> {
    let renamed = (!changes.contains(&Change::Renamed)).then_some(Change::Renamed);
    renamed.into_iter().chain(changes.iter().cloned()).collect()
}

/// Adds a `quant_conv` that changes nothing: the encoder has it folded into its last convolution.
fn add_identity(resolved: &mut Resolved, prefix: &str) -> Result<()> {
    let key = format!("{prefix}{}", CONV_OUT[0]);
    // Without it, the folder lacks a tensor, which is an error there.
    let Some(last) = resolved.state_dict.get(&key) else { return Ok(()) };
    let channels = last.shape().dims().first().copied().unwrap_or(0);
    let elements = channels.checked_mul(channels).filter(|&elements| elements <= MOST_ELEMENTS);
    let elements = elements.ok_or_else(|| too_large(last).in_tensor(&key))?;
    let dtype = float_dtype(last);
    // Every row has its 1 one place further.
    let weight = (0..elements).map(|index| if index % (channels + 1) == 0 { 1.0 } else { 0.0 }).collect();
    let bias = (0..channels).map(|_| 0.0).collect();
    for (key, dims, values) in [(QUANT[0], vec![channels, channels, 1, 1], weight), (QUANT[1], vec![channels], bias)] {
        let key = format!("{prefix}{key}");
        resolved.state_dict.insert(key.as_str(), of_values(values, dims, dtype)?)?;
        resolved.ledger.written(Origin::Program, &key, &key, vec![Change::Inserted]);
    }
    Ok(())
}

/// Gives the VAE of a folder the shape that readers of single files look for. With a UNet, the autoencoder of the first
/// frame keeps every value. Reads the last convolution of the encoder.
pub(super) fn for_file(resolved: &mut Resolved) -> Result<()> {
    let Some(prefix) = prefix_of(&resolved.state_dict) else { return Ok(()) };
    let is_there = |key: &&str| resolved.state_dict.contains(&format!("{prefix}{key}"));
    if !QUANT.iter().chain(&CONV_OUT).all(is_there) {
        return Ok(());
    }
    if has_unet(&resolved.state_dict) { split(resolved, prefix) } else { fold_alone(resolved, prefix) }
}

/// Folds `quant_conv` into the last convolution of a VAE without a UNet.
fn fold_alone(resolved: &mut Resolved, prefix: &str) -> Result<()> {
    let folded = fold(&resolved.state_dict, prefix)?;
    let full = |key: &str| format!("{prefix}{key}");
    let target =
        |key: &str| QUANT.iter().zip(CONV_OUT).find(|(quant, _)| full(quant) == key).map(|(_, conv)| full(conv));
    let mut state_dict = StateDict::new();
    for (key, tensor) in resolved.state_dict.iter().filter(|(key, _)| target(key).is_none()) {
        let folded = CONV_OUT.iter().zip(&folded).find(|(conv, _)| full(conv) == key);
        state_dict.insert(key, folded.map_or(tensor, |(_, folded)| folded).clone())?;
    }
    resolved.state_dict = state_dict;
    resolved.ledger.rewrite(|mut line| {
        if let Disposition::Written { key, changes } = &mut line.disposition {
            let joined = target(key).or_else(|| CONV_OUT.iter().map(|conv| full(conv)).find(|conv| conv == key));
            if let Some(joined) = joined {
                *key = joined;
                changes.push(Change::Joined);
            }
        }
        vec![line]
    });
    Ok(())
}

/// Moves the encoder and `quant_conv` to the autoencoder of the first frame, and leaves a copy of the encoder with
/// `quant_conv` folded in.
fn split(resolved: &mut Resolved, prefix: &str) -> Result<()> {
    let folded = fold(&resolved.state_dict, prefix)?;
    let moved = |key: &str| {
        let bare = key.strip_prefix(prefix)?;
        (bare.starts_with("encoder.") || QUANT.contains(&bare)).then(|| format!("{FIRST_FRAME}{bare}"))
    };
    let is_copied =
        |key: &str| key.strip_prefix(prefix).is_some_and(|bare| !QUANT.contains(&bare) && !CONV_OUT.contains(&bare));
    let mut state_dict = StateDict::new();
    for (key, tensor) in resolved.state_dict.iter() {
        match moved(key) {
            None => state_dict.insert(key, tensor.clone())?,
            Some(other) => {
                state_dict.insert(other, tensor.clone())?;
                if is_copied(key) {
                    state_dict.insert(key, tensor.clone())?;
                }
            }
        }
    }
    for (key, tensor) in CONV_OUT.iter().zip(folded) {
        state_dict.insert(format!("{prefix}{key}"), tensor)?;
    }
    resolved.state_dict = state_dict;
    resolved.ledger.rewrite(|mut line| {
        if let Disposition::Written { key, changes } = &line.disposition
            && let Some(other) = moved(key)
        {
            let changes = renamed(changes);
            line.disposition = match is_copied(key) {
                true => Disposition::Split { keys: vec![other, key.clone()], changes },
                false => Disposition::Written { key: other, changes },
            };
        }
        vec![line]
    });
    for key in CONV_OUT {
        let key = format!("{prefix}{key}");
        resolved.ledger.written(Origin::Program, &key, &key, vec![Change::Inserted]);
    }
    let text = "wrote the encoder of the VAE twice, as the original code and ComfyUI look for it: for the first frame, and \
                with quant_conv folded into its last convolution";
    resolved.notices.push(Notice::new(NoticeCode::EncoderTwice, text));
    Ok(())
}

fn too_large(tensor: &LazyTensor) -> Error {
    let found = format!("shape {}, expected at most {MOST_ELEMENTS} elements to fold quant_conv into", tensor.shape());
    Error::unsupported(found)
}

/// Returns the weight and the bias of the last convolution of an encoder, followed by `quant_conv`: a 1x1 convolution of its
/// output, which is linear. Fails if the shapes do not fit, or if a value overflows the dtype of the convolution.
fn fold(state_dict: &StateDict, prefix: &str) -> Result<[LazyTensor; 2]> {
    let get = |key: &str| {
        let key = format!("{prefix}{key}");
        let tensor = state_dict.get(&key).or_internal("a tensor of a VAE vanished during planning")?;
        values(tensor).map(|values| (tensor, values)).map_err(|error| error.in_tensor(&key))
    };
    let [(weight, weights), (bias, biases)] = [get(CONV_OUT[0])?, get(CONV_OUT[1])?];
    let [(quant, mix), (_, shift)] = [get(QUANT[0])?, get(QUANT[1])?];
    let channels = biases.len();
    let kernel = weights.len() / channels.max(1);
    if channels == 0
        || mix.len() != channels * channels
        || shift.len() != channels
        || kernel * channels != weights.len()
    {
        let found = format!("shape {}, expected one that fits {} of {}", quant.shape(), weight.shape(), CONV_OUT[0]);
        return Err(Error::mismatch(found).in_tensor(format!("{prefix}{}", QUANT[0])));
    }
    let mut folded = vec![0.0_f64; weights.len()];
    let mut folded_bias = shift;
    let rows = mix.chunks_exact(channels).zip(folded.chunks_exact_mut(kernel)).zip(&mut folded_bias);
    for ((row, output), sum) in rows {
        for ((factor, input), bias) in row.iter().zip(weights.chunks_exact(kernel)).zip(&biases) {
            output.iter_mut().zip(input).for_each(|(output, input)| *output += factor * input);
            *sum += factor * bias;
        }
    }
    let made = |values: Vec<f64>, tensor: &LazyTensor, key: &str| {
        let singles = values.into_iter().map(|value| value as f32).collect();
        let made = of_values(singles, tensor.shape().dims().to_vec(), float_dtype(tensor));
        made.map_err(|error| error.in_tensor(format!("{prefix}{key}")))
    };
    Ok([made(folded, weight, CONV_OUT[0])?, made(folded_bias, bias, CONV_OUT[1])?])
}

/// The dtype of a tensor that is computed from this one.
fn float_dtype(tensor: &LazyTensor) -> Dtype {
    if tensor.dtype().is_float() { tensor.dtype() } else { Dtype::F32 }
}

/// Reads the values of a small tensor.
fn values(tensor: &LazyTensor) -> Result<Vec<f64>> {
    if tensor.shape().elements() > MOST_ELEMENTS {
        return Err(too_large(tensor));
    }
    if !tensor.dtype().is_float() {
        return Err(Error::unsupported(format!("dtype {}, expected a floating-point dtype", tensor.dtype())));
    }
    let bytes = tensor.clone().cast(Dtype::F32, Overflow::Saturate)?.to_bytes()?;
    Ok(bytes.as_chunks().0.iter().map(|bytes| f64::from(f32::from_le_bytes(*bytes))).collect())
}

/// Returns a tensor of these values.
fn of_values(values: Vec<f32>, dims: Vec<u64>, dtype: Dtype) -> Result<LazyTensor> {
    let bytes: Vec<u8> = values.into_iter().flat_map(f32::to_le_bytes).collect();
    let tensor = LazyTensor::owned(Dtype::F32, Shape::new(dims)?, bytes)?;
    if dtype == Dtype::F32 { Ok(tensor) } else { tensor.cast(dtype, Overflow::Refuse) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state_dict(tensors: &[(&str, &[u64], &[f32])]) -> StateDict {
        let mut state_dict = StateDict::new();
        for (key, dims, values) in tensors {
            state_dict.insert(*key, of_values(values.to_vec(), dims.to_vec(), Dtype::F32).unwrap()).unwrap();
        }
        state_dict
    }

    #[test]
    fn folds_a_convolution_of_the_output_into_the_last_one() {
        let tensors: [(&str, &[u64], &[f32]); 4] = [
            (CONV_OUT[0], &[2, 3, 1, 1], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]),
            (CONV_OUT[1], &[2], &[0.5, -0.5]),
            (QUANT[0], &[2, 2, 1, 1], &[2.0, 0.0, 1.0, -1.0]),
            (QUANT[1], &[2], &[10.0, 20.0]),
        ];
        let [weight, bias] = fold(&state_dict(&tensors), "").unwrap();
        assert_eq!(values(&weight).unwrap(), [2.0, 4.0, 6.0, -3.0, -3.0, -3.0]);
        assert_eq!(values(&bias).unwrap(), [11.0, 21.0]);
        assert_eq!(weight.shape().dims(), [2, 3, 1, 1]);
        let mut wrong = tensors;
        wrong[2] = (QUANT[0], &[1, 2, 1, 1], &[2.0, 0.0]);
        let error = fold(&state_dict(&wrong), "").unwrap_err().to_string();
        assert!(error.contains("quant_conv.weight") && error.contains("shape [1, 2, 1, 1]"), "{error}");
    }

    #[test]
    fn folds_convolutions_up_to_a_limit() {
        let tensor =
            |elements: u64| LazyTensor::owned(Dtype::U8, Shape::new([elements]).unwrap(), vec![0; elements as usize]);
        let found = |elements| values(&tensor(elements).unwrap()).unwrap_err().to_string();
        assert!(found(MOST_ELEMENTS).contains("expected a floating-point dtype"));
        assert!(found(MOST_ELEMENTS + 1).contains("at most 4194304 elements"));
    }
}
