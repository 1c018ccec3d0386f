//! The tensors that say what a model predicts: their keys mean something to WebUI, Forge and ComfyUI, and they are no
//! weights.

/// Marks v-prediction. The tensor has no elements.
pub const V_PREDICTION: &str = "v_pred";

/// Marks a noise schedule with zero terminal SNR. The tensor has no elements.
pub const ZERO_TERMINAL_SNR: &str = "ztsnr";

/// The mean of each latent channel, in EDM models such as Playground 2.5. F32, `[1, 4, 1, 1]`.
pub const EDM_MEAN: &str = "edm_mean";

/// The standard deviation of each latent channel, beside [`EDM_MEAN`].
pub const EDM_STD: &str = "edm_std";

/// The largest sigma of an EDM model with v-prediction, such as CosXL. F32 without dimensions.
pub const EDM_SIGMA_MAX: &str = "edm_vpred.sigma_max";

/// The smallest sigma, beside [`EDM_SIGMA_MAX`].
pub const EDM_SIGMA_MIN: &str = "edm_vpred.sigma_min";

/// All marks.
pub const KEYS: &[&str] = &[V_PREDICTION, ZERO_TERMINAL_SNR, EDM_MEAN, EDM_STD, EDM_SIGMA_MAX, EDM_SIGMA_MIN];

/// Returns whether a key is a mark of what the UNet predicts. Such a tensor belongs to the UNet, is never cast, and stays
/// in every output that has the UNet.
pub fn is_mark_key(key: &str) -> bool {
    KEYS.contains(&key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recognizes_only_whole_keys() {
        assert!(KEYS.iter().all(|key| is_mark_key(key)));
        assert!(["v_pred.weight", "edm_vpred", "model.v_pred", ""].iter().all(|key| !is_mark_key(key)));
    }
}
