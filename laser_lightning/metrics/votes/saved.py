"""Vote rules as a file beside an exported model, as they decide behind the training."""

import json
from collections.abc import Sequence
from pathlib import Path

from laser_lightning.arguments import NotPlain, made_from, plain_form
from laser_lightning.errors import UserError
from laser_lightning.metrics.votes.rule import VoteRule

VOTES_FILE = "votes.json"
FORMAT_VERSION = 1


def save_rules(rules: Sequence[VoteRule], directory: Path) -> list[str]:
    """Write ``votes.json``: each rule's settled form by the rule's name; no file where there is no rule.

    Args:
        rules: of the run.
        directory: the export's.

    Returns:
        Names of the rules that have no plain form, and are left out.
    """
    forms, left_out = {}, []
    for rule in rules:
        try:
            forms[rule.name] = plain_form(rule.settled())
        except NotPlain:
            left_out.append(rule.name)
    if forms:
        text = json.dumps({"format_version": FORMAT_VERSION, "rules": forms}, indent=2, allow_nan=False)
        (directory / VOTES_FILE).write_text(f"{text}\n", encoding="utf-8")
    return left_out


def load_rules(directory: Path) -> dict[str, VoteRule]:
    """The rules of an export, by the names that they had in the run; none where it has no file.

    Raises:
        UserError: if the file is damaged or of another version, or a rule's class cannot be imported.
    """
    path = directory / VOTES_FILE
    if not path.is_file():
        return {}
    try:
        content = dict(json.loads(path.read_text(encoding="utf-8")))
        forms = dict(content["rules"])
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(f"{path} is damaged ({error}): export the model again, or delete the file.") from error
    if content.get("format_version") != FORMAT_VERSION:
        raise UserError(
            f"{path} is of format version {content.get('format_version')}, and this release reads {FORMAT_VERSION}."
        )
    rules = {name: made_from(form) for name, form in forms.items()}
    for name, rule in rules.items():
        if not isinstance(rule, VoteRule):
            raise UserError(f"{path} names as '{name}' what is no vote rule: export the model again, or delete it.")
    return rules
