//! Ways to quantise as configs name them, held against the tensors: the tables of what each leaves in files, and every setting
//! that names, types and shapes of tensors can contradict.

use outpour_kernels::quant::coded::WHOLE;
use outpour_kernels::{Code, Coded, Second};
use serde_json::Value;

use super::coded::Scheme;

/// A name that a setting may have, and the matrices that are so.
type Named = (&'static str, fn(&Scheme, Coded) -> bool);

/// `quant_method`.
const METHODS: [Named; 8] = [
    ("fp8", |scheme, coded| is_fp8(scheme, coded) || scheme.parts[1] == ".scale"),
    ("compressed-tensors", |scheme, _| scheme.parts[1] == ".weight_scale" && scheme.parts[2] != ".weight_scale_2"),
    ("modelopt", |scheme, coded| {
        scheme.parts[2] == ".weight_scale_2" || scheme.parts[1] == ".weight_scale" && is_fp8(scheme, coded)
    }),
    ("gptq", |_, coded| coded.code == Code::Gptq),
    ("awq", |_, coded| coded.code == Code::Awq),
    ("mxfp4", |_, coded| (coded.code, coded.block) == (Code::E2m1, [1, 32])),
    ("auto-round", |scheme, _| {
        [".qzeros", ".weight_global_scale"].contains(&scheme.parts[2]) || scheme.parts[1] == ".weight_scale"
    }),
    ("quark", |scheme, _| scheme.parts[..2] == [".weight", ".weight_scale"]),
];

/// `quant_algo` of modelopt.
const ALGORITHMS: [Named; 10] = [
    ("NVFP4", is_nvfp4),
    ("NVFP4_AWQ", is_nvfp4),
    ("W4A16_NVFP4", is_nvfp4),
    ("W4A8_NVFP4_FP8", is_nvfp4),
    ("FP8", is_fp8),
    ("FP8_PB_WO", is_fp8),
    ("FP8_PB_REAL", is_fp8),
    ("FP8_PER_CHANNEL_PER_TOKEN", is_fp8),
    ("MXFP8", |_, coded| (coded.code, coded.block) == (Code::E4m3, [1, 32])),
    ("MIXED_PRECISION", |_, _| true),
];

/// `format` of compressed-tensors.
const FORMATS: [Named; 8] = [
    ("pack-quantized", |scheme, _| scheme.data == "I32"),
    ("int-quantized", |scheme, _| scheme.data == "I8"),
    ("float-quantized", is_fp8),
    ("naive-quantized", |scheme, _| scheme.parts[0] == ".weight"),
    ("nvfp4-pack-quantized", |_, coded| coded.code == Code::E2m1 && coded.second == Second::Over),
    ("mxfp4-pack-quantized", |_, coded| (coded.code, coded.block) == (Code::E2m1, [1, 32])),
    ("mxfp8-quantized", |_, coded| (coded.code, coded.block) == (Code::E4m3, [1, 32])),
    ("mixed-precision", |_, _| true),
];

fn is_fp8(scheme: &Scheme, coded: Coded) -> bool {
    coded.code == Code::E4m3 && scheme.data != "U32"
}

fn is_nvfp4(_: &Scheme, coded: Coded) -> bool {
    coded.code == Code::E2m1 && coded.second == Second::Times
}

/// Names of ways to quantise whose tensors are known.
pub fn methods() -> [&'static str; 8] {
    METHODS.map(|(name, _)| name)
}

/// Which of them `quant_method` names, in letters of any case.
pub fn method(said: &Value) -> Option<&'static str> {
    let said = said["quant_method"].as_str()?;
    methods().into_iter().find(|name| name.eq_ignore_ascii_case(said))
}

/// A matrix, and how it is stored.
pub struct Matrix<'a> {
    /// Its name in the family.
    pub name: &'a str,
    /// Outputs.
    pub rows: usize,
    /// Inputs.
    pub cols: usize,
    /// What its tensors are called.
    pub scheme: &'a Scheme,
    /// How its weights are coded.
    pub coded: Coded,
}

impl Matrix<'_> {
    /// The setting in `said`, what is said of quantisation, that contradicts this matrix, key and value; `experts` is what is said
    /// of the type of experts beside it.
    pub fn contradiction(&self, said: &Value, experts: &Value) -> Option<String> {
        let named = |key: &str, table: &[Named]| {
            let value = said[key].as_str()?;
            let known = table.iter().find(|(name, _)| name.eq_ignore_ascii_case(value));
            let fits = known.is_some_and(|(_, fits)| fits(self.scheme, self.coded));
            (!fits).then(|| format!("{key} {value:?}"))
        };
        let gptq_or_awq = matches!(self.coded.code, Code::Gptq | Code::Awq);
        // Other numbers for some modules: of GPTQModel, of auto-round.
        let of_some = ["dynamic", "extra_config"].iter().any(|key| !said[key].is_null());
        named("quant_method", &METHODS)
            .or_else(|| named("quant_algo", &ALGORITHMS))
            .or_else(|| self.of_float(said, experts))
            .or_else(|| (!of_some && !self.is_mlx()).then(|| self.of_bits(said)).flatten())
            .or_else(|| self.of_block(said, "weight_block_size"))
            .or_else(|| self.of_groups(said))
            .or_else(|| {
                let modelopt = method(said) == Some("modelopt") || said["quant_algo"].is_string();
                let nvfp4 = modelopt && self.coded.code == Code::E2m1;
                let grouped = gptq_or_awq && !of_some || nvfp4;
                grouped.then(|| self.of_group_size(said)).flatten()
            })
    }

    /// Whether it is of MLX, whose settings are those of most modules, not of all.
    fn is_mlx(&self) -> bool {
        self.scheme.data == "U32"
    }

    /// Which FP8, and whether experts are in FP8 or four bits.
    fn of_float(&self, said: &Value, beside: &Value) -> Option<String> {
        let e4m3 = self.coded.code == Code::E4m3;
        let text = |value: &Value| value.as_str().map(str::to_ascii_lowercase);
        if e4m3 && text(&said["fmt"]).is_some_and(|fmt| !fmt.trim_start_matches("float8_").starts_with("e4m3")) {
            return Some(format!("fmt {}", said["fmt"]));
        }
        let experts = if said["expert_dtype"].is_null() { beside } else { &said["expert_dtype"] };
        let of_four = self.coded.code == Code::E2m1 && self.scheme.parts[1] == ".scale";
        let wrong = match text(experts)?.as_str() {
            "fp4" => e4m3 && self.name.contains(".experts."),
            _ => of_four,
        };
        wrong.then(|| format!("expert_dtype {experts}"))
    }

    fn of_bits(&self, said: &Value) -> Option<String> {
        let other = |key: &&str| said[key].as_u64().is_some_and(|bits| bits != self.coded.bits() as u64);
        ["bits", "w_bit"].into_iter().find(other).map(|key| format!("{key} {}", said[key]))
    }

    /// Rows and columns that share a scale, where those of FP8 are others.
    fn of_block(&self, said: &Value, key: &str) -> Option<String> {
        let sizes = said[key].as_array().filter(|sizes| sizes.len() == 2 && self.coded.code == Code::E4m3)?;
        let size = [self.rows, self.cols];
        let fits = |i: usize| {
            let own = (self.coded.block[i] as usize).min(size[i]);
            sizes[i].as_u64().is_some_and(|said| said.min(size[i] as u64) == own as u64)
        };
        (!fits(0) || !fits(1)).then(|| format!("{key} {}", said[key]))
    }

    /// What the weights' group says, where that is another than the scales'.
    pub(super) fn of_group_size(&self, said: &Value) -> Option<String> {
        let (across, cols) = (self.coded.block[1], self.cols as u64);
        let is_it = |size: i64| match u64::try_from(size) {
            Ok(size @ 1..) => size == u64::from(across) || across == WHOLE && size >= cols,
            _ => across == WHOLE,
        };
        let other = |key: &&str| said[key].as_i64().is_some_and(|size| !is_it(size));
        ["group_size", "q_group_size"].into_iter().find(other).map(|key| format!("{key} {}", said[key]))
    }

    /// What contradicts in every group of compressed-tensors' `config_groups`: of several groups one is the matrix's own.
    fn of_groups(&self, said: &Value) -> Option<String> {
        let format = if method(said) == Some("compressed-tensors") { &said["format"] } else { &Value::Null };
        let groups = said["config_groups"].as_object().filter(|groups| !groups.is_empty());
        let Some(groups) = groups else { return self.of_format(format) };
        let own = |group: &Value| match group["format"].is_string() {
            true => self.of_format(&group["format"]),
            false => self.of_format(format),
        };
        let all = groups.values().map(|group| own(group).or_else(|| self.of_weights(&group["weights"])));
        all.collect::<Option<Vec<_>>>()?.into_iter().next()
    }

    fn of_format(&self, format: &Value) -> Option<String> {
        let format = format.as_str()?;
        let known = FORMATS.iter().find(|(name, _)| *name == format);
        (!known.is_some_and(|(_, fits)| fits(self.scheme, self.coded))).then(|| format!("format {format:?}"))
    }

    /// What a group says of its weights.
    fn of_weights(&self, weights: &Value) -> Option<String> {
        let Coded { code, block, second } = self.coded;
        let (zeros, said) = (second == Second::Zeros, |key: &str| weights[key].as_str());
        // A byte for each value holds one of fewer bits as it is.
        let bits = |bits| bits == self.coded.bits() as u64 || self.scheme.data == "I8" && (2..8).contains(&bits);
        if weights["num_bits"].as_u64().is_some_and(|said| !bits(said)) {
            return Some(format!("num_bits {}", weights["num_bits"]));
        }
        let float = matches!(code, Code::E4m3 | Code::E2m1);
        if said("type").is_some_and(|kind| kind != if float { "float" } else { "int" }) {
            return Some(format!("type {}", weights["type"]));
        }
        if weights["symmetric"].as_bool().is_some_and(|symmetric| symmetric == zeros) {
            let beside = if zeros { "" } else { "out" };
            return Some(format!("symmetric {}, and it is with{beside} zero points", weights["symmetric"]));
        }
        if ["group", "dynamic"].iter().any(|order| weights["actorder"] == *order) {
            return Some(format!("actorder {}, and there is no weight_g_idx", weights["actorder"]));
        }
        let by_row = block[0] == 1 || self.rows == 1;
        let fits = match said("strategy") {
            Some("tensor") => (by_row && self.rows == 1 || block[0] == WHOLE) && block[1] == WHOLE,
            Some("channel") => by_row && block[1] == WHOLE,
            Some("block") => block[0] != 1 || self.rows == 1,
            Some("group" | "tensor_group") => by_row,
            _ => true,
        };
        if !fits {
            return Some(format!("strategy {}", weights["strategy"]));
        }
        match said("strategy") {
            Some("block") => self.of_block(weights, "block_structure"),
            None | Some("group" | "tensor_group") => self.of_group_size(weights),
            _ => None,
        }
    }
}
