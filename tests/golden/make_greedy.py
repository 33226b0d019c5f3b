#!/usr/bin/env python3
"""Writes greedy_smollm2.json: what transformers' LlamaForCausalLM generates greedily in float32 on dequantised weights.

Usage: make_greedy.py SmolLM2-135M-Instruct.Q4_1.gguf OUT [--check]    (needs gguf, numpy, torch, transformers)

--check also loads the file through transformers' own GGUF reader and requires the same logits.
"""
import json
import os
import sys

import numpy as np
import torch
from gguf import GGUFReader
from gguf.quants import dequantize
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM

STEPS = 200
# Steps whose logits are kept (with K/V in float32, and rounded to bf16), and which of the vocabulary: enough to see a
# wrong weight, small enough to commit.
LOGIT_STEPS = {0: [0, 120, 199], 5: [40], 8: [0, 199], 13: [77], 19: [0, 199]}
LOGIT_STRIDE = 192

CHATS = [
    "Write a short story about a lighthouse keeper who finds a message in a bottle.",
    "Explain how a refrigerator works to a ten year old.",
    "List ten tips for growing tomatoes on a balcony.",
    "What is the difference between a virus and a bacterium?",
    "Write a Python function that returns the n-th Fibonacci number, and explain it.",
    "Translate to French: 'The train to Lyon leaves at seven in the morning.'",
    "Summarise the causes of the First World War.",
    "What is 17 * 23? Show your work.",
    "Write a poem about autumn rain.",
    "Give me a recipe for lentil soup.",
]
TEXTS = [
    "The history of the Roman Empire begins with",
    "def quicksort(items):\n    \"\"\"Sorts a list.\"\"\"\n",
    "In the beginning God created the heaven and the earth. And the earth was without form, and void; and darkness was",
    "#include <stdio.h>\n\nint main(void) {\n",
    "1, 1, 2, 3, 5, 8, 13, 21,",
    "Les fables de La Fontaine sont",
    "Das Wetter in Berlin ist heute",
    "<html>\n<head>\n<title>My first page</title>\n</head>\n<body>\n",
    "Q: What is the capital of Australia?\nA: Canberra\nQ: What is the capital of Canada?\nA:",
    "Photosynthesis is the process by which plants " * 12,
]


def tokenizer(fields):
    tokens = fields["tokenizer.ggml.tokens"].contents()
    merges = [tuple(m.split(" ")) for m in fields["tokenizer.ggml.merges"].contents()]
    out = Tokenizer(models.BPE({t: i for i, t in enumerate(tokens)}, merges))
    out.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)])
    out.add_special_tokens([AddedToken("<|im_start|>"), AddedToken("<|im_end|>")])
    return out


def unpermuted(weight, heads):
    """GGUF keeps the rows of Q and K so that RoPE turns neighbours; transformers turns the halves of a head."""
    rows, cols = weight.shape
    return weight.reshape(heads, rows // heads // 2, 2, cols).swapaxes(1, 2).reshape(rows, cols)


def load(path):
    reader = GGUFReader(path)
    get = lambda key: reader.fields["llama." + key].contents()
    heads, kv_heads = get("attention.head_count"), get("attention.head_count_kv")
    weights = {t.name: dequantize(t.data, t.tensor_type).astype(np.float32) for t in reader.tensors}
    names = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
    parts = {"attn_norm": "input_layernorm", "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj",
             "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj", "ffn_norm": "post_attention_layernorm",
             "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj"}
    state = {}
    for name, weight in weights.items():
        words = name.removesuffix(".weight").split(".")
        if words[0] == "blk":
            weight = unpermuted(weight, {"attn_q": heads, "attn_k": kv_heads}[words[2]]) \
                if words[2] in ("attn_q", "attn_k") else weight
            target = f"model.layers.{words[1]}.{parts[words[2]]}"
        else:
            target = names[words[0]]
        state[target + ".weight"] = torch.from_numpy(np.ascontiguousarray(weight))
    tied = "output.weight" not in weights
    if tied:
        state["lm_head.weight"] = state["model.embed_tokens.weight"]
    config = LlamaConfig(
        vocab_size=state["model.embed_tokens.weight"].shape[0], hidden_size=get("embedding_length"),
        intermediate_size=get("feed_forward_length"), num_hidden_layers=get("block_count"), num_attention_heads=heads,
        num_key_value_heads=kv_heads, max_position_embeddings=get("context_length"),
        rms_norm_eps=get("attention.layer_norm_rms_epsilon"), tie_word_embeddings=tied, attn_implementation="eager",
        rope_parameters={"rope_type": "default", "rope_theta": get("rope.freq_base")})
    model = LlamaForCausalLM(config)
    model.load_state_dict(state, strict=True)
    return model.float().eval(), tokenizer(reader.fields)


def check(path, model, ids):
    other = LlamaForCausalLM.from_pretrained(os.path.dirname(path) or ".", gguf_file=os.path.basename(path),
                                             dtype=torch.float32).eval()
    worst = (other(torch.tensor([ids])).logits - model(torch.tensor([ids])).logits).abs().max().item()
    print(f"largest difference from transformers' own GGUF reader: {worst:.2e}")
    assert worst < 1e-3


class RoundedCache(DynamicCache):
    """Keeps K and V as bf16, as HGA Serve does: what differs from it beyond that is not the cache's."""

    def update(self, key, value, *args, **kwargs):
        rounded = [x.to(torch.bfloat16).to(x.dtype) for x in (key, value)]
        return super().update(*rounded, *args, **kwargs)


def sample(row):
    return [round(float(v), 4) for v in row[::LOGIT_STRIDE]]


def generate(model, prompt, logit_steps):
    tokens, margins, logits, past = [], [], [], None
    ids = torch.tensor([prompt])
    for step in range(STEPS):
        out = model(ids, past_key_values=past, use_cache=True)
        past, row = out.past_key_values, out.logits[0, -1]
        best = torch.topk(row, 2)
        tokens.append(int(best.indices[0]))
        margins.append(round(float(best.values[0] - best.values[1]), 4))
        if step in logit_steps:
            logits.append({"step": step, "values": sample(row)})
        ids = torch.tensor([[tokens[-1]]])
    if logits:
        rows = model(torch.tensor([prompt + tokens]), past_key_values=RoundedCache(), use_cache=True).logits[0]
        for entry in logits:
            entry["bf16_kv"] = sample(rows[len(prompt) - 1 + entry["step"]])
    return {"prompt": prompt, "tokens": tokens, "margins": margins, "logits": logits}


@torch.no_grad()
def main():
    torch.set_num_threads(int(os.environ.get("THREADS", "1")))
    path, out = sys.argv[1:3]
    model, encoder = load(path)
    texts = [f"<|im_start|>user\n{c}<|im_end|>\n<|im_start|>assistant\n" for c in CHATS] + TEXTS
    prompts = [encoder.encode(t, add_special_tokens=False).ids for t in texts]
    if "--check" in sys.argv:
        check(path, model, prompts[0])
    cases = []
    for i, prompt in enumerate(prompts):
        cases.append(generate(model, prompt, LOGIT_STEPS.get(i, [])))
        print(i, len(prompt), repr(encoder.decode(cases[-1]["tokens"]))[:100], flush=True)
    with open(out, "w") as file:
        file.write('{"logit_stride": %d, "cases": [\n' % LOGIT_STRIDE)
        file.write(",\n".join(json.dumps(c, separators=(",", ":")) for c in cases))
        file.write("\n]}\n")


main()
