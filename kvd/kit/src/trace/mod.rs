//! Recorded requests, read from the formats in which people publish them.
//!
//! A trace says which blocks each request begins with, by ids that are equal where the text was equal. It holds no text, or its
//! text is turned into ids here. A [`Trace`] is an iterator: the file is decompressed and parsed as it goes, one request in memory
//! at a time. A line that cannot be read is refused by its number, or counted and left out when asked to.

mod lines;
mod mooncake;
mod text;
mod weka;

use lines::{Line, Lines};
use std::path::{Path, PathBuf};

/// One request, as it was recorded.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Request {
    /// When it arrived, in milliseconds on the clock that [`Trace::clock`] names.
    pub at_ms: u64,
    /// Which conversation it belongs to, from 0, consecutive. In formats that do not say, each request has its own.
    pub session: u64,
    /// Names of the blocks of its input, in order. Equal ids in equal places after equal ids mean equal tokens. The last may stand
    /// for less than a whole block.
    pub blocks: Vec<u64>,
    /// Tokens of one block.
    pub block_tokens: u32,
    /// Tokens of the input.
    pub input_tokens: u64,
    /// Tokens of the answer.
    pub output_tokens: u64,
    /// Pause between the session's answer before and this request, in milliseconds; zero where unknown.
    pub think_ms: u64,
}

impl Request {
    /// How many of the blocks are whole: only those have KV that can be used again.
    pub fn whole_blocks(&self) -> usize {
        self.blocks.len().min((self.input_tokens / u64::from(self.block_tokens)) as usize)
    }
}

/// How a trace is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// `{timestamp, input_length, output_length, hash_ids}` a line, 512 tokens a block: Mooncake and many after it.
    Mooncake,
    /// Agentic sessions: a meta line, then `{t, in, out, think, runs}` lines with ids of the session's own.
    Weka,
    /// `{timestamp, input, output, session_id}` with the text itself, as LMCache's agent traces.
    Text,
}

/// What [`Request::at_ms`] counts from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Clock {
    /// One clock for the whole trace.
    Trace,
    /// Each session starts at zero; when sessions start is not known.
    Session,
}

impl Format {
    /// Every format, with the name that the command line takes.
    pub const ALL: [(&'static str, Format); 3] = [("mooncake", Format::Mooncake), ("weka", Format::Weka), ("text", Format::Text)];

    /// Its name.
    pub fn name(self) -> &'static str {
        Format::ALL.into_iter().find(|(_, format)| *format == self).map_or("", |(name, _)| name)
    }

    /// What its times count from.
    pub fn clock(self) -> Clock {
        match self {
            Format::Mooncake => Clock::Trace,
            Format::Weka | Format::Text => Clock::Session,
        }
    }
}

/// How to read a trace.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options {
    /// The format; `None` looks at the first line.
    pub format: Option<Format>,
    /// Count lines that cannot be read instead of ending there.
    pub skip_broken: bool,
}

/// Why a trace cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum TraceError {
    /// The file cannot be read, or not be decompressed.
    #[error("cannot read the trace {}: {why}", .path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What went wrong.
        why: String,
    },
    /// None of our formats.
    #[error("{origin}, line {line}: {why}")]
    UnknownFormat {
        /// The file.
        origin: String,
        /// The line looked at.
        line: u64,
        /// What it looks like.
        why: String,
    },
    /// A line that is not what its format says.
    #[error("{origin}, line {line}: {why} (--skip-broken leaves such lines out and counts them)")]
    Broken {
        /// The file, or the file inside an archive.
        origin: String,
        /// Number of the line, from 1.
        line: u64,
        /// What is wrong with it.
        why: String,
    },
    /// Nothing in it.
    #[error("the trace {} holds no request", .0.display())]
    Empty(PathBuf),
}

/// One format's reading of lines. `Ok(None)`: a line that is no request, and is not meant to be.
trait Parse: Send {
    fn line(&mut self, origin: &str, text: &str) -> Result<Option<Request>, String>;
}

/// The requests of one file, in the order of the file.
pub struct Trace {
    path: PathBuf,
    lines: Lines,
    parser: Option<Box<dyn Parse>>,
    format: Option<Format>,
    skip_broken: bool,
    skipped: u64,
    given: u64,
    ended: bool,
    /// Read ahead to learn the format.
    first: Option<Request>,
}

impl Trace {
    /// Opens `path` (`.gz` and `.xz` are decompressed, `.tar` and what ends like it is unpacked) and finds out its format.
    ///
    /// # Errors
    /// When it cannot be read, is in no format known, or holds no request.
    pub fn open(path: &Path, options: Options) -> Result<Trace, TraceError> {
        let lines = Lines::open(path).map_err(|error| TraceError::Unreadable { path: path.into(), why: error.to_string() })?;
        let mut trace = Trace {
            path: path.into(),
            lines,
            parser: options.format.map(parser),
            format: options.format,
            skip_broken: options.skip_broken,
            skipped: 0,
            given: 0,
            ended: false,
            first: None,
        };
        trace.first = trace.advance().transpose()?;
        match trace.first {
            Some(_) => Ok(trace),
            None => Err(TraceError::Empty(path.into())),
        }
    }

    /// The format it is in.
    pub fn format(&self) -> Format {
        self.format.expect("known since the first request was read")
    }

    /// What the requests' times count from.
    pub fn clock(&self) -> Clock {
        self.format().clock()
    }

    /// Lines left out so far because they could not be read.
    pub fn skipped(&self) -> u64 {
        self.skipped
    }

    fn advance(&mut self) -> Option<Result<Request, TraceError>> {
        while !self.ended {
            let line = match self.lines.next()? {
                Ok(line) => line,
                Err(why) => return Some(Err(self.end(TraceError::Unreadable { path: self.path.clone(), why }))),
            };
            match self.read(&line) {
                Ok(Some(request)) => return Some(Ok(request)),
                Ok(None) => {}
                Err(_) if self.skip_broken => self.skipped += 1,
                Err(error) => return Some(Err(self.end(error))),
            }
        }
        None
    }

    fn read(&mut self, line: &Line) -> Result<Option<Request>, TraceError> {
        let at = || (line.origin.to_string(), line.number);
        let text = line.text.as_deref().map_err(|why| {
            let (origin, line) = at();
            TraceError::Broken { origin, line, why: why.clone() }
        })?;
        if text.trim().is_empty() {
            return Ok(None);
        }
        if self.format.is_none() {
            let format = detect(text).map_err(|why| {
                let (origin, line) = at();
                TraceError::UnknownFormat { origin, line, why }
            })?;
            self.format = Some(format);
            self.parser = Some(parser(format));
        }
        let parser = self.parser.as_mut().expect("made with the format");
        parser.line(&line.origin, text).map_err(|why| {
            let (origin, line) = at();
            TraceError::Broken { origin, line, why }
        })
    }

    /// After an error nothing more comes.
    fn end(&mut self, error: TraceError) -> TraceError {
        self.ended = true;
        error
    }
}

impl Iterator for Trace {
    type Item = Result<Request, TraceError>;

    fn next(&mut self) -> Option<Self::Item> {
        let next = self.first.take().map(Ok).or_else(|| self.advance());
        self.given += 1;
        next
    }
}

impl std::fmt::Debug for Trace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Trace").field("path", &self.path).field("format", &self.format).field("given", &self.given).finish_non_exhaustive()
    }
}

fn parser(format: Format) -> Box<dyn Parse> {
    match format {
        Format::Mooncake => Box::new(mooncake::Mooncake::default()),
        Format::Weka => Box::new(weka::Weka::default()),
        Format::Text => Box::new(text::Text::default()),
    }
}

/// The format of a trace whose first line is `text`.
fn detect(text: &str) -> Result<Format, String> {
    let known = "known are lines with `hash_ids` (Mooncake), with `runs` after a `meta` line (Weka), with `input` (text)";
    if text.starts_with("TIMESTAMP,") {
        return Err(
            "a list of lengths without blocks (Azure): what is shared between requests is not in it, so it cannot be replayed".into()
        );
    }
    let value: serde_json::Value = serde_json::from_str(text).map_err(|error| format!("this is no JSON ({error}); {known}"))?;
    let has = |key: &str| value.get(key).is_some();
    match () {
        () if has("hash_ids") => Ok(Format::Mooncake),
        () if has("runs") || has("meta") => Ok(Format::Weka),
        () if has("input") => Ok(Format::Text),
        () => Err(format!("no trace format has such lines; {known}")),
    }
}

/// The message of a JSON error, without the line number of its own: a line of a trace is always line 1 to the parser.
fn broken(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let end = text.rfind(" at line ").unwrap_or(text.len());
    match error.is_eof() {
        true => format!("the line ends too early ({})", &text[..end]),
        false => text[..end].to_owned(),
    }
}

#[cfg(test)]
mod tests;
