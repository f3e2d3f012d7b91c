"""A verifier that finds every second length correct, so that rewards of a random model vary."""

from laser_lightning.verifiers import Verifier


class LengthVerifier(Verifier):
    def extract(self, response: str) -> str | None:
        return response or None

    def equivalent(self, answer: str, gold: str) -> bool:
        return answer == gold

    def reward(self, response: str, gold: str) -> float:
        return float(len(response) % 2)
