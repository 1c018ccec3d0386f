//! A prompt that changes during sampling.

use trinart_ckpt_formats::error::{OrInternal, Result};

/// Values that follow one another during sampling, each until a call of the UNet. There is at least one.
#[derive(Debug, Clone, PartialEq)]
pub struct Schedule<T> {
    /// The last call with each value, counted from 0, and the value.
    entries: Vec<(usize, T)>,
}

impl<T> Schedule<T> {
    /// Returns a schedule from the last call with each value and the values. Fails without values.
    pub(crate) fn new(entries: Vec<(usize, T)>) -> Result<Self> {
        entries.first().or_internal("a prompt without text")?;
        Ok(Schedule { entries })
    }

    /// The index of the value at a call, counted from 0.
    ///
    /// Calls after the last value get the first one, as in WebUI: only DPM adaptive makes that many.
    pub fn index_at(&self, call: usize) -> usize {
        self.entries.iter().position(|(until, _)| call <= *until).unwrap_or(0)
    }

    /// The value at a call, counted from 0; see [`Schedule::index_at`].
    pub fn at(&self, call: usize) -> &T {
        #[expect(
            clippy::indexing_slicing,
            reason = "there is at least one entry, and the index is that of an entry or 0"
        )]
        let (_, value) = &self.entries[self.index_at(call)];
        value
    }

    /// The values in their order.
    pub fn values(&self) -> impl ExactSizeIterator<Item = &T> {
        self.entries.iter().map(|(_, value)| value)
    }

    /// The last call with each value, counted from 0, and the value.
    pub fn entries(&self) -> impl ExactSizeIterator<Item = (usize, &T)> {
        self.entries.iter().map(|(until, value)| (*until, value))
    }

    /// Converts all values at once. `convert` returns as many values as it gets.
    pub(crate) fn try_map_all<U>(&self, convert: impl FnOnce(Vec<&T>) -> Result<Vec<U>>) -> Result<Schedule<U>> {
        let values = convert(self.values().collect())?;
        Schedule::new(self.entries.iter().map(|(until, _)| *until).zip(values).collect())
    }
}

/// The calls of the UNet that a prompt's steps refer to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Timeline {
    /// The number of steps, twice that for a sampler that WebUI lists as second-order.
    pub steps: usize,
    /// Whether numbers are read as before WebUI 1.6: those below 1 are shares of the steps. Since 1.6 those with a decimal
    /// point are.
    pub old: bool,
}

impl Timeline {
    /// Returns the timeline of this many steps.
    pub fn new(steps: usize) -> Self {
        Timeline { steps, old: false }
    }

    /// Sets whether numbers are read as before WebUI 1.6.
    #[must_use]
    pub fn old(self, old: bool) -> Self {
        Timeline { old, ..self }
    }

    /// Returns the step that a number in a prompt means. It may be negative.
    pub(super) fn step(&self, number: &str) -> i64 {
        let value: f64 = number.parse().unwrap_or(f64::INFINITY);
        let is_share = if self.old { value < 1.0 } else { number.contains('.') };
        let value = if is_share { value * self.steps as f64 } else { value };
        // Casting truncates, as Python does.
        (value as i64).min(self.steps as i64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_lasts_until_its_call_and_the_first_returns_after_the_last() {
        let schedule = Schedule::new(vec![(5, 'a'), (10, 'b')]).unwrap();
        let found: String = [0, 5, 6, 10, 11].into_iter().map(|call| *schedule.at(call)).collect();
        assert_eq!(found, "aabba");
        assert!(Schedule::<char>::new(Vec::new()).is_err());
    }

    #[test]
    fn reads_steps_and_shares_by_the_rules_of_both_timelines() {
        for (number, new, old) in
            [("0.5", 5, 5), ("1.3", 10, 1), ("3", 3, 3), ("1.0", 10, 1), ("-1", -1, -10), ("1e1", 10, 10), ("0", 0, 0)]
        {
            assert_eq!(
                (Timeline::new(10).step(number), Timeline::new(10).old(true).step(number)),
                (new, old),
                "{number}"
            );
        }
        assert_eq!(Timeline::new(10).step("1e999"), 10);
    }
}
