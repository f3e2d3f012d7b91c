"""Several servers as the one that vLLM's trainer side of a weight transfer calls."""

from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate
from queue import SimpleQueue
from threading import Thread
from typing import Any

from laser_lightning.rollout.server.client import ServerError, ServerFailed, VLLMClient


class ServersAsOne:
    """Calls servers at once, for vLLM's protocol ``VLLMWeightSyncClient``.

    A call returns when all servers have answered. It raises as soon as one of them fails, and no longer waits for the
    others, which may be waiting for that one themselves, in a collective operation.

    Args:
        clients: of the servers.
        workers: of each, how many take part.
        join_seconds: limit on the time until all of them have met.
        on_failure: told what fails, before the call raises it.
    """

    def __init__(
        self,
        clients: Sequence[VLLMClient],
        workers: Sequence[int],
        join_seconds: float,
        on_failure: Callable[[ServerError], None],
    ) -> None:
        self.clients, self.workers, self.join_seconds, self.on_failure = clients, workers, join_seconds, on_failure
        self._answers: SimpleQueue[ServerError | None] = SimpleQueue()

    def init_weight_transfer_engine(self, init_info: Mapping[str, Any]) -> None:
        """Have all workers meet the trainer; those of a server have the ranks behind the ones of the server before."""
        offsets = accumulate(self.workers[:-1], initial=init_info["rank_offset"])
        places = {
            client: {**init_info, "rank_offset": offset} for client, offset in zip(self.clients, offsets, strict=True)
        }
        self._all(lambda client: client.join_weight_transfer(places[client], self.join_seconds))

    def start_weight_update(self) -> None:
        """Have all workers expect weights."""
        self._all(VLLMClient.start_weight_update)

    def update_weights(self, update_info: Mapping[str, Any]) -> None:
        """Have all workers receive weights; returns when they have."""
        self._all(lambda client: client.update_weights(update_info))

    def finish_weight_update(self, weight_version: str | None = None) -> None:
        """Have all workers compute with the weights that came. They are labelled apart, as all weights are."""
        self._all(VLLMClient.finish_weight_update)

    def give_up(self) -> None:
        """Have the call that is under way raise, if there is one."""
        self._answers.put(ServerFailed("The transfer of weights was given up."))

    def _all(self, call: Callable[[VLLMClient], None]) -> None:
        answers: SimpleQueue[ServerError | None] = SimpleQueue()
        self._answers = answers

        def ask(client: VLLMClient) -> None:
            try:
                call(client)
            except ServerError as error:
                answers.put(error)
            else:
                answers.put(None)

        for client in self.clients:  # daemons, since one may wait for its server while the program is to end
            Thread(target=ask, args=(client,), daemon=True).start()
        for _ in self.clients:
            if (error := answers.get()) is not None:
                self.on_failure(error)
                raise error
