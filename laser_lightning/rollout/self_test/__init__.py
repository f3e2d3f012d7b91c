"""The self-test: before the first step, every way in which log-probs come about is compared with a plain pass."""

from laser_lightning.rollout.self_test.findings import Finding
from laser_lightning.rollout.self_test.start import check_policy, decode_rightly, share_rightly
from laser_lightning.rollout.self_test.ways import SelfTest

__all__ = ["Finding", "SelfTest", "check_policy", "decode_rightly", "share_rightly"]
