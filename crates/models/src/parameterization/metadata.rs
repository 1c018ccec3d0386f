//! Metadata fields that say what a model predicts, and the fields of this program for what has no other place in a file.

use trinart_ckpt_formats::metadata::{Metadata, PyValue};

use super::claim::{Claim, MOST_CHANNELS, Mark, MarkSource};
use crate::family::Prediction;

/// What the UNet predicts, in the metadata standard of Stability AI: `epsilon` or `v`.
pub(crate) const PREDICTION_TYPE: &str = "modelspec.prediction_type";

/// The same, as ComfyUI writes it.
pub(super) const PREDICT_KEY: &str = "modelspec.predict_key";

/// The prefix of the fields that this program writes. Their names go on as in the configurations of diffusers.
const OWN: &str = "trinart_ckpt.";

/// Reads the value of a field; `None` if it has no known value.
type Parse = fn(&str) -> Option<Claim>;

/// The fields that say what the UNet predicts, with the type of their value.
const PREDICTION_FIELDS: &[(&str, Parse)] = &[
    (PREDICTION_TYPE, prediction),
    (PREDICT_KEY, prediction),
    ("trinart_ckpt.prediction", prediction),
    // kohya's trainer.
    ("ss_v_parameterization", |text| {
        let is_v = boolean(text)?;
        Some(Claim::Prediction(if is_v { Prediction::Velocity } else { Prediction::Epsilon }))
    }),
    ("ss_zero_terminal_snr", |text| boolean(text).map(Claim::ZeroTerminalSnr)),
];

/// The other fields of this program, without their prefix.
const OWN_FIELDS: &[(&str, Parse)] = &[
    ("zero_terminal_snr", |text| boolean(text).map(Claim::ZeroTerminalSnr)),
    ("timestep_spacing", |text| Some(Claim::TimestepSpacing(text.to_owned()))),
    ("sigma_min", |text| number(text).map(Claim::SigmaMin)),
    ("sigma_max", |text| number(text).map(Claim::SigmaMax)),
    ("sigma_data", |text| number(text).map(Claim::SigmaData)),
    ("scaling_factor", |text| number(text).map(Claim::ScalingFactor)),
    ("shift_factor", |text| number(text).map(Claim::ShiftFactor)),
    ("latents_mean", |text| numbers(text).map(Claim::LatentsMean)),
    ("latents_std", |text| numbers(text).map(Claim::LatentsStd)),
    ("force_upcast", |text| boolean(text).map(Claim::ForceUpcast)),
];

/// Reads a prediction in any of the spellings of trainers and libraries.
fn prediction(text: &str) -> Option<Claim> {
    let word = text.trim().to_ascii_lowercase().replace([' ', '_'], "-");
    Some(Claim::Prediction(match word.as_str() {
        "epsilon" | "eps" | "noise" => Prediction::Epsilon,
        "v" | "v-pred" | "vpred" | "v-prediction" | "velocity" => Prediction::Velocity,
        "edm" => Prediction::Edm,
        "edm-v" | "edm-v-prediction" | "edm-vpred" => Prediction::EdmVelocity,
        "flow" | "flow-matching" | "flow-prediction" | "rectified-flow" => Prediction::Flow,
        "sample" | "x0" => Prediction::Sample,
        _ => return None,
    }))
}

fn boolean(text: &str) -> Option<bool> {
    match text.trim().to_ascii_lowercase().as_str() {
        "true" | "1" => Some(true),
        "false" | "0" => Some(false),
        _ => None,
    }
}

fn number(text: &str) -> Option<f64> {
    text.trim().parse().ok().filter(|number: &f64| number.is_finite())
}

/// Reads a list of numbers, one for each latent channel.
fn numbers(text: &str) -> Option<Vec<f64>> {
    let numbers: Vec<f64> = serde_json::from_str(text).ok()?;
    (1..=MOST_CHANNELS).contains(&numbers.len()).then_some(numbers)
}

/// Returns the marks in metadata.
pub(super) fn read(metadata: &Metadata, marks: &mut Vec<Mark>) {
    for (field, parse) in fields() {
        let Some(value) = metadata.get(&field) else { continue };
        if let Some(claim) = parse(&value.to_text()) {
            marks.push(Mark::new(MarkSource::Metadata, field, claim));
        }
    }
}

/// Returns what metadata says about a model.
pub(crate) fn claims(metadata: &Metadata) -> Vec<Claim> {
    let mut marks = Vec::new();
    read(metadata, &mut marks);
    marks.into_iter().map(|mark| mark.claim).collect()
}

fn fields() -> impl Iterator<Item = (String, Parse)> {
    let own = OWN_FIELDS.iter().map(|&(name, parse)| (format!("{OWN}{name}"), parse));
    PREDICTION_FIELDS.iter().map(|&(name, parse)| (name.to_owned(), parse)).chain(own)
}

/// Sets a field of this program.
pub(crate) fn set(metadata: &mut Metadata, claim: &Claim) {
    metadata.insert(format!("{OWN}{}", claim.field()), PyValue::Str(claim.value()));
}

/// Removes all fields of this program, because their content is now recorded elsewhere.
pub(crate) fn remove_own(metadata: &mut Metadata) {
    metadata.shift_remove("trinart_ckpt.prediction");
    for (name, _) in OWN_FIELDS {
        metadata.shift_remove(&format!("{OWN}{name}"));
    }
}

/// Records what the UNet predicts in the fields that other programs write. Fields that contradict it are corrected or
/// removed.
pub(crate) fn set_prediction(metadata: &mut Metadata, prediction: Prediction, adds: bool) {
    if prediction == Prediction::Unknown {
        return;
    }
    let word = match prediction {
        Prediction::Epsilon => Some("epsilon"),
        Prediction::Velocity => Some("v"),
        _ => None,
    };
    for (field, parse) in PREDICTION_FIELDS {
        let Some(old) = metadata.get(*field).and_then(|value| parse(&value.to_text())) else { continue };
        match (&old, word) {
            (Claim::Prediction(old), _) if *old == prediction => {}
            (Claim::Prediction(_), Some(word)) if [PREDICTION_TYPE, PREDICT_KEY].contains(field) => {
                metadata.insert((*field).to_owned(), PyValue::Str(word.to_owned()));
            }
            (Claim::Prediction(_), _) => {
                metadata.shift_remove(*field);
            }
            _ => {}
        }
    }
    match word {
        Some(word) if adds && !metadata.contains_key(PREDICTION_TYPE) => {
            metadata.insert(PREDICTION_TYPE.to_owned(), PyValue::Str(word.to_owned()));
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claims(fields: &[(&str, PyValue)]) -> Vec<Claim> {
        super::claims(&fields.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect())
    }

    #[test]
    fn reads_the_spellings_of_trainers() {
        let text = |value: &str| PyValue::Str(value.to_owned());
        for word in ["v", "V", "v_prediction", "v-prediction", "velocity"] {
            assert_eq!(claims(&[(PREDICTION_TYPE, text(word))]), [Claim::Prediction(Prediction::Velocity)]);
            assert_eq!(claims(&[(PREDICT_KEY, text(word))]), [Claim::Prediction(Prediction::Velocity)]);
        }
        for word in ["epsilon", "eps"] {
            assert_eq!(claims(&[(PREDICTION_TYPE, text(word))]), [Claim::Prediction(Prediction::Epsilon)]);
        }
        for (value, expected) in [
            (text("True"), Prediction::Velocity),
            (PyValue::Bool(true), Prediction::Velocity),
            (text("False"), Prediction::Epsilon),
        ] {
            assert_eq!(claims(&[("ss_v_parameterization", value)]), [Claim::Prediction(expected)]);
        }
        assert_eq!(claims(&[("ss_zero_terminal_snr", text("True"))]), [Claim::ZeroTerminalSnr(true)]);
        assert_eq!(claims(&[(PREDICTION_TYPE, text("vanilla")), ("modelspec.title", text("v"))]), []);
    }

    #[test]
    fn reads_what_it_writes() {
        let all = [
            Claim::ZeroTerminalSnr(true),
            Claim::TimestepSpacing("trailing".into()),
            Claim::SigmaMin(0.002),
            Claim::SigmaMax(120.0),
            Claim::SigmaData(1.0),
            Claim::ScalingFactor(0.13025),
            Claim::ShiftFactor(0.1159),
            Claim::LatentsMean(vec![-1.6574, 1.886]),
            Claim::LatentsStd(vec![8.4927, 5.9022]),
            Claim::ForceUpcast(false),
            Claim::Prediction(Prediction::EdmVelocity),
        ];
        let mut metadata = Metadata::new();
        all.iter().for_each(|claim| set(&mut metadata, claim));
        let mut marks = Vec::new();
        read(&metadata, &mut marks);
        assert_eq!(marks.len(), all.len());
        assert!(all.iter().all(|claim| marks.iter().any(|mark| mark.claim == *claim)));
        remove_own(&mut metadata);
        assert!(metadata.is_empty());
    }

    #[test]
    fn ignores_numbers_that_no_model_has() {
        let text = |value: &str| PyValue::Str(value.to_owned());
        for value in ["NaN", "inf", "", "1e999", "x"] {
            assert_eq!(claims(&[("trinart_ckpt.scaling_factor", text(value))]), []);
        }
        let many = format!("{:?}", vec![1.0; 1000]);
        assert_eq!(claims(&[("trinart_ckpt.latents_mean", text(&many))]), []);
    }
}
