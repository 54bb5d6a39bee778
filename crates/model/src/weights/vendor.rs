//! Makers whose configs name forms of their own for tensors that others have too: auto-round's `packing_format`, Quark's `dtype`.

use outpour_kernels::{Code, Second};
use serde_json::Value;

use super::method::{Matrix, method};

/// `packing_format` of auto-round: GPTQ's zeros less 1, its zeros as they are, AWQ's words, compressed-tensors' forms of floats.
const PACKED: [(&str, Form); 8] = [
    ("auto_round:auto_gptq", Form::ZerosLessOne),
    ("auto_round:gptq", Form::ZerosLessOne),
    ("auto_round", Form::Zeros),
    ("auto_round:gptqmodel", Form::Zeros),
    ("auto_round:auto_awq", Form::Awq),
    ("auto_round:awq", Form::Awq),
    ("auto_round:llm_compressor", Form::Floats),
    ("auto_round:fp8_static", Form::Floats),
];

/// What a packing of auto-round is.
#[derive(Clone, Copy, PartialEq)]
enum Form {
    ZerosLessOne,
    Zeros,
    Awq,
    Floats,
}

/// `dtype` of Quark's weights, and the codes that they are.
const QUARK: [(&str, Code); 4] =
    [("fp8_e4m3", Code::E4m3), ("fp4", Code::E2m1), ("int8", Code::Signed8), ("uint4", Code::Awq)];

/// Whether config.json is of auto-round.
pub fn is_auto_round(said: &Value) -> bool {
    method(said) == Some("auto-round")
}

/// What auto-round's packing is; where none is said, its first one.
fn packed(said: &Value) -> Option<Form> {
    if said["packing_format"].is_null() && said["backend"].is_null() {
        return Some(Form::ZerosLessOne);
    }
    let packing = said["packing_format"].as_str()?;
    PACKED.iter().find(|(name, _)| *name == packing).map(|(_, form)| *form)
}

/// Whether zeros of GPTQ's layout are stored as they are, as config.json says: otherwise they are less 1.
pub fn zeros_as_they_are(said: &Value) -> bool {
    if is_auto_round(said) {
        return packed(said) == Some(Form::Zeros);
    }
    ["checkpoint_format", "format"].iter().any(|key| said[key] == "gptq_v2")
}

/// What these two say of a matrix that it is not, or that is not supported: what is said, and what would be right instead.
pub fn unsupported(said: &Value, matrix: &Matrix) -> Option<(String, String)> {
    match method(said)? {
        "auto-round" => of_auto_round(said, matrix),
        "quark" => of_quark(said, matrix),
        _ => None,
    }
}

fn of_auto_round(said: &Value, matrix: &Matrix) -> Option<(String, String)> {
    let of_gptq = |second| matrix.coded.code == Code::Gptq && matrix.coded.second == second;
    let is = match packed(said) {
        Some(Form::ZerosLessOne) => of_gptq(Second::ZerosLessOne),
        Some(Form::Zeros) => of_gptq(Second::Zeros),
        Some(Form::Awq) => matrix.coded.code == Code::Awq,
        Some(Form::Floats) => matches!(matrix.coded.code, Code::E4m3 | Code::E2m1),
        None => false,
    };
    let names = || PACKED.map(|(name, _)| format!("{name:?}")).join(", ");
    let said = || format!("auto-round's packing_format {} (backend {})", said["packing_format"], said["backend"]);
    (!is).then(|| (said(), format!("for its tensors one of {}", names())))
}

/// Its config has one setting for all matrices, and others by name or by type of module: the matrix is of one of them.
fn of_quark(said: &Value, matrix: &Matrix) -> Option<(String, String)> {
    let by = ["layer_quant_config", "layer_type_quant_config"].map(|key| said[key].as_object());
    let others = by.into_iter().flatten().flat_map(|settings| settings.values());
    let all = [&said["global_quant_config"]].into_iter().chain(others).map(|setting| &setting["weight"]);
    let problems = all.filter(|weight| !weight.is_null()).map(|weight| quark_weight(said, weight, matrix));
    let mut problems = problems.collect::<Option<Vec<_>>>().filter(|problems| !problems.is_empty())?;
    problems.dedup();
    let names = QUARK.map(|(name, _)| name).join(", ");
    let instead = format!("what the tensors are, in one of {names}; uint4 with the pack_method \"reorder\"");
    Some((format!("Quark's {}", problems.join(", ")), instead))
}

/// What a setting of Quark says that the matrix is not.
fn quark_weight(said: &Value, weight: &Value, matrix: &Matrix) -> Option<String> {
    let known = weight["dtype"]
        .as_str()
        .and_then(|dtype| QUARK.iter().find(|(name, _)| name.eq_ignore_ascii_case(dtype)).map(|(_, code)| *code));
    if known != Some(matrix.coded.code) {
        return Some(match weight.is_array() {
            true => "scales that are scaled themselves (two settings of weight)".into(),
            false => format!("dtype {}", weight["dtype"]),
        });
    }
    let packs = [&said["pack_method"], &said["export"]["pack_method"]];
    let ordered = packs.into_iter().find(|pack| pack.is_string()).is_some_and(|pack| pack != "reorder");
    if matrix.coded.code == Code::Awq && ordered {
        return Some("pack_method \"order\"".into());
    }
    (weight["qscheme"] == "per_group").then(|| matrix.of_group_size(weight)).flatten()
}
