# A solution with its score; and the score of a solution that is there, whose <eos> is written out.
URL=$1
curl -s "$URL/v1/completions" -H "Content-Type: application/json" -d '{
    "prompt": "12+34=", "max_tokens": 65, "temperature": 1, "seed": 1, "logprobs": 0,
    "vllm_xargs": {"self_reward": 1}, "ignore_eos": true, "stop_token_ids": [3]}'
curl -s "$URL/v1/completions" -H "Content-Type: application/json" -d '{
    "prompt": "12+34=46<|eos|>", "max_tokens": 1, "logprobs": 1,
    "logprob_token_ids": [3], "return_tokens_as_token_ids": true}'
