"""What counts as a response's answer where only the reward knows: its last line, compared as text."""


class LastLineAnswers:
    """The final answers of a verifier whose reward does not look at them: they are for votes."""

    def extract(self, response: str) -> str | None:
        """Finds the last line that is not empty.

        Args:
            response: The text that the model wrote, without its prompt.

        Returns:
            The stripped line, or None if the response is empty.
        """
        lines = response.strip().splitlines()
        return lines[-1].strip() if lines else None

    def equivalent(self, answer: str, gold: str) -> bool:
        """Compares two answers as text; the reward does not use it.

        Args:
            answer: An extracted answer.
            gold: Another one.

        Returns:
            True if the stripped texts are equal.
        """
        return answer.strip() == gold.strip()
