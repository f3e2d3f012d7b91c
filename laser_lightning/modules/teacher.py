"""The teacher: a second frozen policy, beside the reference."""

from transformers import PreTrainedTokenizerBase

from laser_lightning.errors import UserError
from laser_lightning.policy.model import FrozenPolicy, PolicySettings, load_tokenizer


def load_teacher(settings: PolicySettings, tokenizer: PreTrainedTokenizerBase) -> FrozenPolicy:
    """Load a policy that is never trained, and says how likely it finds the tokens that the policy sampled.

    Args:
        settings: which model.
        tokenizer: the policy's.

    Raises:
        UserError: the teacher reads tokens in another way than the policy.
    """
    theirs, ours = load_tokenizer(settings).get_vocab(), tokenizer.get_vocab()
    if differing := sorted(ours.items() - theirs.items()):
        token, token_id = differing[0]
        other = f"gives it the id {theirs[token]}" if token in theirs else "does not know it"
        raise UserError(
            f"model.teacher.path is '{settings.path}', whose tokenizer is another one than the policy's: token "
            f"'{token}' has the id {token_id}, and the teacher {other}. Choose a teacher of the policy's family."
        )
    return FrozenPolicy(settings, tokenizer)
