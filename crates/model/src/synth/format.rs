//! How a made checkpoint stores what a family declares: the one place that knows a format's names, types and shapes. A
//! further format is a further arm of [`Format::store`], and of `values` where its bytes are made in another way.

use std::fmt;
use std::str::FromStr;

use outpour_kernels::{Format as OfWeights, GgmlType, Second};
use serde_json::{Map, Value, json};

use super::gguf::{self, GgufTypes};
use super::routing::{self, Role, Rows};
use super::values::Content;
use crate::config::{Config, ModelError};
use crate::registry::{ExpertNames, Family};
use crate::weights::{Declared, DeclaredKind, StoredMatrix, coded};

/// Weights that share a scale and a bias.
const GROUP: usize = 64;
/// Bits of routers and of the gates of shared experts, as mlx-lm's converter leaves them.
const ROUTER_BITS: usize = 8;

/// How weights are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// BF16, under the names of the release.
    Bf16,
    /// MLX's affine quantisation in groups of 64, under mlx-lm's names.
    Mlx {
        /// 2, 3, 4, 5, 6 or 8.
        bits: usize,
    },
    /// Codes with scales of their own, under the names of the release; those called `mlx-` and a mode of MLX under mlx-lm's, with
    /// embedding, head and routers in 8 affine bits.
    Coded(&'static str),
    /// GGUF files, of these types.
    Gguf(GgufTypes),
}

impl Format {
    /// Every format.
    pub fn all() -> impl Iterator<Item = Format> {
        let mlx = [2, 3, 4, 5, 6, 8].map(|bits| Format::Mlx { bits });
        let gguf = GgufTypes::all().map(Format::Gguf);
        [Format::Bf16].into_iter().chain(mlx).chain(coded::made().map(Format::Coded)).chain(gguf)
    }

    /// Whether names and layouts are mlx-lm's.
    pub(super) fn is_mlx(self) -> bool {
        matches!(self, Format::Mlx { .. }) || self.mlx_mode().is_some()
    }

    /// MLX's name of a format of codes.
    fn mlx_mode(self) -> Option<&'static str> {
        match self {
            Format::Coded(name) => name.strip_prefix("mlx-"),
            _ => None,
        }
    }

    /// The format that a config speaks of.
    ///
    /// # Errors
    /// When it is none of [`Format::all`].
    pub fn of_config(config: &Value) -> Result<Format, ModelError> {
        let said = &config["quantization"];
        if said["bits"].is_null() {
            return Format::of_method(config);
        }
        let mode = said["mode"].as_str().unwrap_or("affine");
        let known = |format: &Format| match format {
            Format::Mlx { bits } => mode == "affine" && said["bits"].as_u64() == Some(*bits as u64),
            coded => coded.mlx_mode() == Some(mode),
        };
        Format::all().find(known).ok_or_else(|| {
            ModelError::Config(format!(
                "quantization.bits is {} and its mode {mode:?}; supported are 2, 3, 4, 5, 6 and 8 of \"affine\", and \"mxfp4\", \"nvfp4\" and \"mxfp8\"",
                said["bits"]
            ))
        })
    }

    /// The format of a `quantization_config`.
    fn of_method(config: &Value) -> Result<Format, ModelError> {
        let said = &config["quantization_config"];
        if !said.is_object() {
            return Ok(Format::Bf16);
        }
        // DeepSeek-V4 says this beside it.
        let mut said = said.clone();
        if let Some(experts) = config.get("expert_dtype").filter(|_| said.get("expert_dtype").is_none()) {
            said["expert_dtype"] = experts.clone();
        }
        let known = |format: &Format| match format {
            Format::Coded(name) if format.mlx_mode().is_none() => {
                let (ours, same) = (described(name), |value: &Value, key: &str| value.get(key) == said.get(key));
                // What these say where they are missing is what they usually say.
                let other = [("checkpoint_format", "gptq_v2"), ("scale_fmt", "ue8m0"), ("expert_dtype", "fp4")];
                ["quant_method", "quant_algo", "format", "bits"].iter().all(|key| same(&ours, key))
                    && other.iter().all(|(key, other)| (ours[key] == *other) == (said[key] == *other))
            }
            _ => false,
        };
        Format::all().find(known).ok_or_else(|| {
            ModelError::Config(
                "has a quantization_config, of a format that cannot be made; give the config.json of the BF16 release"
                    .into(),
            )
        })
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Format::Bf16 => f.write_str("bf16"),
            Format::Mlx { bits } => write!(f, "mlx{bits}"),
            Format::Coded(name) => f.write_str(name),
            Format::Gguf(types) => write!(f, "gguf-{types}"),
        }
    }
}

impl FromStr for Format {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        Format::all().find(|format| format.to_string() == name).ok_or_else(|| {
            let all: Vec<String> = Format::all().map(|format| format.to_string()).collect();
            format!("there is no format {name}; there are {}", all.join(", "))
        })
    }
}

/// A tensor of a file, and how its bytes are made.
#[derive(Clone, Debug)]
pub(super) struct Stored {
    pub name: String,
    /// As the header of a safetensors file names it, or ggml.
    pub dtype: &'static str,
    pub shape: Vec<usize>,
    pub content: Content,
}

impl Stored {
    pub fn bytes(&self) -> u64 {
        let elements = self.shape.iter().map(|&dim| dim as u64).product::<u64>();
        match GgmlType::named(self.dtype) {
            Some(blocks) => elements / blocks.block_weights() as u64 * blocks.block_bytes() as u64,
            None => elements * coded::element_bytes(self.dtype) as u64,
        }
    }
}

/// What a config and its family say about names.
#[derive(Clone, Copy, Debug)]
pub(super) struct Naming {
    format: Format,
    /// Whether the language model is wrapped in a multimodal one.
    wrapped: bool,
    /// How the release names experts.
    names: ExpertNames,
    model_type: &'static str,
    layers: usize,
}

/// The parts of an expert, and their numbers where they have numbers.
const PARTS: [&str; 3] = ["gate_proj", "up_proj", "down_proj"];
const NUMBERED: [&str; 3] = ["w1", "w3", "w2"];

impl Naming {
    pub fn new(format: Format, config: &Value, family: &Family, layers: usize) -> Naming {
        Naming {
            format,
            wrapped: config["text_config"].is_object(),
            names: family.experts,
            model_type: family.model_type,
            layers,
        }
    }

    /// A declared name as the files have it.
    fn on_disk(&self, name: &str) -> String {
        match (self.format, self.wrapped, name.strip_prefix("model.")) {
            (format, true, _) if format.is_mlx() => format!("language_model.{name}"),
            (_, true, Some(rest)) => format!("model.language_model.{rest}"),
            _ => name.to_owned(),
        }
    }

    /// The tensors that hold what was declared.
    pub fn store(&self, declared: &Declared, role: &Role) -> Vec<Stored> {
        if let Format::Gguf(types) = self.format {
            return gguf::store(types, self.model_type, self.layers, declared, role);
        }
        let Declared { name, shape, kind } = declared;
        let on_disk = self.on_disk(name);
        match (*kind, shape.as_slice()) {
            (DeclaredKind::Matrix, &[rows, cols]) => self.matrix(&on_disk, &[], rows, cols, role),
            (DeclaredKind::Experts, &[experts, matrices, width, hidden]) => {
                self.experts(&on_disk, experts, matrices, [width, hidden], role)
            }
            (DeclaredKind::Norm { plus_one }, _) => {
                // MLX's exports have the 1 added already.
                let one = if plus_one && !self.format.is_mlx() { 1.0 } else { 0.0 };
                let mean = routing::norm_mean(name) - one;
                vec![plain(on_disk, "BF16", shape, mean, 0.1)]
            }
            (DeclaredKind::Table { below }, &[_, columns]) => {
                let content = Content::Table { columns, below };
                vec![Stored { name: on_disk, dtype: "I64", shape: shape.clone(), content }]
            }
            _ => vec![self.tensor(on_disk, shape, role)],
        }
    }

    /// A tensor that is never quantised.
    fn tensor(&self, name: String, shape: &[usize], role: &Role) -> Stored {
        let Role::Random { mean, deviation } = *role else {
            unreachable!("invariant: only matrices have structure");
        };
        if name.ends_with("A_log") {
            return plain(name, "F32", shape, mean, deviation);
        }
        match *shape {
            // The convolution: MLX's exports have its channels last.
            [channels, 1, kernel] if self.format.is_mlx() => {
                plain(name, "BF16", &[channels, kernel, 1], mean, deviation)
            }
            _ => plain(name, "BF16", shape, mean, deviation),
        }
    }

    /// A matrix `[rows, cols]`, or a stack of them.
    fn matrix(&self, name: &str, stack: &[usize], rows: usize, cols: usize, role: &Role) -> Vec<Stored> {
        let shape = |last: usize| [stack, &[rows, last]].concat();
        if let (Format::Coded(format), Role::Random { deviation, .. }) = (self.format, role)
            && let Some(stored) = coded_as(format, name, rows, cols)
        {
            return coded_parts(&stored, name, stack, *deviation);
        }
        let Some(bits) = self.bits(name, cols) else {
            let content = match role {
                Role::Random { mean, deviation } => Content::Bf16 { mean: *mean, deviation: *deviation },
                Role::Rows(rows) => Content::RowsBf16(rows.clone()),
            };
            return vec![Stored { name: name.to_owned(), dtype: "BF16", shape: shape(cols), content }];
        };
        let stem = name.strip_suffix(".weight").unwrap_or(name);
        let [weight, scales, biases] = match role {
            Role::Random { deviation, .. } => Content::affine(bits, *deviation),
            Role::Rows(rows) => quantised(rows, bits),
        };
        [
            ("weight", "U32", cols * bits / 32, weight),
            ("scales", "BF16", cols / GROUP, scales),
            ("biases", "BF16", cols / GROUP, biases),
        ]
        .map(|(part, dtype, last, content)| Stored {
            name: format!("{stem}.{part}"),
            dtype,
            shape: shape(last),
            content,
        })
        .into()
    }

    /// A layer's experts; `prefix` ends in `.experts`.
    fn experts(
        &self,
        prefix: &str,
        experts: usize,
        matrices: usize,
        [width, hidden]: [usize; 2],
        role: &Role,
    ) -> Vec<Stored> {
        let &Role::Random { deviation: down, .. } = role else {
            unreachable!("invariant: only embedding, head and routers have structure");
        };
        let random = |cols: usize| Role::Random { mean: 0.0, deviation: 1.0 / (cols as f32).sqrt() };
        let names = if !self.format.is_mlx() && self.names == ExpertNames::Numbered { NUMBERED } else { PARTS };
        let parts = [
            (names[0], width, hidden, random(hidden)),
            (names[1], width, hidden, random(hidden)),
            (names[2], hidden, width, Role::Random { mean: 0.0, deviation: down }),
        ];
        // Where there is no gate, it is the first that is missing.
        let parts = &parts[3 - matrices..];
        let stacked = |stem: &str| {
            let of = |(part, rows, cols, role): &(&str, usize, usize, Role)| {
                self.matrix(&format!("{stem}.{part}.weight"), &[experts], *rows, *cols, role)
            };
            parts.iter().flat_map(of).collect()
        };
        let gate_up = |alternate: bool| {
            let Format::Coded(format) = self.format else { return None };
            coded::as_made(format, true, alternate, 2 * width, hidden)
                .filter(|stored| stored.scheme.is_some_and(|s| s.alternates))
        };
        match (self.format, self.names) {
            (Format::Coded(format), ExpertNames::Stacked) if gate_up(true).is_some() => {
                let down_of = coded::as_made(format, true, true, hidden, width);
                let parts =
                    [("gate_up_proj", gate_up(true), 1.0 / (hidden as f32).sqrt()), ("down_proj", down_of, down)];
                let of = |(part, stored, deviation): (&str, Option<StoredMatrix>, f32)| {
                    stored.map(|stored| coded_parts(&stored, &format!("{prefix}.{part}"), &[experts], deviation))
                };
                parts.into_iter().filter_map(of).flatten().collect()
            }
            (Format::Bf16, ExpertNames::Transposed) => {
                let name = |part: &str| format!("{prefix}.{part}");
                let gate_up = self.matrix(&name("gate_up_proj"), &[experts], hidden, 2 * width, &parts[0].3);
                let down = self.matrix(&name("down_proj"), &[experts], width, hidden, &parts[2].3);
                [gate_up, down].concat()
            }
            (_, ExpertNames::Stacked | ExpertNames::Transposed) => stacked(prefix),
            (format, _) if format.is_mlx() => stacked(&prefix.replace(".experts", ".switch_mlp")),
            (Format::Bf16, ExpertNames::Joined | ExpertNames::Linear) => {
                let names = match (self.names, prefix.strip_suffix(".experts")) {
                    (ExpertNames::Linear, Some(module)) => {
                        ["input_linear", "output_linear"].map(|part| format!("{module}.{part}.weight"))
                    }
                    _ => ["gate_up_proj", "down_proj"].map(|part| format!("{prefix}.{part}")),
                };
                let gate_up = self.matrix(&names[0], &[experts], 2 * width, hidden, &parts[0].3);
                let down = self.matrix(&names[1], &[experts], hidden, width, &parts[2].3);
                [gate_up, down].concat()
            }
            (_, _) => {
                let of = |expert: usize| {
                    parts.iter().flat_map(move |(part, rows, cols, role)| {
                        self.matrix(&format!("{prefix}.{expert}.{part}.weight"), &[], *rows, *cols, role)
                    })
                };
                (0..experts).flat_map(of).collect()
            }
        }
    }

    /// Bits of a matrix's weights, if it is quantised. As in mlx-lm, one whose rows are no whole groups is not, nor one that is no
    /// module's weight.
    fn bits(&self, name: &str, cols: usize) -> Option<usize> {
        match self.format {
            _ if !cols.is_multiple_of(GROUP) || !name.ends_with(".weight") => None,
            Format::Mlx { bits } => Some(if is_router(name) { ROUTER_BITS } else { bits }),
            format => format.mlx_mode().map(|_| ROUTER_BITS),
        }
    }

    /// What config.json says about the format, given all that is stored.
    pub fn describe(&self, config: &mut Value, stored: &[Stored]) {
        let Some(object) = config.as_object_mut() else { return };
        object.shift_remove("quantization_config");
        object.shift_remove("quantization");
        let (bits, group, mode) = match (self.format, self.format.mlx_mode()) {
            (Format::Mlx { bits }, _) => (bits, GROUP, "affine"),
            (_, Some(mode)) => (if mode == "mxfp8" { 8 } else { 4 }, if mode == "nvfp4" { 16 } else { 32 }, mode),
            (Format::Coded(name), None) => {
                let gpt_oss = stored.iter().any(|tensor| tensor.name.ends_with("_blocks"));
                let name = if name == "mxfp4" && !gpt_oss { "ct-mxfp4" } else { name };
                object.insert("quantization_config".into(), described(name));
                return;
            }
            _ => return,
        };
        let mut said = Map::new();
        said.insert("group_size".into(), json!(group));
        said.insert("bits".into(), json!(bits));
        said.insert("mode".into(), json!(mode));
        for module in stored.iter().filter_map(|tensor| tensor.name.strip_suffix(".biases")) {
            if mode != "affine" || is_router(&format!("{module}.weight")) {
                let affine = json!({"group_size": GROUP, "bits": ROUTER_BITS, "mode": "affine"});
                said.insert(module.to_owned(), affine);
            }
        }
        object.insert("quantization".into(), Value::Object(said.clone()));
        object.insert("quantization_config".into(), Value::Object(said));
    }

    /// Refuses what the format cannot hold.
    ///
    /// # Errors
    /// When a config is quantised in another way already.
    pub fn check(config: &Config) -> Result<(), ModelError> {
        Format::of_config(config.0).map(|_| ())
    }
}

/// How a random matrix is stored in a format of codes, if it is not left as it is.
fn coded_as(format: &str, name: &str, rows: usize, cols: usize) -> Option<StoredMatrix> {
    // Of a table of n-grams single rows are read, as of an embedding: no format of codes has such.
    let left = is_router(name) || name.contains(".ngram_embedding.") || !name.ends_with(".weight");
    if left {
        None
    } else {
        coded::as_made(format, name.contains(".experts.") || name.contains(".switch_mlp."), false, rows, cols)
    }
}

/// What config.json of a release in a format of codes says.
fn described(format: &str) -> Value {
    let compressed = |format: &str, weights: Value| {
        json!({
            "quant_method": "compressed-tensors", "format": format, "quantization_status": "compressed",
            "config_groups": {"group_0": {"targets": ["Linear"], "weights": weights}},
        })
    };
    let fp8 = json!({
        "quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic", "weight_block_size": [128, 128],
    });
    let with = |mut all: Value, more: &[(&str, &str)]| {
        more.iter().for_each(|(key, value)| all[key] = json!(value));
        all
    };
    let gptq = json!({
        "quant_method": "gptq", "bits": 4, "group_size": 128, "desc_act": false, "sym": true,
        "checkpoint_format": "gptq",
    });
    match format {
        "fp8" => fp8,
        "fp8-e8m0" => with(fp8, &[("scale_fmt", "ue8m0")]),
        "deepseek-v4" => with(fp8, &[("scale_fmt", "ue8m0"), ("expert_dtype", "fp4")]),
        "fp8-row" => compressed(
            "float-quantized",
            json!({"num_bits": 8, "type": "float", "symmetric": true, "strategy": "channel"}),
        ),
        "int4" => compressed(
            "pack-quantized",
            json!({"num_bits": 4, "type": "int", "symmetric": true, "strategy": "group", "group_size": 32}),
        ),
        "int8" => {
            compressed("int-quantized", json!({"num_bits": 8, "type": "int", "symmetric": true, "strategy": "channel"}))
        }
        "ct-nvfp4" => compressed(
            "nvfp4-pack-quantized",
            json!({"num_bits": 4, "type": "float", "symmetric": true, "strategy": "tensor_group", "group_size": 16}),
        ),
        "ct-mxfp4" => compressed(
            "mxfp4-pack-quantized",
            json!({"num_bits": 4, "type": "float", "symmetric": true, "strategy": "group", "group_size": 32}),
        ),
        "ct-mxfp8" => compressed(
            "mxfp8-quantized",
            json!({"num_bits": 8, "type": "float", "symmetric": true, "strategy": "group", "group_size": 32}),
        ),
        "gptq" => gptq,
        "gptq_v2" => with(gptq, &[("checkpoint_format", "gptq_v2")]),
        "awq" => json!({"quant_method": "awq", "bits": 4, "group_size": 128, "zero_point": true, "version": "gemm"}),
        "nvfp4" => json!({"quant_method": "modelopt", "quant_algo": "NVFP4", "group_size": 16}),
        other => json!({"quant_method": other}),
    }
}

/// The tensors of a random matrix of codes.
fn coded_parts(stored: &StoredMatrix, name: &str, stack: &[usize], deviation: f32) -> Vec<Stored> {
    let OfWeights::Coded(coded) = stored.format else { unreachable!("invariant: this is a matrix of codes") };
    let (data, scales, second) = Content::coded(coded, stored.dtype, deviation);
    let mut tensors = Vec::with_capacity(stored.parts());
    let parts = stored.names(name).zip(stored.views()).zip(stored.types());
    for (((name, ([rows, cols], view)), dtype), content) in parts.zip([data, scales, second]) {
        let last = cols * view.bytes() / coded::element_bytes(dtype);
        let shape = match coded.second {
            // One number: modelopt has no dimension for it, compressed-tensors one.
            Second::Times if name.ends_with("_scale_2") => stack.to_vec(),
            Second::Over if name.ends_with("_global_scale") => [stack, &[1]].concat(),
            // gpt-oss has a dimension for the bytes of a block.
            _ if name.ends_with("_blocks") => [stack, &[rows, last / 16, 16]].concat(),
            _ => [stack, &[rows, last]].concat(),
        };
        tensors.push(Stored { name, dtype, shape, content });
    }
    tensors
}

pub(super) fn is_router(name: &str) -> bool {
    routing::is_router(name) || name.ends_with("shared_expert_gate.weight")
}

fn plain(name: String, dtype: &'static str, shape: &[usize], mean: f32, deviation: f32) -> Stored {
    let content = match dtype {
        "F32" => Content::F32 { mean, deviation },
        _ => Content::Bf16 { mean, deviation },
    };
    Stored { name, dtype, shape: shape.to_vec(), content }
}

fn quantised(rows: &std::sync::Arc<Rows>, bits: usize) -> [Content; 3] {
    [
        Content::RowsPacked(rows.clone(), bits),
        Content::RowsScales(rows.clone(), bits),
        Content::RowsBiases(rows.clone(), bits),
    ]
}
