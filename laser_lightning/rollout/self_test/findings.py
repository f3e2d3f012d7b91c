"""What the self-test found."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """One way in which a policy's log-probs come about, compared with a plain pass over each sequence alone.

    Attributes:
        way: its name, such as ``decode``.
        error_nats: mean difference of the log-probs of the sequence, or place, where it is largest; infinite where
            there were none to compare.
        tolerance_nats: what rounding may come to.
        cause: what is wrong; empty where nothing is.
        remedy: what to do about it; empty where nothing is known.
    """

    way: str
    error_nats: float
    tolerance_nats: float
    cause: str = ""
    remedy: str = ""

    @property
    def passed(self) -> bool:
        """Whether the two differ by rounding alone."""
        return self.error_nats <= self.tolerance_nats

    @property
    def sentence(self) -> str:
        """Cause and remedy; empty where it passed."""
        text = f"{self.cause}: {self.remedy}" if self.remedy else self.cause
        return text if not text or text.endswith(".") else f"{text}."
