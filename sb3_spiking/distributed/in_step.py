"""Whether ranks still hold the same model."""

import hashlib
from typing import Any

from policies.distributed import gather_objects


def check_in_step(model: Any) -> None:
    """Raise unless every rank holds the same parameters and statistics, to the last bit.

    Raises:
        RuntimeError: on every rank, naming what differs.
    """
    mine = {
        name: hashlib.sha256(x.detach().cpu().contiguous().view(-1).numpy().tobytes()).digest()
        for name, x in model.policy.state_dict().items()
    }
    everyone = gather_objects(mine)
    for number, theirs in enumerate(everyone):
        apart = [name for name in theirs if theirs[name] != everyone[0].get(name)]
        if apart:
            raise RuntimeError(
                f"ranks 0 and {number} no longer hold the same policy: {apart[:5]} differ. A "
                "callback, a subclass or a layer with statistics of its own changed them on one "
                "rank only; let it do the same on all"
            )
