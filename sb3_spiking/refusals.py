"""Names that make no sense for an algorithm say so, and what to use in their place."""

from typing import Any, NoReturn

from stable_baselines3.common.policies import BasePolicy


def refusal(reason: str) -> type[BasePolicy]:
    """A policy class that SB3 can look up and that raises ValueError(reason) when it is built."""

    class Refusal(BasePolicy):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            raise ValueError(reason)

        def _predict(self, observation: Any, deterministic: bool = False) -> NoReturn:
            raise ValueError(reason)

    return Refusal
