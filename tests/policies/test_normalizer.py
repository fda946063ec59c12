import pytest
import torch

from policies.normalizer import MAX_COUNT, RunningNormalizer


def test_merged_batches_equal_the_whole() -> None:
    torch.manual_seed(0)
    data = 5.0 + torch.tensor([0.1, 1.0, 30.0]) * torch.randn(1000, 3)
    normalizer = RunningNormalizer(3)
    for batch in data.split([1, 7, 100, 392, 500]):
        normalizer.update(batch)
    assert normalizer.running_count.item() == 1000
    torch.testing.assert_close(normalizer.running_mean, data.mean(0), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(normalizer.running_var, data.var(0, correction=0))


def test_by_hand() -> None:
    normalizer = RunningNormalizer(2, clip=3.0)
    normalizer.update(torch.tensor([[0.0, 1.0], [4.0, 1.0]]))  # mean 2, 1; variance 4, 0
    obs = torch.tensor([[3.0, 1.0], [100.0, 2.0]])
    torch.testing.assert_close(normalizer(obs), torch.tensor([[0.5, 0.0], [3.0, 3.0]]))


def test_forward_changes_nothing_and_starts_as_identity() -> None:
    normalizer = RunningNormalizer(4)
    normalizer.train()
    before = {name: value.clone() for name, value in normalizer.state_dict().items()}
    obs = torch.linspace(-2.5, 2.5, 8).view(2, 4)
    torch.testing.assert_close(normalizer(obs), obs)
    assert all(torch.equal(before[name], v) for name, v in normalizer.state_dict().items())


def test_old_samples_fade_beyond_the_maximum_count() -> None:
    normalizer = RunningNormalizer(1)
    normalizer.running_count.fill_(MAX_COUNT)
    normalizer.update(torch.ones(100, 1))
    assert normalizer.running_count.item() == MAX_COUNT
    assert normalizer.running_mean.item() == pytest.approx(1e-5, rel=1e-3)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf"), 1e25])
def test_a_broken_batch_changes_nothing(bad: float) -> None:
    normalizer = RunningNormalizer(3)
    normalizer.update(torch.randn(10, 3))
    before = {name: value.clone() for name, value in normalizer.state_dict().items()}
    obs = torch.zeros(4, 3)
    obs[2, 1] = bad
    normalizer.update(obs)
    assert all(torch.equal(before[name], v) for name, v in normalizer.state_dict().items())


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_broken_values_come_out_as_nan_and_only_they(bad: float) -> None:
    obs = torch.zeros(4, 3)
    obs[2, 1] = bad
    assert RunningNormalizer(3)(obs).isnan().nonzero().tolist() == [[2, 1]]


def test_an_empty_batch_changes_nothing() -> None:
    normalizer = RunningNormalizer(3)
    normalizer.update(torch.zeros(0, 3))
    assert normalizer.running_count.item() == 0
    assert torch.isfinite(normalizer.running_var).all()


@pytest.mark.parametrize("mean", [0.0, 1e3, 1e4])
def test_statistics_follow_the_data_far_from_zero_and_late(mean: float) -> None:
    """float32 alone would lose each batch's small share of a large mean."""
    generator = torch.Generator().manual_seed(0)
    normalizer = RunningNormalizer(1)
    normalizer.running_mean.fill_(mean + 1.0)  # one standard deviation off
    normalizer.running_count.fill_(MAX_COUNT)
    batch, updates = 4096, 3_000
    for _ in range(updates):
        normalizer.update(mean + torch.randn(batch, 1, generator=generator))
    left = (1 - batch / (MAX_COUNT + batch)) ** updates
    assert normalizer.running_mean.item() - mean == pytest.approx(left, abs=0.02)


def test_wrong_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"must be \[B, 3\].*got \(5, 4\)"):
        RunningNormalizer(3)(torch.zeros(5, 4))
    with pytest.raises(ValueError, match=r"must be \[B, 3\].*got \(3,\)"):
        RunningNormalizer(3).update(torch.zeros(3))
