"""A policy measured on sets of problems."""

from laser_lightning.moved import names_of

__getattr__ = names_of(__name__, "laser_lightning.evaluation.metrics")
