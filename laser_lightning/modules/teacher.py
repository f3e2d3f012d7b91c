"""The teacher: a second frozen policy, beside the reference."""

from transformers import PreTrainedTokenizerBase

from laser_lightning.errors import UserError
from laser_lightning.policy.model import FrozenPolicy, PolicySettings, load_tokenizer


def load_teacher(settings: PolicySettings, tokenizer: PreTrainedTokenizerBase, rows: int | None = None) -> FrozenPolicy:
    """Load a policy that is never trained, and says how likely it finds the tokens that the policy sampled.

    Args:
        settings: which model.
        tokenizer: the policy's.
        rows: token ids that the policy has rows for, and can sample, those that no token has included; None where
            that is not known, and not checked.

    Raises:
        UserError: the teacher reads tokens in another way than the policy, or has no rows for some of them.
    """
    theirs, ours = load_tokenizer(settings).get_vocab(), tokenizer.get_vocab()
    if differing := sorted(ours.items() - theirs.items()):
        token, token_id = differing[0]
        other = f"gives it the id {theirs[token]}" if token in theirs else "does not know it"
        raise UserError(
            f"model.teacher.path is '{settings.path}', whose tokenizer is another one than the policy's: token "
            f"'{token}' has the id {token_id}, and the teacher {other}. Choose a teacher of the policy's family."
        )
    teacher = FrozenPolicy(settings, tokenizer)
    if rows is not None and teacher.vocabulary_size < rows:
        raise UserError(
            f"model.teacher.path is '{settings.path}', whose vocabulary ends at {teacher.vocabulary_size - 1}, and the "
            f"policy can sample ids up to {rows - 1}: choose a teacher with at least {rows} rows, or enlarge its "
            "embeddings (resize_token_embeddings)."
        )
    return teacher
