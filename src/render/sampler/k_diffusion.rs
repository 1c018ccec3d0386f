//! The samplers of k-noise_schedule (Karras et al., 2022, and after them): they work on latents whose noise has the level
//! sigma, and on the image that the model sees in them.

use std::collections::VecDeque;

use candle_core::Tensor;

use super::{Sampler, SamplerContext, sum, sum_all};
use crate::error::Result;
use crate::render::weights::from_candle;

/// Steps that the linear multistep method remembers.
const LMS_ORDER: usize = 4;

pub(super) fn sample(sampler: Sampler, noise: &Tensor, work: &mut SamplerContext<'_>) -> Result<Tensor> {
    let sigmas = match sampler {
        // One level more, and the last but one left out: so WebUI's table says.
        Sampler::Dpm2A => {
            let mut sigmas = work.noise_schedule.sigmas(work.schedule, work.steps + 1);
            sigmas.remove(work.steps);
            sigmas
        }
        _ => work.noise_schedule.sigmas(work.schedule, work.steps),
    };
    let first = sigmas.first().copied().unwrap_or_default();
    let mut x = noise.affine(first, 0.0).map_err(from_candle)?;
    let mut past = Past::default();
    let pairs = sigmas.iter().zip(sigmas.iter().skip(1)).enumerate();
    for (step, (&sigma, &next)) in pairs {
        let seen = denoise(&x, sigma, work)?;
        x = match sampler {
            Sampler::Euler => euler(&x, &seen, sigma, next)?,
            Sampler::EulerA => {
                let (down, up) = ancestral(sigma, next);
                let moved = euler(&x, &seen, sigma, down)?;
                add_noise(moved, up, next, work)?
            }
            Sampler::Heun if next > 0.0 => {
                let tried = euler(&x, &seen, sigma, next)?;
                let seen_there = denoise(&tried, next, work)?;
                let slopes = (slope(&x, &seen, sigma)?, slope(&tried, &seen_there, next)?);
                let half = (next - sigma) / 2.0;
                sum([(1.0, &x), (half, &slopes.0), (half, &slopes.1)]).map_err(from_candle)?
            }
            Sampler::Dpm2A => {
                let (down, up) = ancestral(sigma, next);
                if down > 0.0 {
                    let middle = ((sigma.ln() + down.ln()) / 2.0).exp();
                    let tried = euler(&x, &seen, sigma, middle)?;
                    let seen_there = denoise(&tried, middle, work)?;
                    let slope = slope(&tried, &seen_there, middle)?;
                    let moved = sum([(1.0, &x), (down - sigma, &slope)]).map_err(from_candle)?;
                    add_noise(moved, up, next, work)?
                } else {
                    euler(&x, &seen, sigma, down)?
                }
            }
            Sampler::Lms => {
                past.slopes.push_front(slope(&x, &seen, sigma)?);
                past.slopes.truncate(LMS_ORDER);
                let known: Vec<f64> =
                    (0..past.slopes.len()).filter_map(|back| sigmas.get(step.checked_sub(back)?).copied()).collect();
                let factors = (0..known.len()).map(|term| lagrange_integral(&known, term, sigma, next));
                let terms = factors.collect::<Vec<_>>();
                let terms = [(1.0, &x)].into_iter().chain(terms.into_iter().zip(&past.slopes));
                sum_all(terms).map_err(from_candle)?
            }
            Sampler::Dpmpp2m => dpmpp_2m(&x, &seen, sigma, next, &mut past)?,
            // Heun's last step too.
            _ => euler(&x, &seen, sigma, next)?,
        };
        (work.watch)(step, &x)?;
    }
    Ok(x)
}

/// What is remembered of earlier steps.
#[derive(Default)]
struct Past {
    /// The latest first.
    slopes: VecDeque<Tensor>,
    /// What was seen at the last step, and the width of that step in log-sigma.
    seen: Option<(Tensor, f64)>,
}

/// The image that the model sees in a latent of this noise level.
fn denoise(x: &Tensor, sigma: f64, work: &mut SamplerContext<'_>) -> Result<Tensor> {
    let scaled = x.affine(1.0 / (sigma * sigma + 1.0).sqrt(), 0.0).map_err(from_candle)?;
    let noise = (work.predict)(&scaled, work.noise_schedule.time(sigma))?;
    sum([(1.0, x), (-sigma, &noise)]).map_err(from_candle)
}

/// How a latent changes with its noise level.
fn slope(x: &Tensor, seen: &Tensor, sigma: f64) -> Result<Tensor> {
    (x - seen).and_then(|difference| difference.affine(1.0 / sigma, 0.0)).map_err(from_candle)
}

/// From one level to another in a straight line.
fn euler(x: &Tensor, seen: &Tensor, sigma: f64, next: f64) -> Result<Tensor> {
    let slope = slope(x, seen, sigma)?;
    sum([(1.0, x), (next - sigma, &slope)]).map_err(from_candle)
}

/// How far down to go, so that new noise of the second level brings the latent to `next`.
fn ancestral(sigma: f64, next: f64) -> (f64, f64) {
    let up = next.min((next * next * (sigma * sigma - next * next) / (sigma * sigma)).sqrt());
    ((next * next - up * up).sqrt(), up)
}

/// The last step gets no noise, and draws none.
fn add_noise(x: Tensor, level: f64, next: f64, work: &mut SamplerContext<'_>) -> Result<Tensor> {
    if next == 0.0 {
        return Ok(x);
    }
    let drawn = (work.draw)()?;
    sum([(1.0, &x), (level, &drawn)]).map_err(from_candle)
}

fn dpmpp_2m(x: &Tensor, seen: &Tensor, sigma: f64, next: f64, past: &mut Past) -> Result<Tensor> {
    if next == 0.0 {
        return Ok(seen.clone());
    }
    let width = sigma.ln() - next.ln();
    let (kept, gained) = (next / sigma, -(-width).exp_m1());
    let moved = match &past.seen {
        Some((before, width_before)) => {
            let half = width / width_before / 2.0;
            sum([(kept, x), (gained * (1.0 + half), seen), (-gained * half, before)])
        }
        None => sum([(kept, x), (gained, seen)]),
    };
    past.seen = Some((seen.clone(), width));
    moved.map_err(from_candle)
}

/// The integral, from one level to the next, of the polynomial that is 1 at one of the known levels and 0 at the others.
fn lagrange_integral(known: &[f64], term: usize, from: f64, to: f64) -> f64 {
    // Three points of Gauss and Legendre are exact for its third degree.
    const POINTS: [(f64, f64); 3] =
        [(-0.774_596_669_241_483_4, 5.0 / 9.0), (0.0, 8.0 / 9.0), (0.774_596_669_241_483_4, 5.0 / 9.0)];
    let own = known.get(term).copied().unwrap_or_default();
    let others = || known.iter().enumerate().filter(|(index, _)| *index != term).map(|(_, other)| other);
    let polynomial = |at: f64| others().map(|other| (at - other) / (own - other)).product::<f64>();
    let (middle, half) = ((from + to) / 2.0, (to - from) / 2.0);
    half * POINTS.iter().map(|(point, weight)| weight * polynomial(middle + half * point)).sum::<f64>()
}
