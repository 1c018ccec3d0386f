/// Coefficients of the Lanczos approximation of the gamma function (g = 7).
const LANCZOS: [f64; 8] = [
    676.520_368_121_885_1,
    -1_259.139_216_722_402_8,
    771.323_428_777_653_1,
    -176.615_029_162_140_6,
    12.507_343_278_686_905,
    -0.138_571_095_265_720_12,
    9.984_369_578_019_572e-6,
    1.505_632_735_149_311_6e-7,
];

/// Returns the quantile of a beta distribution: the `x` whose cumulative probability is `probability`.
pub(super) fn quantile(probability: f64, alpha: f64, beta: f64) -> f64 {
    let (mut low, mut high) = (0.0, 1.0);
    // Halving until the interval cannot be halved; 1100 halvings reach the smallest positive number.
    for _ in 0..1100 {
        let middle = f64::midpoint(low, high);
        if middle <= low || middle >= high {
            break;
        }
        match cumulative(middle, alpha, beta) < probability {
            true => low = middle,
            false => high = middle,
        }
    }
    if probability <= 0.0 { 0.0 } else { high }
}

/// The regularized incomplete beta function.
fn cumulative(x: f64, alpha: f64, beta: f64) -> f64 {
    let log_beta = ln_gamma(alpha) + ln_gamma(beta) - ln_gamma(alpha + beta);
    let front = |x: f64, a: f64, b: f64| libm::exp(a * libm::log(x) + b * libm::log1p(-x) - log_beta) / a;
    // The fraction converges fast on this side of the mean.
    match x < (alpha + 1.0) / (alpha + beta + 2.0) {
        true => front(x, alpha, beta) * fraction(x, alpha, beta),
        false => 1.0 - front(1.0 - x, beta, alpha) * fraction(1.0 - x, beta, alpha),
    }
}

/// The continued fraction of the incomplete beta function, by Lentz's method.
fn fraction(x: f64, a: f64, b: f64) -> f64 {
    const TINY: f64 = 1e-300;
    let nonzero = |value: f64| if value.abs() < TINY { TINY } else { value };
    let (mut c, mut d) = (1.0, 1.0 / nonzero(1.0 - (a + b) * x / (a + 1.0)));
    let mut result = d;
    for step in 1..=200 {
        let m = f64::from(step);
        let even = m * (b - m) * x / ((a + 2.0 * m - 1.0) * (a + 2.0 * m));
        let odd = -(a + m) * (a + b + m) * x / ((a + 2.0 * m) * (a + 2.0 * m + 1.0));
        let before = result;
        for term in [even, odd] {
            d = 1.0 / nonzero(1.0 + term * d);
            c = nonzero(1.0 + term / c);
            result *= d * c;
        }
        if (result - before).abs() <= f64::EPSILON * result.abs() {
            break;
        }
    }
    result
}

/// The logarithm of the gamma function of a positive number.
fn ln_gamma(x: f64) -> f64 {
    let x = x - 1.0;
    let t = x + 7.5;
    let terms = LANCZOS.iter().zip(1_u8..).map(|(coefficient, index)| coefficient / (x + f64::from(index)));
    let sum = 0.999_999_999_999_809_9 + terms.sum::<f64>();
    libm::log((2.0 * std::f64::consts::PI).sqrt()) + (x + 0.5) * libm::log(t) - t + libm::log(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn matches_scipy() {
        // scipy.stats.beta.ppf(p, 0.6, 0.6), and with other parameters
        for ((probability, alpha, beta), expected) in [
            ((0.0, 0.6, 0.6), 0.0),
            ((1.0, 0.6, 0.6), 1.0),
            ((0.5, 0.6, 0.6), 0.5000000000000001),
            ((0.05263157894736842, 0.6, 0.6), 0.013671081564469266),
            ((0.001, 0.6, 0.6), 1.855873851745199e-05),
            ((0.999, 0.6, 0.6), 0.9999814412614826),
            ((0.37, 0.6, 0.6), 0.3227940020973615),
            ((0.2, 0.3, 0.9), 0.005407556518599545),
            ((0.8, 1.0, 0.05), 0.9999999999999896),
        ] {
            let found = quantile(probability, alpha, beta);
            assert!((found - expected).abs() <= 1e-12 * expected, "{found} instead of {expected}");
        }
    }
}
