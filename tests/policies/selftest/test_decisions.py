import pytest

from policies.selftest.decisions import Played, share_alike, share_needed

RECORDED = [((1.0, -2.0), (0.5, 0.0)), ((0.0, 0.0), (2.0, 1.0))]


def played(*openings: tuple[tuple[float, ...], ...]) -> list[Played]:
    return [Played(0.0, opening) for opening in openings]


def test_the_same_decisions() -> None:
    assert share_alike(RECORDED, played(*RECORDED)) == 1.0


def test_rounding_is_let_pass_and_more_is_not() -> None:
    """The tolerance is a thousandth of the largest action, 2."""
    near = ((1.0019, -2.0), (0.5, 0.0019))
    far = ((0.0021, 0.0), (2.0, 1.0))
    assert share_alike(RECORDED, played(near, RECORDED[1])) == 1.0
    assert share_alike(RECORDED, played(near, far)) == 0.75


def test_a_decision_that_was_not_taken_is_not_alike() -> None:
    assert share_alike(RECORDED, played(RECORDED[0][:1], RECORDED[1])) == 0.75


def test_nan_is_not_alike() -> None:
    nan = float("nan")
    assert share_alike(RECORDED, played(((nan, -2.0), (0.5, nan)), RECORDED[1])) == 0.5


def test_episodes_that_were_not_played_do_not_count() -> None:
    assert share_alike(RECORDED, played(RECORDED[0])) == 1.0


@pytest.mark.parametrize(("worst", "needed"), [(1.0, 0.95), (0.99, 0.92), (0.6, 0.5)])
def test_the_share_needed(worst: float, needed: float) -> None:
    assert share_needed(worst) == pytest.approx(needed)
