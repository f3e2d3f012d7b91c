"""Every problem once in each epoch."""

import random

from laser_lightning.data.curriculum.curriculum import Curriculum, Draw


class InOrder(Curriculum):
    """Goes through the problems in their order, over and over.

    An epoch is as many whole draws as the problems fill; those left over wait for the next epoch's order. Problems that
    fill no draw are repeated: each draw goes through the orders of as many epochs as it takes.
    """

    def __init__(self) -> None:
        self._order: tuple[int, int, list[int]] | None = None  # seed, epoch, and its order

    def choose(self, draw: Draw) -> list[int]:
        """The next problems of the epoch."""
        per_epoch = len(self.problems) // draw.count * draw.count or len(self.problems)
        first = draw.number * draw.count
        return [self._at(draw.seed, *divmod(place, per_epoch)) for place in range(first, first + draw.count)]

    def _at(self, seed: int, epoch: int, place: int) -> int:
        if self._order is None or self._order[:2] != (seed, epoch):
            self._order = (seed, epoch, self.order_of(seed, epoch))
        return self._order[2][place]

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
