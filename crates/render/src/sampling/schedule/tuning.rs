/// WebUI's options of schedule types. Each acts only on the schedule types that have it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LevelTuning {
    /// "Schedule min sigma": the lowest level above 0. Default: that of the model.
    pub least: Option<f64>,
    /// "Schedule max sigma": the highest level. Default: that of the model.
    pub most: Option<f64>,
    /// "Schedule rho": the exponent of Karras and Polyexponential. Default: 7 and 1.
    pub rho: Option<f64>,
    /// "Discard penultimate sigma": whether one more level is computed and the second to last dropped. Default: false.
    pub discards_penultimate: bool,
    /// "Beta schedule alpha" and "Beta schedule beta": the parameters of Beta, 0.01 to 1. Default: 0.6.
    pub beta: (f64, f64),
}

impl Default for LevelTuning {
    fn default() -> Self {
        LevelTuning { least: None, most: None, rho: None, discards_penultimate: false, beta: (0.6, 0.6) }
    }
}
