"""Attributes of a model that hold another value for a while."""

import contextlib
from collections.abc import Iterator
from typing import Any

_MISSING = object()


@contextlib.contextmanager
def temporarily(owner: Any, **values: Any) -> Iterator[None]:
    """Set attributes of an object, and put back what was there."""
    own = vars(owner)
    before = {name: own.get(name, _MISSING) for name in values}
    own.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is _MISSING:
                del own[name]
            else:
                own[name] = value
