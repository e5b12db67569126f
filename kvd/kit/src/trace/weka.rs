//! Agentic coding sessions: a meta line opens a session, then one request a line.
//!
//! `runs` lists the whole blocks of the input as `[first id, how many]`. Ids belong to the session: nothing is shared between
//! sessions in this format, so the number of the session is put in front of them. `think` is the pause before the request.

use super::{Parse, Request, broken};
use serde::Deserialize;

/// Ids of one session lie below this.
const SESSION_IDS: u64 = 1 << 40;
const MOST_SESSIONS: u64 = 1 << 23;

#[derive(Deserialize)]
struct Row {
    trace: String,
    #[serde(default)]
    meta: bool,
    block_size: Option<u32>,
    t: Option<f64>,
    r#in: Option<u64>,
    out: Option<u64>,
    /// `null` where the recorder did not see the pause.
    think: Option<f64>,
    runs: Option<Vec<(u64, u64)>>,
}

struct Session {
    name: String,
    number: u64,
    block_tokens: u32,
}

#[derive(Default)]
pub struct Weka {
    session: Option<Session>,
}

impl Parse for Weka {
    fn line(&mut self, _: &str, text: &str) -> Result<Option<Request>, String> {
        let row: Row = serde_json::from_str(text).map_err(|error| broken(&error))?;
        if row.meta {
            return self.open(row).map(|()| None);
        }
        let session = self.session.as_ref().filter(|session| session.name == row.trace);
        let session = session.ok_or_else(|| format!("a request of `{}` before its meta line", row.trace))?;
        session.request(row).map(Some)
    }
}

impl Weka {
    fn open(&mut self, row: Row) -> Result<(), String> {
        let number = self.session.as_ref().map_or(0, |last| last.number + 1);
        match row.block_size {
            _ if number >= MOST_SESSIONS => Err(format!("more than {MOST_SESSIONS} sessions")),
            None | Some(0) => Err("a meta line without block_size".into()),
            Some(block_tokens) => {
                self.session = Some(Session { name: row.trace, number, block_tokens });
                Ok(())
            }
        }
    }
}

impl Session {
    fn request(&self, row: Row) -> Result<Request, String> {
        let missing = |field: &str| format!("the field `{field}` is missing");
        let input_tokens = row.r#in.ok_or_else(|| missing("in"))?;
        let at_s = row.t.ok_or_else(|| missing("t"))?;
        let think_s = row.think.unwrap_or(0.0);
        if at_s < 0.0 || think_s < 0.0 {
            return Err(format!("t = {at_s}, think = {think_s}: times cannot be negative"));
        }
        Ok(Request {
            at_ms: (at_s * 1000.0) as u64,
            session: self.number,
            blocks: self.expand(&row.runs.ok_or_else(|| missing("runs"))?, input_tokens)?,
            block_tokens: self.block_tokens,
            input_tokens,
            output_tokens: row.out.ok_or_else(|| missing("out"))?,
            think_ms: (think_s * 1000.0) as u64,
        })
    }

    /// Judged before it is expanded: a line of a few bytes must not take all memory.
    fn expand(&self, runs: &[(u64, u64)], input_tokens: u64) -> Result<Vec<u64>, String> {
        let named = runs.iter().fold(0u64, |sum, (_, count)| sum.saturating_add(*count));
        let most = input_tokens.div_ceil(u64::from(self.block_tokens));
        if named > most {
            return Err(format!("the runs name {named} blocks, `in` = {input_tokens} tokens has {most} of {}", self.block_tokens));
        }
        if let Some((first, count)) = runs.iter().find(|(first, count)| first.saturating_add(*count) > SESSION_IDS) {
            return Err(format!("the run [{first}, {count}] has ids beyond {SESSION_IDS}"));
        }
        let base = self.number * SESSION_IDS;
        Ok(runs.iter().flat_map(|(first, count)| *first..first + count).map(|id| base + id).collect())
    }
}
