//! The exponential moving average of the UNet's weights, as Latent Diffusion keeps it beside them.

/// What all keys of the average begin with.
pub const PREFIX: &str = "model_ema.";

/// The part of a UNet key that the average's names leave out.
const MODEL: &str = "model.";

/// What the average counts for itself.
const COUNTERS: &[&str] = &["model_ema.decay", "model_ema.num_updates"];

/// The key of a UNet tensor's average: the same name without its dots, which PyTorch forbids in names of buffers.
pub fn key_of(unet_key: &str) -> Option<String> {
    let name = unet_key.strip_prefix(MODEL).filter(|name| name.starts_with("diffusion_model."))?;
    Some(format!("{PREFIX}{}", name.replace('.', "")))
}

/// Whether a key is one of the average's counters rather than an averaged tensor.
pub fn is_counter(key: &str) -> bool {
    COUNTERS.contains(&key)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_unet_key_of_a_real_checkpoint_has_its_average() {
        let keys: BTreeSet<&str> = include_str!("../../fixtures/sd1-ldm.keys")
            .lines()
            .filter(|line| !line.starts_with('#'))
            .filter_map(|line| line.split(' ').next())
            .collect();
        let averages: BTreeSet<String> = keys.iter().filter_map(|key| key_of(key)).collect();
        let real: BTreeSet<String> = keys
            .iter()
            .filter(|key| key.starts_with(PREFIX) && !is_counter(key))
            .map(|key| (*key).to_owned())
            .collect();
        assert_eq!(averages.len(), 686);
        assert_eq!(averages, real);
    }
}
