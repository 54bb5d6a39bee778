//! How a made checkpoint stores what a family declares: the one place that knows a format's names, types and shapes. A
//! further format is a further arm of [`Format::store`], and of `values` where its bytes are made in another way.

use std::fmt;
use std::str::FromStr;

use serde_json::{Map, Value, json};

use super::routing::{self, Role, Rows};
use super::values::Content;
use crate::config::{Config, ModelError};
use crate::registry::{ExpertNames, Family};
use crate::weights::{Declared, DeclaredKind};

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
}

impl Format {
    /// Every format.
    pub const ALL: [Format; 7] = [
        Format::Bf16,
        Format::Mlx { bits: 2 },
        Format::Mlx { bits: 3 },
        Format::Mlx { bits: 4 },
        Format::Mlx { bits: 5 },
        Format::Mlx { bits: 6 },
        Format::Mlx { bits: 8 },
    ];

    /// The format that a config speaks of.
    ///
    /// # Errors
    /// When it is none of [`Format::ALL`].
    pub fn of_config(config: &Value) -> Result<Format, ModelError> {
        let bits = match &config["quantization"]["bits"] {
            Value::Null => return Ok(Format::Bf16),
            bits => bits,
        };
        let known =
            |format: &Format| matches!(format, Format::Mlx { bits: known } if bits.as_u64() == Some(*known as u64));
        Format::ALL.into_iter().find(known).ok_or_else(|| {
            ModelError::Config(format!("quantization.bits is {bits}; supported are 2, 3, 4, 5, 6 and 8"))
        })
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Format::Bf16 => f.write_str("bf16"),
            Format::Mlx { bits } => write!(f, "mlx{bits}"),
        }
    }
}

impl FromStr for Format {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        Format::ALL.into_iter().find(|format| format.to_string() == name).ok_or_else(|| {
            let all: Vec<String> = Format::ALL.iter().map(Format::to_string).collect();
            format!("there is no format {name}; there are {}", all.join(", "))
        })
    }
}

/// A tensor of a safetensors file, and how its bytes are made.
#[derive(Clone, Debug)]
pub(super) struct Stored {
    pub name: String,
    /// As the header names it.
    pub dtype: &'static str,
    pub shape: Vec<usize>,
    pub content: Content,
}

impl Stored {
    pub fn bytes(&self) -> u64 {
        let element = match self.dtype {
            "BF16" => 2,
            "I64" => 8,
            _ => 4,
        };
        element * self.shape.iter().map(|&dim| dim as u64).product::<u64>()
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
}

/// The parts of an expert, and their numbers where they have numbers.
const PARTS: [&str; 3] = ["gate_proj", "up_proj", "down_proj"];
const NUMBERED: [&str; 3] = ["w1", "w3", "w2"];

impl Naming {
    pub fn new(format: Format, config: &Value, family: &Family) -> Naming {
        Naming { format, wrapped: config["text_config"].is_object(), names: family.experts }
    }

    /// A declared name as the files have it.
    fn on_disk(&self, name: &str) -> String {
        match (self.format, self.wrapped, name.strip_prefix("model.")) {
            (Format::Mlx { .. }, true, _) => format!("language_model.{name}"),
            (Format::Bf16, true, Some(rest)) => format!("model.language_model.{rest}"),
            _ => name.to_owned(),
        }
    }

    /// The tensors that hold what was declared.
    pub fn store(&self, declared: &Declared, role: &Role) -> Vec<Stored> {
        let Declared { name, shape, kind } = declared;
        let on_disk = self.on_disk(name);
        match (*kind, shape.as_slice()) {
            (DeclaredKind::Matrix, &[rows, cols]) => self.matrix(&on_disk, &[], rows, cols, role),
            (DeclaredKind::Experts, &[experts, matrices, width, hidden]) => {
                self.experts(&on_disk, experts, matrices, [width, hidden], role)
            }
            (DeclaredKind::Norm { plus_one }, _) => {
                // MLX's exports have the 1 added already.
                let one = if plus_one && self.format == Format::Bf16 { 1.0 } else { 0.0 };
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
            [channels, 1, kernel] if self.format != Format::Bf16 => {
                plain(name, "BF16", &[channels, kernel, 1], mean, deviation)
            }
            _ => plain(name, "BF16", shape, mean, deviation),
        }
    }

    /// A matrix `[rows, cols]`, or a stack of them.
    fn matrix(&self, name: &str, stack: &[usize], rows: usize, cols: usize, role: &Role) -> Vec<Stored> {
        let shape = |last: usize| [stack, &[rows, last]].concat();
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
        let names = if self.format == Format::Bf16 && self.names == ExpertNames::Numbered { NUMBERED } else { PARTS };
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
        match (self.format, self.names) {
            (_, ExpertNames::Stacked) => stacked(prefix),
            (Format::Mlx { .. }, _) => stacked(&prefix.replace(".experts", ".switch_mlp")),
            (Format::Bf16, ExpertNames::Joined) => {
                let gate_up =
                    self.matrix(&format!("{prefix}.gate_up_proj"), &[experts], 2 * width, hidden, &parts[0].3);
                let down = self.matrix(&format!("{prefix}.down_proj"), &[experts], hidden, width, &parts[2].3);
                [gate_up, down].concat()
            }
            (Format::Bf16, ExpertNames::Dense | ExpertNames::OneByOne | ExpertNames::Numbered) => {
                let of = |expert: usize| {
                    parts.iter().flat_map(move |(part, rows, cols, role)| {
                        self.matrix(&format!("{prefix}.{expert}.{part}.weight"), &[], *rows, *cols, role)
                    })
                };
                (0..experts).flat_map(of).collect()
            }
        }
    }

    /// Bits of a matrix's weights, if it is quantised. As in mlx-lm, one whose rows are no whole groups is not.
    fn bits(&self, name: &str, cols: usize) -> Option<usize> {
        match self.format {
            Format::Mlx { bits } if cols.is_multiple_of(GROUP) => {
                Some(if is_router(name) { ROUTER_BITS } else { bits })
            }
            _ => None,
        }
    }

    /// What config.json says about the format, given all that is stored.
    pub fn describe(&self, config: &mut Value, stored: &[Stored]) {
        let Some(object) = config.as_object_mut() else { return };
        object.shift_remove("quantization_config");
        object.shift_remove("quantization");
        if let Format::Mlx { bits } = self.format {
            let mut said = Map::new();
            said.insert("group_size".into(), json!(GROUP));
            said.insert("bits".into(), json!(bits));
            said.insert("mode".into(), json!("affine"));
            for tensor in stored.iter().filter(|tensor| tensor.dtype == "U32" && is_router(&tensor.name)) {
                let module = tensor.name.strip_suffix(".weight").unwrap_or(&tensor.name);
                said.insert(module.to_owned(), json!({"group_size": GROUP, "bits": ROUTER_BITS}));
            }
            object.insert("quantization".into(), Value::Object(said.clone()));
            object.insert("quantization_config".into(), Value::Object(said));
        }
    }

    /// Refuses what the format cannot hold.
    ///
    /// # Errors
    /// When a config is quantised in another way already.
    pub fn check(config: &Config) -> Result<(), ModelError> {
        let quantised = ["quantization", "quantization_config"].iter().any(|key| config.0[*key].is_object());
        let mlx = config.0["quantization"].is_object();
        match quantised && !mlx {
            true => Err(ModelError::Config(
                "has a quantization_config, of a format that cannot be made; give the config.json of the BF16 release"
                    .into(),
            )),
            false => Ok(()),
        }
    }
}

fn is_router(name: &str) -> bool {
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
