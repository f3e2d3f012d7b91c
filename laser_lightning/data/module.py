"""The data module: sources, template and tokenizer in; loaders of problems out."""

import warnings
from copy import deepcopy
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch import LightningDataModule, Trainer
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from tqdm import tqdm
from transformers import PreTrainedTokenizerBase

from laser_lightning.data.checks import check_indices, judgeable
from laser_lightning.data.curriculum.bounds import AccuracyBounds
from laser_lightning.data.curriculum.curriculum import Curriculum
from laser_lightning.data.curriculum.uniform import InOrder, UniformShuffling
from laser_lightning.data.loader import PromptLoader
from laser_lightning.data.problem import Problem
from laser_lightning.data.prompts import check_vocabulary
from laser_lightning.data.recorded import gather_recorded, recorded_solution
from laser_lightning.data.seeds import seed_or_global
from laser_lightning.data.sources import FileSource, HubSource, ProblemSource
from laser_lightning.data.templates import PromptTemplate
from laser_lightning.errors import UserError

TRAIN = "train"
PROBLEM_AS_IT_IS = PromptTemplate()
EACH_ONCE_AN_EPOCH = UniformShuffling()
ANY_ACCURACY = AccuracyBounds()


def _without_null(sets: dict[str, ProblemSource | None] | None) -> dict[str, ProblemSource]:
    return {name: source for name, source in (sets or {}).items() if source is not None}


class PromptDataModule(LightningDataModule):
    """Problems for training and for any number of named evaluation sets.

    Batches are lists of ``Problem``, different ones on each rank. A rank's evaluation batch can be empty when
    a set has fewer problems than there are ranks (see ``PromptLoader``).

    Args:
        train: training problems (for ``fit``).
        val: validation sets by name (for ``fit`` and ``validate``); the names appear in the metrics. null takes a
            set out that another config has.
        test: test sets by name (for ``test``).
        predict: sets by name to generate for (for ``predict``).
        template: how a problem becomes a prompt; by default the prompt is the problem as it is.
        prompts_per_step: problems per training step, over all ranks; a multiple of their number.
        eval_prompts_per_batch: problems per evaluation batch, on each rank.
        max_prompt_tokens: length in tokens that no prompt may exceed.
        overlong_prompts: what to do with longer prompts: ``filter`` them out with a warning, or ``refuse``
            the set.
        shuffle: let the curriculum choose; false takes the training problems in their order.
        seed: seed of the curriculum's choice. Default: that of ``seed_everything``.
        unmatched_gold: what to do with problems whose gold answer the verifier says no response can ever match:
            ``refuse`` the set, or ``filter`` them out with a warning.
        local_files: directory with copies of the evaluation sets: each is read from ``<name of the set>.jsonl`` there,
            with the columns ``problem`` and ``answer`` (and the source's ``verifier_column``), and not from its source.
        curriculum: which problems a training step gets. A run trains with a copy of it.
        accuracy_bounds: with model.sampling_rounds above 1, the bounds of the share of correct solutions in the groups
            that a step is filled with.

    Attributes:
        train_problems: the training problems, once ``setup("fit")`` has run.
        evaluation_problems: the evaluation problems by set, of the stage that was set up last.
    """

    def __init__(
        self,
        train: ProblemSource | None = None,
        val: dict[str, ProblemSource | None] | None = None,
        test: dict[str, ProblemSource | None] | None = None,
        predict: dict[str, ProblemSource | None] | None = None,
        template: PromptTemplate = PROBLEM_AS_IT_IS,
        prompts_per_step: int = 32,
        eval_prompts_per_batch: int = 32,
        max_prompt_tokens: int = 1024,
        overlong_prompts: Literal["filter", "refuse"] = "filter",
        shuffle: bool = True,
        seed: int | None = None,
        local_files: str | None = None,
        unmatched_gold: Literal["filter", "refuse"] = "refuse",
        curriculum: Curriculum = EACH_ONCE_AN_EPOCH,
        accuracy_bounds: AccuracyBounds = ANY_ACCURACY,
    ) -> None:
        super().__init__()
        sizes = {
            "prompts_per_step": prompts_per_step,
            "eval_prompts_per_batch": eval_prompts_per_batch,
            "max_prompt_tokens": max_prompt_tokens,
        }
        for name, size in sizes.items():
            if size < 1:
                raise UserError(f"data.{name} is {size}: give a positive number.")
        if not shuffle and type(curriculum) is not UniformShuffling:
            raise UserError(
                f"data.shuffle is false, which takes the problems in their order, and data.curriculum is "
                f"{type(curriculum).__name__}, which chooses them: leave one of the two out."
            )
        self.train = train
        self.val, self.test, self.predict = _without_null(val), _without_null(test), _without_null(predict)
        for key, sources in {"val": self.val, "test": self.test, "predict": self.predict}.items():
            for name in sources:
                _check_name(key, name)
        self.template = template
        self.prompts_per_step = prompts_per_step
        self.eval_prompts_per_batch = eval_prompts_per_batch
        self.max_prompt_tokens = max_prompt_tokens
        self.overlong_prompts = overlong_prompts
        self.shuffle, self.curriculum, self.seed = shuffle, curriculum, seed_or_global(seed)
        self.local_files, self.unmatched_gold = local_files, unmatched_gold
        self.accuracy_bounds = accuracy_bounds

        self.train_problems: list[Problem] = []
        self.evaluation_problems: dict[str, list[Problem]] = {}
        self._train_loader: PromptLoader | None = None
        self._tokenizer: PreTrainedTokenizerBase | None = None

    def set_tokenizer(self, tokenizer: PreTrainedTokenizerBase) -> None:
        """Encode with this tokenizer rather than the trained module's (for use without a trainer)."""
        self._tokenizer = tokenizer

    def dataset_names(self, stage: str) -> list[str]:
        """Names of a stage's evaluation sets, in the order of their loaders.

        Args:
            stage: ``fit``, ``validate``, ``test`` or ``predict``.
        """
        return list(self._evaluation_sources(stage))

    def kinds(self, dataset: str) -> list[str]:
        """The kinds of problems in a set, sorted; empty when its source has no kinds.

        Args:
            dataset: ``train``, or the name of an evaluation set that is loaded.
        """
        loaded = {TRAIN: self.train_problems, **self.evaluation_problems}
        if dataset not in loaded:
            raise UserError(f"There is no set '{dataset}' among those that are loaded: {', '.join(loaded)}.")
        return sorted({problem.kind for problem in loaded[dataset] if problem.kind is not None})

    def setup(self, stage: str) -> None:
        """Load and encode the problems that the stage needs.

        Raises:
            UserError: the stage has no data, the data is refused, or ``prompts_per_step`` does not divide by
                the number of ranks.
        """
        sources = self._evaluation_sources(stage)
        if stage == "fit":
            self._setup_training()
        elif not sources:
            key = "val" if stage == "validate" else stage
            raise UserError(f"data.{key} is not set, so there is nothing to {stage}: name at least one set there.")
        self.evaluation_problems = {name: self._load(name, source) for name, source in sources.items()}

    def check_vocabulary(self, size: int) -> None:
        """Refuse prompts with tokens that the model has no rows for.

        Args:
            size: of the model's vocabulary.

        Raises:
            UserError: naming the row and the token.
        """
        for name, problems in {TRAIN: self.train_problems, **self.evaluation_problems}.items():
            for problem in problems:
                where = f"The prompt in row {problem.index} of the set '{name}'"
                check_vocabulary(problem.prompt_ids, self._find_tokenizer(), size, where)

    def train_dataloader(self) -> PromptLoader:
        """The loader of the training problems: always the same one, since it is a stream."""
        if self._train_loader is None:
            raise UserError('There are no training problems yet: call setup("fit") first.')
        return self._train_loader

    @property
    def train_curriculum(self) -> Curriculum:
        """The copy of ``curriculum`` that this run trains with.

        Raises:
            UserError: ``setup("fit")`` has not run.
        """
        if self._train_loader is None:
            raise UserError('There are no training problems yet: call setup("fit") first.')
        return self._train_loader.curriculum

    def val_dataloader(self) -> list[PromptLoader]:
        """A loader for each validation set, in the order of ``dataset_names``."""
        if not self.evaluation_problems:
            # Lightning counts the list of no loaders as an empty loader; training without validation is fine
            warnings.filterwarnings("ignore", message="Total length of `list` across ranks is zero")
        return self._evaluation_loaders()

    def test_dataloader(self) -> list[PromptLoader]:
        """A loader for each test set, in the order of ``dataset_names``."""
        return self._evaluation_loaders()

    def predict_dataloader(self) -> list[PromptLoader]:
        """A loader for each prediction set, in the order of ``dataset_names``."""
        return self._evaluation_loaders()

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Batches hold no tensors: spare Lightning the walk through every token id."""
        return batch

    def state_dict(self) -> dict[str, Any]:
        """The training loader's position, and what the curriculum has learned.

        Lightning saves and restores the loader too, but does not restore it from checkpoints made at the end
        of an epoch, nor when something asked for ``trainer.estimated_stepping_batches`` before training.
        """
        return {} if self._train_loader is None else self._train_loader.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the training loader's state, when there is training."""
        if self._train_loader is not None:
            self._train_loader.load_state_dict(state_dict)

    def _setup_training(self) -> None:
        if self.train is None:
            raise UserError("data.train is not set, so there is nothing to fit: name a source of problems there.")
        rank, world_size = self._rank_and_world_size()
        if self.prompts_per_step % world_size:
            raise UserError(
                f"data.prompts_per_step is {self.prompts_per_step}, which does not divide by the "
                f"{world_size} processes: make it a multiple of {world_size}."
            )
        # the loader, a stream, would hand out other batches in each epoch
        if getattr(self.trainer, "overfit_batches", 0):
            raise UserError(
                "trainer.overfit_batches does not work with this data: train on fewer problems instead "
                "(max_rows of the source under data.train)."
            )
        self._check_bounds()
        self.train_problems = self._load(TRAIN, self.train)
        if len(self.train_problems) < self.prompts_per_step:
            rank_zero_warn(
                f"The training set has {len(self.train_problems)} problems, fewer than data.prompts_per_step = "
                f"{self.prompts_per_step}: they are repeated to fill each step."
            )
        self._train_loader = PromptLoader(
            self.train_problems,
            self.prompts_per_step // world_size,
            self.seed,
            rank,
            world_size,
            shuffle=self.shuffle,
            drop_last=True,
            # a copy: every run learns from its own beginning
            curriculum=deepcopy(self.curriculum) if self.shuffle else InOrder(),
            step=None if self.trainer is None else self._steps_taken,
        )

    def _check_bounds(self) -> None:
        """Refuse bounds that nothing would ask, or no group could meet."""
        module = getattr(self.trainer, "lightning_module", None)
        if module is not None:
            self.accuracy_bounds.check(getattr(module, "sampling_rounds", 1), getattr(module, "group_size", None))

    def _steps_taken(self) -> int:
        assert self.trainer is not None
        return self.trainer.global_step

    def _evaluation_sources(self, stage: str) -> dict[str, ProblemSource]:
        sources = {"fit": self.val, "validate": self.val, "test": self.test, "predict": self.predict}
        if stage not in sources:
            raise UserError(f"'{stage}' is no stage: use one of {', '.join(sources)}.")
        if self.local_files is None:
            return sources[stage]
        return {
            name: FileSource(str(Path(self.local_files) / f"{name}.jsonl"), verifier_column=_verifier_column(source))
            for name, source in sources[stage].items()
        }

    def _evaluation_loaders(self) -> list[PromptLoader]:
        rank, world_size = self._rank_and_world_size()
        return [
            PromptLoader(problems, self.eval_prompts_per_batch, rank=rank, world_size=world_size)
            for problems in self.evaluation_problems.values()
        ]

    def _rank_and_world_size(self) -> tuple[int, int]:
        return (0, 1) if self.trainer is None else (self.trainer.global_rank, self.trainer.world_size)

    def _load(self, name: str, source: ProblemSource) -> list[Problem]:
        """Load a set, encode its prompts, and keep those that are short enough and can be judged."""
        tokenizer = self._find_tokenizer()
        rank, _ = self._rank_and_world_size()
        try:
            rows = source.load()
        except UserError as error:
            raise UserError(f"Set '{name}': {error}") from error
        # delay: no bar for what takes less than a second
        progress = tqdm(rows, desc=f"Encoding '{name}'", delay=1.0, leave=False, disable=rank > 0 or None)
        read = [self._problem(name, number, row, tokenizer) for number, row in enumerate(progress)]
        problems = gather_recorded(read)
        check_indices(name, problems)
        fitting = [problem for problem in problems if len(problem.prompt_ids) <= self.max_prompt_tokens]
        if len(fitting) < len(problems):
            self._report_overlong(name, problems, none_left=not fitting)
        verifier = getattr(getattr(self.trainer, "lightning_module", None), "verifier", None)
        if verifier is None:
            return fitting
        if verifier.sees_all:
            whole = dict(zip((problem.index for problem in read), source.whole_rows(rows), strict=True))
            fitting = [problem._replace(row=whole[problem.index]) for problem in fitting]
        # The rows of a source of one's own have a column `verifier`, if they name any.
        column = _verifier_column(source) if isinstance(source, FileSource | HubSource) else "verifier"
        return judgeable(name, fitting, verifier, self.unmatched_gold, column)

    def _problem(self, dataset: str, number: int, row: dict[str, Any], tokenizer: PreTrainedTokenizerBase) -> Problem:
        for column in ("problem", "answer"):
            if not isinstance(row.get(column), str):
                raise UserError(
                    f"Row {number} of the set '{dataset}' has no text in the column '{column}': its source "
                    "must give it one."
                )
        try:
            prompt, prompt_ids = self.template.encode(row["problem"], tokenizer, row.get("context") or ())
        except UserError as error:
            raise UserError(f"Row {row.get('index', number)} of the set '{dataset}': {error}") from error
        return Problem(
            dataset=dataset,
            index=row.get("index", number),
            problem=row["problem"],
            prompt=prompt,
            prompt_ids=prompt_ids,
            answer=row["answer"],
            kind=row.get("kind"),
            solution=None if "reward" in row else row.get("solution"),
            verifier=row.get("verifier"),
            recorded=(recorded_solution(row),) if "reward" in row else (),
        )

    def _report_overlong(self, name: str, problems: list[Problem], none_left: bool) -> None:
        lengths = {problem.index: len(problem.prompt_ids) for problem in problems}
        overlong = [index for index, length in lengths.items() if length > self.max_prompt_tokens]
        longest = sorted(overlong, key=lambda index: -lengths[index])[:3]
        message = (
            f"{len(overlong)} of the {len(problems)} prompts of the set '{name}' are longer than "
            f"data.max_prompt_tokens = {self.max_prompt_tokens} (the longest: "
            f"{', '.join(f'{lengths[index]} tokens in row {index}' for index in longest)})"
        )
        if none_left or self.overlong_prompts == "refuse":
            remedy = "" if none_left else ", or leave them out with data.overlong_prompts: filter"
            raise UserError(f"{message}. Raise the limit{remedy}.")
        rank_zero_warn(f"{message}. They are left out.")

    def _find_tokenizer(self) -> PreTrainedTokenizerBase:
        if self._tokenizer is not None:
            return self._tokenizer
        if self.trainer is None:
            raise UserError("The data module has no tokenizer: call set_tokenizer, or run it under a trainer.")
        tokenizer = getattr(self.trainer.lightning_module, "tokenizer", None)
        if tokenizer is None:
            raise UserError(
                f"{type(self.trainer.lightning_module).__name__} has no tokenizer to encode prompts with: "
                "set its attribute `tokenizer` in `__init__`, or call the data module's set_tokenizer."
            )
        return tokenizer


def _check_name(key: str, name: object) -> None:
    """Refuse names of sets that are no names of metrics and files."""
    if name == TRAIN:
        raise UserError(f"data.{key} has a set named '{TRAIN}', the name of the training set: rename it.")
    if not isinstance(name, str):
        raise UserError(f"data.{key} has a set named {name!r}, which YAML does not read as text: put it in quotes.")
    if any(part.strip() in ("", ".", "..") for part in name.split("/")):
        raise UserError(f"data.{key} has a set named '{name}', which names no metric and no file: rename it.")


def data_module(trainer: Trainer, user: str) -> PromptDataModule:
    """The data module of a trainer.

    Args:
        trainer: the one that runs.
        user: who asks, for the message.

    Raises:
        UserError: if the trainer has no PromptDataModule.
    """
    found = getattr(trainer, "datamodule", None)
    if not isinstance(found, PromptDataModule):
        raise UserError(f"{user} needs a PromptDataModule: pass the trainer a `datamodule`.")
    return found


def _verifier_column(source: ProblemSource) -> str | None:
    return source.columns.verifier if isinstance(source, FileSource | HubSource) else None
