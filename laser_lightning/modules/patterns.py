"""Regular expressions that a config gives to find one thing in a response."""

import re

from laser_lightning.errors import UserError


def compile_pattern(key: str, pattern: str, finds: str | None = None, flags: int = 0) -> re.Pattern[str]:
    """Compile a pattern, of which one group finds what is looked for.

    Args:
        key: of the pattern in a config.
        pattern: as written.
        finds: what its one group finds, as a part of a sentence; None where it may have any number of groups.
        flags: of ``re``.

    Raises:
        UserError: it is no regular expression, or has another number of groups.
    """
    try:
        compiled = re.compile(pattern, flags)
    except re.error as error:
        raise UserError(f"{key} '{pattern}' is no regular expression: {error}.") from error
    if finds is not None and compiled.groups != 1:
        raise UserError(f"{key} '{pattern}' has {compiled.groups} groups, and must have one, which finds {finds}.")
    return compiled
