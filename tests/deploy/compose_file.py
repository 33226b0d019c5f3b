"""compose.yaml as Compose reads it: variables filled in from .env, sizes and times as numbers."""
import os
import re

import yaml

VARIABLE = re.compile(r"\$\{(\w+)(?::-([^}]*))?\}")
UNITS = {"": 1, "b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}


def read_env(path):
    with open(path, encoding="utf-8") as file:
        lines = [line.strip() for line in file]
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def fill_in(node, env):
    if isinstance(node, dict):
        return {key: fill_in(value, env) for key, value in node.items()}
    if isinstance(node, list):
        return [fill_in(value, env) for value in node]
    if isinstance(node, str):
        return VARIABLE.sub(lambda m: env.get(m.group(1)) or m.group(2) or "", node)
    return node


def load(path, env):
    """The file with `env`; with {} the defaults that the file itself states."""
    with open(path, encoding="utf-8") as file:
        return fill_in(yaml.load(file, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)), env)


def size(text):
    number, unit = re.fullmatch(r"(\d+)([bkmg]?)", text.lower()).groups()
    return int(number) * UNITS[unit]


def seconds(text):
    return int(re.fullmatch(r"(\d+)s", text).group(1))


def flag(service, name):
    """The value of --name=value in a service's command; None where it is not there."""
    for argument in service["command"]:
        if argument.startswith("--%s=" % name):
            return argument.split("=", 1)[1]
    return None


def mounts(service):
    """[(source, target, mode)] of a service."""
    return [tuple((volume.split(":") + ["rw"])[:3]) for volume in service.get("volumes", [])]


def deploy_folder():
    return os.path.join(os.path.dirname(os.path.realpath(__file__)), "..", "..", "deploy")
