"""What a way of weights from the trainer to servers of vLLM is."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from laser_lightning.arguments import Part
from laser_lightning.policy.model import Policy
from laser_lightning.policy.weight_stream import WeightStream
from laser_lightning.rollout.server.client import ServerError, VLLMClient


class WeightTransfer(Part, ABC):
    """Takes weights from rank 0 of the trainer to servers of vLLM.

    What is called when, and where:

        rank 0    check            send ---------.                                          send ...
        rank 1..               (gather with it)  | receipt         send_again (whoever first meets a server
                                                 '------------->   that has other weights)

    The engine works with a copy, so that one that keeps state may be a default.
    """

    def check(self, servers: Sequence[VLLMClient], policy: Policy) -> None:
        """Refuse what will not work, before any weight is gathered: called once, on rank 0. Nothing by default.

        Args:
            servers: all of them; each has answered.
            policy: whose weights they will get.

        Raises:
            UserError: if one of the servers, or the policy, is not as this way needs it.
        """

    @abstractmethod
    def send(self, weights: WeightStream, policy: Policy, version: str, servers: Sequence[VLLMClient]) -> str:
        """Bring weights to all servers, and label them. Called on rank 0, while no rank draws.

        A server with a label that is not the version's draws nothing: it is labelled behind the last weight (see
        ``begin_change`` and ``end_change`` in ``rollout/server/weights.py``). Each call of one has a time limit.

        Args:
            weights: the other ranks gather them too, and go on to the end wherever this stops. Those of a layer are
                whole until the next layer is asked for.
            policy: whose they are.
            version: their label.
            servers: all of them, also those that are not there.

        Returns:
            The receipt: what ``send_again`` needs to know on other ranks.

        Raises:
            UserError: if no server has them, nor will. A server that was missed is told in a warning (``tell_missed``).
        """

    @abstractmethod
    def send_again(self, server: VLLMClient, version: str, receipt: str) -> None:
        """Bring the weights that were sent last to a server that has others, such as one that was started again.

        Called on any rank, in any thread, while others may draw on the server and the policy may have changed.

        Args:
            server: the one.
            version: label of the weights.
            receipt: what ``send`` returned on rank 0.

        Raises:
            ServerError: if it fails, or cannot be done until the next ``send``. The others then draw its share.
        """

    def close(self) -> None:
        """Release everything; a later ``send`` starts anew. Called on all ranks. Nothing by default."""


def on_each(servers: Sequence[VLLMClient], call: Callable[[VLLMClient], None]) -> list[ServerError | None]:
    """Call servers, all at once.

    Args:
        servers: any number of them.
        call: what to do with each; its own time limits are the only ones.

    Returns:
        How it failed, for each server; None where it did not.
    """

    def tried(server: VLLMClient) -> ServerError | None:
        try:
            call(server)
        except ServerError as error:
            return error
        return None

    with ThreadPoolExecutor(max(len(servers), 1)) as pool:
        return list(pool.map(tried, servers))


def tell_missed(errors: Sequence[ServerError]) -> None:
    """Warn that weights have missed some servers; say nothing if they have not.

    Args:
        errors: why, one for each of them.
    """
    if errors:
        from lightning.pytorch.utilities import rank_zero_warn  # the scorer decodes without the trainer

        rank_zero_warn(f"Weights have not reached every server. {' '.join(map(str, errors))}")
