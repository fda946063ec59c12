"""Values of a YAML file to typed fields. d3rlpy's own reader ignores what it does not know."""

import dataclasses
import inspect
import math
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from typing import Any, Literal, Union, get_args, get_origin

import numpy as np
from d3rlpy.serializable_config import CONFIG_STORAGE, DynamicConfig

from d3rlpy_spiking.cli.errors import UsageError, one_line, suggestion


class MismatchError(UsageError):
    """A value has another type than its field."""


def read_dataclass(cls: type[Any], values: object, path: str) -> Any:
    """An instance of a dataclass from a mapping of its fields.

    Args:
        cls: the dataclass; d3rlpy's configs and factories are such.
        values: the mapping.
        path: its place in the file, for messages: "config.encoder_factory.params".

    Raises:
        UsageError: if a key is unknown or missing, a value has the wrong type, or the dataclass
            refuses them. The message begins with the place.
    """
    fields = [field for field in dataclasses.fields(cls) if field.init]
    required = {
        field.name
        for field in fields
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    }
    hints = typing.get_type_hints(cls)
    read = _read_mapping({f.name: hints[f.name] for f in fields}, required, values, path)
    try:
        return cls(**read)
    except (ValueError, TypeError, AssertionError) as error:
        raise UsageError(f"{path}: {one_line(error)}") from error


def read_arguments(function: Callable[..., Any], values: object, path: str) -> dict[str, Any]:
    """Keyword arguments of a function from a mapping; raises as `read_dataclass`."""
    hints = typing.get_type_hints(function)
    parameters = inspect.signature(function).parameters.values()
    required = {p.name for p in parameters if p.default is p.empty}
    return _read_mapping({p.name: hints[p.name] for p in parameters}, required, values, path)


def plain(value: Any) -> Any:
    """A value of `read_dataclass` as JSON holds it; d3rlpy's own way fails on unfit scalers."""
    if isinstance(value, DynamicConfig):
        names = [field.name for field in dataclasses.fields(value) if field.init]
        params = {name: plain(getattr(value, name)) for name in names}
        return {"type": value.get_type(), "params": params}
    if isinstance(value, list | tuple):
        return [plain(part) for part in value]
    if isinstance(value, Enum):
        return value.value
    return value.tolist() if isinstance(value, np.ndarray) else value


def check_keys(values: object, known: Sequence[str], path: str) -> dict[str, Any]:
    """Values as a mapping with known keys.

    Raises:
        UsageError: if it is none, or has an unknown key.
    """
    if not isinstance(values, Mapping):
        raise MismatchError(f"{path} must be a mapping of names to values, got {_show(values)}")
    for key in values:
        if key not in known:
            raise UsageError(f"{path} has no key {key!r}; {suggestion(str(key), known)}")
    return dict(values)


def _read_mapping(
    hints: Mapping[str, Any], required: set[str], values: object, path: str
) -> dict[str, Any]:
    given = check_keys(values, tuple(hints), path)
    missing = sorted(required - set(given))
    if missing:
        raise UsageError(f"{path} lacks {', '.join(missing)}, which has no default")
    return {name: _read(hints[name], value, f"{path}.{name}") for name, value in given.items()}


def _read(hint: Any, value: object, path: str) -> Any:
    """The value as a field with that type hint takes it."""
    origin = get_origin(hint)
    if origin in (Union, types.UnionType):
        return _read_union(hint, value, path)
    if origin is Literal:
        return _read_choice(get_args(hint), value, path)
    if origin is np.ndarray:
        return _read_array(value, path)
    if origin in _SEQUENCES:
        return _read_sequence(origin, get_args(hint), value, path)
    if isinstance(hint, type):
        return _read_class(hint, value, path)
    raise NotImplementedError(f"{path} has a type that no YAML value is known for: {hint}")


def _read_class(hint: type[Any], value: object, path: str) -> Any:
    if issubclass(hint, DynamicConfig):
        return _read_registered(hint, value, path)
    if issubclass(hint, Enum):
        return hint(_read_choice([member.value for member in hint], value, path))
    fits, wanted = _PLAIN[hint]
    if not fits(value):
        raise MismatchError(f"{path} must be {wanted}, got {_show(value)}{_remedy(hint, value)}")
    return float(value) if hint is float else value  # type: ignore[arg-type]  # checked


def _read_union(hint: Any, value: object, path: str) -> Any:
    options = [option for option in get_args(hint) if option is not type(None)]
    optional = len(options) < len(get_args(hint))
    if optional and (value is None or _is_none_type(value)):
        return None
    if len(options) == 1:
        return _read(options[0], value, path)
    wanted = []
    for option in options:
        try:
            return _read(option, value, path)
        except MismatchError as error:
            wanted.append(str(error).removeprefix(f"{path} must be ").split(", got")[0])
    raise MismatchError(f"{path} must be {' or '.join(wanted)}, got {_show(value)}")


def _is_none_type(value: object) -> bool:
    """Whether a value is d3rlpy's way to write that there is no such factory."""
    return isinstance(value, Mapping) and value.get("type") == "none"


def _read_choice(choices: Sequence[Any], value: object, path: str) -> Any:
    if value in choices and not isinstance(value, bool):
        return value
    names = ", ".join(repr(choice) for choice in choices)
    raise MismatchError(f"{path} must be one of {names}, got {_show(value)}")


def _read_sequence(origin: Any, items: tuple[Any, ...], value: object, path: str) -> Any:
    length = len(items) if origin is tuple and Ellipsis not in items else None
    of = f"a list of {length} values" if length else "a list"
    if not isinstance(value, list | tuple) or (length is not None and len(value) != length):
        raise MismatchError(f"{path} must be {of}, got {_show(value)}")
    hints = items if length else (items[0],) * len(value)
    pairs = zip(hints, value, strict=True)
    read = [_read(hint, v, f"{path}[{i}]") for i, (hint, v) in enumerate(pairs)]
    return tuple(read) if origin is tuple else read


def _read_array(value: object, path: str) -> Any:
    try:
        # What d3rlpy computes in.
        return np.asarray(value if isinstance(value, list) else None, dtype=np.float32)
    except (TypeError, ValueError):
        raise MismatchError(f"{path} must be a list of numbers, got {_show(value)}") from None


def _read_registered(base: type[Any], value: object, path: str) -> Any:
    """A factory or scaler: {type: name, params: {...}}, as in d3rlpy's JSON."""
    registered = CONFIG_STORAGE[base].config_list
    if not isinstance(value, Mapping) or "type" not in value:
        raise MismatchError(
            f"{path} must be {{type: NAME, params: {{...}}}} with NAME one of "
            f"{', '.join(sorted(registered))}, got {_show(value)}"
        )
    given = check_keys(value, ("type", "params"), path)
    name = given["type"]
    if name not in registered:
        raise UsageError(
            f"{path}.type must be a known name, got {_show(name)}; "
            f"{suggestion(str(name), registered)}"
        )
    return read_dataclass(registered[name], given.get("params", {}), f"{path}.params")


def _is_number(value: object) -> bool:
    plain_number = isinstance(value, int | float) and not isinstance(value, bool)
    return plain_number and math.isfinite(value)  # type: ignore[arg-type]  # a number


_SEQUENCES = (list, tuple, Sequence)

_PLAIN: dict[type[Any], tuple[Callable[[object], bool], str]] = {
    bool: (lambda value: isinstance(value, bool), "true or false"),
    int: (lambda value: isinstance(value, int) and not isinstance(value, bool), "an integer"),
    float: (_is_number, "a finite number"),
    str: (lambda value: isinstance(value, str), "a string"),
}

_KINDS = {bool: "a truth value", int: "an integer", float: "a real number", str: "a string"}
_KINDS |= {list: "a list", dict: "a mapping"}


def _show(value: object) -> str:
    """The value as the file has it, and its type."""
    if value is None:
        return "nothing (null)"
    text = str(value).lower() if isinstance(value, bool) else repr(value)
    short = text if len(text) <= 60 else text[:57] + "..."
    return f"{short} ({_KINDS.get(type(value), type(value).__name__)})"


def _remedy(hint: type[Any], value: object) -> str:
    """How to write what was meant."""
    if hint is int and isinstance(value, float) and value.is_integer():
        return f"; write {int(value)}"
    if hint in (int, float) and isinstance(value, str):
        return "; write numbers without quotes, as 0.001 or 1.0e-3"
    if hint is bool and value in ("True", "False"):
        return f"; write {str(value).lower()}, without quotes"
    if hint is str and isinstance(value, bool):
        return "; YAML reads yes, no, on and off as truth values: put the word in quotes"
    return ""
