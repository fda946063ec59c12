"""An episode of a policy as an animated GIF."""

import contextlib
import warnings
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from PIL import Image  # Stable-Baselines3 draws with matplotlib, which needs it

from policies.files import write_atomically
from policies.selftest import read_manifest
from policies.selftest.manifest import whole_file
from sb3_spiking.saved.arguments import Arguments
from sb3_spiking.saved.environments import open_env as open_vec_env
from sb3_spiking.saved.episodes import watch
from sb3_spiking.saved.errors import UsageError
from sb3_spiking.saved.loading import load, open_model
from sb3_spiking.selftest.folders import OWN
from sb3_spiking.selftest.play import open_env, play_episode

# Colours of the file; a GIF can have 256.
_COLOURS = 64
_FASTEST = 20  # ms a frame; viewers slow down what is faster


def record(args: Arguments) -> str:
    """Play an episode and write its pictures.

    Returns:
        a line on what was written.

    Raises:
        UsageError: if there is no such policy or model, or its environment cannot draw here.
        SkippedError: if a package is missing.
        FileNotFoundError: if a file or folder does not exist.
    """
    if not args.out.parent.is_dir():
        raise FileNotFoundError(f"there is no folder {args.out.parent} to write {args.out.name} in")
    if args.name.endswith(".zip"):
        return _write_film(args, *_play_file(args))
    return _write_film(args, *_play_shipped(args))


class _Film:
    """Takes a picture every few steps, until there are enough."""

    def __init__(self, env: Any, args: Arguments) -> None:
        self.frames: list[Image.Image] = []
        self.steps = -1
        self._env, self._args = env, args

    def look(self) -> bool:
        """Called before each step; False when the film is full."""
        self.steps += 1
        if self.steps % self._args.every == 0:
            self.frames.append(_frame(self._env, self._args.width))
        return bool(self.steps < self._args.steps)

    def look_or_end(self) -> None:
        """As `look`; raises when the film is full."""
        if not self.look():
            raise _FilmIsFull


class _FilmIsFull(Exception):
    pass


def _play_shipped(args: Arguments) -> tuple[_Film, float | None, Any]:
    """A shipped policy's film, its return and the environment's metadata."""
    found = {shipped.name: shipped for shipped in read_manifest(OWN)}
    if args.name not in found:
        raise UsageError(
            f"NAME must be one of {', '.join(found) or 'none'}, or the path of a model's .zip, got "
            f"{args.name!r}"
        )
    shipped = found[args.name]
    policy = load(whole_file(OWN, shipped), shipped.algorithm).policy
    env = open_env(shipped.env, {**shipped.env_kwargs, "render_mode": "rgb_array"})
    film = _Film(env, args)
    try:
        total = play_episode(policy, env, args.seed, film.look).total
    finally:
        env.close()  # type: ignore[no-untyped-call]  # Gymnasium's
    return film, total, env.metadata


def _play_file(args: Arguments) -> tuple[_Film, float | None, Any]:
    """The film of a model in a file, with the wrappers and statistics of its folder."""
    args.env_kwargs = {**args.env_kwargs, "render_mode": "rgb_array"}
    source = open_model(Path(args.name), args.algo, args.vec_normalize)
    env = open_vec_env(args, source)
    film = _Film(env, args)
    total = None
    try:
        with contextlib.suppress(_FilmIsFull):
            total, steps = watch(source.model.policy, env, args.seed, film.look_or_end)
            film.steps = int(steps)
    finally:
        env.close()
    return film, total, env.metadata


def _write_film(args: Arguments, film: _Film, total: float | None, metadata: Any) -> str:
    fps = (metadata or {}).get("render_fps", 50)
    delay = max(round(1000 * args.every / fps), _FASTEST)
    write_atomically(str(args.out), lambda name: _write(name, film.frames, delay))
    size = args.out.stat().st_size
    line = f"{args.out}: {len(film.frames)} frames, {size:,} bytes"
    if total is None:
        return f"{line}, {film.steps} steps of an episode that goes on"
    return f"{line}, return {total:.5g} in {film.steps} steps"


def _frame(env: Any, width: int) -> Image.Image:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            pixels: Any = env.render()
    except gym.error.DependencyNotInstalled:
        raise
    except Exception as error:  # drivers and their bindings raise anything
        raise UsageError(
            f"the environment cannot draw here ({type(error).__name__}: {error}); MuJoCo draws "
            "without a display with MUJOCO_GL=egl, or MUJOCO_GL=osmesa where OSMesa is installed"
        ) from error
    if pixels is None:
        raise UsageError("the environment gives no pictures: it has no render_mode='rgb_array'")
    picture = Image.fromarray(np.asarray(pixels, np.uint8))
    return picture.resize((width, round(picture.height * width / picture.width)))


def _write(name: str, frames: list[Image.Image], delay: int) -> None:
    # One palette for all, so that what stands still is the same in all.
    palette = frames[0].quantize(_COLOURS)
    pictures = [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]
    pictures[0].save(
        Path(name), save_all=True, append_images=pictures[1:], duration=delay, loop=0, optimize=True
    )
