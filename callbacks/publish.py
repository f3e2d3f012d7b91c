"""Figures and tables for the loggers that can show them: TensorBoard, W&B and MLflow."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import MLFlowLogger, TensorBoardLogger, WandbLogger
from numpy.typing import NDArray


def publish_figure(trainer: Trainer, name: str, image: NDArray[np.uint8], step: int) -> None:
    """Hand a figure to the loggers.

    Args:
        trainer: of the first process; its loggers are used.
        name: such as ``figures/training``.
        image: [height, width, 4] bytes of red, green, blue and opacity.
        step: optimizer steps behind the weights.
    """
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger):
            logger.experiment.add_image(name, torch.from_numpy(image), step, dataformats="HWC")
        elif isinstance(logger, WandbLogger):
            logger.log_image(name, [image], step)
        elif isinstance(logger, MLFlowLogger):
            logger.experiment.log_image(logger.run_id, image, key=name, step=step)


def publish_table(trainer: Trainer, name: str, rows: Sequence[Mapping[str, Any]], step: int) -> None:
    """Hand a table to the loggers.

    Args:
        trainer: of the first process; its loggers are used.
        name: such as ``solutions/train``.
        rows: value by column, the same columns in each; at least one row.
        step: optimizer steps behind the weights.
    """
    columns = list(rows[0])
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger):
            logger.experiment.add_text(name, as_markdown(rows), step)
        elif isinstance(logger, WandbLogger):
            logger.log_table(name, columns, [list(row.values()) for row in rows], step=step)
        elif isinstance(logger, MLFlowLogger):
            data = {column: [row[column] for row in rows] for column in columns}
            # A file for each step: MLflow would read and write the whole of one that grows.
            logger.experiment.log_table(logger.run_id, data, f"{name}/step_{step:06d}.json")


def as_markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """A table in Markdown, whose cells show texts as they are.

    Args:
        rows: value by column, the same columns in each; at least one row.
    """
    lines = [list(rows[0]), ["---"] * len(rows[0]), *([_cell(value) for value in row.values()] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(value: Any) -> str:
    if not isinstance(value, str):
        return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
    text = value.replace("&", "&amp;").replace("<", "&lt;")
    for character in "\\`*_[]|#$":
        text = text.replace(character, f"\\{character}")
    return text.replace("\n", "<br>")
