//! The components of a checkpoint, identified by the prefixes of their keys in the LDM layout.

/// A component of a checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Component {
    /// The denoising network.
    Unet,
    /// The VAE.
    Vae,
    /// The text encoder, or both text encoders of SDXL.
    TextEncoder,
    /// The image encoder of a model that takes a picture: Stable Video Diffusion, SD v2 unCLIP, Stable Zero-1-to-3.
    ImageEncoder,
    /// A ControlNet.
    ControlNet,
    /// The exponential moving average of the UNet's weights.
    Ema,
    /// The buffers of the noise schedule.
    Schedule,
    /// Tensors that only training needs: losses, discriminators, counters.
    TrainingResidue,
    /// Unknown keys.
    Other,
}

/// Prefixes by component. The first match decides, so longer prefixes come first.
const PREFIXES: &[(&str, Component)] = &[
    ("model.diffusion_model.", Component::Unet),
    ("first_stage_model.loss.", Component::TrainingResidue),
    ("first_stage_model.", Component::Vae),
    // Of Stable Zero-1-to-3, Stable Video Diffusion and SD v2 unCLIP.
    ("cond_stage_model.model.visual.", Component::ImageEncoder),
    ("conditioner.embedders.0.open_clip.", Component::ImageEncoder),
    ("embedder.model.", Component::ImageEncoder),
    // The encoder of the first frame of Stable Video Diffusion and of SV3D, which is that of a VAE.
    ("conditioner.embedders.3.encoder.", Component::Other),
    ("conditioner.embedders.1.encoder.", Component::Other),
    ("cond_stage_model.", Component::TextEncoder),
    ("conditioner.", Component::TextEncoder),
    ("control_model.", Component::ControlNet),
    ("model_ema.", Component::Ema),
    ("encoder.", Component::Vae),
    ("decoder.", Component::Vae),
    ("quant_conv.", Component::Vae),
    ("post_quant_conv.", Component::Vae),
    ("vae.", Component::Vae),
    // The keys of a diffusers folder of an architecture without a key layout.
    ("unet/", Component::Unet),
    ("transformer/", Component::Unet),
    ("transformer_2/", Component::Unet),
    ("vae/", Component::Vae),
    ("text_encoder/", Component::TextEncoder),
    ("text_encoder_2/", Component::TextEncoder),
    ("text_encoder_3/", Component::TextEncoder),
    ("image_encoder/", Component::ImageEncoder),
    ("controlnet/", Component::ControlNet),
    ("loss.", Component::TrainingResidue),
    ("optimizer.", Component::TrainingResidue),
    ("optimizer_states.", Component::TrainingResidue),
    ("discriminator.", Component::TrainingResidue),
];

/// The mark of a ControlNet whose weights are differences to those of the model that it steers.
pub(crate) const CONTROL_DIFFERENCE: &str = "difference";

/// The buffers that Latent Diffusion and its successor for SDXL register for their schedules, and the log variance that some versions learn.
const SCHEDULE: &[&str] = &[
    "betas",
    "alphas_cumprod",
    "alphas_cumprod_prev",
    "sqrt_alphas_cumprod",
    "sqrt_one_minus_alphas_cumprod",
    "log_one_minus_alphas_cumprod",
    "sqrt_recip_alphas_cumprod",
    "sqrt_recipm1_alphas_cumprod",
    "posterior_variance",
    "posterior_log_variance_clipped",
    "posterior_mean_coef1",
    "posterior_mean_coef2",
    "logvar",
    "denoiser.sigmas",
];

impl Component {
    /// All components, in the order of reports.
    pub const ALL: &'static [Component] = &[
        Component::Unet,
        Component::Vae,
        Component::TextEncoder,
        Component::ImageEncoder,
        Component::ControlNet,
        Component::Ema,
        Component::Schedule,
        Component::TrainingResidue,
        Component::Other,
    ];

    /// Returns the component that a key belongs to.
    pub fn from_key(key: &str) -> Self {
        if SCHEDULE.contains(&key) {
            return Component::Schedule;
        }
        if key == CONTROL_DIFFERENCE {
            return Component::ControlNet;
        }
        let found = PREFIXES.iter().find(|(prefix, _)| key.starts_with(prefix));
        found.map_or(Component::Other, |&(_, component)| component)
    }

    /// The word for scripts, as in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Component::Unet => "unet",
            Component::Vae => "vae",
            Component::TextEncoder => "text-encoder",
            Component::ImageEncoder => "image-encoder",
            Component::ControlNet => "controlnet",
            Component::Ema => "ema",
            Component::Schedule => "schedule-buffers",
            Component::TrainingResidue => "training-residue",
            Component::Other => "other",
        }
    }

    /// The name for people.
    pub fn text(self) -> &'static str {
        match self {
            Component::Unet => "UNet",
            Component::Vae => "VAE",
            Component::TextEncoder => "text encoder",
            Component::ImageEncoder => "image encoder",
            Component::ControlNet => "ControlNet",
            Component::Ema => "EMA",
            Component::Schedule => "schedule buffers",
            Component::TrainingResidue => "training residue",
            Component::Other => "other",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn assigns_each_key_of_a_real_checkpoint_to_its_component() {
        let keys = include_str!("../../../fixtures/sd1-ldm.keys");
        let keys = keys.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.split(' ').next());
        let mut counts = std::collections::BTreeMap::new();
        for key in keys {
            *counts.entry(Component::from_key(key)).or_insert(0) += 1;
        }
        let expected = [
            (Component::Unet, 686),
            (Component::Vae, 248),
            (Component::TextEncoder, 197),
            (Component::Ema, 688),
            (Component::Schedule, 12),
        ];
        assert_eq!(counts.into_iter().collect::<Vec<_>>(), expected);
    }
}
