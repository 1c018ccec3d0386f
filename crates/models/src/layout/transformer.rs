use super::table::{PairBuilder, Row};

/// A transformer block, whose layers have the same names in both layouts.
pub(super) struct Block<'a, 'p> {
    pub(super) component: &'a mut PairBuilder<'p>,
    pub(super) ldm: &'a str,
    pub(super) diffusers: &'a str,
    pub(super) width: u64,
}

impl Block<'_, '_> {
    fn tensor(&mut self, name: &str, dims: &[u64]) {
        let (ldm, diffusers) = (format!("{}.{name}", self.ldm), format!("{}.{name}", self.diffusers));
        self.component.tensor(Row::new(&[&ldm], &[&diffusers], dims));
    }

    fn layer(&mut self, name: &str, weight: &[u64]) {
        self.component.layer(&format!("{}.{name}", self.ldm), &format!("{}.{name}", self.diffusers), weight);
    }

    /// Adds an attention to something of the width `context`.
    pub(super) fn attention(&mut self, name: &str, context: u64) {
        let width = self.width;
        self.tensor(&format!("{name}.to_q.weight"), &[width, width]);
        self.tensor(&format!("{name}.to_k.weight"), &[width, context]);
        self.tensor(&format!("{name}.to_v.weight"), &[width, context]);
        self.layer(&format!("{name}.to_out.0"), &[width, width]);
    }

    /// Adds a feed-forward network.
    pub(super) fn feed_forward(&mut self, name: &str) {
        let width = self.width;
        self.layer(&format!("{name}.net.0.proj"), &[8 * width, width]);
        self.layer(&format!("{name}.net.2"), &[width, 4 * width]);
    }

    /// Adds a normalization.
    pub(super) fn norm(&mut self, name: &str) {
        self.layer(name, &[self.width]);
    }
}
