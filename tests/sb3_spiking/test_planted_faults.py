"""Faults planted at random are named within two rollouts; sound runs raise no alarm.

`python -m benchmarks.planted_faults` prints the same as a table.
"""

import pytest

from benchmarks.planted_faults import SOUND, train_watched, trial

# Seeds 0 to 99 were used while the limits were chosen.
QUICK, ALL = range(201, 203), range(100, 110)


@pytest.mark.parametrize("seed", QUICK)
def test_planted(seed: int) -> None:
    _, planted, named = trial(seed)
    assert named == {planted}


@pytest.mark.slow
@pytest.mark.parametrize("seed", ALL)
def test_ten_planted(seed: int) -> None:
    _, planted, named = trial(seed)
    assert named == {planted}


@pytest.mark.slow
@pytest.mark.parametrize("index", range(len(SOUND)))
def test_ten_sound_runs(index: int) -> None:
    algorithm, env, steps, settings = SOUND[index]
    model = algorithm("SpikingPopPolicy", env, seed=100 + index, **settings)
    assert train_watched(model, steps).warned == set()


def test_a_sound_run() -> None:
    algorithm, env, _, settings = SOUND[5]
    model = algorithm("SpikingPopPolicy", env, seed=7, **settings)
    assert train_watched(model, 2100).warned == set()
