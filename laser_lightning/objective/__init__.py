"""The science: advantages, losses, the self-reward, and their sum."""

from laser_lightning.moved import names_of

__getattr__ = names_of(__name__, "laser_lightning.objective.objective")
