//! Every setting as Markdown, from the same declaration that the code uses.

use super::Settings;
use std::fmt::Write;

/// Markdown of every section and setting, with defaults.
pub fn reference() -> String {
    let mut out = String::from(
        "# Settings of kvd\n\nOne TOML file, `kvd serve --config FILE`. Everything has a default; without a file all of them hold.\n",
    );
    out.push_str("Sizes are numbers of bytes or texts such as `\"2GiB\"`. Keys that do not exist are refused.\n");
    for section in Settings::SECTIONS {
        let _ = write!(out, "\n## [{}]\n\n{}\n\n| setting | default | meaning |\n|---|---|---|\n", section.name, joined(section.doc));
        for setting in section.settings {
            let default = if setting.default.contains(' ') || setting.default.contains('`') {
                setting.default.to_owned()
            } else {
                format!("`{}`", setting.default)
            };
            let _ = writeln!(out, "| `{}` | {default} | {} |", setting.name, joined(setting.doc));
        }
    }
    out
}

fn joined(doc: &[&str]) -> String {
    doc.iter().map(|line| line.trim()).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use toml::{Table, Value};

    #[test]
    fn the_defaults_shown_are_the_defaults() {
        let table: Table = toml::from_str(&Settings::default().to_toml()).unwrap();
        for section in Settings::SECTIONS {
            let Some(Value::Table(values)) = table.get(section.name) else { continue };
            for setting in section.settings {
                // What depends on the machine is described in words.
                let Some(value) = values.get(setting.name) else { continue };
                assert_eq!(setting.default, value.to_string(), "[{}] {}", section.name, setting.name);
            }
        }
    }
}
