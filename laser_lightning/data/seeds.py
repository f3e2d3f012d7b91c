"""The seed of a part that was given none: the run's."""

import os

SEED_WITHOUT_SEED_EVERYTHING = 0


def seed_or_global(seed: int | None) -> int:
    """The given seed, or else that of ``seed_everything``.

    Args:
        seed: the part's own seed; None to follow the run's.

    Returns:
        ``seed``; without one the last seed that Lightning's ``seed_everything`` set in this process or the one that
        started it; 0 where none was set (``seed_everything: false``, or Python code that never called it).
    """
    if seed is not None:
        return seed
    # Lightning hands the seed to its own processes in this variable, and keeps it nowhere else.
    return int(os.environ.get("PL_GLOBAL_SEED", SEED_WITHOUT_SEED_EVERYTHING))
