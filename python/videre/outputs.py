"""What calls return."""

from typing import Any, NamedTuple


class Logprob(NamedTuple):
    """A token's log-probability, its rank (1 is the likeliest) and its text."""

    logprob: float
    rank: int | None = None
    decoded_token: str | None = None


class CompletionOutput:
    """One answer to a prompt: whole, or a piece when streaming.

    finish_reason: "stop", "length" or "abort"; None while more will come
    stop_reason: the stop string or stop token that ended it; None for the model's own end
    logprobs: for each token, {token_id: Logprob} of itself and the likeliest
    """

    __slots__ = (
        "index",
        "text",
        "token_ids",
        "cumulative_logprob",
        "logprobs",
        "finish_reason",
        "stop_reason",
        "lora_request",
    )

    def __init__(
        self,
        index: int,
        text: str,
        token_ids: list[int],
        cumulative_logprob: float | None = None,
        logprobs: list[dict[int, Logprob]] | None = None,
        finish_reason: str | None = None,
        stop_reason: int | str | None = None,
    ):
        self.index = index
        self.text = text
        self.token_ids = token_ids
        self.cumulative_logprob = cumulative_logprob
        self.logprobs = logprobs
        self.finish_reason = finish_reason
        self.stop_reason = stop_reason
        self.lora_request = None

    def finished(self) -> bool:
        return self.finish_reason is not None

    def __repr__(self) -> str:
        return (
            f"CompletionOutput(index={self.index}, text={self.text!r}, token_ids={self.token_ids}, "
            f"cumulative_logprob={self.cumulative_logprob}, logprobs={self.logprobs}, "
            f"finish_reason={self.finish_reason}, stop_reason={self.stop_reason})"
        )


class RequestMetrics(NamedTuple):
    """Times in seconds of `time.monotonic()`; `finished_time` is None while more will come."""

    arrival_time: float
    first_token_time: float
    finished_time: float | None
    num_generation_tokens: int


class RequestOutput:
    """All answers to one prompt.

    prompt_token_ids: the prompt as the model sees it, media expanded
    request_index: the prompt's place in the call
    error: what went wrong, for calls with on_error="return"; else None
    """

    __slots__ = (
        "request_id",
        "request_index",
        "prompt",
        "prompt_token_ids",
        "prompt_logprobs",
        "outputs",
        "finished",
        "metrics",
        "lora_request",
        "encoder_prompt",
        "encoder_prompt_token_ids",
        "num_cached_tokens",
        "kv_transfer_params",
        "error",
    )

    def __init__(
        self,
        request_id: str,
        request_index: int,
        prompt: str,
        prompt_token_ids: list[int],
        outputs: list[CompletionOutput],
        finished: bool,
        metrics: RequestMetrics | None = None,
        num_cached_tokens: int | None = None,
        error: Exception | None = None,
    ):
        self.request_id = request_id
        self.request_index = request_index
        self.prompt = prompt
        self.prompt_token_ids = prompt_token_ids
        self.prompt_logprobs = None
        self.outputs = outputs
        self.finished = finished
        self.metrics = metrics
        self.lora_request = None
        self.encoder_prompt = None
        self.encoder_prompt_token_ids = None
        self.num_cached_tokens = num_cached_tokens
        self.kv_transfer_params: dict[str, Any] | None = None
        self.error = error

    def __repr__(self) -> str:
        return (
            f"RequestOutput(request_id={self.request_id}, prompt={self.prompt!r}, "
            f"prompt_token_ids={self.prompt_token_ids}, outputs={self.outputs}, finished={self.finished}, "
            f"num_cached_tokens={self.num_cached_tokens}, error={self.error!r})"
        )


class ImagePlan(NamedTuple):
    """A picture in a prompt: its size, its grid of tiles (a thumbnail may come on top), its vision tokens."""

    width: int
    height: int
    columns: int
    rows: int
    tiles: int
    tokens: int


class VideoPlan(NamedTuple):
    """A clip in a prompt: its frames, their times in seconds, vision tokens kept and pruned."""

    frames_indices: list[int]
    timestamps: list[float]
    tokens: int
    pruned_tokens: int
    fps: float
    duration: float


class Plan(NamedTuple):
    """A prompt before its run: exact tokens, and the memory that the run takes at most.

    kv_cache_bytes: of prompt and answer, when the answer takes all of max_tokens
    state_bytes: of the state that does not grow with length
    fits: whether prompt and answer fit the model's context
    """

    prompt: str
    prompt_token_ids: list[int]
    num_tokens: int
    text_tokens: int
    image_tokens: int
    video_tokens: int
    images: list[ImagePlan]
    videos: list[VideoPlan]
    kv_cache_bytes: int
    state_bytes: int
    fits: bool


class Metric(NamedTuple):
    """A counter or gauge under the name that the server's metrics page has."""

    name: str
    kind: str
    value: float
    labels: dict[str, str]
