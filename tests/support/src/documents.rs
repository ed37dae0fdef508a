//! The documents of the repository: what they show is run from where it stands.

use std::path::{Path, PathBuf};

/// The folder of the repository.
pub fn top() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// A file of the repository, by its path from the top.
pub fn text(path: &str) -> String {
    std::fs::read_to_string(top().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Files under a folder with this end of the name, by their paths from the top.
pub fn files(folder: &str, end: &str) -> Vec<String> {
    let (mut found, mut folders) = (Vec::new(), vec![PathBuf::from(folder)]);
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(top().join(&folder)).expect("a folder") {
            let entry = entry.expect("an entry");
            let path = folder.join(entry.file_name());
            let name = path.to_str().expect("plain names");
            if entry.file_type().expect("a type").is_dir() {
                folders.push(path);
            } else if name.ends_with(end) {
                found.push(name.to_owned());
            }
        }
    }
    found.sort();
    found
}

/// All fenced blocks of a language (none: without one), as they stand.
pub fn blocks(path: &str, language: &str) -> Vec<String> {
    let (mut blocks, mut open) = (Vec::new(), None);
    for line in text(path).lines() {
        match (line.strip_prefix("```"), &mut open) {
            (Some(language), None) => open = Some((language.to_owned(), String::new())),
            (Some(_), Some(_)) => blocks.extend(open.take()),
            (None, Some((_, block))) => *block += &format!("{line}\n"),
            (None, None) => {}
        }
    }
    assert!(open.is_none(), "{path}: a block does not end");
    blocks.into_iter().filter(|(found, _)| found == language).map(|(_, block)| block).collect()
}

/// The one block of a language that contains `text`.
pub fn block(path: &str, language: &str, text: &str) -> String {
    let mut found = blocks(path, language);
    found.retain(|block| block.contains(text));
    assert_eq!(found.len(), 1, "{path}: {language} blocks with {text:?}: {found:#?}");
    found.remove(0)
}

/// `text` with places of a test's own; each that it changes must be there.
pub fn moved(text: &str, places: &[(&str, &str)]) -> String {
    places.iter().fold(text.to_owned(), |text, (from, to)| {
        assert!(text.contains(from), "{from:?} is not in: {text}");
        text.replace(from, to)
    })
}
