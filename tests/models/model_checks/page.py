"""``docs/models.md``: what works with which model type, written from what the checks found."""

from collections import defaultdict
from pathlib import Path

import transformers

from .builds import all_types
from .expectations import Found

FILE = Path(__file__).parents[3] / "docs" / "models.md"
VERSION = "transformers {version}"  # by which a test knows whether the page is of the installed one

HEAD = """# Which models work

Every type of causal language model (and every image-text type) that transformers has is tried, as a tiny random model
made from its config class: a training step with prompts of unequal lengths, decoding all at once and in a batch that is
refilled, the update's pass, its gradient, packing (`policy.packing: always`), LoRA on all linear layers, and the
exports. Log-probs, scores and gradients are compared with those of plain transformers on each sequence alone, in
float32; exports are read back by plain transformers and peft. A type is *right* if nothing differs by more than
rounding (1e-4 nats). What is not right is refused in a sentence before the first step.

This page is of {version}, and written by `pytest -m models tests/models --update-expectations`, which also tries types
that are new. Behind a type's real weights there may be more than its tiny model shows: before a long run, look at
`train/mismatch` of the first steps, how far engine and update are from each other.
"""


def page(found: Found, types: list[str]) -> str:
    """The page's text.

    Args:
        found: what is not right, by type and check.
        types: all types that were tried.
    """
    unbuilt = {name: found[name]["build"].why for name in types if "build" in found.get(name, {})}
    tried = [name for name in types if name not in unbuilt]
    refused = {name: found[name]["load"].why for name in tried if _kind(found, name, "load") == "refused"}
    broken = {name: checks for name in tried if (checks := _broken(found, name))}
    works = [name for name in tried if name not in refused and name not in broken]
    no_pack = [name for name in works if _kind(found, name, "pack") == "refused"]
    no_lora = {
        name: outcome.why
        for name in works
        for check, outcome in found.get(name, {}).items()
        if check.startswith("lora") and outcome.kind == "refused"
    }
    parts = [
        HEAD.format(version=VERSION.format(version=transformers.__version__)),
        f"## Right ({len(works)} of {len(tried)} that were tried)\n\n{_names(works)}",
        f"## Not packed ({len(no_pack)})\n\nThese are among the right ones, with padding.\n\n{_names(no_pack)}",
        f"## Not with LoRA ({len(no_lora)})\n\nThese too are right without.\n\n{_reasons(no_lora)}",
        f"## Refused ({len(refused)})\n\n{_reasons(refused)}",
        f"## Wrong ({len(broken)})\n\nKnown, and not mended yet.\n\n{_reasons(broken)}" if broken else "",
        f"## Not tried ({len(unbuilt)})\n\nThere is no tiny model of these here, and why.\n\n{_reasons(unbuilt)}",
    ]
    return "\n\n".join(part.strip() for part in parts if part) + "\n"


def write(found: Found) -> None:
    """Write the page of the installed transformers."""
    FILE.write_text(page(found, all_types()))


def is_of_installed() -> bool:
    """Whether the page is of the installed transformers."""
    return FILE.is_file() and f"{VERSION.format(version=transformers.__version__)}," in FILE.read_text()


def _kind(found: Found, name: str, check: str) -> str:
    outcome = found.get(name, {}).get(check)
    return "right" if outcome is None else outcome.kind


def _broken(found: Found, name: str) -> str:
    bad = {check: o.why for check, o in found.get(name, {}).items() if o.kind in ("wrong", "traceback")}
    return "; ".join(f"{check}: {why}" for check, why in bad.items())


def _names(names: list[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _reasons(reasons: dict[str, str]) -> str:
    """A table of sentences, those of several types once."""
    types: dict[str, list[str]] = defaultdict(list)
    for name, why in reasons.items():
        types[why].append(name)
    rows = [f"| {_names(names)} | {why.replace('|', '/').replace('<', '&lt;')} |" for why, names in types.items()]
    return "\n".join(["| type | why |", "|---|---|", *rows])
