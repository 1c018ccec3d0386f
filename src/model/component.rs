//! The parts of a checkpoint, told apart by the prefixes of their keys (the LDM layout).

/// A part of a checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Component {
    /// The denoising network.
    Unet,
    /// The KL autoencoder.
    Autoencoder,
    /// The text encoder, or the two of SDXL.
    TextEncoder,
    /// The exponential moving average of the UNet's weights.
    Ema,
    /// The buffers of the diffusion schedule.
    Schedule,
    /// What training needed and nothing else does: losses, discriminators, counters.
    TrainingResidue,
    /// Keys of none of these.
    Other,
}

/// Prefixes by component; the first that fits decides, so the longer ones stand first.
const PREFIXES: &[(&str, Component)] = &[
    ("model.diffusion_model.", Component::Unet),
    ("first_stage_model.loss.", Component::TrainingResidue),
    ("first_stage_model.", Component::Autoencoder),
    ("cond_stage_model.", Component::TextEncoder),
    ("conditioner.", Component::TextEncoder),
    ("model_ema.", Component::Ema),
    ("encoder.", Component::Autoencoder),
    ("decoder.", Component::Autoencoder),
    ("quant_conv.", Component::Autoencoder),
    ("post_quant_conv.", Component::Autoencoder),
    ("vae.", Component::Autoencoder),
    ("loss.", Component::TrainingResidue),
    ("optimizer.", Component::TrainingResidue),
];

/// The buffers that Latent Diffusion registers for its schedule, and the learned log-variance some versions keep.
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
];

impl Component {
    /// All of them, in the order they are reported.
    pub const ALL: &'static [Component] = &[
        Component::Unet,
        Component::Autoencoder,
        Component::TextEncoder,
        Component::Ema,
        Component::Schedule,
        Component::TrainingResidue,
        Component::Other,
    ];

    /// The component a key belongs to.
    pub fn of_key(key: &str) -> Self {
        if SCHEDULE.contains(&key) {
            return Component::Schedule;
        }
        let found = PREFIXES.iter().find(|(prefix, _)| key.starts_with(prefix));
        found.map_or(Component::Other, |&(_, component)| component)
    }

    /// Its name for people and for `--json`.
    pub fn name(self) -> &'static str {
        match self {
            Component::Unet => "unet",
            Component::Autoencoder => "autoencoder",
            Component::TextEncoder => "text encoder",
            Component::Ema => "ema",
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
    fn every_key_of_a_full_checkpoint_has_its_component() {
        let keys = include_str!("../../fixtures/sd1-ldm.keys");
        let keys = keys.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.split(' ').next());
        let mut counts = std::collections::BTreeMap::new();
        for key in keys {
            *counts.entry(Component::of_key(key)).or_insert(0) += 1;
        }
        let expected = [
            (Component::Unet, 686),
            (Component::Autoencoder, 248),
            (Component::TextEncoder, 197),
            (Component::Ema, 688),
            (Component::Schedule, 12),
        ];
        assert_eq!(counts.into_iter().collect::<Vec<_>>(), expected);
    }
}
