"""YAML as YAML 1.2 core (https://yaml.org/spec/1.2.2/#103-core-schema), with the line of every value.

So 1e-3 is a number and 2_10 a name; PyYAML alone reads YAML 1.1. A key given twice, an alias and a tag are
refused.
"""
import re
from pathlib import Path

import yaml

from base.problem import Problem, shown

CORE = "tag:yaml.org,2002:"


class Loader(yaml.SafeLoader):
    """YAML 1.2 core scalars; no aliases."""

    yaml_implicit_resolvers = {}

    def compose_node(self, parent, index):
        if self.check_event(yaml.AliasEvent):
            line = self.peek_event().start_mark.line + 1
            raise yaml.YAMLError(f"line {line}: an alias, expected the value itself")
        return super().compose_node(parent, index)


class Dumper(yaml.SafeDumper):
    """Puts texts in quotes that either version of YAML would take for something else; no aliases."""

    def ignore_aliases(self, data):
        return True

    def represent_str(self, text):
        odd = re.search("[\x85\u2028\u2029\ufeff]", text)  # PyYAML takes them for the ends of lines
        return self.represent_scalar(CORE + "str", text, style='"' if odd else None)


Dumper.add_representer(str, Dumper.represent_str)
for kind, pattern, first in (
        ("null", r"null|Null|NULL|~|", ["n", "N", "~", ""]),
        ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
        ("int", r"[-+]?[0-9]+", list("-+0123456789")),
        ("float", r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", list("-+.0123456789")),
        ("float", r"[-+]?\.(inf|Inf|INF)|\.nan|\.NaN|\.NAN", list("-+."))):
    for user in (Loader, Dumper):
        user.add_implicit_resolver(CORE + kind, re.compile(f"^(?:{pattern})$"), first)

SCALARS = {
    CORE + "null": lambda text: None,
    CORE + "bool": lambda text: text.lower() == "true",
    CORE + "int": int,
    CORE + "float": lambda text: float(text.lower().replace(".inf", "inf").replace(".nan", "nan")),
    CORE + "str": str}


def yaml_text(settings):
    """Settings as YAML, keys in their order: versions 1.1 and 1.2 read the same from it."""
    return yaml.dump(settings, Dumper=Dumper, sort_keys=False, allow_unicode=True)


def value_of(node, lines, problems, path=()):
    """The value of a YAML node; adds the line of every path to `lines`, what is wrong to `problems`."""
    lines[path] = node.start_mark.line + 1
    name = ".".join(map(str, path)) or "the file"
    if isinstance(node, yaml.MappingNode) and node.tag == CORE + "map":
        return mapping_of(node, lines, problems, path)
    if isinstance(node, yaml.SequenceNode) and node.tag == CORE + "seq":
        return [value_of(item, lines, problems, (*path, i)) for i, item in enumerate(node.value)]
    if isinstance(node, yaml.ScalarNode) and node.tag in SCALARS:
        try:
            return SCALARS[node.tag](node.value)
        except ValueError:
            problems.append((lines[path], f"{name}: {shown(node.value)}, expected a number"))
            return None
    problems.append((lines[path], f"{name}: tag {node.tag}, expected plain text, a number, a list or a "
                                  "mapping"))
    return None


def mapping_of(node, lines, problems, path):
    """`value_of` a mapping: {text: value}."""
    mapping = {}
    for key_node, value_node in node.value:
        line, name = key_node.start_mark.line + 1, ".".join(map(str, path)) or "the file"
        if not isinstance(key_node, yaml.ScalarNode):
            problems.append((line, f"a key in {name}: a list or mapping, expected a name"))
            continue
        key = (*path, key_node.value)
        if key_node.value in mapping:
            problems.append((line, f"key {'.'.join(map(str, key))}: given twice, expected once; remove one "
                             f"(the other is in line {lines[key]})"))
        mapping[key_node.value] = value_of(value_node, lines, problems, key)
    return mapping


def read_yaml(path):
    """(value, {path: line}, [(line, problem)]) of a YAML file; Problem where it is no YAML mapping at all."""
    try:
        text = Path(path).read_bytes()
    except OSError as error:
        raise Problem(f"settings file {path}: {error.strerror}, expected a YAML file; give one with --params "
                      "or PARAMS=", code=2) from None
    lines, problems, loader = {}, [], None
    try:
        loader = Loader(text)
        node = loader.get_single_node()
        if not isinstance(node, yaml.MappingNode):
            raise yaml.YAMLError("line 1: no mapping, expected 'section:' lines")
        return value_of(node, lines, problems), lines, problems
    except RecursionError:
        raise Problem(f"settings in {path}: nested too deeply, expected sections of keys", code=2) from None
    except (yaml.YAMLError, ValueError, OverflowError) as error:  # the last two of odd escapes, versions
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}: {error.problem}" if mark else " ".join(str(error).split())
        if "line " not in where and loader is not None:
            where = f"line {loader.line + 1}: {where}"
        sign = re.search("while scanning an alias|an alias, expected|character '[@`%]' that", str(error))
        hint = "put a value that begins with * or @ in quotes" if sign else "mend that line"
        raise Problem(f"settings in {path}: {where}, expected YAML; {hint}", code=2) from None
