#!/usr/bin/env python3
"""Writes golden.json: lookup prompts, their answers and the logits of some answers.

transformers' Qwen3ForCausalLM must compute the same as model.py; the logits kept are model.py's with K and V rounded to
bf16, as a server keeps them, so that what is compared with them can be held to a narrow bound.

Needs PyPI's torch, transformers, tokenizers, numpy and gguf.
Usage: make_golden.py --model tiny_qwen3.gguf --run FOLDER --text FILE --out golden.json
TEXT is the file whose held-out part fills the prompts. A prompt is kept if the model answers all of it rightly.
"""
import argparse
import json
import os

import gguf
import numpy as np
import torch
from tokenizers import decoders
from transformers import Qwen3Config, Qwen3ForCausalLM

import text as texts_of
from export import load_gguf
from model import Config
from tasks import TEXT, Tasks

LENGTHS = (1024, 2048, 4096)
KEPT_POSITIONS, KEPT_STRIDE = 6, 16  # logits kept: of some answers, every so many tokens of the vocabulary


def transformers_name(name):
    """blk.0.attn_q -> model.layers.0.self_attn.q_proj"""
    parts = {"attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
             "attn_output": "self_attn.o_proj", "attn_q_norm": "self_attn.q_norm", "attn_k_norm": "self_attn.k_norm",
             "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj",
             "attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm"}
    if not name.startswith("blk."):
        return {"token_embd": "model.embed_tokens", "output_norm": "model.norm"}[name]
    _, layer, part = name.split(".")
    return f"model.layers.{layer}.{parts[part]}"


def load_transformers(path):
    c = Config()
    config = Qwen3Config(vocab_size=c.vocab, hidden_size=c.hidden, intermediate_size=c.ffn, num_hidden_layers=c.layers,
                         num_attention_heads=c.query_heads, num_key_value_heads=c.kv_heads, head_dim=c.head_dim,
                         max_position_embeddings=c.context, rms_norm_eps=c.eps, tie_word_embeddings=True,
                         rope_parameters={"rope_type": "default", "rope_theta": c.rope_base})
    model = Qwen3ForCausalLM(config).float().eval()
    state = {}
    for tensor in gguf.GGUFReader(path).tensors:
        value = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        state[transformers_name(tensor.name.removesuffix(".weight")) + ".weight"] = torch.from_numpy(value.copy())
    missing, unexpected = model.load_state_dict(state, strict=False)
    if unexpected or missing not in ([], ["lm_head.weight"]):
        raise SystemExit(f"{path}: missing {missing}, unexpected {unexpected}")
    model.tie_weights()
    return model


def keep_kv_in_bf16(model):
    for layer in model.blk:
        def rounded(x, table, project=layer.project):
            q, k, v = project(x, table)
            return q, k.bfloat16().float(), v.bfloat16().float()
        layer.project = rounded
    return model


def candidate(tokenizer, tasks, rng, length):
    """(text, ids, positions whose next token is looked up), or None where the text is not cut the same way again."""
    ids, weights = tasks.scattered(rng, length - 1, tasks.needles(rng, 8), 0.3)
    ids = np.concatenate([[texts_of.SPECIAL.index("<|endoftext|>")], ids])[:length]
    text = tokenizer.decode(ids[1:].tolist(), skip_special_tokens=False)
    if tokenizer.encode(text).ids != ids[1:].tolist():
        return None
    wanted = np.flatnonzero(np.concatenate([[0], weights])[1:length] > TEXT)
    return text, ids, wanted


def prompt(tokenizer, tasks, models, rng, length):
    ours, theirs, served = models
    for _ in range(400):
        found = candidate(tokenizer, tasks, rng, length)
        if not found:
            continue
        text, ids, wanted = found
        with torch.no_grad():
            logits = theirs(torch.from_numpy(ids)[None]).logits[0].float()
            own = ours(torch.from_numpy(ids)[None])[0]
            kept = served(torch.from_numpy(ids)[None])[0]
        difference = (logits - own).abs().max().item()
        if difference > 1e-2:
            raise SystemExit(f"model.py and transformers differ by {difference}")
        if all(bool((x.argmax(-1)[wanted] == torch.from_numpy(ids)[wanted + 1]).all()) for x in (logits, kept)):
            places = wanted[np.linspace(0, len(wanted) - 1, KEPT_POSITIONS).astype(int)]
            print(f"{length} tokens: {len(wanted)} answers from {wanted[0]} on, model.py differs by {difference:.1e}, "
                  f"bf16 K and V change logits by {(kept - own)[places].abs().max():.2g}")
            return {"text": text, "ids": ids.tolist(), "wanted": wanted.tolist(), "logits": [
                {"position": int(p), "values": [round(v, 4) for v in kept[p, ::KEPT_STRIDE].tolist()]}
                for p in places]}
    raise SystemExit(f"{length} tokens: no prompt that the model answers rightly")


def main():
    parser = argparse.ArgumentParser()
    for name in ("model", "run", "text", "out"):
        parser.add_argument("--" + name, required=True)
    args = parser.parse_args()
    torch.set_num_threads(1)
    tokenizer = texts_of.Tokenizer.from_file(os.path.join(args.run, "tokenizer.json"))
    tokenizer.decoder = decoders.ByteLevel()
    training, held_out = texts_of.split(open(args.text, encoding="utf-8").read())
    tasks = Tasks(tokenizer, texts_of.Text(tokenizer, [held_out]), texts_of.key_words([training]))
    rng = np.random.default_rng(23)
    models = load_gguf(args.model), load_transformers(args.model), keep_kv_in_bf16(load_gguf(args.model))
    golden = {"stride": KEPT_STRIDE,
              "prompts": [prompt(tokenizer, tasks, models, rng, length) for length in LENGTHS]}
    with open(args.out, "w", encoding="utf-8") as out:
        json.dump(golden, out, ensure_ascii=False, separators=(",", ":"))
        out.write("\n")


if __name__ == "__main__":
    main()
