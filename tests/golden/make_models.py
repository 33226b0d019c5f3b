#!/usr/bin/env python3
"""Writes models/: tiny random models of every architecture with the logits, keys and values that transformers gives.

Needs PyPI's torch, transformers, safetensors, gguf and numpy. Usage: make_models.py [OUT]

Per model: config.json and model.safetensors, or model.gguf, and expected.bin: float32 logits [tokens][vocab], then per
layer bf16 keys [kv_heads][tokens][head_dim] and values, little endian. models.json lists them, with the token ids;
files that mean the same weights share what is expected.

transformers runs in float64 with one change: keys (after RoPE) and values are rounded to bf16 before they are attended,
because that is how HGA Serve keeps them. Weights are made so that the file's type holds them exactly, or are quantised
first and dequantised by PyPI's gguf, so that nothing else is left to differ.
"""
import json
import os
import shutil
import sys
import tempfile

import gguf
import numpy as np
import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, DynamicCache

TOKENS, VOCAB, LAYERS, TILE = 36, 48, 2, 128
BASE = dict(vocab_size=VOCAB, num_hidden_layers=LAYERS, hidden_size=32, intermediate_size=64, num_attention_heads=4,
            num_key_value_heads=2, max_position_embeddings=256, rms_norm_eps=1e-5, rope_theta=10000.0,
            hidden_act="silu", torch_dtype="bfloat16", bos_token_id=0, eos_token_id=1, tie_word_embeddings=False)
LLAMA3 = dict(rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
              original_max_position_embeddings=16)
YARN = dict(rope_type="yarn", factor=4.0, original_max_position_embeddings=16)
MOE = dict(architectures=["Qwen3MoeForCausalLM"], model_type="qwen3_moe", head_dim=16, num_experts=4,
           num_experts_per_tok=2, moe_intermediate_size=32, norm_topk_prob=True, decoder_sparse_step=1,
           mlp_only_layers=[])
LLAMA = dict(architectures=["LlamaForCausalLM"], model_type="llama")
QWEN2 = dict(architectures=["Qwen2ForCausalLM"], model_type="qwen2")
QWEN3 = dict(architectures=["Qwen3ForCausalLM"], model_type="qwen3", head_dim=16)

# name, config, what the Hugging Face file holds (None: no such file), types of the GGUF files
MODELS = [
    ("llama2", {**LLAMA, "num_key_value_heads": 4}, "F32", ["F32"]),
    ("llama3_scaled", {**LLAMA, "rope_theta": 500000.0, "rope_scaling": LLAMA3}, "BF16", ["BF16"]),
    ("llama_tied", {**LLAMA, "tie_word_embeddings": True}, "F16", ["F16", "Q8_0", "Q4_1"]),
    ("llama_linear", {**LLAMA, "rope_scaling": dict(rope_type="linear", factor=2.0)}, "BF16", ["BF16"]),
    ("qwen2", {**QWEN2, "tie_word_embeddings": True}, "BF16", ["BF16", "Q4_0"]),
    ("qwen3", QWEN3, "BF16", ["BF16", "Q5_1"]),
    ("qwen3_yarn", {**QWEN3, "max_position_embeddings": 64, "rope_scaling": YARN}, "BF16", ["BF16"]),
    ("qwen3moe", MOE, "BF16", ["BF16", "Q5_0"]),
    ("qwen3moe_fp8", {**MOE, "hidden_size": 136}, "FP8", []),
]


def random_weights(c, seed):
    """By the names of the published checkpoints."""
    g = torch.Generator().manual_seed(seed)
    hidden, ffn = c["hidden_size"], c["intermediate_size"]
    dim = c.get("head_dim", hidden // c["num_attention_heads"])
    q, kv = c["num_attention_heads"] * dim, c["num_key_value_heads"] * dim

    def matrix(rows, cols, scale=1.0):
        return torch.randn(rows, cols, generator=g) * scale / cols**0.5

    def norm(size):
        return 1 + 0.3 * torch.randn(size, generator=g)

    w = {"model.embed_tokens.weight": torch.randn(VOCAB, hidden, generator=g), "model.norm.weight": norm(hidden)}
    if not c["tie_word_embeddings"]:
        w["lm_head.weight"] = matrix(VOCAB, hidden, 2)
    for i in range(LAYERS):
        p = f"model.layers.{i}."
        w[p + "input_layernorm.weight"], w[p + "post_attention_layernorm.weight"] = norm(hidden), norm(hidden)
        for name, rows in ("q", q), ("k", kv), ("v", kv):
            w[p + f"self_attn.{name}_proj.weight"] = matrix(rows, hidden, 2)
            if c["model_type"] == "qwen2":
                w[p + f"self_attn.{name}_proj.bias"] = torch.randn(rows, generator=g)
            if name != "v" and c["model_type"].startswith("qwen3"):
                w[p + f"self_attn.{name}_norm.weight"] = norm(dim)
        w[p + "self_attn.o_proj.weight"] = matrix(hidden, q)
        mlps = [(p + "mlp.", ffn)]
        if "num_experts" in c:
            w[p + "mlp.gate.weight"] = matrix(c["num_experts"], hidden, 3)
            mlps = [(p + f"mlp.experts.{e}.", c["moe_intermediate_size"]) for e in range(c["num_experts"])]
        for prefix, width in mlps:
            w[prefix + "gate_proj.weight"] = matrix(width, hidden, 2)
            w[prefix + "up_proj.weight"] = matrix(width, hidden, 2)
            w[prefix + "down_proj.weight"] = matrix(hidden, width)
    return w


def is_matrix(name, w):
    return w.dim() == 2 and not name.endswith("norm.weight")


def quantised_fp8(w):
    """What the file holds, and what it means. Only the projections of attention and experts are FP8."""
    stored, meant = {}, {}
    for name, x in w.items():
        if not ("_proj.weight" in name):
            stored[name] = x.bfloat16()
            meant[name] = stored[name].float()
            continue
        rows, cols = x.shape
        scales = torch.empty((rows + TILE - 1) // TILE, (cols + TILE - 1) // TILE)
        codes, back = torch.empty_like(x), torch.empty_like(x)
        for i in range(scales.shape[0]):
            for j in range(scales.shape[1]):
                part = (slice(i * TILE, (i + 1) * TILE), slice(j * TILE, (j + 1) * TILE))
                scales[i, j] = (x[part].abs().max() / 448).bfloat16()
                codes[part] = x[part] / scales[i, j]
                back[part] = codes[part].to(torch.float8_e4m3fn).float() * scales[i, j]
        stored[name], stored[name + "_scale_inv"] = codes.to(torch.float8_e4m3fn), scales.bfloat16()
        meant[name] = back
    return stored, meant


class RoundingCache(DynamicCache):
    """Keeps what is attended, rounded to bf16."""

    def __init__(self):
        super().__init__()
        self.kept = []

    def update(self, keys, values, *args, **kwargs):
        keys, values = keys.bfloat16().to(keys.dtype), values.bfloat16().to(values.dtype)
        self.kept.append((keys[0], values[0]))
        return keys, values

    def get_seq_length(self, *args, **kwargs):
        return 0


def expected(config, weights, ids):
    with tempfile.TemporaryDirectory() as folder:
        config = {k: v for k, v in config.items() if k != "quantization_config"}
        with open(os.path.join(folder, "config.json"), "w") as f:
            json.dump({**config, "torch_dtype": "float32"}, f)
        save_file({k: v.float().contiguous() for k, v in weights.items()}, os.path.join(folder, "model.safetensors"),
                  metadata={"format": "pt"})
        model, info = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, output_loading_info=True,
                                                           attn_implementation="eager",
                                                           experts_implementation="eager")
        assert not info["missing_keys"] and not info["unexpected_keys"], info
    cache = RoundingCache()
    with torch.no_grad():
        logits = model.double().eval()(torch.tensor([ids]), past_key_values=cache, use_cache=True).logits[0]
    kept = [x.bfloat16().view(torch.int16).numpy().astype("<i2") for kv in cache.kept for x in kv]
    return b"".join(x.tobytes() for x in [logits.float().numpy().astype("<f4")] + kept)


GGUF_NAMES = {"input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm", "self_attn.q_proj": "attn_q",
              "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
              "self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm", "mlp.gate_proj": "ffn_gate",
              "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down", "mlp.gate": "ffn_gate_inp"}


def neighbours(x, heads):
    """Rows in the order in which llama.cpp's converter leaves them: what RoPE turns together lies side by side."""
    return x.reshape(heads, 2, x.shape[0] // heads // 2, *x.shape[1:]).swapaxes(1, 2).reshape(x.shape)


def gguf_tensors(c, weights):
    """name -> float32 array, experts of a layer in one tensor; and per name the published names it is made of."""
    out, experts = {}, {}
    for name, w in weights.items():
        x = w.float().numpy()
        if not name.startswith("model.layers."):
            out[{"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight",
                 "lm_head.weight": "output.weight"}[name]] = x
            continue
        _, _, layer, rest = name.split(".", 3)
        stem, kind = rest.rsplit(".", 1)
        if stem.startswith("mlp.experts."):
            _, _, expert, which = stem.split(".")
            experts.setdefault(f"blk.{layer}.ffn_{which[:-5]}_exps.weight", {})[int(expert)] = x
            continue
        if c["model_type"] == "llama" and stem[-6:] in ("q_proj", "k_proj"):
            x = neighbours(x, c["num_attention_heads" if stem[-6] == "q" else "num_key_value_heads"])
        out[f"blk.{layer}.{GGUF_NAMES[stem]}.{kind}"] = x
    for name, parts in experts.items():
        out[name] = np.stack([parts[e] for e in sorted(parts)])
    return out


def write_gguf(path, c, tensors, kind):
    arch = c["model_type"].replace("_", "")
    w = gguf.GGUFWriter(path, arch)
    w.add_name("golden")
    w.add_block_count(LAYERS)
    w.add_context_length(c["max_position_embeddings"])
    w.add_embedding_length(c["hidden_size"])
    w.add_feed_forward_length(c["intermediate_size"])
    w.add_head_count(c["num_attention_heads"])
    w.add_head_count_kv(c["num_key_value_heads"])
    w.add_layer_norm_rms_eps(c["rms_norm_eps"])
    w.add_rope_freq_base(c["rope_theta"])
    if "head_dim" in c:
        w.add_key_length(c["head_dim"])
        w.add_value_length(c["head_dim"])
    if "num_experts" in c:
        w.add_expert_count(c["num_experts"])
        w.add_expert_used_count(c["num_experts_per_tok"])
        w.add_expert_feed_forward_length(c["moe_intermediate_size"])
    scaling = c.get("rope_scaling", {})
    if scaling.get("rope_type") in ("linear", "yarn"):
        w.add_rope_scaling_type(gguf.RopeScalingType(scaling["rope_type"]))
        w.add_rope_scaling_factor(scaling["factor"])
        w.add_rope_scaling_orig_ctx_len(scaling.get("original_max_position_embeddings", c["max_position_embeddings"]))
    if scaling.get("rope_type") == "llama3":
        w.add_tensor("rope_freqs.weight", llama3_divisors(c, scaling))
    qtype = gguf.GGMLQuantizationType[kind]
    for name, x in tensors.items():
        quantised = x.ndim > 1 and "ffn_gate_inp" not in name
        t = qtype if quantised else gguf.GGMLQuantizationType.F32
        w.add_tensor(name, gguf.quants.quantize(x, t), raw_dtype=t)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


def llama3_divisors(c, s):
    """As llama.cpp's converter writes them."""
    dim = c.get("head_dim", c["hidden_size"] // c["num_attention_heads"])
    freqs = 1.0 / c["rope_theta"] ** (np.arange(0, dim, 2) / dim)
    out = []
    for f in freqs:
        wavelength, context = 2 * np.pi / f, s["original_max_position_embeddings"]
        if wavelength < context / s["high_freq_factor"]:
            out.append(1.0)
        elif wavelength > context / s["low_freq_factor"]:
            out.append(s["factor"])
        else:
            smooth = (context / wavelength - s["low_freq_factor"]) / (s["high_freq_factor"] - s["low_freq_factor"])
            out.append(1 / ((1 - smooth) / s["factor"] + smooth))
    return np.array(out, dtype=np.float32)


def dequantised(c, weights, kind):
    """The published names' weights as the GGUF file of that type holds them."""
    qtype, out = gguf.GGMLQuantizationType[kind], {}
    for name, w in weights.items():
        if w.dim() == 2 and not name.endswith("mlp.gate.weight"):
            x = w.float().numpy()  # rows are permuted in the file, but quantised one by one
            out[name] = torch.from_numpy(gguf.quants.dequantize(gguf.quants.quantize(x, qtype), qtype).reshape(x.shape))
        else:
            out[name] = w
    return out


def main():
    out = sys.argv[1] if len(sys.argv) > 1 else os.path.join(os.path.dirname(os.path.abspath(__file__)), "models")
    shutil.rmtree(out, ignore_errors=True)
    os.makedirs(out)
    g = torch.Generator().manual_seed(99)
    ids = torch.randint(0, VOCAB, (TOKENS,), generator=g).tolist()
    listed = []

    def add(name, file, config, weights, same_as=None):
        if same_as is None:
            with open(os.path.join(out, name, "expected.bin"), "wb") as f:
                f.write(expected(config, weights, ids))
        listed.append({"name": name, "file": file, "expected": f"{same_as or name}/expected.bin",
                       "neighbours": file.endswith("gguf") and config["model_type"] == "llama"})

    for seed, (name, changes, hf, kinds) in enumerate(MODELS):
        config = {**BASE, **changes}
        weights = random_weights(config, seed)
        if hf == "FP8":
            config["quantization_config"] = dict(quant_method="fp8", fmt="e4m3", activation_scheme="dynamic",
                                                 weight_block_size=[TILE, TILE])
            stored, weights = quantised_fp8(weights)
        else:
            dtype = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}[hf]
            stored = {k: v.to(dtype) for k, v in weights.items()}
            weights = {k: v.float() for k, v in stored.items()}
        folder = os.path.join(out, name)
        os.makedirs(folder)
        with open(os.path.join(folder, "config.json"), "w") as f:
            json.dump(config, f, indent=1)
        save_file({k: v.contiguous() for k, v in stored.items()}, os.path.join(folder, "model.safetensors"),
                  metadata={"format": "pt"})
        add(name, name, config, weights)
        for kind in kinds:
            variant = f"{name}_{kind.lower()}"
            os.makedirs(os.path.join(out, variant))
            meant = dequantised(config, weights, kind)
            write_gguf(os.path.join(out, variant, "model.gguf"), config, gguf_tensors(config, weights), kind)
            add(variant, f"{variant}/model.gguf", config, meant, name if kind == hf else None)
    with open(os.path.join(out, "models.json"), "w") as f:
        json.dump({"tokens": ids, "models": listed}, f, indent=1)


if __name__ == "__main__":
    main()
