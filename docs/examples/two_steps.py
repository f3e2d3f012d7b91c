"""Two steps of LaSeR without the command line, and what they sampled: python two_steps.py"""

from lightning.pytorch import Trainer

from laser_lightning import LaSeRModule, LastTokenSelfReward, PromptDataModule
from laser_lightning.callbacks import ReferenceConstantCalibration
from laser_lightning.data import ArithmeticSource, PromptTemplate
from laser_lightning.modules.optimization import OptimizerSettings
from laser_lightning.policy.model import PolicySettings
from laser_lightning.rollout import Sampling
from laser_lightning.verifiers import ExactVerifier

module = LaSeRModule(
    policy=PolicySettings("embedded"),
    self_reward=LastTokenSelfReward("<|reward|>", beta=0.25, loss_weight=0.5),
    verifier=ExactVerifier(r"#(\d+)$"),
    sampling=Sampling(max_response_tokens=96),
    optimizer=OptimizerSettings(learning_rate=1e-4),
)
data = PromptDataModule(ArithmeticSource(size=64), template=PromptTemplate(chat=True), prompts_per_step=8)
trainer = Trainer(max_steps=2, callbacks=[ReferenceConstantCalibration(prompts=8)], accelerator="cpu")
trainer.fit(module, datamodule=data)
trainer.save_checkpoint("two_steps.ckpt")

rollout = module.last_rollout
for row, text in enumerate(rollout.texts):
    problem, reward, score = rollout.problem_of(row), rollout.rewards[row], rollout.self_rewards[row]
    print(f"{problem.problem} -> {text}  reward {reward:.0f}, self-reward {score:.2f}")

again = LaSeRModule.load_from_checkpoint("two_steps.ckpt")
print(f"c_ref {again.self_reward.reference_constant:.3f}")
