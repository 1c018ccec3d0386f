//! Recognizes distilled models by name, and settings that do not suit them.

use super::Check;

/// Words in the names of distilled models, with the steps and the CFG scale that their publishers recommend.
const DISTILLED: [(&str, &str, usize, f64); 4] = [
    ("turbo", "1 to 8 steps, CFG scale 1 to 2", 8, 2.5),
    ("lightning", "2 to 8 steps, CFG scale 1 to 2, Euler with the schedule type SGM Uniform", 8, 2.5),
    ("hyper", "1 to 8 steps, CFG scale 1", 8, 2.5),
    ("lcm", "4 to 8 steps, CFG scale 1 to 2, the sampler LCM", 8, 2.5),
];

/// Returns a note if the name of a checkpoint is that of a distilled model and the settings are those of other models.
pub(crate) fn distilled(name: &str, steps: usize, cfg: f64) -> Option<Check> {
    let name = name.to_ascii_lowercase();
    let is_word = |word: &str| name.split(|it: char| !it.is_ascii_alphabetic()).any(|part| part.contains(word));
    let (word, advice, most_steps, most_cfg) = DISTILLED.into_iter().find(|(word, ..)| is_word(word))?;
    let suits = steps <= most_steps && cfg <= most_cfg;
    (!suits).then(|| {
        let found = format!("the name contains \"{word}\"; such models are distilled for {advice}");
        Check::info("distilled", found)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn advises_only_if_the_settings_do_not_suit() {
        for name in ["sd_xl_turbo_1.0_fp16", "DreamShaperXL_Lightning", "realistic-HyperSD", "model-lcm"] {
            assert!(distilled(name, 20, 7.0).is_some(), "{name}");
            assert!(distilled(name, 4, 1.0).is_none(), "{name}");
        }
        assert!(distilled("sd_xl_base_1.0", 20, 7.0).is_none());
    }
}
