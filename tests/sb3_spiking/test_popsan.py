import io
import pickle
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import sb3_spiking
from policies.actor import PopulationActor
from policies.normalizer import MAX_COUNT
from tests.common import DATA, POPSAN_FILE, needs_popsan, popsan_parameters
from tests.sb3_spiking.envs import TinyEnv

Arrays = dict[str, NDArray[Any]]
OBS = gym.spaces.Box(-np.inf, np.inf, (3,), np.float32)
ACTION = gym.spaces.Box(-1.0, 1.0, (2,), np.float32)


def small_checkpoint() -> Arrays:
    """tests/data/popsan_small.npz under PopSAN's names and shapes, with observation statistics."""
    file = dict(np.load(DATA / "popsan_small.npz"))
    w = {
        name[7:]: value.astype(np.float32) for name, value in file.items() if "weight." in name[:7]
    }
    arrays = {
        "encoder.mean": w["encoder.mean"][None],
        "encoder.std": w["encoder.std"][None],
        "decoder.decoder.weight": w["decoder.weight"][:, None],
        "decoder.decoder.bias": w["decoder.bias"],
        "obs_mean": np.array([1.0, -2.0, 0.5], np.float32),
        "obs_var": np.array([4.0, 0.25, 1.0], np.float32),
    }
    for k, name in enumerate(["hidden_layers.0", "hidden_layers.1", "out_pop_layer"]):
        for part in ("weight", "bias"):
            arrays[f"snn.{name}.{part}"] = w[f"mlp.linears.{k}.{part}"]
    return arrays


def save(path: Path, arrays: Arrays) -> Path:
    np.savez(path, **arrays)  # type: ignore[arg-type]  # numpy's stub takes the names for options
    return path


def load(path: Path, **kwargs: Any) -> Any:
    env = TinyEnv(OBS, ACTION)
    return sb3_spiking.load_popsan(path, env, device="cpu", buffer_size=500, **kwargs)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return save(tmp_path / "popsan.npz", small_checkpoint())


def test_predicts_as_the_reference(checkpoint: Path) -> None:
    file = dict(np.load(DATA / "popsan_small.npz"))
    model = load(checkpoint)
    raw = file["obs"] * np.sqrt([4.0, 0.25, 1.0]) + [1.0, -2.0, 0.5]
    action, _ = model.predict(raw.astype(np.float32), deterministic=True)
    np.testing.assert_allclose(action, file["action"], atol=2e-6)


def test_a_ready_model_that_trains_on(checkpoint: Path, tmp_path: Path) -> None:
    model = load(checkpoint, learning_starts=10, batch_size=16, seed=0)
    actor, target = model.actor.mu, model.actor_target.mu
    for name, value in actor.state_dict().items():
        assert torch.equal(value, target.state_dict()[name]), name
    assert actor.normalizer.running_count.item() == MAX_COUNT
    assert actor.config.hidden_sizes == (16, 12)
    before = actor.normalizer.running_mean.clone()
    model.learn(60)
    # Published statistics are worth ten million samples: a few hundred hardly move them.
    assert 0 < (actor.normalizer.running_mean - before).abs().max() < 1e-3
    model.save(tmp_path / "model")


def test_pt_files_and_separate_statistics(tmp_path: Path) -> None:
    arrays = small_checkpoint()
    mean, var = arrays.pop("obs_mean"), arrays.pop("obs_var")
    state = {f"popsan.{name}": torch.from_numpy(value) for name, value in arrays.items()}
    torch.save(state, tmp_path / "model.pt")
    model = load(tmp_path / "model.pt", obs_mean=mean, obs_var=var)
    expected = load(save(tmp_path / "model.npz", small_checkpoint()))
    obs = np.random.default_rng(0).standard_normal((50, 3)).astype(np.float32)
    np.testing.assert_array_equal(model.predict(obs)[0], expected.predict(obs)[0])
    with pytest.raises(sb3_spiking.CheckpointError, match=r"has no obs_mean; pass obs_mean="):
        load(tmp_path / "model.pt")


def doubled(arrays: Arrays) -> Arrays:
    """The same actor for an environment of twice the observations."""
    first = "snn.hidden_layers.0.weight"
    return {
        "encoder.mean": arrays["encoder.mean"].repeat(2, axis=1),
        "encoder.std": arrays["encoder.std"].repeat(2, axis=1),
        first: arrays[first].repeat(2, axis=1),
        "obs_mean": arrays["obs_mean"].repeat(2),
        "obs_var": arrays["obs_var"].repeat(2),
    }


def with_nan(weight: NDArray[Any]) -> NDArray[Any]:
    weight[3, 2] = np.nan
    return weight


# Each kind of damage: what it puts in place of which arrays.
CHANGES: dict[str, Callable[[Arrays], Arrays]] = {
    "nan": lambda a: {"snn.hidden_layers.0.weight": with_nan(a["snn.hidden_layers.0.weight"])},
    "integers": lambda a: {"snn.out_pop_layer.bias": np.zeros(8, np.int64)},
    "layer_shape": lambda a: {"snn.hidden_layers.1.weight": np.zeros((12, 15), np.float32)},
    "bias_shape": lambda a: {"snn.hidden_layers.1.bias": np.zeros(11, np.float32)},
    "encoder_axes": lambda a: {"encoder.mean": a["encoder.mean"][0]},
    "decoder_shape": lambda a: {"decoder.decoder.weight": np.zeros((2, 1, 5), np.float32)},
    "statistics": lambda a: {"obs_mean": np.zeros(4, np.float32)},
    "negative_variance": lambda a: {"obs_var": -a["obs_var"]},
    "scalar_layer": lambda a: {"snn.hidden_layers.0.weight": np.array(1.0, np.float32)},
    "strings": lambda a: {"obs_var": np.array(["a", "b", "c"])},
    "objects": lambda a: {"obs_var": np.array([{}, {}, {}], dtype=object)},
    "other_env": doubled,
    "too_large": lambda a: {"snn.out_pop_layer.bias": np.full(8, 1e300)},
    "zero_std": lambda a: {"encoder.std": np.zeros((1, 3, 4), np.float32)},
}


def damaged(kind: str) -> Arrays:
    arrays = small_checkpoint()
    if kind == "foreign":
        return {"w": np.zeros(3)}
    if kind == "missing":
        del arrays["encoder.std"]
        return arrays
    return {**arrays, **CHANGES[kind](arrays)}


DAMAGE = {
    "missing": "lacks.*encoder.std",
    "nan": "mlp.linears.0.weight must hold finite",
    "integers": "mlp.linears.2.bias must hold finite float32",
    "layer_shape": r"mlp.linears.1.weight must have shape \(12, 16\), got \(12, 15\)",
    "bias_shape": r"mlp.linears.1.bias must have shape \(12,\), got \(11,\)",
    "encoder_axes": r"encoder.mean has shape \(3, 4\)",
    "decoder_shape": r"decoder.weight must have shape \(2, 4\), got \(2, 5\)",
    "statistics": "obs_mean must be 3 finite numbers",
    "negative_variance": "obs_var must not be negative",
    "scalar_layer": "mlp.linears.0.weight must have shape",
    "strings": "cannot be read",
    "objects": "cannot be read.*allow_pickle",
    "foreign": r"is no PopSAN checkpoint.*it has \['w'\]",
    "too_large": "mlp.linears.2.bias must hold finite float32",
    "zero_std": "encoder.std must not be 0",
    "other_env": "for 6 observation dimensions, the environment has 3",
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_damaged_and_foreign_files_are_named(kind: str, tmp_path: Path) -> None:
    path = save(tmp_path / "bad.npz", damaged(kind))
    start = time.perf_counter()
    with pytest.raises(sb3_spiking.CheckpointError, match=DAMAGE[kind]):
        load(path)
    assert time.perf_counter() - start < 1.0


def test_truncated_and_flipped_files(checkpoint: Path, tmp_path: Path) -> None:
    data = checkpoint.read_bytes()
    bad = tmp_path / "bad.npz"
    rng = np.random.default_rng(0)
    refused = 0
    for n in range(120):
        if n < 60:
            bad.write_bytes(data[: int(rng.integers(len(data)))])
        else:
            flipped = bytearray(data)
            flipped[int(rng.integers(len(data)))] ^= int(rng.integers(1, 256))
            bad.write_bytes(bytes(flipped))
        try:
            load(bad)
        except sb3_spiking.CheckpointError:
            refused += 1
    # A flipped byte in the zip's padding or time stamps harms nothing; every truncation does.
    assert refused > 100


def test_other_kinds_of_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no PopSAN checkpoint at"):
        load(tmp_path / "missing.npz")
    for name, content in (("text.npz", b"hello"), ("text.pt", b"hello"), ("empty.npz", b"")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(sb3_spiking.CheckpointError):
            load(tmp_path / name)
    torch.save([1, 2, 3], tmp_path / "list.pt")
    with pytest.raises(sb3_spiking.CheckpointError, match="no state dict of tensors, got list"):
        load(tmp_path / "list.pt")
    good = {name: torch.from_numpy(value) for name, value in small_checkpoint().items()}
    odd: list[tuple[dict[Any, Any], str]] = [
        ({**good, 3: torch.zeros(1)}, "no state dict"),
        ({**good, "encoder.mean": good["encoder.mean"].to_sparse()}, "must be a dense tensor"),
        ({**good, "encoder.mean": good["encoder.mean"].to("meta")}, "must be a dense tensor"),
        ({**good, "obs_mean": good["obs_mean"] * 1j}, "obs_mean must hold floating-point"),
        ({**good, "encoder.std": good["encoder.std"].double() * 1e-300}, "std must not be 0"),
        ({**good, "encoder.mean": torch.zeros(1, 3, 0)}, r"\['encoder.mean'\] are empty"),
    ]
    for state, message in odd:
        torch.save(state, tmp_path / "odd.pt")
        with pytest.raises(sb3_spiking.CheckpointError, match=message):
            load(tmp_path / "odd.pt")
    with zipfile.ZipFile(tmp_path / "other.npz", "w") as file:
        file.writestr("readme.txt", "not an array")
    with pytest.raises(sb3_spiking.CheckpointError):
        load(tmp_path / "other.npz")


class Exploit:
    """Unpickling it would call print and so be seen."""

    def __reduce__(self) -> Any:
        return print, ("executed",)


@pytest.mark.parametrize("suffix", [".npz", ".pt", ".p"])
def test_no_pickle_is_executed(
    suffix: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / f"evil{suffix}"
    if suffix == ".npz":
        np.savez(path, obs_mean=np.array([Exploit()], dtype=object))
    elif suffix == ".pt":
        torch.save({"encoder.mean": Exploit()}, path)
    else:
        path.write_bytes(pickle.dumps(Exploit()))
    with pytest.raises(sb3_spiking.CheckpointError):
        load(path)
    assert "executed" not in capsys.readouterr().out


def test_a_good_file_looks_up_no_pickled_class(checkpoint: Path) -> None:
    seen: list[str] = []
    watching = True

    def audit(event: str, args: Any) -> None:  # an audit hook stays for good: it is switched off
        if watching and event == "pickle.find_class":
            seen.append(str(args))

    sys.addaudithook(audit)
    load(checkpoint)
    assert seen == []
    pickle.load(io.BytesIO(pickle.dumps(Exploit)))
    watching = False
    assert seen  # the hook does see pickles


def test_unused_arrays_byte_order_and_names_do_not_matter(checkpoint: Path, tmp_path: Path) -> None:
    arrays: Arrays = {n: a.astype(a.dtype.newbyteorder(">")) for n, a in small_checkpoint().items()}
    arrays |= {"note": np.array("trained in 2020"), "when": np.array("2020-01-01", "datetime64")}
    save(tmp_path / "odd.npz", arrays).rename(tmp_path / "odd.checkpoint")
    obs = np.random.default_rng(0).standard_normal((50, 3)).astype(np.float32)
    expected = load(checkpoint).predict(obs)[0]
    np.testing.assert_array_equal(load(tmp_path / "odd.checkpoint").predict(obs)[0], expected)


def test_no_environment_and_a_folder_are_named(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="env must be an environment"):
        sb3_spiking.load_popsan(checkpoint, None)  # type: ignore[arg-type]  # on purpose
    with pytest.raises(sb3_spiking.CheckpointError, match="is a folder"):
        load(tmp_path)


def test_what_the_file_determines_cannot_be_set(checkpoint: Path) -> None:
    with pytest.raises(ValueError, match=r"\['net_arch', 'normalize_obs'\] are given"):
        load(checkpoint, policy_kwargs={"net_arch": [5], "normalize_obs": False})
    with pytest.raises(ValueError, match=r"\['encoder_range', 'encoder_std'\] are given"):
        load(checkpoint, policy_kwargs={"encoder_range": 1.0, "encoder_std": 0.1})
    with pytest.raises(ValueError, match=r"\['encoder_v_init'\] are given"):
        load(checkpoint, policy_kwargs={"encoder_v_init": 0.5})
    model = load(checkpoint, policy_kwargs={"actor_lr_scale": 0.1})
    assert model.policy.options.actor_lr_scale == 0.1


@needs_popsan
def test_published_actor_through_sb3() -> None:
    file = np.load(POPSAN_FILE)
    env = gym.make("HalfCheetah-v4")
    model = sb3_spiking.load_popsan(POPSAN_FILE, env, device="cpu", buffer_size=10)
    actor = model.actor.mu
    assert isinstance(actor, PopulationActor)
    expected = popsan_parameters(file)
    assert all(torch.equal(actor.state_dict()[name], value) for name, value in expected.items())
    obs, _ = env.reset(seed=0)
    action, _ = model.predict(obs, deterministic=True)
    assert actor.normalizer is not None
    z = actor.normalizer(torch.as_tensor(obs, dtype=torch.float32)[None])
    np.testing.assert_allclose(z[0], file["traj_obs"][0], atol=2e-6)
    np.testing.assert_allclose(action, file["traj_action"][0], atol=2e-6)
    # The rest of the trajectory from its normalized observations, which lie within the clip.
    raw = file["traj_obs"] * np.sqrt(file["obs_var"] + 1e-8) + file["obs_mean"]
    actions, _ = model.predict(raw, deterministic=True)
    error = np.abs(actions - file["traj_action"]).max(axis=1)
    # Undoing the normalization costs a rounding, which may flip a spike here and there.
    assert np.mean(error < 1e-5) > 0.97


@needs_popsan
def test_published_returns() -> None:
    """HalfCheetah-v4; the reference returns 10063.6, 9921.2, 9766.0, 9902.1, 9993.3."""
    env = gym.make("HalfCheetah-v4")
    model = sb3_spiking.load_popsan(POPSAN_FILE, env, device="cpu", buffer_size=10)
    returns = []
    for seed in range(5):
        obs, _ = env.reset(seed=seed)
        total, done = 0.0, False
        while not done:
            action, _ = model.predict(obs, deterministic=True)
            obs, reward, terminated, truncated, _ = env.step(action)
            total += float(reward)
            done = terminated or truncated
        returns.append(total)
    print("returns of env seeds 0-4:", [round(r, 1) for r in returns], "mean", np.mean(returns))
    assert np.mean(returns) >= 9_800
    assert min(returns) >= 9_500
