"""Ask about a clip, with most of its tokens pruned: video.py CLIP [MODEL]"""

import os
import sys

from videre import LLM, SamplingParams


def main(path: str, model: str | None = None) -> None:
    path = os.path.abspath(path)
    llm = LLM(
        model,
        max_model_len=8192,
        allowed_local_media_path=os.path.dirname(path),
        media_io_kwargs={"video": {"fps": 2, "num_frames": 128}},
        video_pruning_rate=0.75,
    )
    messages = [
        {
            "role": "user",
            "content": [
                {"type": "video_url", "video_url": {"url": f"file://{path}"}},
                {"type": "text", "text": "What happens in this clip?"},
            ],
        }
    ]
    clip = llm.plan(messages)[0].videos[0]
    print(f"{len(clip.frames_indices)} frames, {clip.tokens} vision tokens kept and {clip.pruned_tokens} pruned")

    # The rate can be another for each call; 0 turns pruning off.
    for rate in (0.75, 0.5):
        outputs = llm.chat(
            messages,
            SamplingParams(temperature=0, max_tokens=64),
            use_tqdm=False,
            mm_processor_kwargs={"video_pruning_rate": rate},
        )
        print(f"rate {rate}, prompt of {len(outputs[0].prompt_token_ids)} tokens: {outputs[0].outputs[0].text}")


if __name__ == "__main__":
    main(*sys.argv[1:3])
