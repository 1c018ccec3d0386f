//! The report as a page that needs nothing else: no other file, and no network.

use std::path::Path;

use serde::Serialize;

use super::{AuditReport, AuditedFile};
use trinart_ckpt_formats::error::{OrInternal, Result};

/// The page, with a placeholder for the report.
const PAGE: &str = include_str!("page.html");
const PLACE: &str = "@DATA@";

/// The width and height of previews and of renders, in pixels.
const THUMBNAIL: u32 = 96;
const RENDER: u32 = 400;

#[derive(Serialize)]
struct PageFile<'a> {
    #[serde(flatten)]
    file: &'a AuditedFile,
    #[serde(skip_serializing_if = "Option::is_none")]
    thumbnail: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pictures: Vec<String>,
}

#[derive(Serialize)]
struct Page<'a> {
    files: Vec<PageFile<'a>>,
    findings: &'a [super::AuditFinding],
    bytes: u64,
    deep: bool,
}

impl AuditReport {
    /// Formats the report as an HTML page. `picture` returns a picture as a `data:` address, at most as wide and high as the
    /// number says; `None` if it cannot be shown.
    pub fn to_html(&self, picture: &dyn Fn(&Path, u32) -> Option<String>) -> Result<String> {
        let files = self.files.iter().map(|file| PageFile {
            thumbnail: file.preview.as_ref().and_then(|path| picture(Path::new(path), THUMBNAIL)),
            pictures: file.renders.iter().filter_map(|path| picture(Path::new(path), RENDER)).collect(),
            file,
        });
        let page = Page { files: files.collect(), findings: &self.findings, bytes: self.bytes, deep: self.deep };
        let json = serde_json::to_string(&page).or_internal("a report cannot be written as JSON")?;
        // Names of files must not end the script, nor begin a comment.
        let json = json.replace('<', "\\u003c").replace('\u{2028}', "\\u2028").replace('\u{2029}', "\\u2029");
        let (before, after) = PAGE.split_once(PLACE).or_internal("the page has no place for the report")?;
        Ok([before, &json, after].concat())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_name_cannot_break_out_of_the_data() {
        let file = AuditedFile { file: "</script><script>alert(1)</script>".to_owned(), ..AuditedFile::default() };
        let report = AuditReport { files: vec![file], ..AuditReport::default() };
        let page = report.to_html(&|_, _| None).unwrap();
        assert_eq!(page.matches("</script>").count(), 2);
        assert!(page.contains("\\u003c/script>\\u003cscript>alert(1)"));
    }
}
