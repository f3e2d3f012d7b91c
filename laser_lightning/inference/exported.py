"""What an export's small files say of it, read without its weights."""

from pathlib import Path
from typing import Literal, NamedTuple

from transformers import AutoConfig, GenerationConfig, PreTrainedTokenizerBase

from laser_lightning.errors import UserError
from laser_lightning.metrics.votes import VoteRule
from laser_lightning.metrics.votes.saved import load_rules
from laser_lightning.objective.self_reward.settings import SelfRewardSettings
from laser_lightning.policy.loading import PolicySettings, ending_token_ids, load_tokenizer
from laser_lightning.policy.lora import ADAPTER_CONFIG, base_model
from laser_lightning.policy.structure import position_limit

Dtype = Literal["float32", "bfloat16", "float16"]


class Exported(NamedTuple):
    """An export without its weights.

    Attributes:
        directory: where it lies.
        settings: its self-reward.
        tokenizer: its tokenizer, which has the reward token.
        eos_token_ids: sorted ids that end responses.
        vocabulary_size: token ids that the model has rows for.
        positions: tokens that prompt and response may have together; None for models without a limit.
        rules: the vote rules of the run by their names, as they were behind its training.
    """

    directory: Path
    settings: SelfRewardSettings
    tokenizer: PreTrainedTokenizerBase
    eos_token_ids: tuple[int, ...]
    vocabulary_size: int
    positions: int | None
    rules: dict[str, VoteRule]


def read_export(directory: str | Path, trust_remote_code: bool = False) -> Exported:
    """Read an export, a whole one or a LoRA adapter. Its weights need not be there.

    Args:
        directory: with ``self_reward.json``, the tokenizer, ``config.json`` and ``generation_config.json``.
        trust_remote_code: run code that comes with the model's config or tokenizer.

    Raises:
        UserError: if one of the files is missing or damaged, the tokenizer does not have the reward token, or a vote
            rule cannot be imported.
    """
    path = Path(directory).expanduser()
    if not path.is_dir():
        raise UserError(f"There is no directory {directory}: name an export of a trained model.")
    settings = SelfRewardSettings.read(path)
    tokenizer = load_tokenizer(PolicySettings(path=str(path), trust_remote_code=trust_remote_code))
    settings.check_tokenizer(tokenizer)
    model = base_model(path) if (path / ADAPTER_CONFIG).is_file() else str(path)
    try:
        config = AutoConfig.from_pretrained(model, trust_remote_code=trust_remote_code)
    except (OSError, ValueError) as error:
        raise UserError(f"The config of {model} cannot be read: {error}") from error
    try:
        generation = GenerationConfig.from_pretrained(str(path))
    except OSError:  # transformers makes one of the config then
        generation = GenerationConfig.from_model_config(config)
    text = config.get_text_config()
    ends = ending_token_ids(generation, text.vocab_size, tokenizer)
    return Exported(path, settings, tokenizer, ends, int(text.vocab_size), position_limit(text), load_rules(path))


def saved_dtype(settings: PolicySettings) -> Dtype:
    """The type of an export's weights."""
    saved = AutoConfig.from_pretrained(settings.path, trust_remote_code=settings.trust_remote_code).dtype
    name = str(saved).removeprefix("torch.")
    return name if name in ("bfloat16", "float16") else "float32"  # type: ignore[return-value]
