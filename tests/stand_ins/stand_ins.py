"""Stand-ins for a model, its data and callbacks, for tests of the command line."""

from dataclasses import dataclass
from pathlib import Path

import lightning
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from laser_lightning.errors import UserError


@dataclass(frozen=True)
class Settings:
    """Settings.

    Args:
        rate: learning rate.
        steps: steps.
    """

    rate: float = 0.1
    steps: int = 1


class Score(torch.nn.Module):
    """A score.

    Args:
        token: the token.
        beta: the scale.
    """

    def __init__(self, token: str, beta: float = 0.1) -> None:
        super().__init__()
        if beta < 0:
            raise UserError(f"beta is {beta}: give a positive number.")
        if beta == 0:
            raise ValueError("zero")
        if beta > 100:
            raise KeyError("a defect")


class Net(lightning.LightningModule):
    """A model.

    Args:
        score: the score.
        alpha: a weight.
        settings: its settings.
        names: some names.
        pattern: a regular expression.
    """

    def __init__(
        self,
        score: Score,
        alpha: float = 0.5,
        settings: Settings = Settings(),
        names: list[str] | None = None,
        pattern: str | None = None,
    ) -> None:
        super().__init__()
        self.save_hyperparameters(ignore=["score", "settings"])
        self.linear = torch.nn.Linear(1, 1)

    def training_step(self, batch: Tensor, index: int) -> Tensor:
        loss = self.linear(batch).sum()
        self.log("loss", loss)
        return loss

    def validation_step(self, batch: Tensor, index: int) -> None:
        self.log("value", 1.0)

    test_step = validation_step

    def predict_step(self, batch: Tensor, index: int) -> Tensor:
        return batch

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)


class OtherNet(Net):
    pass


class ManualNet(Net):
    """Takes its own optimizer steps."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)  # type: ignore[arg-type]
        self.automatic_optimization = False


class Source:
    """Where numbers come from."""

    size: int


class Numbers(Source):
    """Numbers.

    Args:
        size: how many.
        seed: their seed.
    """

    def __init__(self, size: int = 4, seed: int = 0) -> None:
        self.size = size


class Data(lightning.LightningDataModule):
    """Data.

    Args:
        train: training numbers.
        val: validation numbers by name.
        batch: batch size.
    """

    def __init__(self, train: Source, val: dict[str, Source] | None = None, batch: int = 2) -> None:
        super().__init__()
        self.source, self.batch = train, batch

    def train_dataloader(self) -> DataLoader[Tensor]:
        return DataLoader(torch.ones(self.source.size, 1), batch_size=self.batch)  # type: ignore[arg-type]

    val_dataloader = test_dataloader = predict_dataloader = train_dataloader


class Recorder(lightning.Callback):
    """Writes its name.

    Args:
        name: the name.
        file: the file.
    """

    def __init__(self, name: str = "recorder", file: str = "order.txt") -> None:
        self.name, self.file = name, file

    def setup(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:
        if not self.name:
            raise UserError("The recorder has no name: give it one.")
        with Path(self.file).open("a") as file:
            file.write(self.name + " ")
