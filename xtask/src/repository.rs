//! The checkout the chores work on: where it is, which files it has, how commands run in it.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

use anyhow::{Context, Result, bail, ensure};

/// A checkout, by its root.
#[derive(Debug, Clone)]
pub struct Repository {
    root: PathBuf,
}

/// A text file of the checkout.
#[derive(Debug, Clone)]
pub struct SourceFile {
    /// Path below the root, with `/`.
    pub path: String,
    /// Its content.
    pub text: String,
}

impl Repository {
    /// The checkout around the current directory.
    pub fn find() -> Result<Self> {
        let start = env::current_dir()?;
        let root = start.ancestors().find(|folder| folder.join("xtask/Cargo.toml").is_file());
        let root = root.with_context(|| format!("{} is not inside a checkout", start.display()))?;
        Ok(Self { root: root.to_owned() })
    }

    /// The folder that holds the workspace's `Cargo.toml`.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Every text file that git tracks or would track, in path order.
    pub fn files(&self) -> Result<Vec<SourceFile>> {
        let listing = self.output("git", &["ls-files", "--cached", "--others", "--exclude-standard", "-z"])?;
        let mut paths: Vec<&str> = listing.split('\0').filter(|path| !path.is_empty()).collect();
        paths.sort_unstable();
        paths.dedup();
        Ok(paths.into_iter().filter_map(|path| self.file(path)).collect())
    }

    /// One file, if it is there and is text.
    pub fn file(&self, path: &str) -> Option<SourceFile> {
        let text = fs::read_to_string(self.root.join(path)).ok()?;
        Some(SourceFile { path: path.to_owned(), text })
    }

    /// A command that will run in the root.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.current_dir(&self.root);
        command
    }

    /// What a command printed; its failure is an error with what it complained about.
    pub fn output(&self, program: &str, arguments: &[&str]) -> Result<String> {
        let output = self.command(program).args(arguments).output().with_context(|| format!("cannot run {program}"))?;
        if !output.status.success() {
            bail!("{program} {} failed:\n{}", arguments.join(" "), String::from_utf8_lossy(&output.stderr));
        }
        Ok(String::from_utf8(output.stdout)?)
    }

    /// Runs a command with our terminal.
    pub fn show(&self, command: &mut Command) -> Result<()> {
        let status = command.status().with_context(|| format!("cannot run {:?}", command.get_program()))?;
        ensure!(status.success(), "{:?} ended with {status}", command.get_program());
        Ok(())
    }
}
