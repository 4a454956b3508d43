"""Frames chosen by the caller: own_sampling.py PICTURES-OF-FRAMES... [--model=MODEL]"""

import sys

import numpy as np
from PIL import Image

from videre import LLM, SamplingParams

SOURCE_FPS = 30.0  # of the clip that the frames were taken from
EVERY = 15  # one frame of so many was kept


def main(paths: list[str], model: str | None = None) -> None:
    pictures = [Image.open(path).convert("RGB") for path in paths]
    size = pictures[0].size
    frames = np.stack([np.asarray(picture.resize(size)) for picture in pictures])  # [frames, H, W, 3]
    # The model is told when each frame was: frames_indices count in fps, so both are the source's.
    metadata = {
        "fps": SOURCE_FPS,
        "frames_indices": [i * EVERY for i in range(len(frames))],
        "total_num_frames": len(frames) * EVERY,
        "duration": len(frames) * EVERY / SOURCE_FPS,
    }
    llm = LLM(model, max_model_len=8192)
    prompt = llm.get_tokenizer().apply_chat_template(
        [{"role": "user", "content": [{"type": "video"}, {"type": "text", "text": "What happens?"}]}],
        tokenize=False,
        add_generation_prompt=True,
    )
    outputs = llm.generate(
        {"prompt": prompt, "multi_modal_data": {"video": (frames, metadata)}},  # not copied
        SamplingParams(temperature=0, max_tokens=64),
        use_tqdm=False,
    )
    print(outputs[0].outputs[0].text)


if __name__ == "__main__":
    words = sys.argv[1:]
    models = [word.removeprefix("--model=") for word in words if word.startswith("--model=")]
    main([word for word in words if not word.startswith("--model=")], *models)
