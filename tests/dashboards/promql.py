"""What a PromQL expression names: metrics with the labels that it selects by or groups by. No full parser: enough for
what dashboards and alerts hold, and it refuses what it does not know."""
import re

TOKEN = re.compile(r'''"(?:[^"\\]|\\.)*"|\[[^\]]*\]|[a-zA-Z_:][a-zA-Z0-9_:]*|[0-9.]+(?:[eE][+-]?[0-9]+)?|\S''')
WORDS = {"sum", "min", "max", "avg", "count", "topk", "rate", "increase", "histogram_quantile", "by", "without", "on",
         "ignoring", "group_left", "group_right", "and", "or", "unless", "bool", "offset"}
GROUPING = {"by", "without", "on", "ignoring", "group_left", "group_right"}
METRIC = re.compile(r"^(hga_|process_|node_)|^up$")


def names(expression):
    """[(metric, labels selected by)], {labels grouped by}"""
    tokens = TOKEN.findall(expression)
    metrics, grouped = [], set()
    i = 0
    while i < len(tokens):
        token = tokens[i]
        i += 1
        if token in GROUPING:
            if i < len(tokens) and tokens[i] == "(":
                end = tokens.index(")", i)
                grouped |= {t for t in tokens[i + 1:end] if t != ","}
                i = end + 1
        elif re.match(r"[a-zA-Z_:]", token) and token not in WORDS:
            if not METRIC.match(token):
                raise ValueError(f"'{token}' is neither a metric nor a function that is known: {expression}")
            labels = set()
            if i < len(tokens) and tokens[i] == "{":
                end = tokens.index("}", i)
                labels = {t for t in tokens[i + 1:end] if re.match(r"[a-zA-Z_]", t)}
                i = end + 1
            metrics.append((token, labels))
    return metrics, grouped
