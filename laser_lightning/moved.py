"""Where the modules of version 0.1 are now, so that its configs, checkpoints and imports go on working."""

import warnings
from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_loader
from types import ModuleType
from typing import Any

_PACKAGE = "laser_lightning"

MOVED = {
    "advantages": "objective.advantages",
    "balancing": "distributed.balancing",
    "batching": "records.batching",
    "character_tokenizer": "policy.character_tokenizer",
    "checkpoints": "runs.checkpoints",
    "cli_errors": "cli.error_sentences",
    "config_files": "cli.config_files",
    "ddp": "distributed.ddp",
    "direct_steps": "distributed.direct_steps",
    "early_stop": "inference.early_stop",
    "evaluation_module": "evaluation.settings",
    "explain": "cli.explain",
    "export": "modules.export",
    "files": "runs.files",
    "fingerprints": "rollout.fingerprints",
    "kept_rounds": "evaluation.kept_rounds",
    "logprobs": "policy.logprobs",
    "lora": "policy.lora",
    "losses.cispo": "objective.losses.cispo",
    "losses.clipped": "objective.losses.clipped",
    "losses.gspo": "objective.losses.gspo",
    "losses.importance": "objective.losses.importance",
    "losses.kl": "objective.losses.kl",
    "losses.policy_loss": "objective.losses.policy_loss",
    "module": "modules.laser",
    "optimization": "modules.optimization",
    "overlong": "objective.shaping.overlong",
    "phases": "objective.phases",
    "policy_module": "modules.training",
    "precision": "policy.precision",
    "prompts": "data.prompts",
    "random_state": "runs.random_state",
    "rise": "modules.rise",
    "rollout_module": "verifiers.settings",
    "rollout.cache": "rollout.transformers.cache",
    "rollout.compiled": "rollout.transformers.compiled",
    "rollout.decoding": "rollout.transformers.decoding",
    "rollout.grouped_attention": "rollout.transformers.grouped_attention",
    "rollout.ring_cache": "rollout.transformers.ring_cache",
    "rollout.sampling": "rollout.transformers.sampling",
    "rollout.transformers_engine": "rollout.transformers.engine",
    "rollout.vllm_engine": "rollout.vllm.engine",
    "rollout.vllm_score": "rollout.vllm.score",
    "rounds": "records.rollout",
    "scorer": "inference.scorer",
    "self_reward": "objective.self_reward.last_token",
    "self_reward_settings": "objective.self_reward.settings",
    "solution_store": "rollout.solution_store",
    "solve": "inference.solve",
    "stopping": "modules.stopping",
    "strategies": "distributed.strategies",
    "supervised": "modules.supervised",
    "toolchain": "distributed.toolchain",
    "training_log": "modules.training_log",
    "verification_prompts": "modules.verification_prompts",
    "vote": "inference.vote",
    "watchdog": "distributed.watchdog",
    "yes_no": "objective.self_reward.yes_no",
}
"""New places of modules, below the package."""

RENAMED = {"records.rollout": {"Round": "Rollout"}}
"""Classes of a module, in its new place, that had another name."""


class OldPlaces(MetaPathFinder, Loader):
    """Finds a module under its name of version 0.1, and says once where it is now."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The spec of a module that has moved; None for any other."""
        package, _, name = fullname.partition(".")
        return spec_from_loader(fullname, self) if package == _PACKAGE and name in MOVED else None

    def exec_module(self, module: ModuleType) -> None:
        """Fill the module with what the one in the new place has: the same classes, not copies."""
        new = f"{_PACKAGE}.{MOVED[module.__name__.partition('.')[2]]}"
        _tell(module.__name__, new)
        found = vars(import_module(new))
        vars(module).update({name: value for name, value in found.items() if not name.startswith("__")})
        for old, name in RENAMED.get(MOVED[module.__name__.partition(".")[2]], {}).items():
            setattr(module, old, found[name])


def names_of(package: str, module: str) -> Callable[[str], Any]:
    """A package's ``__getattr__`` for the names that were its own in version 0.1, when it was a module.

    Nothing is said of them: parsers ask a package for names that nobody wrote.

    Args:
        package: its name.
        module: where they are now.
    """

    def getattr_of_package(name: str) -> Any:
        if name.startswith("__") or not hasattr(found := import_module(module), name):
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(found, name)

    return getattr_of_package


def _tell(old: str, new: str) -> None:
    warnings.warn(f"{old} is now {new}; the old name goes in version 0.3.", FutureWarning, stacklevel=3)
