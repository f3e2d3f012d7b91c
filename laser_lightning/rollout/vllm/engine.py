"""An engine on vLLM, in process with the trainer, for sizes at which decoding with transformers is too slow."""

import gc
import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from copy import deepcopy
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Literal

import torch

from laser_lightning.errors import UserError
from laser_lightning.policy.model import Policy
from laser_lightning.policy.weight_stream import WeightStream, stream_weights
from laser_lightning.records.batching import Rollouts
from laser_lightning.rollout.engine import RolloutEngine, Sampling
from laser_lightning.rollout.vllm.comparison import FirstResponse
from laser_lightning.rollout.vllm.dtype import decoding_dtype
from laser_lightning.rollout.vllm.head import with_float32_head
from laser_lightning.rollout.vllm.responses import SETTINGS, Response, as_rollouts, begin_responses
from laser_lightning.runs.random_state import random_state, restore_random_state

if TYPE_CHECKING:
    from vllm import LLM


class VLLMEngine(RolloutEngine):
    """Decode with vLLM, on the device and in the process of each rank; needs ``pip install "laser-lightning[vllm]"``.

    The reward token's log-prob comes from the same generation: behind an ``<eos>`` a logits processor leaves z_c as the
    only choice, and vLLM returns its value (see ``ScoreProcessor``). That is one more token per finished response.
    Further tokens of heads that read several take a short pass each, over the prefix cache.
    The solutions of a prompt share its blocks in vLLM's prefix cache.

    vLLM starts at the first rollout, from the policy's config, and gets the policy's weights from memory, then and
    after each update: a layer at a time, so that under ZeRO-3 no rank ever holds the whole model. Behind each hand-over
    the first response is compared with a pass of the policy, where its weights are not sharded, and what vLLM returns
    is compared with the trainer's own passes in every training step (``train/mismatch``).

    Each response has a seed of its own, drawn from the generator: the same state of the generator gives the same
    responses, however vLLM batches them.

    The logits processor is one for vLLM's first model runner, so that is the one that vLLM is told to use. With top-p
    and min-p both in use, vLLM applies min-p first, the transformers engine last.

    Args:
        tensor_parallel_size: ranks that share one copy of vLLM's weights and decode their prompts together; it divides
            the number of processes, and consecutive ranks belong together.
        gpu_memory_utilization: share of the device's memory that vLLM takes for its weights and cache, beside the
            trainer's. (In vLLM's build for CPUs: share of the machine's memory.)
        max_model_len: longest sequence, prompt, response and one more token; null for the model's own limit. The
            cache must have room for one such sequence.
        max_num_seqs: most responses decoded together.
        dtype: type of vLLM's weights; null for the one that the trainer's passes are computed in: the policy's, but
            bfloat16 under ``trainer.precision: bf16-mixed``, which a message tells when vLLM starts.
        enforce_eager: do without compilation and CUDA graphs: a faster start and slower decoding.
        sleep: give vLLM's memory back during updates, where vLLM can (CUDA and ROCm).
        engine_options: further arguments of ``vllm.LLM``, such as ``{block_size: 32}``; they go before those
            that this engine sets itself.

    Raises:
        UserError: if vLLM is not installed, or an argument is out of range.
    """

    needs_whole_weights = False

    def __init__(
        self,
        tensor_parallel_size: int = 1,
        gpu_memory_utilization: float = 0.4,
        max_model_len: int | None = None,
        max_num_seqs: int = 256,
        dtype: Literal["float32", "bfloat16", "float16"] | None = None,
        enforce_eager: bool = False,
        sleep: bool = True,
        engine_options: dict[str, Any] | None = None,
    ) -> None:
        if find_spec("vllm") is None:
            raise UserError('VLLMEngine needs vLLM, which is not installed: pip install "laser-lightning[vllm]".')
        if tensor_parallel_size < 1 or max_num_seqs < 1 or not 0 < gpu_memory_utilization <= 1:
            raise UserError(
                "engine.tensor_parallel_size and engine.max_num_seqs must be at least 1, and "
                "engine.gpu_memory_utilization above 0 and at most 1."
            )
        # vLLM has no arguments for these two. The engine core must be in this process, where the policy's weights are;
        # and the second model runner, the default on CUDA, has another interface for logits processors.
        os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
        os.environ["VLLM_USE_V2_MODEL_RUNNER"] = "0"
        self.tensor_parallel_size, self.dtype, self.may_sleep = tensor_parallel_size, dtype, sleep
        self.collective = tensor_parallel_size > 1
        self.options: dict[str, Any] = {
            "gpu_memory_utilization": gpu_memory_utilization,
            "max_model_len": max_model_len,
            "max_num_seqs": max_num_seqs,
            "enforce_eager": enforce_eager,
            **(engine_options or {}),
        }
        self._llm: LLM | None = None
        self._stale = self._asleep = self._owns_process_group = False
        self._first_response = FirstResponse()

    # ---------------------------------------------------------------- rollouts

    @torch.no_grad()
    def generate(
        self,
        policy: Policy,
        prompts: Sequence[Sequence[int]],
        group_size: int,
        sampling: Sampling,
        reward_token_ids: Sequence[int],
        generator: torch.Generator,
    ) -> Rollouts:
        """Draw ``group_size`` responses for each prompt (see ``RolloutEngine``)."""
        mine = begin_responses(prompts, group_size, generator)
        self._start(policy)
        with _undisturbed(policy.device, generator):
            llm = self._ready(nullcontext(hf_weights(policy)))
            every, start = self._with_neighbours(mine)
            self._check_lengths(llm, every, sampling.max_response_tokens)
            _decode(llm, every, sampling, reward_token_ids[0], frozenset(policy.eos_token_ids))
            for token_id in reward_token_ids[1:]:
                _read_further(llm, every, token_id)
        mine = every[start : start + len(mine)]
        rollouts = as_rollouts(policy, prompts, mine, len(reward_token_ids))
        self._first_response.compare(policy, mine, sampling)
        return rollouts

    def _with_neighbours(self, mine: list["Response"]) -> tuple[list["Response"], int]:
        """The responses of all ranks that decode together, the same on each, and where this rank's begin."""
        if self.tensor_parallel_size == 1:
            return mine, 0
        from vllm.distributed.parallel_state import get_tp_group

        group = get_tp_group()
        parts: list[list[Response]] = [[] for _ in range(self.tensor_parallel_size)]
        torch.distributed.all_gather_object(parts, mine, group=group.cpu_group)
        return [response for part in parts for response in part], sum(map(len, parts[: group.rank_in_group]))

    def _check_lengths(self, llm: "LLM", responses: list["Response"], limit: int) -> None:
        longest = max((len(response.prompt) for response in responses), default=0)
        if longest + limit + 1 > (most := llm.model_config.max_model_len):
            raise UserError(
                f"A prompt of {longest} tokens, sampling.max_response_tokens = {limit} and the reward token do not fit "
                f"into the {most} places of a sequence in vLLM: lower data.max_prompt_tokens or the second, or raise "
                "engine.max_model_len where the model allows it."
            )

    # --------------------------------------------------------- start, weights, end

    @torch.no_grad()
    def take_weights(self, policy: Policy, weights: AbstractContextManager[WeightStream]) -> None:
        """Copy the policy's weights into vLLM, which starts with the first ones (see ``RolloutEngine``)."""
        self._start(policy)
        with _undisturbed(policy.device, torch.default_generator):
            self._ready(weights)

    def weights_changed(self) -> None:
        """Copy the policy's weights before the next rollout."""
        self._stale = True

    def sleep(self) -> None:
        """Give the memory of vLLM's weights and cache back."""
        if self._llm is not None and self.may_sleep and not self._asleep:
            self._llm.sleep(level=2)  # 2: weights are dropped, since new ones will come
            self._asleep = self._stale = True

    def close(self) -> None:
        """Stop vLLM."""
        if self._llm is None:
            return
        from vllm.distributed.parallel_state import destroy_distributed_environment, destroy_model_parallel

        # In parts, since vLLM's own shutdown ends the process group too, which may be the trainer's.
        client = self._llm.llm_engine.engine_core
        client._finalizer.detach()
        client.engine_core.model_executor.shutdown()
        client.engine_core.scheduler.shutdown()
        self._llm, self._asleep = None, False
        self._first_response.weights_came()
        _remove_shared_memory()
        destroy_model_parallel()
        if self._owns_process_group:
            destroy_distributed_environment()
        gc.unfreeze()  # what vLLM froze when it started
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _ready(self, weights: AbstractContextManager[WeightStream]) -> "LLM":
        """vLLM, awake and with the policy's weights."""
        assert self._llm is not None
        if self._asleep:
            self._llm.wake_up(tags=["weights"])
        if self._stale:
            with weights as stream:
                self._llm.collective_rpc("reload_weights", kwargs={"weights_iterator": stream})
            self._first_response.weights_came()
        if self._asleep:
            self._llm.wake_up(tags=["kv_cache"])
        if self._stale:
            self._llm.reset_prefix_cache()
        self._stale = self._asleep = False
        return self._llm

    def _start(self, policy: Policy) -> None:
        if self._llm is not None:
            return
        from vllm import LLM
        from vllm.platforms import current_platform

        from laser_lightning.rollout.vllm.score import ScoreProcessor

        self._owns_process_group = not torch.distributed.is_initialized()
        world = 1 if self._owns_process_group else torch.distributed.get_world_size()
        self.may_sleep = self.may_sleep and current_platform.is_sleep_mode_available()
        config = deepcopy(policy.lm.config)
        config.architectures = config.architectures or [type(policy.lm).__name__]
        with TemporaryDirectory() as directory:
            config.save_pretrained(directory)
            settings: dict[str, Any] = {
                "model": directory,
                "load_format": "dummy",
                "skip_tokenizer_init": True,
                "generation_config": "vllm",
                "dtype": decoding_dtype(self.dtype, policy),
                "enable_sleep_mode": self.may_sleep,
                "enable_prefix_caching": True,
                "async_scheduling": False,  # the logits processor needs the last token
                "logits_processors": [ScoreProcessor],
                "logprobs_mode": "processed_logits",
                **self._placement(policy.device, world),
            }
            _drop_idle_warnings()
            options = with_float32_head(self.options) if policy.has_float32_head else self.options
            with _undisturbed(policy.device, torch.default_generator):
                self._llm, self._stale = LLM(**settings | options), True
        logging.getLogger("vllm").setLevel(logging.WARNING)  # from here on it would report each update of the weights

    def _placement(self, device: torch.device, world_size: int) -> dict[str, Any]:
        """How vLLM finds its ranks; it takes the trainer's process group where there is one."""
        if world_size % self.tensor_parallel_size:
            raise UserError(
                f"engine.tensor_parallel_size = {self.tensor_parallel_size} does not divide the number of processes, "
                f"{world_size}: vLLM's weights are shared among the trainer's ranks."
            )
        if not self._owns_process_group:
            # vLLM reads its place from torchrun's variables, which other launchers leave unset.
            os.environ.setdefault("RANK", str(torch.distributed.get_rank()))
            os.environ.setdefault("LOCAL_RANK", str(device.index or 0))
        place = 0 if self._owns_process_group else int(os.environ["LOCAL_RANK"])
        if device.type != "cpu" and device.index != place:
            raise UserError(
                f"The trainer is on {device} and vLLM would be on device {place}: set trainer.devices to a number, and "
                "choose the devices by CUDA_VISIBLE_DEVICES."
            )
        if self._owns_process_group:
            return {}
        return {
            "tensor_parallel_size": self.tensor_parallel_size,
            "distributed_executor_backend": "external_launcher",
        }


def _remove_shared_memory() -> None:
    """Remove the file by which vLLM's build for CPUs sums over ranks: it leaves it, and the next run could not make it.

    Its name is the same in every run whose process group is the trainer's.
    """
    from vllm.distributed.parallel_state import get_tp_group

    group = get_tp_group()
    name: str | None = getattr(getattr(group.device_communicator, "dist_module", None), "group_name", None)
    if name is not None:
        Path("/dev/shm", f"{Path(name).name}_{group.rank_in_group}").unlink(missing_ok=True)


def hf_weights(policy: Policy) -> WeightStream:
    """The policy's weights, which must be whole, LoRA merged in, under their names in a checkpoint of transformers."""
    return stream_weights(policy.lm)


def _decode(
    llm: "LLM", responses: list[Response], sampling: Sampling, reward_token_id: int, eos_token_ids: frozenset[int]
) -> None:
    """Run the responses to their ends.

    vLLM stops at z_c. One that the model wrote itself, in the middle of a response, is a token like others: such a
    response goes on in another pass, in which its beginning is part of the prompt.
    """
    from vllm import SamplingParams

    limit, going_on = sampling.max_response_tokens, responses
    while going_on:
        params = [
            SamplingParams(
                temperature=sampling.temperature,
                top_p=sampling.top_p,
                top_k=sampling.top_k,
                min_p=sampling.min_p,
                seed=response.seed + len(response.ids),
                max_tokens=limit + 1 - len(response.ids),  # one more for z_c behind an <eos> in the last place
                ignore_eos=True,
                stop_token_ids=[reward_token_id],
                logprobs=0,  # of the sampled token alone
                flat_logprobs=True,
                detokenize=False,
                extra_args={SETTINGS: (reward_token_id, eos_token_ids)},
            )
            for response in going_on
        ]
        prompts = [{"prompt_token_ids": response.prompt + response.ids} for response in going_on]
        outputs = llm.generate(prompts, params, use_tqdm=False)
        for response, output in zip(going_on, outputs, strict=True):
            ids, log_probs = list(output.outputs[0].token_ids), list(output.outputs[0].logprobs.logprobs)
            if len(ids) > 1 and ids[-2] in eos_token_ids:
                ids.pop()
                response.score = log_probs.pop()
            room = limit - len(response.ids)
            response.ids += ids[:room]
            response.log_probs += log_probs[:room]
        going_on = [r for r in going_on if r.score is None and len(r.ids) < limit]


def _read_further(llm: "LLM", responses: list[Response], token_id: int) -> None:
    """Read one more token's log-prob behind each ``<eos>``, as the only choice of a request that goes on from there."""
    from vllm import SamplingParams

    finished = [response for response in responses if response.score is not None]
    options: dict[str, Any] = {"ignore_eos": True, "logprobs": 0, "flat_logprobs": True, "detokenize": False}
    params = SamplingParams(seed=0, max_tokens=1, extra_args={SETTINGS: (token_id, None)}, **options)
    prompts = [{"prompt_token_ids": response.prompt + response.ids} for response in finished]
    outputs = llm.generate(prompts, [params] * len(prompts), use_tqdm=False) if prompts else []
    for response, output in zip(finished, outputs, strict=True):
        response.further.append(output.outputs[0].logprobs.logprobs[0])


def _drop_idle_warnings() -> None:
    """Silence vLLM about what is intended: there is no tokenizer, and tables of positions are no weights to load."""
    # It resets the levels of its loggers when it starts, but not their filters.
    logging.getLogger("vllm.renderers.base").addFilter(lambda record: record.levelno >= logging.ERROR)
    reload = logging.getLogger("vllm.model_executor.model_loader.reload.layerwise")
    reload.addFilter(lambda record: "RotaryEmbedding" not in record.getMessage())


@contextmanager
def _undisturbed(device: torch.device, generator: torch.Generator) -> Iterator[None]:
    """Around vLLM: it leaves all sources of randomness of this process as they are, and computes in types of its own.

    It seeds the process's generators when it starts, and draws from them. And the autocast of the trainer's precision
    would round its float32 head.
    """
    state = random_state(generator)
    try:
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        restore_random_state(state, generator)
