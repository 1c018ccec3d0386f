//! Singular values of a product of two matrices, from their Gram matrices: those of a LoRA have as many rows as it has ranks,
//! however large the layer is.

/// The rows of a lower triangular matrix: row `i` has `i + 1` elements.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Triangle {
    rows: Vec<Vec<f64>>,
}

impl Triangle {
    /// Returns a matrix of zeros.
    pub(super) fn zero(size: usize) -> Self {
        Triangle { rows: (1..=size).map(|length| vec![0.0; length]).collect() }
    }

    /// Adds the product of a vector with itself: the sum over all rows of a matrix is its Gram matrix.
    pub(super) fn add_square(&mut self, vector: &[f64]) {
        for (row, &factor) in self.rows.iter_mut().zip(vector) {
            add_scaled(row, factor, vector);
        }
    }

    /// The sum of the diagonal: the squared Frobenius norm of the matrix that this is the Gram matrix of.
    pub(super) fn trace(&self) -> f64 {
        self.rows.iter().filter_map(|row| row.last()).sum()
    }

    /// Returns the factor of Cholesky: its product with its transpose is this matrix. Directions that are zero but for rounding
    /// are zero.
    fn factor(&self) -> Self {
        let mut factor: Vec<Vec<f64>> = Vec::with_capacity(self.rows.len());
        for (index, wanted) in self.rows.iter().enumerate() {
            let mut row = Vec::with_capacity(wanted.len());
            for (value, above) in wanted.iter().zip(&factor) {
                let rest = value - dot(&row, above);
                let pivot = above.last().copied().unwrap_or(0.0);
                row.push(if pivot > 0.0 { rest / pivot } else { 0.0 });
            }
            let square = wanted.last().copied().unwrap_or(0.0);
            let rest = square - dot(&row, &row);
            let is_zero = rest <= square * (index + 1) as f64 * f64::EPSILON;
            row.push(if is_zero { 0.0 } else { rest.sqrt() });
            factor.push(row);
        }
        Triangle { rows: factor }
    }
}

/// Returns the singular values of `up` times `down`, the largest first, from the Gram matrices of the columns of `up` and of
/// the rows of `down`. Those much smaller than 1e-8 of the largest one are rounding.
pub(super) fn of_product(up: &Triangle, down: &Triangle) -> Vec<f64> {
    // With up = Q L^T and down = M P, where Q and P are orthogonal, up down has the singular values of L^T M.
    let (up, down) = (up.factor(), down.factor());
    let mut product = vec![vec![0.0; down.rows.len()]; up.rows.len()];
    for (of_up, of_down) in up.rows.iter().zip(&down.rows) {
        for (row, &factor) in product.iter_mut().zip(of_up) {
            add_scaled(row, factor, of_down);
        }
    }
    of_bidiagonal(&bidiagonal(product))
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// Adds `factor` times `other`, as far as both reach.
fn add_scaled(to: &mut [f64], factor: f64, other: &[f64]) {
    to.iter_mut().zip(other).for_each(|(to, other)| *to += factor * other);
}

/// Makes the normal of the mirror of Householder that moves a vector into its last element. Returns what the last element
/// becomes, and 2 divided by the squared length of the normal; 0 if no mirror is needed.
fn mirror(vector: &mut [f64]) -> (f64, f64) {
    let Some((last, others)) = vector.split_last_mut() else { return (0.0, 0.0) };
    let rest = dot(others, others);
    if rest == 0.0 {
        return (*last, 0.0);
    }
    let length = (rest + *last * *last).sqrt().copysign(*last);
    *last += length;
    (-length, 2.0 / (rest + *last * *last))
}

/// Moves a square matrix into two diagonals by mirrors from both sides, from the last row and column on. Returns the elements
/// of both by turns: a diagonal one, one beside it, the next diagonal one.
fn bidiagonal(mut rows: Vec<Vec<f64>>) -> Vec<f64> {
    let mut found = Vec::with_capacity(2 * rows.len());
    loop {
        let mut column: Vec<f64> = rows.iter_mut().filter_map(Vec::pop).collect();
        let (diagonal, factor) = mirror(&mut column);
        found.push(diagonal);
        if factor != 0.0 {
            let mut sum = vec![0.0; column.len() - 1];
            rows.iter().zip(&column).for_each(|(row, &part)| add_scaled(&mut sum, part, row));
            rows.iter_mut().zip(&column).for_each(|(row, &part)| add_scaled(row, -factor * part, &sum));
        }
        let Some(mut last) = rows.pop().filter(|last| !last.is_empty()) else { return found };
        let (beside, factor) = mirror(&mut last);
        found.push(beside);
        for row in &mut rows {
            let part = dot(row, &last);
            add_scaled(row, -factor * part, &last);
        }
    }
}

/// Returns the singular values of a matrix of two diagonals by bisection. They are the positive eigenvalues of the symmetric
/// matrix that has the elements beside a diagonal of zeros, and Sturm's sequence counts the eigenvalues below a number
/// (Golub and Kahan 1965).
fn of_bidiagonal(elements: &[f64]) -> Vec<f64> {
    let largest = elements.iter().fold(0.0_f64, |largest, element| largest.max(element.abs()));
    let squares: Vec<f64> = elements.iter().map(|element| element * element).collect();
    // Twice as many as there are singular values: each has a negative twin.
    let eigenvalues = elements.len() + 1;
    let smallest_pivot = f64::MIN_POSITIVE * (largest * largest).max(1.0);
    let below = |number: f64| {
        let mut pivot = -number;
        let mut count = usize::from(pivot < 0.0);
        for square in &squares {
            let divisor = if pivot.abs() < smallest_pivot { -smallest_pivot } else { pivot };
            pivot = -number - square / divisor;
            count += usize::from(pivot < 0.0);
        }
        count
    };
    // No row has a larger sum.
    let mut bound = 2.0 * largest;
    let mut found = Vec::with_capacity(eigenvalues / 2);
    for index in 0..eigenvalues / 2 {
        let (mut low, mut high) = (0.0, bound);
        while high - low > high * f64::EPSILON + largest * 1e-18 {
            let middle = f64::midpoint(low, high);
            if middle <= low || middle >= high {
                break;
            }
            if below(middle) >= eigenvalues - index { high = middle } else { low = middle }
        }
        found.push(if low == 0.0 { 0.0 } else { high });
        bound = high;
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The Gram matrix of the rows of a matrix.
    fn gram(columns: &[&[f64]]) -> Triangle {
        let mut gram = Triangle::zero(columns[0].len());
        columns.iter().for_each(|column| gram.add_square(column));
        gram
    }

    #[track_caller]
    fn assert_close(found: &[f64], expected: &[f64]) {
        assert_eq!(found.len(), expected.len());
        for (found, expected) in found.iter().zip(expected) {
            assert!((found - expected).abs() < 1e-12, "{found} {expected}");
        }
    }

    #[test]
    fn decomposes_known_products() {
        let unit = gram(&[&[1.0, 0.0], &[0.0, 1.0]]);
        assert_close(&of_product(&unit, &gram(&[&[3.0, 0.0], &[0.0, 4.0]])), &[4.0, 3.0]);
        // A rotation changes no singular value, and shear has those of the golden ratio.
        assert_close(&of_product(&gram(&[&[0.6, -0.8], &[0.8, 0.6]]), &gram(&[&[5.0, 0.0], &[0.0, 1.0]])), &[5.0, 1.0]);
        let golden = f64::midpoint(1.0, 5.0_f64.sqrt());
        assert_close(&of_product(&unit, &gram(&[&[1.0, 0.0], &[1.0, 1.0]])), &[golden, 1.0 / golden]);
        assert_close(&of_product(&gram(&[&[2.0]]), &gram(&[&[3.0], &[4.0]])), &[10.0]);
    }

    #[test]
    fn ranks_that_add_nothing_are_zero() {
        let unit = gram(&[&[1.0, 0.0, 0.0], &[0.0, 1.0, 0.0], &[0.0, 0.0, 1.0]]);
        assert_close(&of_product(&unit, &gram(&[&[1.0, 2.0, 2.0]])), &[3.0, 0.0, 0.0]);
        assert_eq!(of_product(&unit, &Triangle::zero(3)), [0.0; 3]);
        assert_eq!(of_product(&Triangle::zero(3), &Triangle::zero(3)), [0.0; 3]);
    }

    #[test]
    fn the_squares_add_up_to_the_squared_norm() {
        let mut state = 1_u64;
        let mut random = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as f64 / f64::from(1 << 30) - 1.0
        };
        let down: Vec<Vec<f64>> = (0..50).map(|_| (0..24).map(|_| random()).collect()).collect();
        let columns: Vec<&[f64]> = down.iter().map(Vec::as_slice).collect();
        let unit: Vec<Vec<f64>> = (0..24).map(|at| (0..24).map(|of| f64::from(u8::from(at == of))).collect()).collect();
        let unit: Vec<&[f64]> = unit.iter().map(Vec::as_slice).collect();
        let found = of_product(&gram(&unit), &gram(&columns));
        assert!(found.is_sorted_by(|a, b| a >= b) && found.len() == 24);
        let squares: f64 = found.iter().map(|value| value * value).sum();
        assert!((squares / gram(&columns).trace() - 1.0).abs() < 1e-12);
    }
}
