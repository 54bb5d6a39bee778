#!/usr/bin/env python3
"""The same as quantised_models.py, of what two makers of checkpoints write, packed and unpacked by their own code.

    python reference/vendor_models.py make [name ...]         write tests/fixtures/<name>/
    python reference/vendor_models.py check [name ...]        read the files, compute again and compare

Needs auto-round and amd-quark, installed without their dependencies, and of these what is imported (requirements-vendors.txt). Quark
compiles an extension when it is first imported.
"""

import quark.torch.kernel  # noqa: F401, defines torch.ops.quark
import torch
from auto_round_extension.torch.qlinear_torch_zp import QuantLinear
from quark.torch.utils.pack import create_pack_method

import quantised_models
from families import Tensors, changed, per_expert
from quantised_models import FP8, PLAIN, QWEN, Recipe, Scheme, affine4, main, to_e2m1

GROUP = 32


def auto_round(group: int) -> Scheme:
    """`auto_round:auto_gptq`: words, zeros and scales of its own layer, whose output for an identity is the matrix."""

    def layer(out: int, inputs: int) -> QuantLinear:
        return QuantLinear(4, group, inputs, out, bias=False)

    def pack(w: torch.Tensor) -> Tensors:
        _, scale, zero = affine4(w, group)
        linear = torch.nn.Linear(w.shape[1], w.shape[0], bias=False)
        linear.weight.data = w
        packed = layer(*w.shape)
        packed.pack(linear, scale.float(), zero.clone(), device="cpu")
        return {name: getattr(packed, name) for name in ("qweight", "qzeros", "scales")}

    def values(t: Tensors) -> torch.Tensor:
        packed = layer(t["qweight"].shape[1], 8 * t["qweight"].shape[0])
        packed.qweight, packed.qzeros, packed.scales = t["qweight"], t["qzeros"], t["scales"].float()
        return packed(torch.eye(packed.infeatures)).T

    return Scheme(pack, values)


def quark(dtype: str, qscheme: str, group: int | None = None) -> Scheme:
    """Quark's linear layers: what is packed as it packs, and scales and zeros in the shapes that it gives them."""
    method = create_pack_method(qscheme, dtype)
    is_int = dtype in ("int8", "uint4")

    def pack(w: torch.Tensor) -> Tensors:
        if dtype == "fp4":
            groups = w.unflatten(-1, (-1, group))
            exponent = groups.abs().amax(-1).log2().floor() - 2
            codes = (groups / exponent.exp2()[..., None]).clamp(-6, 6)
            # Quark packs numbers that are E2M1's already.
            sizes = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6])
            code = to_e2m1(codes).long()
            numbers = (sizes[code & 7] * torch.where(code > 7, -1.0, 1.0)).flatten(-2)
            return {"weight": method.pack(numbers, True), "weight_scale": (exponent + 127).to(torch.uint8)}
        if dtype == "uint4":
            q, scale, zero = affine4(w, group)
            return {"weight": method.pack(q, True), "weight_scale": scale.T, "weight_zero_point": method.pack(zero, True)}
        largest = w.abs().amax(-1) if qscheme == "per_channel" else w.abs().amax()
        if dtype == "int8":
            scale = (largest / 127).to(torch.bfloat16)
            q = (w / scale.float()[:, None]).round().clamp(-128, 127).int()
            return {"weight": method.pack(q, True), "weight_scale": scale, "weight_zero_point": torch.zeros_like(scale, dtype=torch.int32)}
        scale = largest / 448
        each = scale[:, None] if qscheme == "per_channel" else scale
        return {"weight": (w / each).clamp(-448, 448).to(FP8), "weight_scale": scale}

    def values(t: Tensors) -> torch.Tensor:
        weight, scale, zero = method.unpack(t["weight"], True), t["weight_scale"].float(), t.get("weight_zero_point")
        if dtype == "fp4":
            scale = 2.0 ** (t["weight_scale"].to(torch.int16) - 127)
        if dtype == "uint4":
            scale, zero = scale.T, method.unpack(zero, True)
        if dtype == "int8":  # its function of rows takes them last
            weight, zero = weight.int(), zero.float()
        axis = {"per_group": -1, "per_channel": 0, "per_tensor": 0}[qscheme]
        return torch.ops.quark.dequantize(dtype, weight, scale, zero if is_int else torch.zeros(()), axis, group or 0, qscheme)

    return Scheme(pack, values)


def setting(dtype: str, qscheme: str, group: int | None = None, **more) -> dict:
    weight = dict(dtype=dtype, is_dynamic=False, qscheme=qscheme, ch_axis={"per_group": -1, "per_channel": 0}.get(qscheme))
    weight |= dict(group_size=group, symmetric=dtype != "uint4", is_scale_quant=False) | more
    return dict(weight=weight, input_tensors=None, output_tensors=None, bias=None)


FP4 = dict(scale_format="e8m0")
RECIPES = {
    "qwen3_moe_auto_round": Recipe(
        family=changed("qwen3_moe", QWEN),
        flat=per_expert,
        rules=[(PLAIN, None), ("", auto_round(GROUP))],
        quantization_config=dict(
            quant_method="auto-round", packing_format="auto_round:auto_gptq", bits=4, group_size=GROUP, sym=False, data_type="int",
            autoround_version="0.16.1", block_name_to_quantize="model.layers",
        ),
    ),
    "qwen3_moe_quark": Recipe(
        family=changed("qwen3_moe", QWEN),
        flat=per_expert,
        rules=[
            (PLAIN, None),
            (r"(gate|up)_proj", quark("fp4", "per_group", GROUP)),
            (r"down_proj", quark("uint4", "per_group", GROUP)),
            (r"[qk]_proj", quark("fp8_e4m3", "per_channel")),
            (r"v_proj", quark("fp8_e4m3", "per_tensor")),
            (r"o_proj", quark("int8", "per_channel")),
        ],
        quantization_config=dict(
            quant_method="quark", quant_mode="eager_mode", exclude=["lm_head", "re:.*mlp.gate"], version="0.13",
            export=dict(kv_cache_group=[], pack_method="reorder", weight_format="real_quantized", weight_merge_groups=None),
            global_quant_config=setting("fp4", "per_group", GROUP, **FP4),
            layer_quant_config={
                "*down_proj": setting("uint4", "per_group", GROUP),
                "*q_proj": setting("fp8_e4m3", "per_channel"),
                "*k_proj": setting("fp8_e4m3", "per_channel"),
                "*v_proj": setting("fp8_e4m3", "per_tensor"),
                "*o_proj": setting("int8", "per_channel"),
            },
            layer_type_quant_config={},
        ),
    ),
}  # fmt: skip


if __name__ == "__main__":
    quantised_models.RECIPES.clear()
    quantised_models.RECIPES.update(RECIPES)
    main()
