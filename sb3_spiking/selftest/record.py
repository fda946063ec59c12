"""An episode of a shipped policy as an animated GIF."""

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
from sb3_spiking.saved.errors import UsageError
from sb3_spiking.saved.loading import load
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
        UsageError: if there is no such policy, or its environment cannot draw here.
        SkippedError: if a package is missing.
        FileNotFoundError: if the file's folder does not exist.
    """
    found = {shipped.name: shipped for shipped in read_manifest(OWN)}
    if args.name not in found:
        raise UsageError(f"NAME must be one of {', '.join(found) or 'none'}, got {args.name!r}")
    if not args.out.parent.is_dir():
        raise FileNotFoundError(f"there is no folder {args.out.parent} to write {args.out.name} in")
    shipped = found[args.name]
    policy = load(whole_file(OWN, shipped), shipped.algorithm).policy
    env = open_env(shipped.env, {**shipped.env_kwargs, "render_mode": "rgb_array"})
    frames: list[Image.Image] = []
    steps = -1

    def after() -> bool:
        nonlocal steps
        steps += 1
        if steps % args.every == 0:
            frames.append(_frame(env, args.width))
        return bool(steps < args.steps)

    try:
        total = play_episode(policy, env, args.seed, after).total
    finally:
        env.close()  # type: ignore[no-untyped-call]  # Gymnasium's
    fps = env.metadata.get("render_fps", 50)
    delay = max(round(1000 * args.every / fps), _FASTEST)
    write_atomically(str(args.out), lambda name: _write(name, frames, delay))
    size = args.out.stat().st_size
    return f"{args.out}: {len(frames)} frames, {size:,} bytes, return {total:.5g} in {steps} steps"


def _frame(env: gym.Env[Any, Any], width: int) -> Image.Image:
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
    picture = Image.fromarray(np.asarray(pixels, np.uint8))
    return picture.resize((width, round(picture.height * width / picture.width)))


def _write(name: str, frames: list[Image.Image], delay: int) -> None:
    # One palette for all, so that what stands still is the same in all.
    palette = frames[0].quantize(_COLOURS)
    pictures = [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]
    pictures[0].save(
        Path(name), save_all=True, append_images=pictures[1:], duration=delay, loop=0, optimize=True
    )
