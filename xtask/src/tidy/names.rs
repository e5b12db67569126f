//! Names that say nothing are names of concepts not yet found.

use crate::repository::SourceFile;

const EMPTY_NAMES: [&str; 8] = ["util", "utils", "common", "helper", "helpers", "misc", "v2", "stuff"];

/// Sentences about the file's path.
pub fn check(file: &SourceFile) -> Vec<String> {
    file.path
        .split('/')
        .map(|part| part.split('.').next().unwrap_or(part))
        .filter(|part| EMPTY_NAMES.contains(part))
        .map(|part| format!(": `{part}` names no concept"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::file;

    #[test]
    fn a_folder_or_a_file_may_not_have_an_empty_name() {
        assert_eq!(check(&file("kvd/src/utils/x.rs", "")), [": `utils` names no concept"]);
        assert_eq!(check(&file("kvd/src/helpers.rs", "")), [": `helpers` names no concept"]);
        assert_eq!(check(&file("kvd/src/utility_bill.rs", "")), [""; 0]);
    }
}
