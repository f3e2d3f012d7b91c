"""A rollout engine around another one: responses that were cut at the length limit are drawn once more."""

from torch.nn.functional import pad

from laser_lightning.records.batching import Rollouts
from laser_lightning.rollout import RolloutEngine

OF_RESPONSES = ("response_ids", "response_lengths", "finished", "sampling_log_probs", "reward_token_log_probs")


class SecondChance(RolloutEngine):
    """Draws truncated responses once more, and keeps the second draw.

    Args:
        engine: draws the responses.
    """

    def __init__(self, engine: RolloutEngine) -> None:
        self.engine = engine
        self.collective, self.needs_whole_weights = engine.collective, engine.needs_whole_weights
        self.elsewhere = engine.elsewhere
        self.take_weights = engine.take_weights
        self.weights_changed, self.sleep, self.close = engine.weights_changed, engine.sleep, engine.close

    def generate(self, policy, prompts, group_size, sampling, reward_token_ids, generator) -> Rollouts:
        rollouts = self.engine.generate(policy, prompts, group_size, sampling, reward_token_ids, generator)
        cut = (~rollouts.finished).nonzero().squeeze(-1)
        if len(cut) == 0 and not self.collective:
            return rollouts
        again = [prompts[row // group_size] for row in cut.tolist()]
        second = self.engine.generate(policy, again, 1, sampling, reward_token_ids, generator)
        print(f"drew {len(cut)} of {len(rollouts)} responses again, {int(second.finished.sum())} ended")
        for name in OF_RESPONSES:
            first, new = getattr(rollouts, name), getattr(second, name)
            if new.ndim == 2:  # as wide as its longest response
                new = pad(new, (0, first.shape[1] - new.shape[1]))
            first[cut] = new
        return rollouts
