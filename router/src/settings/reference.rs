//! Every setting as Markdown, from the same declaration that the code uses.

use super::Settings;
use super::section::Section;
use std::fmt::Write;

/// Markdown of every section and setting, with defaults.
pub fn reference() -> String {
    let mut out = String::from(
        "# Settings of kvd-router\n\nOne TOML file, `kvd-router serve --config FILE`. Everything has a default but what names a worker or a node.\n",
    );
    out.push_str("Sizes are numbers of bytes or texts such as `\"16MiB\"`. Keys that do not exist are refused. Sections in double\n");
    out.push_str("brackets may be given many times; files of a discovery directory hold only those, as TOML or JSON.\n");
    Settings::SECTIONS.iter().for_each(|section| write_section(&mut out, section));
    out
}

fn write_section(out: &mut String, section: &Section) {
    let title = if section.many { format!("[[{}]]", section.name) } else { format!("[{}]", section.name) };
    let _ = write!(out, "\n## {title}\n\n{}\n\n| setting | default | meaning |\n|---|---|---|\n", joined(section.doc));
    for setting in section.settings {
        let words = setting.default.contains(' ') || setting.default.contains('`') || setting.default == "required";
        let default = if words { setting.default.to_owned() } else { format!("`{}`", setting.default) };
        let _ = writeln!(out, "| `{}` | {default} | {} |", setting.name, joined(setting.doc));
    }
    section.within.iter().for_each(|(_, within)| write_section(out, within));
}

fn joined(doc: &[&str]) -> String {
    doc.iter().map(|line| line.trim()).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fleet::{NodeSpec, WorkerSpec};
    use toml::{Table, Value};

    #[test]
    fn the_defaults_shown_are_the_defaults() {
        let settings = Settings { workers: vec![WorkerSpec::default()], nodes: vec![NodeSpec::default()], ..Settings::default() };
        let table: Table = toml::from_str(&settings.to_toml()).unwrap();
        for section in Settings::SECTIONS {
            match table.get(section.name) {
                Some(Value::Table(values)) => check(section, values),
                Some(Value::Array(list)) => check(section, list[0].as_table().unwrap()),
                _ => {}
            }
        }
    }

    fn check(section: &Section, values: &Table) {
        for setting in section.settings.iter().filter(|setting| setting.default != "required") {
            // What depends on other things is described in words, and is not there.
            let Some(value) = values.get(setting.name) else { continue };
            assert_eq!(setting.default, value.to_string(), "[{}] {}", section.name, setting.name);
        }
        for (key, within) in section.within {
            check(within, values[*key].as_table().unwrap());
        }
    }
}
