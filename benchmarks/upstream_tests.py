"""Stable-Baselines3's and sb3-contrib's own tests, with their policies' names giving spiking ones.

    python -m benchmarks.upstream_tests

Fetches the source archives of the installed versions from the package index, which hold the tests,
and runs the files below. What does not pass is listed with its reason and left out;
--all runs it too.
"""

import argparse
import os
import subprocess
import sys
import tarfile
import tempfile
from importlib.metadata import version
from pathlib import Path

SB3 = "stable-baselines3"
CONTRIB = "sb3-contrib"
FILES = {
    SB3: [
        *("run", "save_load", "predict", "custom_policy", "spaces", "dict_env", "cnn", "sde"),
        *("her", "train_eval_mode", "deterministic", "n_step_replay"),
    ],
    CONTRIB: [
        *("run", "save_load", "dict_env", "cnn", "lstm", "invalid_actions", "train_eval_mode"),
        *("deterministic", "distributions"),
    ],
}
# test (the start of its id) -> why it does not pass
LEFT_OUT = {
    "tests/test_run.py::test_ppo_warnings": (
        "asks whether the policy's class is called ActorCriticPolicy"
    ),
    "tests/test_cnn.py::test_features_extractor_target_net": (
        "asks allclose to see one Polyak step of 3e-6 on receptive-field means of size 3"
    ),
    "tests/test_cnn.py::test_feature_extractor_target_net": "the same, in sb3-contrib",
    "tests/test_her.py::test_performance_her": (
        "learning BitFlippingEnv within 1,500 steps: the spiking DQN succeeds in 2 % of episodes"
    ),
    "tests/test_lstm.py::test_ppo_lstm_performance": (
        "takes long; benchmarks.zoo_learning shows that it learns"
    ),
    "tests/test_invalid_actions.py::test_identity": (
        "learning within 64 gradient steps; the spiking policy needs more, see "
        "benchmarks.masked_learning"
    ),
}


def main() -> None:
    """Run the files of both projects."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--all", action="store_true", help="also what does not pass")
    parser.add_argument("--only", choices=sorted(FILES))
    parser.add_argument("--files", nargs="+", help="names without test_ and .py")
    args, pytest_args = parser.parse_known_args()
    failed = False
    for project, names in FILES.items():
        if args.only in (None, project):
            files = [f"test_{name}.py" for name in args.files or names]
            with tempfile.TemporaryDirectory() as folder:
                tests = fetch(project, Path(folder))
                left_out = [] if args.all else [f"--deselect={test}" for test in LEFT_OUT]
                failed |= run(tests, files, [*left_out, *pytest_args])
    for test, reason in LEFT_OUT.items():
        print(f"left out: {test}: {reason}")
    sys.exit(failed)


def fetch(project: str, folder: Path) -> Path:
    """The tests of the installed version, unpacked below folder."""
    requirement = f"{project}=={version(project)}"
    source = ["--no-deps", "--no-binary", ":all:", "--no-build-isolation"]
    pip = [sys.executable, "-m", "pip", "download", "--quiet", *source, "-d", str(folder)]
    subprocess.run([*pip, requirement], check=True)
    with tarfile.open(next(folder.glob("*.tar.gz"))) as archive:
        archive.extractall(folder, filter="data")
    return next(folder.glob("*/tests"))


def run(tests: Path, files: list[str], pytest_args: list[str]) -> bool:
    """Run test files with the names swapped; whether any test failed."""
    paths = [f"tests/{file}" for file in files if (tests / file).exists()]
    # The plugin is found from the folder that this is started in.
    path = os.pathsep.join([os.getcwd(), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-m", "pytest", "-q", "-p", "benchmarks.upstream_plugin"]
    done = subprocess.run(
        [*command, *paths, *pytest_args],
        cwd=tests.parent,
        env={**os.environ, "PYTHONPATH": path},
        check=False,
    )
    return done.returncode != 0


if __name__ == "__main__":
    main()
