"""Hyperparameters that RL Zoo saved of a run, and whether runs of one kind have the same.

A kind's name and command do not say them all: the hyperparameter file behind it changes.
"""

import ast
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from benchmarks.results.command import relative
from benchmarks.results.record import Record

_PYTHON = "tag:yaml.org,2002:python/"
_MISSING = "nothing"


class _Loader(yaml.SafeLoader):
    """Plain data and ordered dictionaries; of whatever else Python wrote, its name and parts."""


def _ordered(loader: yaml.SafeLoader, node: yaml.SequenceNode) -> dict[Any, Any]:
    return {name: value for pairs in loader.construct_sequence(node, True) for name, value in pairs}


def _other(loader: yaml.SafeLoader, suffix: str, node: yaml.Node) -> Any:
    if isinstance(node, yaml.MappingNode):
        return {suffix: loader.construct_mapping(node, True)}
    if isinstance(node, yaml.SequenceNode):
        parts = loader.construct_sequence(node, True)
        return parts if suffix == "tuple" else {suffix: parts}
    return f"{suffix} {node.value}".strip()


_Loader.add_constructor(f"{_PYTHON}object/apply:collections.OrderedDict", _ordered)
_Loader.add_multi_constructor(_PYTHON, _other)


def read(path: Path) -> dict[str, Any]:
    """The settings of a config.yml, as JSON has them; policy_kwargs by name.

    Raises:
        ValueError: if there is no such file, or it is damaged.
    """
    try:
        content = yaml.load(path.read_text("utf-8"), Loader=_Loader)
        if not isinstance(content, dict):
            raise TypeError(f"it holds {type(content).__name__}, not settings by name")
        kwargs = content.get("policy_kwargs")
        if isinstance(kwargs, str):
            content["policy_kwargs"] = _value(ast.parse(kwargs.strip(), mode="eval").body)
    except FileNotFoundError as error:
        raise ValueError(
            f"there is no {path}, where RL Zoo writes a run's hyperparameters at its start: copy "
            "it back from there, or train the run again"
        ) from error
    except (OSError, yaml.YAMLError, ValueError, TypeError, SyntaxError) as error:
        raise ValueError(f"{path} is damaged ({error}); mend it by hand") from error
    return dict(_plain(content))


def _value(node: ast.expr) -> Any:
    """What is written in Python: dicts and literals, and the text of all else (nn.ReLU)."""
    if isinstance(node, ast.Call) and ast.unparse(node.func) == "dict" and not node.args:
        named = {one.arg: _value(one.value) for one in node.keywords}
        if None not in named:  # **kwargs
            return named
    try:
        return ast.literal_eval(node)
    except ValueError:
        return ast.unparse(node)


def _plain(value: Any) -> Any:
    """As JSON has it, dictionaries sorted, without the paths of a machine."""
    if isinstance(value, Mapping):
        return {str(name): _plain(value[name]) for name in sorted(value, key=str)}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if isinstance(value, str):
        return relative(value)
    return value if isinstance(value, bool | int | float | None) else repr(value)


def check_alike(records: Sequence[Record]) -> None:
    """Raise unless runs of one environment and kind have the same hyperparameters.

    Runs of which none are kept are taken as they are.

    Raises:
        ValueError: naming two runs and what differs.
    """
    first: dict[tuple[str, str], Record] = {}
    for one in records:
        if one.hyperparameters is None:
            continue
        other = first.setdefault((one.env, one.kind), one)
        mine, theirs = _compared(one), _compared(other)
        changed = [
            f"{name} {mine.get(name, _MISSING)} and not {theirs.get(name, _MISSING)}"
            for name in sorted({*mine, *theirs})
            if mine.get(name, _MISSING) != theirs.get(name, _MISSING)
        ]
        if changed:
            raise ValueError(
                "runs of one kind must have the same hyperparameters, or their mean says nothing: "
                f"{one.name} has {', '.join(changed)}, as {other.name} has; move one of them to "
                "the folder of another kind, delete what is kept of it and collect again"
            )


def _compared(record: Record) -> dict[str, str]:
    """Settings as text, those of policy_kwargs one by one."""
    assert record.hyperparameters is not None
    settings = dict(record.hyperparameters)
    settings.pop("n_timesteps", None)  # the file's; the command's -n decides
    # Callbacks for spiking policies do nothing to dense ones.
    if "Spiking" not in str(settings.get("policy")):
        if str(settings.get("callback")).startswith("sb3_spiking."):
            settings.pop("callback")
    kwargs = settings.pop("policy_kwargs", None)
    if isinstance(kwargs, dict):
        settings |= {f"policy_kwargs.{name}": value for name, value in kwargs.items()}
    elif kwargs is not None:
        settings["policy_kwargs"] = kwargs
    return {name: repr(value) for name, value in settings.items()}
