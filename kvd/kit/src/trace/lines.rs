//! The lines of a file, whatever it is packed in.
//!
//! A thread reads, decompresses and unpacks, a bounded queue hands the lines over: an archive can be read in one direction only,
//! and its reader cannot be kept beside it. When the receiver is dropped the thread ends with its next line.

use flate2::read::MultiGzDecoder;
use lzma_rust2::XzReader;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

/// Longest line: a prompt of some million tokens, as text.
const MOST_LINE_BYTES: u64 = 64 << 20;
/// Lines on their way.
const QUEUED_LINES: usize = 8;

/// One line, without its end.
#[derive(Debug)]
pub struct Line {
    /// The file, or the file inside the archive.
    pub origin: Arc<str>,
    /// From 1.
    pub number: u64,
    /// The line, or why it has none.
    pub text: Result<String, String>,
}

/// The lines of one file, in order.
#[derive(Debug)]
pub struct Lines(Receiver<Result<Line, String>>);

impl Lines {
    /// Opens `path`. What is wrong further in comes as an item.
    pub fn open(path: &Path) -> io::Result<Lines> {
        let file = File::open(path)?;
        if file.metadata()?.is_dir() {
            return Err(io::Error::new(io::ErrorKind::IsADirectory, "it is a directory"));
        }
        let name = path.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
        let (sender, receiver) = sync_channel(QUEUED_LINES);
        let run = move || {
            if let Err(error) = unpack(file, &name, &sender) {
                let _ = sender.send(Err(error.to_string()));
            }
        };
        std::thread::Builder::new().name("kvd-trace".into()).spawn(run)?;
        Ok(Lines(receiver))
    }
}

impl Iterator for Lines {
    type Item = Result<Line, String>;
    fn next(&mut self) -> Option<Self::Item> {
        self.0.recv().ok()
    }
}

fn unpack(file: File, name: &str, sender: &SyncSender<Result<Line, String>>) -> io::Result<()> {
    let ends = |endings: &[&str]| endings.iter().any(|ending| name.ends_with(ending));
    let plain = BufReader::with_capacity(1 << 20, file);
    let source: Box<dyn Read> = match () {
        () if ends(&[".gz", ".tgz"]) => Box::new(MultiGzDecoder::new(plain)),
        () if ends(&[".xz", ".txz"]) => Box::new(XzReader::new(plain, true)),
        () => Box::new(plain),
    };
    if !ends(&[".tar", ".tar.gz", ".tgz", ".tar.xz", ".txz"]) {
        return send(BufReader::new(source), name, sender).map(drop);
    }
    for entry in tar::Archive::new(source).entries()? {
        let entry = entry?;
        let name = entry.path()?.display().to_string();
        // Licences and notes lie beside the traces.
        if name.ends_with(".jsonl") && !send(BufReader::new(entry), &name, sender)? {
            return Ok(());
        }
    }
    Ok(())
}

/// False when nobody listens any more.
fn send(mut source: impl BufRead, name: &str, sender: &SyncSender<Result<Line, String>>) -> io::Result<bool> {
    let origin: Arc<str> = name.into();
    for number in 1.. {
        let mut bytes = Vec::new();
        if source.by_ref().take(MOST_LINE_BYTES).read_until(b'\n', &mut bytes)? == 0 {
            break;
        }
        let is_whole = bytes.pop_if(|byte| *byte == b'\n').is_some() || (bytes.len() as u64) < MOST_LINE_BYTES;
        let text = match is_whole {
            true => String::from_utf8(bytes).map_err(|_| "it is not UTF-8 text".to_owned()),
            false => source.skip_until(b'\n').map(|_| Err(format!("it is longer than {MOST_LINE_BYTES} bytes")))?,
        };
        if sender.send(Ok(Line { origin: origin.clone(), number, text })).is_err() {
            return Ok(false);
        }
    }
    Ok(true)
}
