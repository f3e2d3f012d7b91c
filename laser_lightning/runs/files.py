"""What is done with files of earlier runs."""

from pathlib import Path


def set_aside(path: Path) -> Path | None:
    """Rename a file to the next free ``<stem>.<number><suffix>``.

    Returns:
        The new path; None if there is no such file.
    """
    if not path.exists():
        return None
    number = 1
    while (kept := path.with_name(f"{path.stem}.{number}{path.suffix}")).exists():
        number += 1
    return path.rename(kept)
