"""How the engines of the field are asked, and what they call what they count: a value of each.

Source: vllm 0.32.0 and 0.33.0 vllm/entrypoints/openai/*/protocol.py, vllm/v1/metrics/loggers.py;
sglang 0.5.23 srt/entrypoints/openai/{protocol,serving_chat}.py, srt/observability
/metrics_collector.py; lmdeploy 0.18.0 serve/openai/protocol.py, metrics/metrics_processor.py.
"""

from collections.abc import Mapping

from llava_pack.profiles.profile import Dialect, MetricNames

_EVERYWHERE: Mapping[str, str] = {
    name: name
    for name in (
        "temperature", "top_p", "top_k", "min_p", "max_tokens", "logprobs", "repetition_penalty",
        "ignore_eos",
    )
}  # fmt: skip
_IN_MOST: Mapping[str, str] = {
    name: name
    for name in (
        "stop", "stop_token_ids", "min_tokens", "frequency_penalty", "presence_penalty",
        "logit_bias",
    )
}  # fmt: skip

VLLM = Dialect(
    # Its chat begins no prompt with the token that begins prompts, unless it is told to.
    request={"add_special_tokens": True, "return_token_ids": True},
    sampling={**_EVERYWHERE, **_IN_MOST, "seed": "seed"},
    grammars={
        "json_schema": "structured_outputs.json",
        "regex": "structured_outputs.regex",
        "choice": "structured_outputs.choice",
        "grammar": "structured_outputs.grammar",
    },
    endings={
        "opened": {"add_generation_prompt": True},
        "continued": {"add_generation_prompt": False, "continue_final_message": True},
        "closed": {"add_generation_prompt": False},
    },
    texts=True,
    salt="cache_salt",
    placeholders=("<image>",),
    tokenize="/tokenize",
)
VLLM_METRICS = MetricNames(
    steps="vllm:iteration_tokens_total_count",
    running="vllm:num_requests_running",
    waiting="vllm:num_requests_waiting",
    kv_usage="vllm:kv_cache_usage_perc",
    prompt_tokens="vllm:prompt_tokens_total",
    generated_tokens="vllm:generation_tokens_total",
    first_token_s="vllm:time_to_first_token_seconds",
    token_gap_s="vllm:inter_token_latency_seconds",
    prefix_queries="vllm:prefix_cache_queries_total",
    prefix_hits="vllm:prefix_cache_hits_total",
    picture_queries="vllm:mm_cache_queries_total",
    picture_hits="vllm:mm_cache_hits_total",
    step_tokens="vllm:iteration_tokens_total",
)

# Seeds count with --enable-deterministic-inference only; its route that tokenizes skips pictures.
SGLANG = Dialect(
    request={"return_output_ids_in_sglext": True},
    sampling={**_EVERYWHERE, **_IN_MOST},
    grammars={"json_schema": "response_format", "regex": "regex", "grammar": "ebnf"},
    endings={"opened": {}, "continued": {"continue_final_message": True}},
    texts=True,
    salt="cache_salt",
    placeholders=("<image>",),
)
SGLANG_METRICS = MetricNames(
    steps="sglang:realtime_tokens_total",
    running="sglang:num_running_reqs",
    waiting="sglang:num_queue_reqs",
    kv_usage="sglang:token_usage",
    prompt_tokens="sglang:prompt_tokens_total",
    generated_tokens="sglang:generation_tokens_total",
    first_token_s="sglang:time_to_first_token_seconds",
    token_gap_s="sglang:inter_token_latency_seconds",
)

# It reuses nothing between requests unless it is told to. It stops at texts of one token only, and
# of its two engines one has no bias. It keeps the 50 likeliest tokens where it is not told to keep
# all: lmdeploy 0.18.0 messages.py, GenerationConfig.
LMDEPLOY = Dialect(
    request={"return_token_ids": True, "top_k": 0},
    sampling={**_EVERYWHERE, "seed": "seed", "min_tokens": "min_new_tokens"},
    grammars={"json_schema": "response_format"},
    placeholders=("<image>", "<IMAGE_TOKEN>"),
)
LMDEPLOY_METRICS = MetricNames(
    steps="lmdeploy:iteration_tokens_total_count",
    running="lmdeploy:num_requests_running",
    waiting="lmdeploy:num_requests_waiting",
    kv_usage="lmdeploy:gpu_cache_usage_perc",
    prompt_tokens="lmdeploy:prompt_tokens_total",
    generated_tokens="lmdeploy:generation_tokens_total",
    first_token_s="lmdeploy:time_to_first_token_seconds",
    token_gap_s="lmdeploy:iter_token_latency",
    step_tokens="lmdeploy:iteration_tokens_total",
)
