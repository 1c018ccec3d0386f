use crate::parameterization::is_mark_key;
use crate::{Component, FileKind};
use trinart_ckpt_formats::state_dict::StateDict;

/// Which component the keys of a state dict belong to.
///
/// Files of a single network have keys that tell nothing on their own: `encoder.…` is a part of a VAE, of CLIP and of T5.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Components {
    /// The component of a file that has no other one, under keys that `Component::from_key` does not assign to it.
    lone: Option<Component>,
}

impl Components {
    /// Looks at the keys and shapes of all tensors, in LDM names or as the file stores them.
    pub fn of(state_dict: &StateDict) -> Self {
        let has = |keys: [&str; 2]| keys.iter().any(|key| state_dict.contains(key));
        let lone = match FileKind::of(state_dict) {
            // Those of video models are among the other diffusion models.
            FileKind::Unet | FileKind::DiffusionModel if has(["input_blocks.0.0.weight", "conv_in.weight"]) => {
                Some(Component::Unet)
            }
            // All keys of a file that a training tool wrote can have `module.` in front.
            FileKind::Unet if state_dict.keys().all(|key| key.starts_with("module.")) => Some(Component::Unet),
            FileKind::ControlNet => Some(Component::ControlNet),
            FileKind::ClipVision | FileKind::VisionModel => Some(Component::ImageEncoder),
            kind if kind.is_text_encoder() => Some(Component::TextEncoder),
            _ => None,
        };
        let is_part = |key: &str| {
            use Component::{ControlNet, ImageEncoder, TextEncoder, Unet};
            matches!(Component::from_key(key), Unet | TextEncoder | ImageEncoder | ControlNet)
        };
        Components { lone: lone.filter(|_| !state_dict.keys().any(is_part)) }
    }

    /// Returns the component of a key.
    pub fn of_key(&self, key: &str) -> Component {
        match (Component::from_key(key), self.lone) {
            (Component::Other | Component::Vae, Some(lone)) if !is_mark_key(key) => lone,
            (component, _) => component,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use trinart_ckpt_formats::tensor::{Dtype, LazyTensor, Shape};

    fn of(keys: &[&str]) -> Components {
        let mut state_dict = StateDict::new();
        for key in keys {
            let tensor = LazyTensor::owned(Dtype::U8, Shape::new([0]).unwrap(), []).unwrap();
            state_dict.insert(*key, tensor).unwrap();
        }
        Components::of(&state_dict)
    }

    #[test]
    fn files_of_one_network_have_one_component() {
        let t5 = ["shared.weight", "encoder.block.0.layer.0.SelfAttention.q.weight"];
        assert_eq!(of(&t5).of_key(t5[1]), Component::TextEncoder);
        let whole = ["model.diffusion_model.input_blocks.0.0.weight", "cond_stage_model.transformer.x", "other"];
        assert_eq!(of(&whole).of_key("other"), Component::Other);
        let vae = ["encoder.conv_in.weight", "decoder.conv_in.weight", "quant_conv.weight"];
        assert_eq!(of(&vae).of_key(vae[0]), Component::Vae);
        let wrapped = ["module.model.diffusion_model.input_blocks.0.0.weight", "module.first_stage_model.x"];
        assert_eq!(of(&wrapped).of_key(wrapped[1]), Component::Other);
    }
}
