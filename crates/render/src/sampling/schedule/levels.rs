//! The noise levels of the steps, for each schedule type of WebUI.

use super::beta::quantile;
use super::kind::ScheduleType;
use super::table::LevelTable;
use super::tuning::LevelTuning;
use crate::single::{atan, exp, linspace, powf, tan};

/// The exponent of the Karras schedule.
pub(super) const RHO: f64 = 7.0;

/// The levels that Align Your Steps publishes for SD v1 with ten steps.
const ALIGN_YOUR_STEPS: [f64; 11] = [14.615, 6.475, 3.861, 2.697, 1.886, 1.396, 0.963, 0.652, 0.399, 0.152, 0.029];

/// The levels that it publishes for SDXL.
const ALIGN_YOUR_STEPS_SDXL: [f64; 11] = [14.615, 6.315, 3.771, 2.181, 1.342, 0.862, 0.555, 0.380, 0.234, 0.113, 0.029];

/// Returns the descending noise levels of a schedule type. The last is 0, except for KL Optimal, where it is the lowest
/// level of the model.
pub(super) fn levels(
    table: &LevelTable,
    schedule: ScheduleType,
    steps: usize,
    is_sdxl: bool,
    tuning: &LevelTuning,
) -> Vec<f32> {
    let (lowest, highest) = table.range();
    let (least, most) = (tuning.least.unwrap_or(f64::from(lowest)), tuning.most.unwrap_or(f64::from(highest)));
    let (begin, end) = (table.time(most as f32), table.time(least as f32));
    let mut levels: Vec<f32> = match schedule {
        ScheduleType::Uniform => {
            let times = linspace(table.time(highest), table.time(lowest), steps);
            times.into_iter().map(|time| table.sigma(time)).collect()
        }
        ScheduleType::Normal => {
            let times = linspace(begin, end, steps);
            times.into_iter().map(|time| table.sigma(time)).collect()
        }
        ScheduleType::SgmUniform => {
            let times = linspace(begin, end, steps + 1);
            times.into_iter().take(steps).map(|time| table.sigma(time)).collect()
        }
        ScheduleType::Karras => karras(steps, least, most, tuning.rho.unwrap_or(RHO)),
        ScheduleType::Exponential => {
            let logarithms = linspace(libm::log(most) as f32, libm::log(least) as f32, steps);
            logarithms.into_iter().map(exp).collect()
        }
        ScheduleType::Polyexponential => {
            let (most, least) = (libm::log(most), libm::log(least));
            let (width, lowest) = ((most - least) as f32, least as f32);
            let level = |progress: f32| exp(powf(progress, tuning.rho.unwrap_or(1.0)) * width + lowest);
            linspace(1.0, 0.0, steps).into_iter().map(level).collect()
        }
        ScheduleType::KlOptimal => return kl_optimal(steps, least as f32, most as f32),
        ScheduleType::AlignYourSteps if is_sdxl => align_your_steps(&ALIGN_YOUR_STEPS_SDXL, steps),
        ScheduleType::AlignYourSteps => align_your_steps(&ALIGN_YOUR_STEPS, steps),
        ScheduleType::Simple => {
            let stride = table.len() as f64 / steps as f64;
            (0..steps)
                .map(|step| table.level((table.len() - 1).saturating_sub((step as f64 * stride) as usize)))
                .collect()
        }
        ScheduleType::Ddim => {
            let stride = (table.len() / steps.max(1)).max(1);
            let ascending: Vec<usize> = (1..table.len()).step_by(stride).collect();
            ascending.into_iter().rev().map(|index| table.level(index)).collect()
        }
        ScheduleType::Beta => {
            let (alpha, beta) = tuning.beta;
            let level = |progress: f64| (least + quantile(1.0 - progress, alpha, beta) * (most - least)) as f32;
            evenly(steps).into_iter().map(level).collect()
        }
    };
    levels.push(0.0);
    levels
}

/// The levels of Karras et al. (2022), equation 5, without the final 0.
pub(super) fn karras(steps: usize, least: f64, most: f64, rho: f64) -> Vec<f32> {
    let root = |level: f64| libm::pow(level, 1.0 / rho);
    let (highest, width) = (root(most) as f32, (root(least) - root(most)) as f32);
    linspace(0.0, 1.0, steps).into_iter().map(|progress| powf(highest + progress * width, rho)).collect()
}

fn kl_optimal(steps: usize, least: f32, most: f32) -> Vec<f32> {
    let (least, most) = (atan(least), atan(most));
    let level = |step: usize| {
        let progress = step as f32 / steps as f32;
        tan(progress * least + (1.0 - progress) * most)
    };
    (0..=steps).map(level).collect()
}

/// Interpolates the published levels linearly in their logarithms, at evenly spaced places from the lowest to the highest.
/// A single step is at the lowest level, as in WebUI.
fn align_your_steps(published: &[f64], steps: usize) -> Vec<f32> {
    let ascending: Vec<f64> = published.iter().rev().map(|level| libm::log(*level)).collect();
    let last = (ascending.len() - 1) as f64;
    let level = |progress: f64| {
        let place = progress * last;
        let pair = (ascending.get(place.floor() as usize), ascending.get(place.ceil() as usize));
        let (Some(low), Some(high)) = pair else { return 0.0 };
        libm::exp(low + place.fract() * (high - low)) as f32
    };
    evenly(steps).into_iter().rev().map(level).collect()
}

/// Values from 0 to 1, in double precision. A single value is 0.
fn evenly(count: usize) -> Vec<f64> {
    let last = count.max(2) - 1;
    (0..count).map(|index| index as f64 / last as f64).collect()
}
