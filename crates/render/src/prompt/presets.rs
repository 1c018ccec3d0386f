/// A preset of the TrinArt service, from the model card of TrinArt Characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Preset {
    /// The name, as in `--preset`.
    pub name: &'static str,
    /// The text that the preset adds to the negative prompt. The model card has none for the style of 2019.
    pub negative: &'static str,
}

/// All presets.
pub const PRESETS: &[Preset] = &[
    Preset {
        name: "artstyle-2022",
        negative: "retro style, 1980s, 1990s, 2000s, 2005 2006 2007 2008 2009 2010 2011 2012 2013 2014 2015 2016 2017 \
                   2018 2019",
    },
    Preset { name: "artstyle-2019", negative: "" },
    Preset { name: "more-details", negative: "flat color, flat shading" },
];

impl Preset {
    /// Returns the preset with this name.
    pub fn from_name(name: &str) -> Option<&'static Preset> {
        PRESETS.iter().find(|preset| preset.name == name)
    }

    /// Returns the preset's negative prompt followed by `negative`.
    pub fn extend(&self, negative: &str) -> String {
        let both = [self.negative, negative.trim()];
        both.into_iter().filter(|text| !text.is_empty()).collect::<Vec<_>>().join(", ")
    }
}
