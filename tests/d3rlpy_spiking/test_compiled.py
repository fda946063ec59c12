"""With d3rlpy's own settings, dropout too, every algorithm trains through compiled layers."""

import pytest
from torch import Tensor

from policies import transformer
from policies.fused_transformer import FusedPass
from tests.d3rlpy_spiking.common import CONFIGS, build
from tests.d3rlpy_spiking.test_training import batch_of
from tests.kernels import NEEDS_NUMBA


@NEEDS_NUMBA
@pytest.mark.parametrize("name", list(CONFIGS))
def test_an_update_runs_compiled(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []

    class Spy(FusedPass):
        def run(self, x: Tensor) -> Tensor:
            calls.append(name)
            return super().run(x)

    monkeypatch.setattr(transformer, "FusedPass", Spy)
    algo = build(name)
    if name in ("sdt", "tacr"):
        assert algo.config.resid_dropout > 0.0
    algo.update(batch_of(algo))
    assert calls
    calls.clear()
    build(name, kernel="torch").update(batch_of(algo))
    assert not calls
