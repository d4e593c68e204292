"""YAML read as YAML 1.2 core (https://yaml.org/spec/1.2.2/#103-core-schema), with the line of every value.

So 1e-3 is a number and 2_10 a name; PyYAML alone reads YAML 1.1. A key given twice, an alias and a tag are refused.
"""
import re
from pathlib import Path

import yaml

from base.problem import Problem, shown


class Loader(yaml.SafeLoader):
    """YAML 1.2 core scalars; no aliases."""

    yaml_implicit_resolvers = {}

    def compose_node(self, parent, index):
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError(f"line {self.peek_event().start_mark.line + 1}: an alias, expected the value itself")
        return super().compose_node(parent, index)


for tag, pattern, first in (
        ("null", r"null|Null|NULL|~|", ["n", "N", "~", ""]),
        ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
        ("int", r"[-+]?[0-9]+", list("-+0123456789")),
        ("float", r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", list("-+.0123456789")),
        ("float", r"[-+]?\.(inf|Inf|INF)|\.nan|\.NaN|\.NAN", list("-+."))):
    Loader.add_implicit_resolver(f"tag:yaml.org,2002:{tag}", re.compile(f"^(?:{pattern})$"), first)
SCALARS = {
    "tag:yaml.org,2002:null": lambda text: None,
    "tag:yaml.org,2002:bool": lambda text: text.lower() == "true",
    "tag:yaml.org,2002:int": int,
    "tag:yaml.org,2002:float": lambda text: float(text.lower().replace(".inf", "inf").replace(".nan", "nan")),
    "tag:yaml.org,2002:str": str}


def plain(node, lines, problems, path=()):
    """The Python value of a YAML node; notes the line of every path in `lines`, what is wrong in `problems`."""
    lines[path] = node.start_mark.line + 1
    name = ".".join(map(str, path)) or "the file"
    kinds = {yaml.MappingNode: ["tag:yaml.org,2002:map"], yaml.SequenceNode: ["tag:yaml.org,2002:seq"]}
    if node.tag not in kinds.get(type(node), SCALARS):
        problems.append((lines[path], f"{name}: tag {node.tag}, expected plain text, a number, a list or a mapping"))
        return None
    if isinstance(node, yaml.MappingNode):
        value = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                problems.append((key_node.start_mark.line + 1, f"a key in {name}: a list or mapping, expected a name"))
                continue
            key = key_node.value
            if key in value:
                problems.append((key_node.start_mark.line + 1, f"key {'.'.join([*map(str, path), key])}: given twice, "
                                 f"expected once; remove one (the other is in line {lines[(*path, key)]})"))
            value[key] = plain(value_node, lines, problems, (*path, key))
        return value
    if isinstance(node, yaml.SequenceNode):
        return [plain(item, lines, problems, (*path, i)) for i, item in enumerate(node.value)]
    try:
        return SCALARS[node.tag](node.value)
    except ValueError:
        problems.append((lines[path], f"{name}: {shown(node.value)}, expected a number"))


def read_yaml(path):
    """(value, {path: line}, [(line, problem)]) of a YAML file; Problem where it is no YAML mapping at all."""
    try:
        text = Path(path).read_bytes()
    except OSError as error:
        raise Problem(f"settings file {path}: {error.strerror}, expected a YAML file; "
                      "give one with --params or PARAMS=", code=2) from None
    lines, problems, loader = {}, [], None
    try:
        loader = Loader(text)
        node = loader.get_single_node()
        if not isinstance(node, yaml.MappingNode):
            raise yaml.YAMLError("line 1: no mapping, expected 'section:' lines")
        return plain(node, lines, problems), lines, problems
    except RecursionError:
        raise Problem(f"settings in {path}: nested too deeply, expected sections of keys", code=2) from None
    except (yaml.YAMLError, ValueError, OverflowError) as error:  # the last two of escapes and versions beyond reason
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}: {error.problem}" if mark else " ".join(str(error).split())
        where = where if "line " in where or loader is None else f"line {loader.line + 1}: {where}"
        raise Problem(f"settings in {path}: {where}, expected YAML; mend that line", code=2) from None


def yaml_text(settings):
    """Settings as YAML, in their order."""
    return yaml.safe_dump(settings, sort_keys=False, allow_unicode=True)
