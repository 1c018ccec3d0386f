//! Whole models with all their keys at narrow widths, without a file in `fixtures/`.

use std::fs;
use std::path::{Path, PathBuf};

use trinart_ckpt::models::family::Architecture;
use trinart_ckpt_formats::containers::{self, Target, WriteOptions};
use trinart_ckpt_formats::metadata::PyValue;
use trinart_ckpt_formats::tensor::{Dtype, LazyTensor};
use trinart_ckpt_formats::{Metadata, StateDict};

use super::{Folder, fixture, position_ids, tensor};

const UNET_IN: &str = "model.diffusion_model.input_blocks.0.0.weight";

/// The bias that ComfyUI judges SD v2 by.
const NORM: &str = "model.diffusion_model.output_blocks.11.1.transformer_blocks.0.norm1.bias";

/// The tensors of a model in LDM names, in F16.
pub(crate) struct Narrow(pub(crate) Vec<(String, LazyTensor)>);

impl Narrow {
    pub(crate) fn new(architecture: Architecture) -> Self {
        let sd1 = |start: &str| {
            let mut list = keys("sd1-ldm.keys");
            list.retain(|(key, _)| key.starts_with(start));
            list
        };
        let mut list = match architecture {
            Architecture::Sd1 => sd1("model.diffusion_model."),
            Architecture::Sd2 => keys("layouts/sd2-unet.ldm.keys"),
            Architecture::Ssd1b => keys("layouts/ssd-1b-unet.ldm.keys"),
            Architecture::Vega => keys("layouts/vega-unet.ldm.keys"),
            Architecture::SdxlRefiner => keys("layouts/refiner-unet.ldm.keys"),
            Architecture::StableVideo => keys("layouts/svd-unet.ldm.keys"),
            _ => keys("layouts/sdxl-unet.ldm.keys"),
        };
        if architecture != Architecture::StableVideo {
            list.extend(keys("layouts/autoencoder.ldm.keys"));
        }
        match architecture {
            Architecture::StableVideo => list.extend(video()),
            Architecture::Sd1 => list.extend(sd1("cond_stage_model.")),
            Architecture::Sd2 => list.extend(keys("layouts/sd2-openclip.ldm.keys")),
            Architecture::SdxlRefiner => {
                let to_refiner = |key: String| key.replace("conditioner.embedders.1.", "conditioner.embedders.0.");
                let encoder = keys("layouts/sdxl-openclip.ldm.keys").into_iter();
                list.extend(encoder.map(|(key, dims)| (to_refiner(key), dims)));
            }
            _ => {
                let to_xl = |key: String| key.replace("cond_stage_model.", "conditioner.embedders.0.");
                list.extend(sd1("cond_stage_model.").into_iter().map(|(key, dims)| (to_xl(key), dims)));
                list.extend(keys("layouts/sdxl-openclip.ldm.keys"));
            }
        }
        let tensors = list.into_iter().map(|(key, dims)| {
            let tensor = if key.ends_with("position_ids") { position_ids(77) } else { filled(&dims) };
            (key, tensor)
        });
        Narrow(tensors.collect())
    }

    /// Adds a tensor.
    pub(crate) fn with(mut self, key: &str, tensor: LazyTensor) -> Self {
        self.0.push((key.to_owned(), tensor));
        self
    }

    /// Replaces the tensor with this key by one of this shape.
    pub(crate) fn shaped(mut self, key: &str, dims: &[u64]) -> Self {
        self.0.iter_mut().find(|(other, _)| other == key).unwrap().1 = filled(dims);
        self
    }

    /// Replaces the start of the keys that begin with `from`.
    pub(crate) fn renamed(mut self, from: &str, to: &str) -> Self {
        for (key, _) in &mut self.0 {
            if let Some(rest) = key.strip_prefix(from) {
                *key = format!("{to}{rest}");
            }
        }
        self
    }

    /// Replaces the input convolution by one of this many channels.
    pub(crate) fn channels(mut self, channels: u64) -> Self {
        let conv = self.0.iter_mut().find(|(key, _)| key == UNET_IN).unwrap();
        let width = conv.1.shape().dims()[0];
        conv.1 = filled(&[width, channels, 3, 3]);
        self
    }

    /// Gives the norm that ComfyUI judges SD v2 by this standard deviation. Does nothing for models without this norm.
    pub(crate) fn deviation(mut self, deviation: f32) -> Self {
        let Some(norm) = self.0.iter_mut().find(|(key, _)| key == NORM) else { return self };
        let values = (0..norm.1.shape().elements()).map(|index| if index % 2 == 0 { deviation } else { -deviation });
        let bytes = values.flat_map(f32::to_le_bytes).collect();
        norm.1 = tensor(Dtype::F32, norm.1.shape().dims(), bytes);
        self
    }

    /// Saves the model under this name. Returns the path.
    pub(crate) fn saved(&self, folder: &Folder, name: &str) -> PathBuf {
        let path = folder.join(name);
        self.save(&path, &[]);
        path
    }

    /// Saves the model with these metadata fields.
    pub(crate) fn save(&self, path: &Path, fields: &[(&str, &str)]) {
        let mut state_dict = StateDict::new();
        for (key, tensor) in &self.0 {
            state_dict.insert(key.as_str(), tensor.clone()).unwrap();
        }
        let field = |(name, value): &(&str, &str)| ((*name).to_owned(), PyValue::Str((*value).to_owned()));
        let metadata: Metadata = fields.iter().map(field).collect();
        let options = WriteOptions::default().verify(false).jobs(2);
        containers::write(path, Target::from_path(path).unwrap(), &state_dict, &metadata, &options).unwrap();
    }
}

/// The components of Stable Video Diffusion beside its UNet, as the original code has them: the image encoder, the
/// autoencoder of the first frame, and the one whose decoder has layers over time.
fn video() -> impl Iterator<Item = (String, Vec<u64>)> {
    let first_frame = keys("layouts/autoencoder.ldm.keys").into_iter();
    let first_frame =
        first_frame.map(|(key, dims)| (key.replace("first_stage_model.", "conditioner.embedders.3.encoder."), dims));
    let vae = keys("layouts/svd-vae.ldm.keys").into_iter().filter(|(key, _)| !key.contains(".quant_conv."));
    keys("layouts/svd-image-encoder.ldm.keys").into_iter().chain(first_frame).chain(vae)
}

/// A mark without elements.
pub(crate) fn empty() -> LazyTensor {
    tensor(Dtype::F32, &[0], Vec::new())
}

/// A tensor of 1/16.
pub(crate) fn filled(dims: &[u64]) -> LazyTensor {
    let elements: u64 = dims.iter().product();
    tensor(Dtype::F16, dims, (0..elements).flat_map(|_| 0x2c00_u16.to_le_bytes()).collect())
}

/// The keys of a list without EMA and schedule buffers, with narrow shapes.
fn keys(name: &str) -> Vec<(String, Vec<u64>)> {
    let narrow = |dim: u64| match dim {
        dim if dim <= 16 || dim == 77 => dim,
        49408 => 64,
        dim => (dim / 32).max(1),
    };
    let text = fs::read_to_string(fixture(name)).unwrap();
    let row = |line: &str| {
        let [key, _, shape, ..] = line.split(' ').collect::<Vec<_>>()[..] else { panic!("{line}") };
        let dims =
            if shape == "-" { vec![] } else { shape.split('x').map(|dim| narrow(dim.parse().unwrap())).collect() };
        (key.to_owned(), dims)
    };
    let is_model = |key: &str| key.contains('.') && !key.starts_with("model_ema.");
    text.lines().filter(|line| !line.starts_with('#')).map(row).filter(|(key, _)| is_model(key)).collect()
}
