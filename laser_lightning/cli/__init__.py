"""The command line."""

from laser_lightning.moved import names_of

__getattr__ = names_of(__name__, "laser_lightning.cli.command_line")
