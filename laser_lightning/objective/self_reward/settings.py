"""What travels with an exported model, so that its self-rewards can be computed: ``self_reward.json``."""

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from laser_lightning.errors import UserError
from laser_lightning.objective.self_reward.head import SelfRewardHead
from laser_lightning.objective.self_reward.last_token import LastTokenSelfReward
from laser_lightning.objective.self_reward.solutions import CORRECT_THRESHOLD
from laser_lightning.objective.self_reward.two_token import TwoTokenSelfReward
from laser_lightning.objective.self_reward.yes_no import YesNoSelfReward

SETTINGS_FILE = "self_reward.json"
FORMAT_VERSION = 3
"""Versions 1 and 2 were the same without ``no_token`` and ``low_token``, and without ``low_token``; both are read."""


@dataclass(frozen=True)
class SelfRewardSettings:
    """What it takes to compute an exported model's self-rewards.

    They are beta * (log pi(z_c) - reference_constant), or with ``YesNoSelfReward`` pi(z_yes), where log pi is the
    token's log-softmax entry, at temperature 1, behind the response's ``<eos>``. With ``TwoTokenSelfReward`` they are
    sigmoid(log pi(z_high) - log pi(z_low)).

    Attributes:
        token: the reward token z_c, or z_yes, or z_high.
        token_id: its id.
        beta: scale of the score; None without a reference.
        reference_constant: c_ref; None for heads without a reference, and if the model was trained with
            ``reference: exact``, whose score takes log pi_ref(z_c) of each solution from the model that training
            started from.
        step: optimizer steps behind the weights.
        threshold: self-rewards above it are the verdict "correct".
        no_token: z_no of ``YesNoSelfReward``, which says that the score is pi(z_yes); None otherwise.
        low_token: z_low of ``TwoTokenSelfReward``; None otherwise.
        format_version: version of this file's form.
    """

    token: str
    token_id: int
    beta: float | None
    reference_constant: float | None
    step: int
    threshold: float = CORRECT_THRESHOLD
    no_token: str | None = None
    low_token: str | None = None
    format_version: int = FORMAT_VERSION

    @classmethod
    def of(cls, head: SelfRewardHead, step: int) -> "SelfRewardSettings":
        """The settings of a self-reward in training after ``step`` optimizer steps."""
        if isinstance(head, YesNoSelfReward):
            return cls(head.token, head.token_id, None, None, step, no_token=head.tokens["no_token"])
        if isinstance(head, TwoTokenSelfReward):
            return cls(head.token, head.token_id, None, None, step, low_token=head.tokens["low_token"])
        if not isinstance(head, LastTokenSelfReward):
            raise UserError(
                f"{SETTINGS_FILE} has no form for a self-reward of the class {type(head).__name__}: set "
                "`export: null`, and save the model in another way."
            )
        constant = None if head.is_exact else float(head.reference_constant)
        return cls(head.token, head.token_id, head.beta, constant, step)

    @property
    def needs_reference(self) -> bool:
        """Whether scores take the model that training started from."""
        return self.beta is not None and self.reference_constant is None

    def self_reward(self) -> SelfRewardHead:
        """The self-reward that these are the settings of; its score is that of training."""
        if self.no_token is not None:
            return YesNoSelfReward(self.token, self.no_token)
        if self.low_token is not None:
            return TwoTokenSelfReward(self.token, self.low_token)
        assert self.beta is not None
        constant = self.reference_constant
        return LastTokenSelfReward(self.token, self.beta, reference="exact" if constant is None else constant)

    def save(self, directory: str | Path) -> None:
        """Write ``self_reward.json`` into a directory."""
        text = json.dumps(asdict(self), indent=2, ensure_ascii=False, allow_nan=False)
        (Path(directory) / SETTINGS_FILE).write_text(f"{text}\n", encoding="utf-8")

    @classmethod
    def load(cls, directory: str | Path, tokenizer: PreTrainedTokenizerBase | None = None) -> "SelfRewardSettings":
        """Read ``self_reward.json`` from an exported directory.

        Args:
            directory: the export.
            tokenizer: the tokenizer that will be used; default: the export's own.

        Raises:
            UserError: if the file is missing or of another form, or the tokenizer does not have the reward token.
        """
        settings = cls.read(directory)
        settings.check_tokenizer(AutoTokenizer.from_pretrained(directory) if tokenizer is None else tokenizer)
        return settings

    @classmethod
    def read(cls, directory: str | Path) -> "SelfRewardSettings":
        """Read ``self_reward.json`` without a look at the tokenizer.

        Raises:
            UserError: if the file is missing or of another form.
        """
        path = Path(directory) / SETTINGS_FILE
        if not path.is_file():
            raise UserError(
                f"{directory} has no {SETTINGS_FILE}: it is not an export of a model with self-rewards "
                "(HuggingFaceExport of a LaSeRModule writes one)."
            )
        try:
            values = dict(json.loads(path.read_text(encoding="utf-8")))
        except (ValueError, TypeError) as error:
            raise UserError(f"{path} is damaged ({error}): export the model again.") from error
        if (version := values.get("format_version")) in (1, 2):
            values = {"no_token": None, "low_token": None, **values, "format_version": FORMAT_VERSION}
        names = {field.name for field in fields(cls)}
        if values.get("format_version") != FORMAT_VERSION or set(values) != names:
            raise UserError(
                f"{path} is of format version {version} with the keys {', '.join(values)}, and "
                f"this release reads version {FORMAT_VERSION} with the keys {', '.join(sorted(names))}, and older ones."
            )
        return cls(**values)

    def check_tokenizer(self, tokenizer: PreTrainedTokenizerBase) -> None:
        """Refuse a tokenizer with another id for the reward token.

        Raises:
            UserError: naming both ids.
        """
        token_id = tokenizer.get_vocab().get(self.token)
        if token_id != self.token_id:
            found = "does not know it" if token_id is None else f"gives it the id {token_id}"
            raise UserError(
                f"The reward token '{self.token}' of {SETTINGS_FILE} has the id {self.token_id}, but the tokenizer "
                f"{found}: use the tokenizer that was exported with the model."
            )
