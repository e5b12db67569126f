//! How much KV a model keeps for each token: of the usual open models, of a `config.json`, or as given.

use serde::Deserialize;
use serde_json::Value;
use std::path::{Path, PathBuf};

/// The names are those under which people speak of the models, in lower case.
const PRESETS: &str = include_str!("presets.toml");

/// A model, as far as its KV cache goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Model {
    /// What it is called.
    pub name: String,
    /// What it keeps.
    pub kv: Kv,
    /// Bytes of one number.
    pub element_bytes: u64,
    /// Where the numbers are from.
    pub source: String,
}

/// What is kept for each token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kv {
    /// Keys and values of each layer and head.
    Heads {
        /// Layers that attend.
        layers: u64,
        /// Heads that keys and values have.
        kv_heads: u64,
        /// Numbers in each key, and in each value.
        head_dim: u64,
        /// How many of the layers attend to a window only. Their blocks are kept like all others.
        sliding: u64,
    },
    /// One vector for each layer (multi-head latent attention).
    Latent {
        /// Layers that attend.
        layers: u64,
        /// Numbers of the vector.
        dim: u64,
    },
    /// So many bytes, whatever they are.
    Bytes(u64),
}

/// Why there is no model.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// No preset of this name.
    #[error("there is no model `{name}`{}; --model list prints all, --model-config and --bytes-per-token take your own", nearest(similar))]
    Unknown {
        /// What was asked for.
        name: String,
        /// The nearest names, the nearest first.
        similar: Vec<String>,
    },
    /// A `config.json` that does not say what is needed.
    #[error("{}: {why}", .path.display())]
    Config {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// A data type that is none.
    #[error("unknown data type `{0}`: use bf16, fp16, fp32, fp8 or int8")]
    Dtype(String),
    /// More ranks than there is something to split.
    #[error("--tp {tp}: {why}")]
    Ranks {
        /// What was asked for.
        tp: u16,
        /// Why not.
        why: String,
    },
}

fn nearest(similar: &[String]) -> String {
    match similar {
        [] => String::new(),
        names => format!(", the nearest are {}", names.join(", ")),
    }
}

#[derive(Deserialize)]
struct File {
    model: Vec<Entry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    name: String,
    layers: u64,
    kv_heads: Option<u64>,
    head_dim: Option<u64>,
    latent_dim: Option<u64>,
    #[serde(default)]
    sliding: u64,
    source: String,
}

/// Every preset, in the order of the file.
pub fn presets() -> Vec<Model> {
    let file: File = toml::from_str(PRESETS).expect("the presets are checked by a test");
    file.model.into_iter().map(Entry::model).collect()
}

impl Entry {
    fn model(self) -> Model {
        let kv = match (self.latent_dim, self.kv_heads, self.head_dim) {
            (Some(dim), ..) => Kv::Latent { layers: self.layers, dim },
            (None, Some(kv_heads), Some(head_dim)) => Kv::Heads { layers: self.layers, kv_heads, head_dim, sliding: self.sliding },
            _ => panic!("the preset {} has neither heads nor a latent vector", self.name),
        };
        Model { name: self.name, kv, element_bytes: 2, source: self.source }
    }
}

impl Model {
    /// The preset of this name; upper and lower case are the same.
    pub fn preset(name: &str) -> Result<Model, ModelError> {
        let wanted = name.to_lowercase();
        let presets = presets();
        if let Some(model) = presets.iter().find(|model| model.name == wanted) {
            return Ok(model.clone());
        }
        let mut similar: Vec<_> = presets.into_iter().map(|model| (strsim::jaro_winkler(&wanted, &model.name), model.name)).collect();
        similar.retain(|(likeness, _)| *likeness > 0.7);
        similar.sort_by(|a, b| b.0.total_cmp(&a.0));
        Err(ModelError::Unknown { name: name.into(), similar: similar.into_iter().take(3).map(|(_, name)| name).collect() })
    }

    /// So many bytes a token, and nothing else known.
    pub fn of_bytes(bytes_per_token: u64) -> Model {
        Model { name: "own".into(), kv: Kv::Bytes(bytes_per_token), element_bytes: 1, source: "--bytes-per-token".into() }
    }

    /// The model that a Hugging Face `config.json` describes.
    pub fn from_config(path: &Path) -> Result<Model, ModelError> {
        let wrong = |why: String| ModelError::Config { path: path.into(), why };
        let text = std::fs::read_to_string(path).map_err(|error| wrong(error.to_string()))?;
        let config: Value = serde_json::from_str(&text).map_err(|error| wrong(format!("this is no JSON: {error}")))?;
        describe(&config, path).map_err(wrong)
    }

    /// The same model with numbers of another type.
    pub fn with_dtype(self, dtype: &str) -> Result<Model, ModelError> {
        let element_bytes = element_bytes(dtype).ok_or_else(|| ModelError::Dtype(dtype.into()))?;
        Ok(Model { element_bytes, ..self })
    }

    /// Bytes kept for each token, all layers and all ranks.
    pub fn bytes_per_token(&self) -> u64 {
        match self.kv {
            Kv::Heads { layers, kv_heads, head_dim, .. } => 2 * layers * kv_heads * head_dim * self.element_bytes,
            Kv::Latent { layers, dim } => layers * dim * self.element_bytes,
            Kv::Bytes(bytes) => bytes,
        }
    }

    /// How many stripes `tp` ranks make of a block. Ranks that would hold the same bytes make no stripe of their own.
    pub fn stripes(&self, tp: u16) -> Result<u16, ModelError> {
        let refuse = |why: String| Err(ModelError::Ranks { tp, why });
        match self.kv {
            _ if tp == 0 => refuse("at least one rank".into()),
            // Every rank has the whole vector, and one of them stores it.
            Kv::Latent { .. } => Ok(1),
            Kv::Heads { kv_heads, .. } if !kv_heads.is_multiple_of(u64::from(tp)) => {
                refuse(format!("{} has {kv_heads} KV heads, which so many ranks cannot share equally", self.name))
            }
            _ => Ok(tp),
        }
    }

    /// What attention the layout names.
    pub fn attention(&self) -> &'static str {
        match self.kv {
            Kv::Latent { .. } => "mla",
            Kv::Heads { .. } | Kv::Bytes(_) => "full_attention",
        }
    }
}

fn element_bytes(dtype: &str) -> Option<u64> {
    match dtype {
        "bf16" | "bfloat16" | "fp16" | "float16" | "half" => Some(2),
        "fp32" | "float32" => Some(4),
        "fp8" | "fp8_e4m3" | "fp8_e5m2" | "int8" => Some(1),
        _ => None,
    }
}

/// Reads what is needed, from the text model inside when there are several.
fn describe(config: &Value, path: &Path) -> Result<Model, String> {
    let inner = config.get("text_config").unwrap_or(config);
    let number = |key: &str| inner.get(key).and_then(Value::as_u64);
    let needed = |key: &str| number(key).ok_or_else(|| format!("the field `{key}` is missing, or no number"));
    let layers = needed("num_hidden_layers")?;
    let kv = match number("kv_lora_rank") {
        Some(rank) => Kv::Latent { layers, dim: rank + needed("qk_rope_head_dim")? },
        None => {
            let heads = needed("num_attention_heads")?;
            let per_head = || needed("hidden_size").map(|size| size / heads.max(1));
            Kv::Heads {
                layers,
                kv_heads: number("num_key_value_heads").unwrap_or(heads),
                head_dim: number("head_dim").map_or_else(per_head, Ok)?,
                sliding: 0,
            }
        }
    };
    let dtype = ["torch_dtype", "dtype"].into_iter().find_map(|key| inner.get(key).or_else(|| config.get(key))?.as_str());
    let name = config.get("_name_or_path").and_then(Value::as_str).filter(|name| !name.is_empty());
    let model = Model {
        name: name.or_else(|| config.get("model_type")?.as_str()).unwrap_or("own").to_owned(),
        kv,
        element_bytes: dtype.and_then(element_bytes).unwrap_or(2),
        source: path.display().to_string(),
    };
    if model.bytes_per_token() == 0 { Err("by its numbers it keeps nothing".into()) } else { Ok(model) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(name: &str) -> u64 {
        Model::preset(name).unwrap().bytes_per_token()
    }

    #[test]
    fn well_known_models_keep_what_is_known_of_them() {
        assert_eq!(bytes("llama-3.1-8b"), 128 << 10);
        assert_eq!(bytes("Llama-3.1-70B"), 320 << 10);
        assert_eq!(bytes("llama-3.1-405b"), 504 << 10);
        assert_eq!(bytes("deepseek-v3"), 61 * 576 * 2);
        assert_eq!(bytes("qwen3-235b-a22b"), 188 << 10);
        assert_eq!(bytes("gpt-oss-20b"), 48 << 10);
    }

    #[test]
    fn every_preset_has_a_name_of_its_own_a_source_and_some_bytes() {
        let presets = presets();
        let mut names: Vec<_> = presets.iter().map(|model| model.name.clone()).collect();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), presets.len());
        assert!(presets.iter().all(|model| !model.source.is_empty() && model.bytes_per_token() > 0));
        assert!(presets.iter().all(|model| model.name == model.name.to_lowercase()));
    }

    #[test]
    fn an_unknown_model_is_answered_with_the_nearest() {
        let refusal = Model::preset("llama-3-8b").unwrap_err().to_string();
        assert!(refusal.contains("`llama-3-8b`") && refusal.contains("llama-3.1-8b") && refusal.contains("--model list"), "{refusal}");
        assert!(!Model::preset("zzz").unwrap_err().to_string().contains("nearest"));
    }

    fn config(text: &str) -> Result<Model, ModelError> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        Model::from_config(file.path())
    }

    #[test]
    fn a_config_gives_the_same_as_the_preset() {
        let llama = r#"{"model_type": "llama", "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8,
            "hidden_size": 4096, "torch_dtype": "bfloat16"}"#;
        assert_eq!(config(llama).unwrap().bytes_per_token(), bytes("llama-3.1-8b"));
        let deepseek = r#"{"num_hidden_layers": 61, "num_attention_heads": 128, "kv_lora_rank": 512, "qk_rope_head_dim": 64}"#;
        assert_eq!(config(deepseek).unwrap().bytes_per_token(), bytes("deepseek-v3"));
        let nested = r#"{"text_config": {"num_hidden_layers": 62, "num_attention_heads": 32, "num_key_value_heads": 16, "head_dim": 128}}"#;
        assert_eq!(config(nested).unwrap().bytes_per_token(), bytes("gemma-3-27b"));
    }

    #[test]
    fn a_config_that_lacks_something_names_it() {
        let refusal = config(r#"{"num_attention_heads": 32}"#).unwrap_err().to_string();
        assert!(refusal.contains("`num_hidden_layers`"), "{refusal}");
    }

    #[test]
    fn ranks_split_heads_equally_or_not_at_all() {
        let llama = Model::preset("llama-3.1-8b").unwrap();
        assert_eq!(llama.stripes(8).unwrap(), 8);
        assert!(llama.stripes(16).unwrap_err().to_string().contains("8 KV heads"));
        assert_eq!(Model::preset("deepseek-v3").unwrap().stripes(16).unwrap(), 1);
    }

    #[test]
    fn a_smaller_data_type_halves_the_bytes() {
        let model = Model::preset("llama-3.1-8b").unwrap().with_dtype("fp8").unwrap();
        assert_eq!(model.bytes_per_token(), 64 << 10);
        assert!(model.with_dtype("fp7").unwrap_err().to_string().contains("fp7"));
    }
}
