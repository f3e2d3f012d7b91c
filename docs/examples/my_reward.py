"""Rewards short answers, by the limit that each problem's row names."""

from laser_lightning.verifiers import Submission


def is_short(submission: Submission) -> float:
    """1 for a response within the words that the row's column `max_words` allows, 20 where it allows none, else 0."""
    limit = submission.row.get("max_words", 20)
    return float(len(submission.response.split()) <= limit)
