"""From a problem to the prompt that the policy sees."""

from collections.abc import Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from laser_lightning.data.cells import Message
from laser_lightning.data.prompts import encode_prompt, render_chat
from laser_lightning.errors import UserError

_PLACE = "{problem}"


@dataclass(frozen=True)
class PromptTemplate:
    """How a problem becomes a prompt.

    Args:
        template: the prompt, with ``{problem}`` where the problem belongs; other braces are left alone. By
            default the prompt is the problem as it is.
        chat: put the result into the tokenizer's chat template, as the user's message.
        system: system message, if not empty; only with ``chat``.
    """

    template: str = _PLACE
    chat: bool = False
    system: str = ""

    def __post_init__(self) -> None:
        if _PLACE not in self.template:
            raise UserError(f"template '{self.template}' has no {_PLACE}: write it where the problem belongs.")
        if self.system and not self.chat:
            raise UserError(
                "template.system is set, but template.chat is not: set chat: true, or write the system "
                "message into template.template."
            )

    def render(self, problem: str, tokenizer: PreTrainedTokenizerBase, context: Sequence[Message] = ()) -> str:
        """The prompt's text.

        Args:
            problem: the problem's text.
            tokenizer: the policy's.
            context: chat messages in front of the problem's.

        Raises:
            UserError: ``chat`` is set, and the tokenizer has no chat template or its template refuses the messages;
                there are messages in front and ``chat`` is not set, or two system messages.
        """
        # not str.format: problems and templates are full of LaTeX braces
        text = self.template.replace(_PLACE, problem)
        if not self.chat:
            if context:
                raise UserError("there are chat messages in front of the problem: set template.chat: true.")
            return text
        if tokenizer.chat_template is None:
            raise UserError(
                "template.chat is set, but the tokenizer has no chat template: use an instruction-tuned "
                "model, or set chat: false and write the whole prompt into template.template."
            )
        messages = [*context, {"role": "user", "content": text}]
        if self.system:
            if any(message["role"] == "system" for message in context):
                raise UserError("there is a system message in the data already: leave template.system empty.")
            messages.insert(0, {"role": "system", "content": self.system})
        return render_chat(messages, tokenizer)

    def encode(
        self, problem: str, tokenizer: PreTrainedTokenizerBase, context: Sequence[Message] = ()
    ) -> tuple[str, list[int]]:
        """The prompt's text and its token ids.

        Special tokens come once, from the chat template or else from the tokenizer.

        Args:
            problem: the problem's text.
            tokenizer: the policy's.
            context: chat messages in front of the problem's.

        Raises:
            UserError: see ``render`` and ``encode_prompt``.
        """
        prompt = self.render(problem, tokenizer, context)
        return prompt, encode_prompt(prompt, tokenizer, add_special_tokens=not self.chat)
