"""The model that is trained, and how it is loaded."""

from laser_lightning.moved import names_of

__getattr__ = names_of(__name__, "laser_lightning.policy.model")
