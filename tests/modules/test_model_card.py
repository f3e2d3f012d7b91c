"""The model card of an export: what it says is so, and the code in it gives the scores of the export."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from laser_lightning import (
    LaSeRModule,
    LastTokenSelfReward,
    RISEModule,
    SupervisedModule,
    TwoTokenSelfReward,
    YesNoSelfReward,
)
from laser_lightning.inference.scorer import LaSeRScorer
from laser_lightning.modules.export import write_export
from laser_lightning.modules.model_card import metrics_of_run, model_card
from laser_lightning.modules.training import TrainingModule
from laser_lightning.policy.lora import LoRASettings
from laser_lightning.policy.model import PolicySettings
from laser_lightning.verifiers import ExactVerifier
from laser_lightning.verifiers.settings import VerificationSettings

TOKEN = "<|reward|>"
PROMPT, RESPONSE = "1+2=", "3;#3"


@pytest.fixture
def trained(policy_dir: Path) -> Callable[..., TrainingModule]:
    """``trained(self_reward, **policy)`` is a module whose weights have moved."""

    def make(head: Any = None, lora: LoRASettings | None = None, **options: Any) -> TrainingModule:
        head = LastTokenSelfReward(TOKEN, beta=0.25, reference=-9.5) if head is None else head
        settings = PolicySettings(str(policy_dir), lora=lora)
        module = options.pop("cls", LaSeRModule)(
            policy=settings, self_reward=head, verifier=ExactVerifier(r"#(\d+)$"), **options
        )
        module.configure_model()
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for parameter in module.parameters():
                if parameter.requires_grad:
                    parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
        return module

    return make


def code(card: str, containing: str) -> str:
    (found,) = [block for block in re.findall(r"```python\n(.*?)```", card, re.DOTALL) if containing in block]
    return found


@pytest.mark.parametrize("adapter", [False, True], ids=["model", "adapter"])
@pytest.mark.parametrize(
    "head",
    [
        LastTokenSelfReward(TOKEN, beta=0.25, reference=-9.5),
        LastTokenSelfReward(TOKEN, beta=0.25, reference="exact"),
        YesNoSelfReward(TOKEN, "#"),
        TwoTokenSelfReward(TOKEN, "#"),
    ],
    ids=["constant", "exact", "yes-no", "two-token"],
)
@pytest.mark.filterwarnings("ignore:self_reward.reference is exact")
def test_its_code_gives_the_scores_of_the_export(
    head: Any,
    adapter: bool,
    trained: Callable[..., TrainingModule],
    policy_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    module = trained(head, LoRASettings(rank=4) if adapter else None)
    write_export(module, dict(module.policy.lm.state_dict()), tmp_path / "export", step=7, adapter=adapter)
    monkeypatch.chdir(tmp_path / "export")
    reference = policy_dir if getattr(head, "is_exact", False) else None
    (expected,) = LaSeRScorer.from_pretrained(".", reference=reference).score([PROMPT], [RESPONSE])

    card = Path("README.md").read_text()
    names: dict[str, Any] = {"prompt": PROMPT, "response": RESPONSE}
    exec(code(card, "import torch"), names)
    assert float(names["self_reward"]) == pytest.approx(expected.self_reward, abs=1e-5)
    assert abs(expected.self_reward) > 1e-4
    capsys.readouterr()
    exec(code(card, "LaSeRScorer"), {"prompt": PROMPT, "response": RESPONSE})
    assert capsys.readouterr().out == f"{expected.self_reward} {expected.verdict}\n"


def test_what_it_says(trained: Callable[..., TrainingModule], policy_dir: Path) -> None:
    card = model_card(trained(group_size=4), 1200, metrics={"val/sums/pass@1": 0.61351, "val/sums/maj@8": 1.0})
    assert f"`LaSeRModule` trained it for 1,200 optimizer steps from the base model `{policy_dir}`." in card
    for row in (
        f"- token: `{TOKEN}`, id 3",
        "- beta: 0.25",
        "- c_ref: -9.5",
        "| val/sums/pass@1 | 0.6135 |",
        "| val/sums/maj@8 | 1 |",
    ):
        assert f"\n{row}\n" in card
    (settings,) = re.findall(r"```yaml\n(.*?)```", card, re.DOTALL)
    values = yaml.safe_load(settings)
    assert values["policy"]["path"] == str(policy_dir)  # settings as configs have them
    assert values["self_reward"] == {
        "class_path": "laser_lightning.objective.self_reward.last_token.LastTokenSelfReward",
        "init_args": {"token": TOKEN, "beta": 0.25, "reference": -9.5},
    }
    assert values["group_size"] == 4
    front = yaml.safe_load(card.split("---")[1])
    assert front == {"library_name": "transformers", "tags": ["laser", "grpo"]}  # a directory is no name on the hub
    assert "## Evaluation" not in model_card(trained(), 0)


def test_the_base_models_name_on_the_hub(trained: Callable[..., TrainingModule]) -> None:
    module = trained()
    module.policy_settings.path = "Qwen/Qwen2.5-7B"
    front = yaml.safe_load(model_card(module, 1, adapter=True).split("---")[1])
    assert (front["base_model"], front["library_name"]) == ("Qwen/Qwen2.5-7B", "peft")


def test_responses_end_in_its_code_as_the_engines_end_them(trained: Callable[..., TrainingModule]) -> None:
    module = trained()
    assert "response_ids + [tokenizer.eos_token_id]]" in model_card(module, 3)
    module.policy.eos_token_ids = (5, 7)  # the tokenizer's is 1
    assert "response_ids + [5]]" in model_card(module, 3)


def test_a_model_without_a_score_claims_none(trained: Callable[..., TrainingModule], policy_dir: Path) -> None:
    head = LastTokenSelfReward(TOKEN, loss_weight=0.0, reference=-20.0)
    rise = model_card(trained(head, cls=RISEModule), 1)
    supervised = SupervisedModule(PolicySettings("embedded", random_init=True))
    supervised.configure_model()
    texts = [rise, model_card(supervised, 1)]
    for text, name in zip(texts, ("RISEModule", "SupervisedModule"), strict=True):
        assert f"`{name}` trained it for 1 optimizer steps from" in text
        assert "self_reward.json" not in text
        assert "import torch" not in text
    assert "from random weights of the architecture of `embedded`" in texts[1]


def test_arguments_without_a_plain_form_are_named(trained: Callable[..., TrainingModule]) -> None:
    class Local(ExactVerifier):
        pass

    module = trained()
    in_process = VerificationSettings(workers=0)  # other processes could not import the class
    other = LaSeRModule(module.policy_settings, module.self_reward, Local("(.*)"), verification=in_process)
    other.policy = module.policy
    assert "# verifier: Local, a class within a function\n```" in model_card(other, 1)


def test_the_evaluation_of_a_checkpoint_in_its_run(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "metrics.csv").write_text(
        "step,train/reward,val/sums/auroc,val/sums/pass@1\n"
        "0,,nan,0.25\n"  # all solutions wrong: undefined
        "4.0,0.5,,\n"  # of the training step, in a row of its own
        "4.0,,0.75,0.5\n"
        "5.0,0.5,,\n"
    )
    checkpoint = tmp_path / "checkpoints/step=4.ckpt"
    assert metrics_of_run(checkpoint, 4) == {"val/sums/auroc": 0.75, "val/sums/pass@1": 0.5}
    assert metrics_of_run(tmp_path / "stopped.ckpt", 0) == {"val/sums/pass@1": 0.25}
    assert metrics_of_run(checkpoint, 5) == {}  # no evaluation of these weights
    assert metrics_of_run(tmp_path / "elsewhere/checkpoints/last.ckpt", 4) == {}
