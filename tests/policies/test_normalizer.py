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
def test_a_bad_batch_is_refused_and_changes_nothing(bad: float) -> None:
    normalizer = RunningNormalizer(3)
    normalizer.update(torch.randn(10, 3))
    before = {name: value.clone() for name, value in normalizer.state_dict().items()}
    obs = torch.zeros(4, 3)
    obs[2, 1] = bad
    with pytest.raises(ValueError, match=r"must be finite, got NaN or infinity in feature 1"):
        normalizer.update(obs)
    assert all(torch.equal(before[name], v) for name, v in normalizer.state_dict().items())
    if bad != 1e25:
        with pytest.raises(ValueError, match=r"observations must be finite.*feature 1"):
            normalizer(obs)


def test_wrong_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"must be \[B, 3\].*got \(5, 4\)"):
        RunningNormalizer(3)(torch.zeros(5, 4))
    with pytest.raises(ValueError, match=r"must be \[B, 3\].*got \(3,\)"):
        RunningNormalizer(3).update(torch.zeros(3))
