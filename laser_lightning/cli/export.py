"""``laser-lightning export``."""

import argparse
from collections.abc import Sequence
from pathlib import Path


def command(args: Sequence[str]) -> None:
    """``laser-lightning export CHECKPOINT OUT``.

    Args:
        args: the words behind ``export``.
    """
    parser = argparse.ArgumentParser(
        prog="laser-lightning export",
        description="Writes a checkpoint's model as a directory that transformers loads.",
        allow_abbrev=False,
    )
    parser.add_argument("checkpoint", type=Path, help="a checkpoint file, or a directory of DeepSpeed")
    parser.add_argument("out", type=Path, help="directory to write, not there yet")
    parser.add_argument(
        "-c",
        "--config",
        action="append",
        default=[],
        help="config of the run, repeatable; default: the config.yaml in the run's directory",
    )
    parser.add_argument(
        "--adapter",
        action="store_true",
        help="write LoRA's adapter in peft's form; by default it is merged into a plain model",
    )
    given = parser.parse_args(args)
    from laser_lightning.cli.export_checkpoint import export_checkpoint  # behind --help: it takes seconds

    export_checkpoint(given.checkpoint, given.out, given.config, given.adapter)
    print(f"Exported {given.checkpoint} to {given.out}")
