"""Draws docs/figures/last_token.png: where the score comes from, and what trains when.

python docs/figures/last_token.py
"""

import sys
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

BLUE, VERMILLION, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#777777"  # of the palette of Okabe and Ito
TOKENS = ["27", "+", "58", "=", "7+8=15;", "2+5+1=8;", "#", "85", "<eos>"]
IN_PROMPT = 4
REFERENCE_CONSTANT, BETA = -21.4, 0.25  # of the quickstart


def box(axes: Axes, x: float, y: float, width: float, height: float, text: str, color: str, size: float = 10) -> None:
    """A rounded box with text in its middle."""
    style = "round,pad=0,rounding_size=0.12"
    axes.add_patch(FancyBboxPatch((x, y), width, height, boxstyle=style, facecolor=color, edgecolor="none", alpha=0.2))
    axes.text(x + width / 2, y + height / 2, text, ha="center", va="center", fontsize=size)


def draw_sequence(axes: Axes) -> None:
    """Prompt, response and <eos>, with the distribution behind each token."""
    axes.set(xlim=(0, 11.2), ylim=(0.1, 3.3))
    axes.axis("off")
    for number, token in enumerate(TOKENS):
        x, last = 0.2 + 1.2 * number, number + 1 == len(TOKENS)
        color = GREY if number < IN_PROMPT else VERMILLION if last else BLUE
        box(axes, x, 0.65, 1.05, 0.6, token, color)
        if number + 1 >= IN_PROMPT:
            axes.annotate(
                "", (x + 0.52, 1.9), (x + 0.52, 1.3), arrowprops={"arrowstyle": "->", "color": color, "lw": 1.5}
            )
            box(axes, x + 0.1, 1.95, 0.85, 0.45, "logits", color, 8.5)
    axes.text(2.6, 0.3, "prompt x", ha="center", color=GREY)
    axes.text(7.4, 0.3, "response y, sampled by the model itself", ha="center", color=BLUE)
    axes.text(4.4, 2.75, "each predicts the next token of the response", ha="left", color=BLUE)
    axes.text(
        11.0,
        2.75,
        "behind <eos> nothing is sampled:\nread one more entry, log π(z_c | x, y)",
        ha="right",
        color=VERMILLION,
    )
    axes.set_title("The score is one more entry of logits that are computed anyway", loc="left", fontsize=12)


def draw_scale(axes: Axes) -> None:
    """From the reward token's log-prob to the verdict."""
    axes.set(xlim=(REFERENCE_CONSTANT - 1.6, REFERENCE_CONSTANT + 5.6), ylim=(-0.4, 1.75))
    axes.spines[["left", "right", "top"]].set_visible(False)
    axes.set_yticks([])
    axes.set_xlabel("log π(z_c | x, y), in nats")
    middle = REFERENCE_CONSTANT + 0.5 / BETA
    axes.axvspan(REFERENCE_CONSTANT - 1.6, middle, color=VERMILLION, alpha=0.12, lw=0)
    axes.axvspan(middle, REFERENCE_CONSTANT + 5.6, color=BLUE, alpha=0.12, lw=0)
    for score, meaning in (
        (0, "c_ref\ntarget of wrong ones"),
        (0.5, "verdict"),
        (1, "c_ref + 1/β\ntarget of right ones"),
    ):
        x = REFERENCE_CONSTANT + score / BETA
        axes.plot([x, x], [0, 0.55], color=GREY, lw=1.5)
        axes.text(x, 0.65, f"r_s = {score}\n{meaning}", ha="center", va="bottom", fontsize=8.5)
    axes.text(REFERENCE_CONSTANT - 1.5, -0.25, '"incorrect"', color=VERMILLION)
    axes.text(REFERENCE_CONSTANT + 5.5, -0.25, '"correct"', color=BLUE, ha="right")
    axes.set_title("r_s = β (log π(z_c | x, y) − c_ref),  here β = 0.25", loc="left", fontsize=12)


def draw_phases(axes: Axes) -> None:
    """What trains in each phase."""
    axes.set(xlim=(0, 3), ylim=(-0.3, 3.4))
    axes.spines[["left", "right", "top"]].set_visible(False)
    axes.set_yticks([])
    axes.set_xticks([0, 1, 2], ["0", "reasoning_steps", "+ self_reward_steps"], fontsize=8.5)
    for y, start, text, color in (
        (2.3, 0, "policy loss on the verifier's advantages", GREY),
        (1.25, 1, "+ self-rewarding loss (r_s − r_v)²", BLUE),
        (0.2, 2, "+ mixed advantages", GREEN),
    ):
        box(axes, start + 0.03, y, 3 - start - 0.06, 0.75, text, color)
    axes.set_xlabel("optimizer step")
    axes.set_title("Three phases", loc="left", fontsize=12)


def main(path: Path) -> None:
    """Draw everything into one image."""
    figure = Figure(figsize=(11, 6.4), layout="constrained")
    top, bottom = figure.subfigures(2, 1, height_ratios=[1.15, 1])
    draw_sequence(top.subplots())
    scale, phases = bottom.subplots(1, 2)
    draw_scale(scale)
    draw_phases(phases)
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).with_suffix(".png"))
