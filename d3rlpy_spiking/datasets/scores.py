"""D4RL's normalized score."""

import re

# Words that may follow a name. Others mean another environment (bullet) or reward (dense).
_GYM = r"random|simple|medium|expert|medium-replay|full-replay|medium-expert"
_ADROIT = r"human|cloned|expert"
_ANTMAZE = r"umaze|umaze-diverse|(medium|large)-(play|diverse)"
_KITCHEN = r"complete|partial|mixed"

# Return of a random policy and of an expert, in D4RL's environments.
# Source: D4RL, d4rl/infos.py (REF_MIN_SCORE and REF_MAX_SCORE).
_REFERENCES = {
    "halfcheetah": (-280.178953, 12135.0, _GYM),
    "hopper": (-20.272305, 3234.3, _GYM),
    "walker2d": (1.629008, 4592.3, _GYM),
    "ant": (-325.6, 3879.7, _GYM),
    "pen": (96.262799, 3076.8331017826877, _ADROIT),
    "hammer": (-274.856578, 12794.134825156867, _ADROIT),
    "door": (-56.512833, 2880.5693087298737, _ADROIT),
    "relocate": (-6.425911, 4233.877797728884, _ADROIT),
    "antmaze": (0.0, 1.0, _ANTMAZE),
    "kitchen": (0.0, 4.0, _KITCHEN),
    "maze2d-umaze": (23.85, 161.86, ""),
    "maze2d-medium": (13.13, 277.39, ""),
    "maze2d-large": (6.7, 273.99, ""),
}


def d4rl_score(env_id: str, episode_return: float) -> float:
    """Normalized score: 0 is the return of D4RL's random policy, 100 that of its expert.

        score = 100 * (episode_return - random) / (expert - random)

    The references belong to the old simulators that D4RL was made with. Later versions of the
    environments (-v4, -v5) have other physics and rewards: scores on them are a convention, good
    for comparing policies in one environment and not with published D4RL tables.

    Args:
        env_id: a D4RL dataset ("hopper-medium-expert-v2", "maze2d-large-v1"), a Minari dataset
            ("mujoco/hopper/expert-v0", "D4RL/pen/human-v2") or an environment ("Hopper-v4"). All
            datasets of an environment share its references.
        episode_return: sum of the rewards of an episode, or a mean of such sums.

    Returns:
        The score in percent; below 0 and above 100 are possible.

    Raises:
        ValueError: if env_id names none of D4RL's environments.

    Source: Fu et al. 2020 (D4RL); d4rl/infos.py.
    """
    name = _environment(env_id)
    if name is None:
        raise ValueError(
            f"env_id must name one of D4RL's environments {list(_REFERENCES)}, alone or with a "
            f"dataset and a version as in 'hopper-medium-v2', got {env_id!r}; for others compare "
            "returns"
        )
    random, expert, _ = _REFERENCES[name]
    return 100.0 * (float(episode_return) - random) / (expert - random)


def _environment(env_id: str) -> str | None:
    """The key of `_REFERENCES` that env_id names."""
    plain = re.sub(r"^(d4rl|mujoco)/", "", env_id.lower()).replace("/", "-")
    for name, (_, _, datasets) in _REFERENCES.items():
        if re.fullmatch(rf"{name}(-({datasets}))?(-v\d+)?", plain):
            return name
    return None
