//! `config.json`, read with errors that name the key.

use outpour_store::StoreError;
use outpour_store::checkpoint::Checkpoint;
use serde_json::Value;

use crate::gguf;

/// What can be wrong with a model.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// Files, memory or reads.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The backend.
    #[error(transparent)]
    Ops(#[from] outpour_kernels::OpsError),
    /// A key of config.json.
    #[error("config.json: {0}")]
    Config(String),
    /// A tensor that is missing, or is not what the config says.
    #[error("{0}")]
    Tensor(String),
    /// Every slot that may be taken for a context is taken.
    #[error("no memory is left for a longer context: raise --ram, or lower --ctx")]
    NoRoom,
    /// A state that cannot be used here.
    #[error("{0}")]
    State(String),
}

impl ModelError {
    /// The same with the name of the file that the config is of, and its own keys: metadata of GGUF files stand for `config.json`.
    pub fn in_files_of(self, checkpoint: &Checkpoint) -> ModelError {
        match (self, checkpoint.gguf()) {
            (ModelError::Config(problem), Some(metadata)) => {
                let problem = gguf::in_words_of(metadata, &problem);
                StoreError::Malformed { path: metadata.path().to_owned(), problem }.into()
            }
            (error, _) => error,
        }
    }
}

/// A view of `config.json`.
#[derive(Clone, Copy, Debug)]
pub struct Config<'a>(pub &'a Value);

/// How configs spell the number of layers: LongCat's of two attentions have the first, and perhaps twice as much as the second.
pub const LAYERS: &[&str] = &["num_layers", "num_hidden_layers"];

/// Sizes from this on are no model's, and would overflow products of sizes.
pub(crate) const SIZE_MAX: u64 = 1 << 31;

impl<'a> Config<'a> {
    /// `model_type`, which says what family it is.
    pub fn model_type(&self) -> Result<&'a str, ModelError> {
        self.0
            .get("model_type")
            .and_then(Value::as_str)
            .ok_or_else(|| ModelError::Config("has no model_type; give the config.json of a language model".into()))
    }

    /// The language model's part: `text_config` of a multimodal model, or all of it.
    pub fn text(&self) -> Config<'a> {
        Config(self.get("text_config").filter(|text| text.is_object()).unwrap_or(self.0))
    }

    fn get(&self, key: &str) -> Option<&'a Value> {
        self.0.get(key).filter(|value| !value.is_null())
    }

    /// Whether there is such a key, and it is not null.
    pub fn has(&self, key: &str) -> bool {
        self.get(key).is_some()
    }

    /// Whether a key's value is a list.
    pub fn is_list(&self, key: &str) -> bool {
        self.get(key).is_some_and(Value::is_array)
    }

    /// Refuses a config without this key.
    pub fn needs(&self, key: &str) -> Result<(), ModelError> {
        if self.has(key) { Ok(()) } else { Err(ModelError::Config(format!("has no {key}; download it again"))) }
    }

    /// A size, at least 1.
    pub fn size(&self, key: &str) -> Result<usize, ModelError> {
        self.needs(key)?;
        self.size_or(key, 1)
    }

    /// A size under the first of these spellings that is there.
    pub fn size_of(&self, keys: &[&'static str]) -> Result<usize, ModelError> {
        self.size(self.spelling(keys))
    }

    /// A size with a default.
    pub fn size_or(&self, key: &str, default: usize) -> Result<usize, ModelError> {
        Ok(self.size_or_none(key)?.unwrap_or(default))
    }

    /// A size, if there is one. A list that gives every layer the same one is that size (Hunyuan).
    pub fn size_or_none(&self, key: &str) -> Result<Option<usize>, ModelError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let one = match value.as_array().map(Vec::as_slice) {
            Some([first, rest @ ..]) if rest.iter().all(|other| other == first) => first,
            _ => value,
        };
        match one.as_u64() {
            Some(size) if (1..SIZE_MAX).contains(&size) => Ok(Some(size as usize)),
            _ => Err(wrong(key, value, &format!("a whole number from 1 to {}", SIZE_MAX - 1))),
        }
    }

    /// A size, or 0 where it is 0 or is not there.
    pub fn size_or_zero(&self, key: &str) -> Result<usize, ModelError> {
        if self.get(key).and_then(Value::as_u64) == Some(0) { Ok(0) } else { self.size_or(key, 0) }
    }

    /// The first of these spellings that is there, or else the first of all.
    pub fn spelling(&self, keys: &[&'static str]) -> &'static str {
        keys.iter().find(|key| self.get(key).is_some()).unwrap_or(&keys[0])
    }

    /// A number of things, which may be 0, with a default.
    pub fn count_or(&self, key: &str, default: usize) -> Result<usize, ModelError> {
        let Some(value) = self.get(key) else { return Ok(default) };
        match value.as_u64() {
            Some(count) if count < SIZE_MAX => Ok(count as usize),
            _ => Err(wrong(key, value, &format!("a whole number from 0 to {}", SIZE_MAX - 1))),
        }
    }

    /// A number, with a default.
    pub fn float_or(&self, key: &str, default: f64) -> Result<f64, ModelError> {
        match self.get(key) {
            None => Ok(default),
            Some(value) => value.as_f64().ok_or_else(|| wrong(key, value, "a number")),
        }
    }

    /// A number above zero that f32 can hold, with a default.
    pub fn positive_or(&self, key: &str, default: f64) -> Result<f64, ModelError> {
        let number = self.float_or(key, default)?;
        if (f32::MIN_POSITIVE as f64..=f32::MAX as f64).contains(&number) {
            Ok(number)
        } else {
            let value = self.get(key).unwrap_or(&Value::Null);
            Err(wrong(key, value, &format!("above 0 and at most {:e}", f32::MAX)))
        }
    }

    /// A list of numbers above zero; empty where there is none.
    ///
    /// # Errors
    /// When it is something else.
    pub fn positives(&self, key: &str) -> Result<Vec<f64>, ModelError> {
        let Some(value) = self.get(key) else { return Ok(Vec::new()) };
        let positive = |number: &Value| number.as_f64().filter(|number| *number > 0.0);
        let list = value.as_array().map(|list| list.iter().map(positive).collect());
        list.flatten().ok_or_else(|| wrong(key, value, "a list of numbers above 0"))
    }

    /// A part of the config that is an object of its own; empty where there is none.
    ///
    /// # Errors
    /// When it is something else.
    pub fn part(&self, key: &str) -> Result<Config<'a>, ModelError> {
        static NONE: Value = Value::Null;
        match self.get(key) {
            None => Ok(Config(&NONE)),
            Some(value) if value.is_object() => Ok(Config(value)),
            Some(value) => Err(wrong(key, value, "a JSON object")),
        }
    }

    /// A switch, with a default.
    pub fn flag_or(&self, key: &str, default: bool) -> Result<bool, ModelError> {
        match self.get(key) {
            None => Ok(default),
            Some(value) => value.as_bool().ok_or_else(|| wrong(key, value, "true or false")),
        }
    }

    /// A list of layer numbers; empty where there is none.
    pub fn layers(&self, key: &str) -> Result<Vec<usize>, ModelError> {
        let Some(value) = self.get(key) else { return Ok(Vec::new()) };
        let list = value.as_array().map(|list| list.iter().map(|v| v.as_u64().map(|v| v as usize)).collect());
        list.flatten().ok_or_else(|| wrong(key, value, "a list of layer numbers"))
    }

    /// A list of texts, if there is one.
    pub fn texts(&self, key: &str) -> Result<Option<Vec<&'a str>>, ModelError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let list = value.as_array().map(|list| list.iter().map(Value::as_str).collect::<Option<Vec<_>>>());
        list.flatten().map(Some).ok_or_else(|| wrong(key, value, "a list of texts"))
    }

    /// Which of `num_hidden_layers` layers see all of the past: those that `layer_types` calls `full_attention`, the others
    /// being `other`; or, where there is no such list, those that `default` says.
    pub fn layer_types(&self, other: &str, default: impl Fn(usize) -> bool) -> Result<Vec<bool>, ModelError> {
        let layers = self.size("num_hidden_layers")?;
        let Some(types) = self.texts("layer_types")? else { return Ok((0..layers).map(default).collect()) };
        if types.len() != layers {
            let n = types.len();
            return Err(ModelError::Config(format!("layer_types names {n} layers of {layers}; download it again")));
        }
        let is_full = |kind: &&str| match *kind {
            "full_attention" => Ok(true),
            kind if kind == other => Ok(false),
            kind => {
                Err(ModelError::Config(format!("layer_types has {kind:?}; supported are full_attention and {other}")))
            }
        };
        types.iter().map(is_full).collect()
    }

    /// A text, with a default.
    pub fn text_or(&self, key: &str, default: &'a str) -> Result<&'a str, ModelError> {
        match self.get(key) {
            None => Ok(default),
            Some(value) => value.as_str().ok_or_else(|| wrong(key, value, "a text")),
        }
    }

    /// Refuses a key that has another value than the one that every released model of the family has.
    pub fn only(&self, key: &str, value: &str) -> Result<(), ModelError> {
        self.one_of(key, &[value]).map(|_| ())
    }

    /// The one of these values that a key has, the first where there is no such key; refuses others, which no released model of
    /// the family has.
    pub fn one_of<'v>(&self, key: &str, values: &[&'v str]) -> Result<&'v str, ModelError> {
        let found = self.text_or(key, "")?;
        match values.iter().find(|value| **value == found) {
            Some(value) => Ok(value),
            None if !self.has(key) => Ok(values[0]),
            None => Err(ModelError::Config(format!("{key} {found:?} is not this family's {}", values.join(" or ")))),
        }
    }

    /// Refuses a switch that no released model of the family has on.
    pub fn never(&self, key: &str) -> Result<(), ModelError> {
        match self.flag_or(key, false)? {
            true => Err(ModelError::Config(format!("{key} is true, which no released model of this family has"))),
            false => Ok(()),
        }
    }

    /// Refuses a key that no released model of the family has, unless it is null.
    pub fn no(&self, key: &str) -> Result<(), ModelError> {
        match self.get(key) {
            None => Ok(()),
            Some(value) => {
                Err(ModelError::Config(format!("{key} is {value}, which no released model of this family has")))
            }
        }
    }

    /// Refuses `layer_types` that name another kind than full attention.
    ///
    /// # Errors
    /// Also when they are no list of texts.
    pub fn only_full_attention(&self) -> Result<(), ModelError> {
        let types = self.texts("layer_types")?.unwrap_or_default();
        match types.iter().find(|kind| **kind != "full_attention") {
            None => Ok(()),
            Some(kind) => {
                Err(ModelError::Config(format!("layer_types has {kind:?}, which no released model of this family has")))
            }
        }
    }

    /// Refuses a number of things of which no released model of the family has any.
    pub fn none_of(&self, key: &str) -> Result<(), ModelError> {
        match self.count_or(key, 0)? {
            0 => Ok(()),
            found => Err(ModelError::Config(format!("{key} is {found}, which no released model of this family has"))),
        }
    }

    /// Refuses a switch that no released model of the family has off.
    pub fn always(&self, key: &str) -> Result<(), ModelError> {
        match self.flag_or(key, true)? {
            true => Ok(()),
            false => Err(ModelError::Config(format!("{key} is false, which no released model of this family has"))),
        }
    }

    /// Refuses a config that says nothing of how RoPE is scaled, where the family's own default is a scaling.
    pub fn needs_rope_scaling(&self) -> Result<(), ModelError> {
        self.needs(self.spelling(&["rope_scaling", "rope_parameters"]))
    }

    /// RoPE's settings: `rope_parameters` (new spelling) or `rope_theta` and `rope_scaling` (old spelling), as one view
    /// and its base frequency.
    pub fn rope(&self, theta_default: f64) -> Result<(Config<'a>, f64), ModelError> {
        static NONE: Value = Value::Null;
        let old = self.positive_or("rope_theta", theta_default)?;
        for key in ["rope_parameters", "rope_scaling"] {
            if let Some(value) = self.get(key).filter(|value| !value.is_object()) {
                return Err(wrong(key, value, "a JSON object"));
            }
        }
        let settings = Config(self.get("rope_parameters").or(self.get("rope_scaling")).unwrap_or(&NONE));
        let parts = settings.0.as_object().into_iter().flatten();
        if let Some((kind, _)) = parts.into_iter().find(|(_, part)| part.is_object()) {
            return Err(ModelError::Config(format!(
                "rope_parameters tells of {kind} apart, which no released model of this family does"
            )));
        }
        Ok((settings, settings.positive_or("rope_theta", old)?))
    }
}

fn wrong(key: &str, value: &Value, must_be: &str) -> ModelError {
    ModelError::Config(format!("{key} is {value}, and must be {must_be}; download it again"))
}
