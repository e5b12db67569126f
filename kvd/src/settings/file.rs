//! Reads a configuration file. A key that does not exist is refused, with the nearest one that does.

use super::Settings;
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
    /// Not TOML, or a value of the wrong kind.
    #[error("{origin}: {why}")]
    Malformed {
        /// The file.
        origin: String,
        /// What is wrong, with the line.
        why: String,
    },
    /// A section that does not exist.
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
        None => "; `kvd config --reference` lists them all".into(),
    }
}

/// The settings in the file at `path`.
pub fn load(path: &Path) -> Result<Settings, SettingsError> {
    let text = std::fs::read_to_string(path).map_err(|source| SettingsError::Unreadable { path: path.into(), source })?;
    parse(&text, &path.display().to_string())
}

/// The settings in `text`, which came from `origin`.
pub fn parse(text: &str, origin: &str) -> Result<Settings, SettingsError> {
    let malformed = |error: toml::de::Error| SettingsError::Malformed { origin: origin.into(), why: error.to_string() };
    let table: Table = toml::from_str(text).map_err(malformed)?;
    for (section, value) in &table {
        check_section(origin, section, value)?;
    }
    toml::from_str(text).map_err(malformed)
}

fn check_section(origin: &str, section: &str, value: &Value) -> Result<(), SettingsError> {
    let Some(known) = Settings::SECTIONS.into_iter().find(|known| known.name == section) else {
        let nearest = nearest(section, Settings::SECTIONS.iter().map(|known| known.name));
        return Err(SettingsError::UnknownSection { origin: origin.into(), section: section.into(), nearest });
    };
    let Value::Table(keys) = value else { return Ok(()) };
    for key in keys.keys() {
        if !known.settings.iter().any(|setting| setting.name == key) {
            let nearest = nearest(key, known.settings.iter().map(|setting| setting.name));
            return Err(SettingsError::UnknownKey { origin: origin.into(), section: section.into(), key: key.clone(), nearest });
        }
    }
    Ok(())
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
        parse(text, "kvd.toml").unwrap_err().to_string()
    }

    #[test]
    fn an_empty_file_is_the_defaults() {
        assert_eq!(parse("", "kvd.toml").unwrap(), Settings::default());
    }

    #[test]
    fn a_mistyped_key_names_the_nearest() {
        assert_eq!(refusal("[arena]\nbyte = 1"), "kvd.toml: section [arena] has no setting `byte`, did you mean `bytes`?");
    }

    #[test]
    fn a_mistyped_section_names_the_nearest() {
        assert_eq!(refusal("[nvm]\nbytes = 1"), "kvd.toml: there is no section [nvm], did you mean `nvme`?");
    }

    #[test]
    fn a_key_nothing_like_any_points_to_the_reference() {
        assert!(refusal("[arena]\nxylophone = 1").contains("kvd config --reference"));
    }

    #[test]
    fn a_value_of_the_wrong_kind_is_named_with_its_line() {
        let text = refusal("[arena]\nbytes = \"two bananas\"");
        assert!(text.contains("line 2") && text.contains("not a size"), "{text}");
    }
}
