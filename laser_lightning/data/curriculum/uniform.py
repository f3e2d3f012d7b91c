"""Every problem once in each epoch."""

import random

from laser_lightning.data.curriculum.curriculum import Curriculum, Draw


class InOrder(Curriculum):
    """Goes through the problems in their order, over and over.

    An epoch is as many whole draws as the problems fill; those left over wait for the next epoch's order.
    """

    def __init__(self) -> None:
        self._order: tuple[int, int, list[int]] | None = None  # seed, epoch, and its order

    def choose(self, draw: Draw) -> list[int]:
        """The next problems of the epoch."""
        epoch, place = divmod(draw.number, len(self.problems) // draw.count)
        if self._order is None or self._order[:2] != (draw.seed, epoch):
            self._order = (draw.seed, epoch, self.order_of(draw.seed, epoch))
        return self._order[2][place * draw.count : (place + 1) * draw.count]

    def order_of(self, seed: int, epoch: int) -> list[int]:
        """The order of all problems in one epoch."""
        return list(range(len(self.problems)))


class UniformShuffling(InOrder):
    """Goes through the problems in an order drawn anew for each epoch, from ``data.seed``."""

    def order_of(self, seed: int, epoch: int) -> list[int]:
        """A random order, a function of the seed and the epoch."""
        order = super().order_of(seed, epoch)
        random.Random(f"{seed}/{epoch}").shuffle(order)
        return order
