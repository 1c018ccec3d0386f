//! The exponential moving average (EMA) of the UNet weights, as Latent Diffusion stores it.

/// The prefix of the EMA in a checkpoint.
pub(crate) const PREFIX: &str = "model_ema.";

/// The part of a UNet key that the EMA key omits.
const MODEL: &str = "model.";

/// The counters of the EMA.
const COUNTERS: &[&str] = &["model_ema.decay", "model_ema.num_updates"];

/// Returns the EMA key of a UNet tensor: its name without dots, which PyTorch forbids in buffer names. `None` for
/// other tensors.
pub(crate) fn key_of(unet_key: &str) -> Option<String> {
    let name = unet_key.strip_prefix(MODEL).filter(|name| name.starts_with("diffusion_model."))?;
    Some(format!("{PREFIX}{}", name.replace('.', "")))
}

/// Returns whether a key is a counter of the EMA rather than an averaged tensor.
pub(crate) fn is_counter(key: &str) -> bool {
    COUNTERS.contains(&key)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn finds_the_ema_of_each_unet_key_in_a_real_checkpoint() {
        let keys: BTreeSet<&str> = include_str!("../../../fixtures/sd1-ldm.keys")
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
