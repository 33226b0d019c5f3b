#!/usr/bin/env python3
"""Writes chats.json: conversations as transformers' apply_chat_template renders them.

Usage: make_chats.py OUT [TEMPLATE_FOLDER]      (needs the PyPI packages transformers and tokenizers)
The templates below say for plain conversations what those of the families say. TEMPLATE_FOLDER/NAME.jinja, where it is
there, takes the place of the one below, so that the texts of real models can be tried.
"""
import json
import os
import sys

from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

CHATML = ("{% for message in messages %}"
          "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}"
          "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}")

QWEN25 = r"""{%- if tools %}
    {{- '<|im_start|>system\n' }}
    {%- if messages[0]['role'] == 'system' %}
        {{- messages[0]['content'] }}
    {%- endif %}
    {{- "\n\n" + (tools | tojson) + "<|im_end|>\n" }}
{%- elif messages[0]['role'] != 'system' %}
    {{- '<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>\n' }}
{%- endif %}
{%- for message in messages %}
    {{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\n' }}
{%- endif %}"""

# OPENING is what follows <|im_start|>assistant.
QWEN3 = r"""{%- set ns = namespace(open=true, last_query_index=messages|length - 1) %}
{%- for message in messages[::-1] %}
    {%- if ns.open and message.role == "user" and not IS_TOOL_RESPONSE %}
        {%- set ns.open = false %}
        {%- set ns.last_query_index = messages|length - 1 - loop.index0 %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- set content = message.content %}
    {%- if message.role == "assistant" %}
        {%- set thoughts = '' %}
        {%- if '</think>' in content %}
            {%- set thoughts = content.split('</think>')[0].rstrip('\n').split('<think>')[-1].lstrip('\n') %}
            {%- set content = content.split('</think>')[-1].lstrip('\n') %}
        {%- endif %}
        {%- if loop.index0 > ns.last_query_index and (loop.last or thoughts) %}
            {%- set content = '<think>\n' + thoughts.strip('\n') + '\n</think>\n\n' + content.lstrip('\n') %}
        {%- endif %}
    {%- endif %}
    {{- '<|im_start|>' + message.role + '\n' + content + '<|im_end|>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- OPENING }}
{%- endif %}""".replace(
    "IS_TOOL_RESPONSE",
    "(message.content.startswith('<tool_response>') and message.content.endswith('</tool_response>'))")
SWITCH = r"""'<|im_start|>assistant\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\n\n</think>\n\n' }}
    {%- endif %}
    {{- ''"""

LLAMA3 = r"""{{- bos_token }}
{%- for message in messages %}
    {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' + message['content'] | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}
{%- endif %}"""

LLAMA31 = r"""{{- bos_token }}
{%- if not date_string is defined %}
    {%- set date_string = "26 Jul 2024" %}
{%- endif %}
{%- set system = "" %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system = messages[0]['content'] | trim %}
    {%- set messages = messages[1:] %}
{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\n\n" }}
{{- "Cutting Knowledge Date: December 2023\n" }}
{{- "Today Date: " + date_string + "\n\n" }}
{{- system }}
{{- "<|eot_id|>" }}
""" + LLAMA3[LLAMA3.index("{%- for"):]

TEMPLATES = {"chatml": CHATML, "qwen2.5": QWEN25, "qwen3": QWEN3.replace("OPENING", SWITCH),
             "qwen3-instruct": QWEN25[QWEN25.index("{%- for"):],
             "qwen3-thinking": QWEN3.replace("OPENING", r"'<|im_start|>assistant\n<think>\n'"),
             "llama3": LLAMA3, "llama3.1": LLAMA31}

CHATS = [
    [("user", "Hello!")],
    [("system", "Answer in one word."), ("user", "Capital of France?")],
    [("user", "Hi"), ("assistant", "Hello, how can I help?"), ("user", "  Tell me\n\n a joke in 12 words \n")],
    [("system", "  Be brief.\n"), ("user", "naïve 😀"), ("assistant", "\n\nyes \u3000"), ("user", "\u00a0why?")],
    [("user", ""), ("assistant", "\n"), ("user", "x")],
    [("user", "2+2?"), ("assistant", "<think>\nEasy.\n</think>\n\n4"), ("user", "and 3+3?")],
    [("user", "2+2?"), ("assistant", "<think>\n\n\n</think>\n4</think>\n5"), ("user", "sure?"),
     ("assistant", "</think>yes")],
    [("user", "2+2?"), ("assistant", "<think>a<think>b\n\n</think>\n\n\n4"), ("assistant", "done")],
    [("user", "go"), ("assistant", "<think>\nx\n</think>\n\nrun"), ("user", "<tool_response>\n1\n</tool_response>")],
    [("system", "s"), ("assistant", "<think>\nx\n</think>\n\nfirst")],
    [("user", "a"), ("system", "not first"), ("user", "b")],
]


def main():
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE()), bos_token="<|begin_of_text|>")
    styles = []
    for name, template in TEMPLATES.items():
        path = os.path.join(sys.argv[2], name + ".jinja") if len(sys.argv) > 2 else ""
        if os.path.exists(path):
            with open(path) as file:
                template = file.read()
        cases = []
        for chat in CHATS:
            if name == "qwen3-instruct" and any("think>" in text for _, text in chat):
                continue
            messages = [{"role": role, "content": content} for role, content in chat]
            for thinking in (True, False):
                text = tokenizer.apply_chat_template(
                    messages, chat_template=template, tokenize=False, add_generation_prompt=True,
                    enable_thinking=thinking, date_string="26 Jul 2024")
                cases.append({"messages": messages, "thinking": thinking, "text": text})
        styles.append({"name": name, "template": template, "cases": cases})
    with open(sys.argv[1], "w") as out:
        line = lambda x: json.dumps(x, separators=(",", ":"))
        out.write("[" + ",\n".join('{"name":%s,"template":%s,"cases":[\n%s]}' % (
            line(s["name"]), line(s["template"]), ",\n".join(map(line, s["cases"]))) for s in styles) + "]\n")


main()
