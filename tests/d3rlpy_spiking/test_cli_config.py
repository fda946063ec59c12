"""The YAML files of `python -m d3rlpy_spiking train`, ours and wrong ones."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import d3rlpy
import pytest
import yaml
from d3rlpy.algos import DecisionTransformerConfig
from d3rlpy.base import LearnableConfig
from d3rlpy.models import EncoderFactory, VectorEncoderFactory
from d3rlpy.optimizers import AdamFactory, AdamWFactory, OptimizerFactory
from d3rlpy.preprocessing import (
    ActionScaler,
    MultiplyRewardScaler,
    ObservationScaler,
    RewardScaler,
    StandardObservationScaler,
)
from d3rlpy.serializable_config import CONFIG_STORAGE

from d3rlpy_spiking import DSFormerConfig, WarmupCosineFactory
from d3rlpy_spiking.cli.config import find_config, read_train_file
from d3rlpy_spiking.cli.errors import UsageError
from d3rlpy_spiking.cli.fields import plain, read_dataclass
from d3rlpy_spiking.cli.names import ALGORITHMS, config_class
from tests.common import ROOT
from tests.d3rlpy_spiking.cli_common import CONTINUOUS, DENSE, MAZE, write

ZOO = sorted((ROOT / "zoo_configs" / "d3rlpy").glob("*.yml"))


def changed(old: str, new: str) -> str:
    assert old in CONTINUOUS
    return CONTINUOUS.replace(old, new)


WRONG = [
    ("", "must hold the keys"),
    ("- algorithm", "must hold the keys"),
    ("algorithm: [strl", "no valid YAML: line 1"),
    ("config: {}\ntrain: {n_steps: 1}", "lacks algorithm"),
    ("algorithm: strl", "lacks config"),
    ("algorithm: dsfromer\nconfig: {}", "did you mean 'dsformer'"),
    ("algorithm: 3\nconfig: {}", "algorithm must be a known name, got 3"),
    ("algorithm: strl\nconfig: {}", "train lacks n_steps"),
    ("algorithm: strl\nconfig: [a]", "config must be a mapping"),
    (changed("batch_size: 4", "batch_size: 4\n  batch_size: 5"), "'batch_size' stands twice"),
    (changed("batch_size", "bath_size"), "no key 'bath_size'; did you mean 'batch_size'"),
    (changed("train:", "trian:"), "no key 'trian'; did you mean 'train'"),
    (changed("{n_steps:", "{n_stepz:"), "no key 'n_stepz'; did you mean 'n_steps'"),
    (changed("n_steps: 40", "n_steps: 45"), "leave out the last 5"),
    (changed("n_steps: 40", "n_steps: 0"), "n_steps must be at least 1"),
    (changed("n_steps: 40", "n_steps: 40.0"), "write 40"),
    (changed("batch_size: 4", "batch_size: true"), "batch_size must be an integer, got true"),
    (changed("batch_size: 4", "batch_size: [4]"), r"batch_size must be an integer, got \[4\]"),
    (changed("batch_size: 4", "batch_size: null"), "batch_size must be an integer, got nothing"),
    (changed("batch_size: 4", "batch_size: 0"), "batch_size must be at least 1"),
    (changed("batch_size: 4", "learning_rate: '1e-3'"), "write numbers without quotes"),
    (changed("batch_size: 4", "learning_rate: fast"), "learning_rate must be a finite number"),
    (changed("batch_size: 4", "learning_rate: .nan"), "learning_rate must be a finite number"),
    (changed("batch_size: 4", "learning_rate: -1"), "learning_rate must be in"),
    (changed("batch_size: 4", "attention: psa"), "attention must be one of 'pssa'"),
    (changed("batch_size: 4", "surrogate: no"), "put the word in quotes"),
    (changed("batch_size: 4", "mask_statistics: 1"), "mask_statistics must be true or false"),
    (changed("batch_size: 4", "mask_statistics: 'True'"), "write true"),
    (changed("batch_size: 4", "position_encoding_type: x"), "one of 'simple', 'global'"),
    (changed("batch_size: 4", "spike_steps: 0"), "config: spike_steps must be"),
    (changed("type: vector", "type: vectr"), "encoder_factory.type .* did you mean 'vector'"),
    (changed("{type: standard}", "standard"), "must be {type: NAME, params"),
    (changed("{type: standard}", "{type: standard, parms: {}}"), "did you mean 'params'"),
    (changed("[8]", "8"), "hidden_units must be a list, got 8"),
    (changed("[8]", "[8, a]"), r"hidden_units\[1\] must be an integer, got 'a'"),
    (changed("hidden_units", "hiden_units"), "did you mean 'hidden_units'"),
    (changed("total_steps: 50", "total_steps: 5"), "total_steps must be more than warmup_steps"),
    (changed("type: warmup_cosine", "type: cosine"), r"lr_scheduler_factory.type .*Known: cosine_"),
    (
        changed("warmup_cosine, params: {total_steps: 50, warmup_steps: 5}", "warmup"),
        "lacks warmup_",
    ),
    (changed("[-2]", "[a]"), "minimum must be a list of numbers"),
    (changed("params:\n", "params:\n      betas: [0.9]\n"), "betas must be a list of 2 values"),
    (DENSE.replace("num_heads: 1", "num_heads: 0"), "num_heads must be at least 1"),
    (DENSE + "  action_scaler: {type: min_max}", "action_scaler cannot be used with discrete"),
    (MAZE.replace("size: 5", "size: x"), "maze.size must be an integer or a list of 2 values"),
    (MAZE.replace("size: 5", "sise: 5"), "did you mean 'size'"),
    (MAZE.replace("size: 5", "tie_break: best"), "tie_break must be one of 'first', 'random'"),
]


@pytest.mark.parametrize(("text", "message"), WRONG)
def test_a_wrong_file_is_named(tmp_path: Path, text: str, message: str) -> None:
    path = Path(write(tmp_path, text))
    with pytest.raises(UsageError, match=message) as caught:
        read_train_file(path)
    assert str(caught.value).startswith(str(path))
    assert str(caught.value).count(str(path)) == 1


def test_values_become_typed_fields(tmp_path: Path) -> None:
    text = (
        "algorithm: continuous_strl\ntrain: {n_steps: 3, n_steps_per_epoch: 1}\nconfig:\n"
        "  learning_rate: 1e-3\n  embed_dropout: 0\n  position_encoding_type: simple\n"
        "  reward_scaler: null\n  observation_scaler: {type: none, params: {}}\n"
        "  optim_factory: {type: adam, params: {betas: [0.8, 0.9]}}\n"
        "maze: {size: [4, 6]}\n"
    )
    file = read_train_file(Path(write(tmp_path, text)))
    assert file.config.learning_rate == 0.001
    assert isinstance(file.config.embed_dropout, float)
    assert file.config.position_encoding_type == d3rlpy.PositionEncodingType.SIMPLE
    assert file.config.reward_scaler is None
    assert file.config.observation_scaler is None
    assert file.config.optim_factory == AdamFactory(betas=(0.8, 0.9))
    assert file.maze == {"size": (4, 6)}


def test_steps_of_the_command_line_make_an_epoch_of_their_own(tmp_path: Path) -> None:
    path = Path(write(tmp_path, CONTINUOUS))
    assert read_train_file(path, steps=3).options.n_steps_per_epoch == 3
    assert read_train_file(path, steps=20).options.n_steps_per_epoch == 10
    with pytest.raises(UsageError, match="leave out the last 5"):
        read_train_file(path, steps=15)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_every_config_is_read_back_from_its_json(name: str) -> None:
    config = config_class(name)()
    assert plain(read_dataclass(type(config), json.loads(config.serialize()), "config")) == plain(
        config
    )


@pytest.mark.parametrize(
    "base", [EncoderFactory, OptimizerFactory, ObservationScaler, ActionScaler, RewardScaler]
)
def test_every_registered_factory_is_read_back(base: type[Any]) -> None:
    for cls in CONFIG_STORAGE[base].config_list.values():
        needed = {"tuple": [StandardObservationScaler()], "shift": 1.5}.get(cls.get_type())
        factory = cls() if needed is None else cls(needed)
        params = {n: v for n, v in plain(factory)["params"].items() if v is not None}
        again = read_dataclass(cls, params, "params")
        assert plain(again) == plain(factory), cls


def test_every_spiking_config_has_a_name() -> None:
    named = {config_class(name) for name in ALGORITHMS}
    registered = CONFIG_STORAGE[LearnableConfig].config_list.values()
    ours = {cls for cls in registered if cls.__module__.startswith("d3rlpy_spiking")}
    assert len(ours) == 7
    assert ours <= named


# The shipped files


@pytest.mark.parametrize("path", ZOO, ids=lambda path: path.stem)
def test_a_shipped_file_is_valid_and_builds(path: Path) -> None:
    assert find_config(path.stem) == path
    file = read_train_file(path)
    algo = file.config.create()
    algo.create_impl((11,) if file.maze is None else (6, 15, 15), 3 if file.maze is None else 4)
    assert sum(p.numel() for p in algo.impl.modules.transformer.parameters()) > 1000


def test_dsformer_is_as_its_class_says_and_as_released() -> None:
    file = read_train_file(find_config("dsformer"))
    schedule = WarmupCosineFactory(warmup_steps=2000, total_steps=file.options.n_steps)
    expected = DSFormerConfig(
        optim_factory=AdamWFactory(
            weight_decay=1e-4, clip_grad_norm=0.25, lr_scheduler_factory=schedule
        ),
        observation_scaler=StandardObservationScaler(),
        reward_scaler=MultiplyRewardScaler(0.001),
    )
    assert plain(file.config) == plain(expected)
    assert (file.options.n_steps, file.config.learning_rate) == (20000, 1e-4)


def test_files_to_compare_differ_in_the_algorithm_only() -> None:
    def sections(name: str) -> Any:
        return yaml.safe_load(find_config(name).read_text())

    dense, spiking = sections("decision_transformer"), sections("spiking_decision_transformer")
    assert spiking["config"].pop("ptbn_steps") == dense["train"]["n_steps"] // 10
    assert spiking.pop("algorithm") == "spiking_" + dense.pop("algorithm")
    assert spiking == dense
    dense, spiking = sections("decision_transformer_maze"), sections("strl_maze")
    assert spiking["config"]["encoder_factory"]["params"].pop("spiking")
    assert not dense["config"]["encoder_factory"]["params"].pop("spiking")
    for name in ("attention", "normalization", "spike_steps"):
        del spiking["config"][name]
    del spiking["algorithm"], dense["algorithm"]
    assert spiking == dense


def test_the_small_file_is_dsformer_scaled() -> None:
    file = read_train_file(find_config("dsformer_small"))
    assert file.config.encoder_factory == VectorEncoderFactory(
        hidden_units=[64], exclude_last_activation=True
    )
    assert file.config.ptbn_steps * 10 == file.options.n_steps == 6000


def test_the_counting_file_is_the_small_one_with_other_neurons() -> None:
    small = read_train_file(find_config("dsformer_small"))
    counting = read_train_file(find_config("dsformer_counting"))
    assert counting.options == small.options
    change: dict[str, Any] = {"v_decay": 1.0, "reset_mode": "soft", "detach_reset": False}
    change["previous_action"] = False
    assert counting.config == dataclasses.replace(small.config, **change)


def test_d3rlpys_reproduction_is_its_class_with_an_optimizer() -> None:
    config = read_train_file(find_config("decision_transformer")).config
    own = ("encoder_factory", "optim_factory", "observation_scaler", "reward_scaler")
    for field in dataclasses.fields(DecisionTransformerConfig):
        if field.name not in own:
            assert getattr(config, field.name) == field.default, field.name
