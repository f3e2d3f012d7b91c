"""A solution and its self-reward, asked of a ``vllm serve`` of an export by the openai client."""

import json
import sys
from pathlib import Path

from openai import OpenAI

url, export, prompt = sys.argv[1:]
head = json.loads((Path(export) / "self_reward.json").read_text())
client = OpenAI(base_url=f"{url}/v1", api_key="none")
choice = client.completions.create(
    model=client.models.list().data[0].id,
    prompt=prompt,
    max_tokens=65,  # the last one is for the reward token
    temperature=1.0,
    seed=1,
    logprobs=0,
    extra_body={"vllm_xargs": {"self_reward": 1}, "ignore_eos": True, "stop_token_ids": [head["token_id"]]},
).choices[0]
self_reward = 0.0  # of a truncated response
if choice.finish_reason == "stop":
    self_reward = head["beta"] * (choice.logprobs.token_logprobs[-1] - head["reference_constant"])
print(choice.text, self_reward)
