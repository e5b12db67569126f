//! One event as it lies in the payload: a map with a `type`, as all of today's publishers write it, or an array that begins
//! with it, as vLLM did until 2025. Texts are borrowed, hashes and tokens go to buffers that are used again.

use super::error::{HashForm, WireError};
use super::reader::{Reader, Value};
use crate::index::BlockName;
use kvd_block::digest::Digest;
use kvd_block::{LayoutId, LocalHash};
use std::ops::Range;

/// How a publisher's hashes become names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Naming {
    /// Engines: an integer is the name; of bytes, the last eight are, big-endian (what vLLM makes integers of).
    Engine,
    /// kvd: the first eight of 16 bytes, little-endian.
    Kvd,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Kind {
    Stored,
    Removed,
    Cleared,
    #[default]
    Unknown,
}

/// Values of one event; absent ones are as their defaults.
#[derive(Debug, Clone, Default)]
pub(super) struct Fields<'a> {
    pub kind: Kind,
    /// In [`Buffers::names`].
    pub names: Range<usize>,
    pub parent: Option<BlockName>,
    pub tokens: usize,
    pub block_tokens: u32,
    pub lora: Option<&'a str>,
    pub lora_id: Option<u64>,
    pub salt: Option<&'a str>,
    pub medium: Option<&'a str>,
    pub extra_keys: &'a [u8],
    pub media_keys: &'a [u8],
    pub group: u16,
    pub attention: Option<&'a str>,
    pub window_tokens: Option<u32>,
    pub layout: Option<LayoutId>,
    pub position: Option<u32>,
    pub incarnation: Option<u64>,
    /// In [`Buffers::locals`]: kvd tells them, engines do not.
    pub locals: Range<usize>,
    pub digest: Option<Digest>,
}

/// What grows with a message, kept from one to the next.
#[derive(Debug, Default)]
pub(super) struct Buffers {
    pub names: Vec<BlockName>,
    pub locals: Vec<LocalHash>,
    /// Of one event, little-endian.
    pub tokens: Vec<u8>,
}

/// Reads events of one stream, whose hashes must all have the same form.
#[derive(Debug)]
pub(super) struct Hashes {
    pub naming: Naming,
    pub form: Option<HashForm>,
}

impl Hashes {
    fn name(&mut self, value: Value<'_>) -> Result<BlockName, WireError> {
        let (form, name) = match (value, self.naming) {
            (Value::Integer(value), Naming::Engine) => (HashForm::Integer, value),
            (Value::Bytes(bytes), Naming::Engine) => (HashForm::Bytes(bytes.len()), last_eight(bytes)?),
            (Value::Bytes(bytes), Naming::Kvd) => (HashForm::Bytes(bytes.len()), first_eight(bytes)?),
            _ => return Err(WireError::OutOfRange { what: "a block hash" }),
        };
        let was = *self.form.get_or_insert(form);
        if was == form { Ok(BlockName(name)) } else { Err(WireError::HashForm { was, now: form }) }
    }

    fn list(&mut self, reader: &mut Reader<'_>, names: &mut Vec<BlockName>) -> Result<Range<usize>, WireError> {
        let start = names.len();
        for _ in 0..reader.array("block_hashes")?.unwrap_or(0) {
            names.push(self.name(reader.value()?)?);
        }
        Ok(start..names.len())
    }

    fn parent(&mut self, reader: &mut Reader<'_>) -> Result<Option<BlockName>, WireError> {
        match reader.value()? {
            Value::Nil => Ok(None),
            value => self.name(value).map(Some),
        }
    }
}

fn last_eight(bytes: &[u8]) -> Result<u64, WireError> {
    bytes.last_chunk().map(|last| u64::from_be_bytes(*last)).ok_or(WireError::HashWidth { bytes: bytes.len() })
}

fn first_eight(bytes: &[u8]) -> Result<u64, WireError> {
    let first = bytes.first_chunk().filter(|_| bytes.len() == 16);
    first.map(|first| u64::from_le_bytes(*first)).ok_or(WireError::HashWidth { bytes: bytes.len() })
}

/// Reads the next event.
pub(super) fn event<'a>(reader: &mut Reader<'a>, hashes: &mut Hashes, buffers: &mut Buffers) -> Result<Fields<'a>, WireError> {
    let mut fields = Fields::default();
    buffers.tokens.clear();
    match reader.value()? {
        Value::Map(count) => {
            for _ in 0..count {
                match reader.value()? {
                    Value::Text(key) => fields.read(key, reader, hashes, buffers)?,
                    Value::Array(count) => reader.skip_all(count + 1)?,
                    Value::Map(count) => reader.skip_all(2 * count + 1)?,
                    _ => reader.skip()?,
                }
            }
        }
        Value::Array(count) if count > 0 => {
            fields.read("type", reader, hashes, buffers)?;
            let keys = fields.kind.positions();
            for position in 1..count {
                match keys.get(position - 1) {
                    Some(key) => fields.read(key, reader, hashes, buffers)?,
                    None => reader.skip()?,
                }
            }
        }
        _ => return Err(WireError::Missing { event: "an event", what: "a map or an array" }),
    }
    Ok(fields)
}

impl Kind {
    fn named(name: Option<&str>) -> Kind {
        match name {
            Some("BlockStored") => Kind::Stored,
            Some("BlockRemoved") => Kind::Removed,
            Some("AllBlocksCleared") => Kind::Cleared,
            _ => Kind::Unknown,
        }
    }

    /// Keys of the values of an event that is an array, in their order.
    fn positions(self) -> &'static [&'static str] {
        match self {
            Kind::Stored => &[
                "block_hashes",
                "parent_block_hash",
                "token_ids",
                "block_size",
                "lora_id",
                "medium",
                "lora_name",
                "extra_keys",
                "group_idx",
                "kv_cache_spec_kind",
                "kv_cache_spec_sliding_window",
            ],
            Kind::Removed => &["block_hashes", "medium", "group_idx"],
            Kind::Cleared | Kind::Unknown => &[],
        }
    }
}

impl<'a> Fields<'a> {
    fn read(&mut self, key: &str, reader: &mut Reader<'a>, hashes: &mut Hashes, buffers: &mut Buffers) -> Result<(), WireError> {
        match key {
            "type" => self.kind = Kind::named(reader.text_or_none()?),
            "block_hashes" => self.names = hashes.list(reader, &mut buffers.names)?,
            "parent_block_hash" => self.parent = hashes.parent(reader)?,
            "token_ids" => {
                buffers.tokens.clear();
                self.tokens = reader.tokens(&mut buffers.tokens)?;
            }
            "block_size" => self.block_tokens = reader.integer("block_size")?.unwrap_or(0),
            "lora_id" => self.read_lora(reader)?,
            "lora_name" => self.lora = reader.text_or_none()?.or(self.lora),
            "cache_salt" => self.salt = reader.text_or_none()?,
            "medium" => self.medium = reader.text_or_none()?,
            "extra_keys" => self.extra_keys = reader.raw()?,
            "mm_keys" => self.media_keys = reader.raw()?,
            "group_idx" => self.group = reader.integer("group_idx")?.unwrap_or(0),
            "kv_cache_spec_kind" => self.attention = reader.text_or_none()?,
            "kv_cache_spec_sliding_window" => self.window_tokens = reader.integer("kv_cache_spec_sliding_window")?,
            "kvd_layout" => self.layout = reader.text_or_none()?.and_then(LayoutId::from_hex),
            "kvd_position" => self.position = reader.integer("kvd_position")?,
            "kvd_incarnation" => self.incarnation = reader.integer("kvd_incarnation")?,
            "kvd_local" => self.locals = local_hashes(reader, &mut buffers.locals)?,
            "kvd_digest" => self.digest = digest(reader)?,
            _ => reader.skip()?,
        }
        Ok(())
    }

    /// SGLang and old vLLM know adapters by a number, some forks by a name.
    fn read_lora(&mut self, reader: &mut Reader<'a>) -> Result<(), WireError> {
        match reader.value()? {
            Value::Integer(id) => self.lora_id = Some(id),
            Value::Text(name) => self.lora = self.lora.or(Some(name)),
            Value::Nil => {}
            _ => return Err(WireError::OutOfRange { what: "lora_id" }),
        }
        Ok(())
    }
}

fn local_hashes(reader: &mut Reader<'_>, locals: &mut Vec<LocalHash>) -> Result<Range<usize>, WireError> {
    let start = locals.len();
    for _ in 0..reader.array("kvd_local")?.unwrap_or(0) {
        let local = reader.integer("kvd_local")?.ok_or(WireError::OutOfRange { what: "kvd_local" })?;
        locals.push(LocalHash(local));
    }
    Ok(start..locals.len())
}

fn digest(reader: &mut Reader<'_>) -> Result<Option<Digest>, WireError> {
    match reader.array("kvd_digest")? {
        None => Ok(None),
        Some(2) => {
            let mut number = || reader.integer::<u64>("kvd_digest")?.ok_or(WireError::OutOfRange { what: "kvd_digest" });
            Ok(Some(Digest { sum: number()?, count: number()? }))
        }
        Some(_) => Err(WireError::OutOfRange { what: "kvd_digest" }),
    }
}
