"""The self-test as every run begins with it."""

from collections.abc import Callable
from functools import partial

from lightning.pytorch.utilities import rank_zero_warn

from laser_lightning.distributed.ranks import Ranks
from laser_lightning.errors import UserError
from laser_lightning.policy.model import Policy
from laser_lightning.rollout.engine import RolloutEngine
from laser_lightning.rollout.self_test.findings import Finding
from laser_lightning.rollout.self_test.ways import SelfTest


def check_policy(
    policy: Policy,
    engine: RolloutEngine | None = None,
    ranks: Ranks | None = None,
    trains: bool = True,
    has_groups: bool = True,
) -> list[Finding]:
    """Try all that a run is about to use; let the engine take a slower way where only that is right.

    All ranks call it together, with whole weights, and go on, or are refused, together.

    Args:
        policy: the model.
        engine: draws solutions; None where nothing is sampled.
        ranks: the processes of the run.
        trains: whether the policy is trained, and not evaluated alone.
        has_groups: whether several solutions of a prompt go through it, which may share the prompt.

    Returns:
        What was found, in the order in which it was tried.

    Raises:
        UserError: with cause and remedy, if something is wrong.
    """
    test = SelfTest(policy, engine, ranks)
    # In this order: what is wrong in one makes those behind it wrong.
    found = [_passed(partial(test.repetition, training=False)), _passed(test.causality), _passed(test.head)]
    if trains:
        found.append(_passed(partial(test.repetition, training=True)))
    if test.tries_engine:
        found += [_passed(partial(decode_rightly, way, engine)) for way in (test.decoding, test.refilling)]
    if trains:
        found.append(_passed(test.update))
    if has_groups and policy.sharing is not None:
        found.append(share_rightly(test, trains))
    if any(finding.tolerance_nats > test.tolerance_nats for finding in found):
        rank_zero_warn(
            f"A rounding of its inputs moves the log-probs of {test.name} by {test.rounding_nats:.2g} nats in this "
            "precision. So far the log-probs of rollouts and updates may lie apart, and scores too; train/mismatch "
            "says how far they do. In a higher trainer.precision, and policy.dtype, they would agree."
        )
    return found


def _passed(way: Callable[[], Finding]) -> Finding:
    finding = way()
    if not finding.passed:
        raise UserError(finding.sentence)
    return finding


def share_rightly(test: SelfTest, training: bool) -> Finding:
    """Try shared prompts; if they are not exact, let each solution compute its own, unless they are asked for.

    Args:
        test: of a policy with ``sharing``, which may be set to None.
        training: in training mode, else in evaluation mode.

    Raises:
        UserError: if they are not exact, and asked for.
    """
    finding, policy = test.sharing(training=training), test.policy
    if finding.passed:
        return finding
    if policy.shares_always:
        raise UserError(finding.sentence)
    policy.sharing = None
    rank_zero_warn(f"{finding.cause}. Each solution computes its prompt itself, which is right, and slower.")
    return finding


def decode_rightly(way: Callable[[], Finding], engine: RolloutEngine | None) -> Finding:
    """Try the engine; if it is wrong, let it do without a cache where it can, and keep it so where that is right.

    Args:
        way: of the self-test, through this engine.
        engine: may have an attribute ``use_cache`` that can be set to false.
    """
    finding = way()
    if finding.passed or not getattr(engine, "use_cache", False):
        return finding
    engine.use_cache = False  # type: ignore[union-attr]
    slower = way()
    if not slower.passed:
        engine.use_cache = True  # type: ignore[union-attr]
        return finding
    rank_zero_warn(
        f"{finding.cause.rstrip('.')}. It is decoded without a cache, which is right: each token then takes a pass "
        "over its whole sequence, and rollouts are slow."
    )
    return slower
