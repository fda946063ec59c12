"""YAML as its writer means it: keys once, and 1e-3 a number."""

import re
from pathlib import Path
from typing import Any

try:
    import yaml
except ImportError as error:
    raise ImportError(
        "reading YAML files needs PyYAML: pip install 'spiking-policies[d3rlpy]'"
    ) from error

from d3rlpy_spiking.cli.errors import UsageError


class _Loader(yaml.SafeLoader):
    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        """As YAML asks for: PyYAML silently takes the last of several equal keys."""
        seen: set[str] = set()
        for key, _ in node.value:
            if key.value in seen and key.tag != "tag:yaml.org,2002:merge":
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key.value!r} stands twice", key.start_mark
                )
            if isinstance(key.value, str):
                seen.add(key.value)
        mapping: dict[Any, Any] = super().construct_mapping(node, deep)
        return mapping


# YAML 1.1, and so PyYAML, takes 1e-3 for a string.
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"), "-+0123456789"
)


def read_yaml(path: Path) -> dict[Any, Any]:
    """The mapping in a YAML file.

    Raises:
        FileNotFoundError: if there is no such file.
        UsageError: if it is no YAML, has a key twice, or holds no mapping. The message leaves out
            the path.
    """
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
    except (yaml.YAMLError, UnicodeDecodeError, ValueError, RecursionError) as error:
        raise UsageError(f"no valid YAML: {_where(error)}") from error
    if not isinstance(content, dict):
        raise UsageError("the file must hold the keys algorithm, train and config")
    return content


def _where(error: Exception) -> str:
    mark = getattr(error, "problem_mark", None)
    if mark is None:
        return str(error)
    return f"line {mark.line + 1}, column {mark.column + 1}: {getattr(error, 'problem', error)}"
