"""What a decision must not depend on: later tokens, padded tokens, the action to be predicted."""

from typing import Any

import pytest
import torch
from torch import Tensor

from tests.d3rlpy_spiking.common import ATTENTIONS, CONFIGS, LENGTH, build, is_discrete, train

NAMES = [name for name in CONFIGS if name != "tacr"]  # the same network as "sdt"


def inputs(algo: Any, batch: int = 4, seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    action = torch.rand(batch, LENGTH, 2, generator=generator) * 2 - 1
    if is_discrete(algo):
        action = torch.randint(3, (batch, LENGTH, 1), generator=generator)
    return [
        torch.randn(batch, LENGTH, 5, generator=generator),
        action,
        torch.randn(batch, LENGTH, 1, generator=generator),
        torch.arange(1, LENGTH + 1).repeat(batch, 1),
        (torch.arange(LENGTH) < torch.arange(batch)[:, None]).float(),  # 1 is padding
    ]


def decide(algo: Any, arguments: list[Tensor]) -> Tensor:
    algo.impl.modules.set_eval()
    with torch.no_grad():
        out = algo.impl.network(*arguments)
    values: Tensor = out[1] if isinstance(out, tuple) else out
    return values


def trained(name: str, attention: str) -> Any:
    algo = build(name, attention=attention, learning_rate=3e-3, ptbn_steps=5)
    train(algo, 10)
    return algo


@pytest.mark.parametrize("attention", ATTENTIONS)
@pytest.mark.parametrize("name", NAMES)
def test_the_future_changes_no_bit(name: str, attention: str) -> None:
    algo = trained(name, attention)
    ours, other = inputs(algo), inputs(algo, seed=1)
    before = decide(algo, ours)
    for cut in range(1, LENGTH):
        changed = [torch.cat([a[:, :cut], b[:, cut:]], 1) for a, b in zip(ours, other, strict=True)]
        # The action of the last step that is compared is the target: it must not be seen either.
        changed[1][:, cut - 1] = other[1][:, cut - 1]
        after = decide(algo, changed)
        assert torch.equal(after[:, :cut], before[:, :cut])
        assert not torch.equal(after[:, cut:], before[:, cut:])


@pytest.mark.parametrize("attention", ATTENTIONS)
@pytest.mark.parametrize("name", NAMES)
def test_padding_changes_no_bit(name: str, attention: str) -> None:
    algo = trained(name, attention)
    ours, other = inputs(algo), inputs(algo, seed=1)
    padded = ours[4].bool()
    before = decide(algo, ours)
    changed = [ours[0].clone(), ours[1].clone(), ours[2].clone(), ours[3].clone(), ours[4]]
    for mine, theirs in zip(changed[:3], other[:3], strict=True):
        mine[padded] = 10 * theirs[padded]
    if is_discrete(algo):
        changed[1] = changed[1].clamp(0, 2)
    changed[3][padded] = 7
    after = decide(algo, changed)
    assert torch.equal(after[~padded], before[~padded])
    assert not torch.equal(after[padded], before[padded])


def test_the_release_lets_a_padded_action_through() -> None:
    algo = build("dsformer", mask_previous_action=False)
    ours = inputs(algo)
    before = decide(algo, ours)
    ours[1][ours[4].bool()] = 0.9
    after = decide(algo, ours)
    assert not torch.equal(after[~ours[4].bool()], before[~ours[4].bool()])


def test_batch_mates_change_no_decision() -> None:
    algo = trained("dsformer", "pssa")
    ours = inputs(algo, batch=16)
    together = decide(algo, ours)
    for i in (0, 7, 15):
        alone = decide(algo, [x[i : i + 1] for x in ours])
        torch.testing.assert_close(alone[0], together[i], atol=1e-6, rtol=0)
