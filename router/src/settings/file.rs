//! Reads a configuration file. A key that does not exist is refused, with the nearest one that does.

use super::Settings;
use super::section::Section;
use std::path::{Path, PathBuf};
use toml::{Table, Value};

/// Why a configuration file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// The file cannot be read.
    #[error("cannot read the configuration {path}: {source}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The kernel's answer.
        source: std::io::Error,
    },
    /// Not TOML (or JSON), or a value of the wrong kind.
    #[error("{origin}: {why}")]
    Malformed {
        /// The file.
        origin: String,
        /// What is wrong, with the line.
        why: String,
    },
    /// A section that does not exist, or has no place in this file.
    #[error("{origin}: there is no section [{section}]{}", hint(nearest))]
    UnknownSection {
        /// The file.
        origin: String,
        /// What was written.
        section: String,
        /// The nearest section there is.
        nearest: Option<String>,
    },
    /// A key that does not exist.
    #[error("{origin}: section [{section}] has no setting `{key}`{}", hint(nearest))]
    UnknownKey {
        /// The file.
        origin: String,
        /// The section.
        section: String,
        /// What was written.
        key: String,
        /// The nearest key there is.
        nearest: Option<String>,
    },
}

fn hint(nearest: &Option<String>) -> String {
    match nearest {
        Some(name) => format!(", did you mean `{name}`?"),
        None => "; `kvd-router config --reference` lists them all".into(),
    }
}

/// How a file is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// TOML.
    Toml,
    /// JSON with the same tables.
    Json,
}

/// The settings in the file at `path`, checked as a whole.
pub fn load(path: &Path) -> Result<Settings, SettingsError> {
    let text = std::fs::read_to_string(path).map_err(|source| SettingsError::Unreadable { path: path.into(), source })?;
    parse(&text, &path.display().to_string())
}

/// The settings in `text`, which came from `origin`.
pub fn parse(text: &str, origin: &str) -> Result<Settings, SettingsError> {
    let settings = read(text, origin, Format::Toml, &Settings::SECTIONS)?;
    settings.check().map_err(|why| SettingsError::Malformed { origin: origin.into(), why })?;
    Ok(settings)
}

/// What `text` says in `allowed` sections.
pub(crate) fn read(text: &str, origin: &str, format: Format, allowed: &[&'static Section]) -> Result<Settings, SettingsError> {
    let malformed = |why: String| SettingsError::Malformed { origin: origin.into(), why };
    let table: Table = match format {
        Format::Toml => toml::from_str(text).map_err(|error| malformed(error.to_string()))?,
        Format::Json => serde_json::from_str(text).map_err(|error| malformed(error.to_string()))?,
    };
    for (section, value) in &table {
        check_section(origin, section, value, allowed)?;
    }
    match format {
        Format::Toml => toml::from_str(text).map_err(|error| malformed(error.to_string())),
        Format::Json => serde_json::from_str(text).map_err(|error| malformed(error.to_string())),
    }
}

fn check_section(origin: &str, section: &str, value: &Value, allowed: &[&'static Section]) -> Result<(), SettingsError> {
    let Some(known) = allowed.iter().find(|known| known.name == section) else {
        let nearest = nearest(section, allowed.iter().map(|known| known.name));
        return Err(SettingsError::UnknownSection { origin: origin.into(), section: section.into(), nearest });
    };
    match value {
        Value::Table(_) if known.many => {
            let why = format!("[{section}] may be given many times: write [[{section}]]");
            Err(SettingsError::Malformed { origin: origin.into(), why })
        }
        Value::Table(keys) => check_keys(origin, known, keys),
        Value::Array(tables) if known.many => {
            tables.iter().filter_map(Value::as_table).try_for_each(|keys| check_keys(origin, known, keys))
        }
        // The typed reader says what is wrong, with the line.
        _ => Ok(()),
    }
}

fn check_keys(origin: &str, known: &Section, keys: &Table) -> Result<(), SettingsError> {
    for (key, within) in known.within {
        if let Some(Value::Table(keys)) = keys.get(*key) {
            check_keys(origin, within, keys)?;
        }
    }
    let names = || known.settings.iter().map(|setting| setting.name).chain(known.within.iter().map(|(key, _)| *key));
    let Some(key) = keys.keys().find(|key| !names().any(|name| name == *key)) else { return Ok(()) };
    let nearest = nearest(key, names());
    Err(SettingsError::UnknownKey { origin: origin.into(), section: known.name.into(), key: key.clone(), nearest })
}

fn nearest<'a>(written: &str, known: impl Iterator<Item = &'a str>) -> Option<String> {
    known
        .map(|name| (strsim::jaro_winkler(written, name), name))
        .filter(|(likeness, _)| *likeness > 0.7)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, name)| name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(text: &str) -> String {
        parse(text, "router.toml").unwrap_err().to_string()
    }

    #[test]
    fn an_empty_file_is_the_defaults() {
        assert_eq!(parse("", "router.toml").unwrap(), Settings::default());
    }

    #[test]
    fn a_mistyped_key_names_the_nearest() {
        assert_eq!(refusal("[http]\nlisten_ = 1"), "router.toml: section [http] has no setting `listen_`, did you mean `listen`?");
        let text = "[[workers]]\nname = \"a\"\nblock_token = 16";
        assert_eq!(refusal(text), "router.toml: section [workers] has no setting `block_token`, did you mean `block_tokens`?");
    }

    #[test]
    fn a_mistyped_key_of_a_section_within_another_names_the_nearest() {
        let text = refusal("[route.queue]\npolicies = \"fcfs\"");
        assert_eq!(text, "router.toml: section [route.queue] has no setting `policies`, did you mean `policy`?");
    }

    #[test]
    fn a_mistyped_section_names_the_nearest() {
        assert_eq!(refusal("[htp]\nlisten = 1"), "router.toml: there is no section [htp], did you mean `http`?");
    }

    #[test]
    fn a_list_written_as_one_table_says_how_to_write_it() {
        assert_eq!(refusal("[workers]\nname = \"a\""), "router.toml: [workers] may be given many times: write [[workers]]");
    }

    #[test]
    fn a_worker_without_what_it_needs_is_named() {
        let text = "[[workers]]\nname = \"a\"\nblock_tokens = 16";
        assert_eq!(refusal(text), "router.toml: worker `a` has no `model`: name the model it serves");
    }

    #[test]
    fn a_value_of_the_wrong_kind_is_named_with_its_line() {
        let text = refusal("[http]\nlisten = 5");
        assert!(text.contains("line 2"), "{text}");
    }
}
