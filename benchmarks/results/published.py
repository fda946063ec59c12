"""Returns that papers published, never ours.

Maximum over the evaluations of a run of 1,000,000 steps, mean over five seeds, Gymnasium's -v4
environments, TD3.

Source: the comparison in the paper on CaRe-BN (ICLR 2026), which quotes or repeats the others,
as a third party noted it; the papers' own tables were not at hand.
"""

METHODS = ("ANN TD3", "PopSAN", "ILC-SAN", "CaRe-BN")
DENSE = METHODS[0]
RETURNS: dict[str, tuple[int, int, int, int]] = {
    "Ant-v4": (4770, 4590, 5584, 5373),
    "HalfCheetah-v4": (10857, 9594, 9222, 9563),
    "Hopper-v4": (3410, 2772, 3403, 3586),
    "Walker2d-v4": (4340, 3307, 4200, 4296),
}
