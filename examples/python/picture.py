"""Ask about a picture: picture.py PICTURE [MODEL]"""

import sys

from PIL import Image

from videre import LLM, SamplingParams


def main(path: str, model: str | None = None) -> None:
    with LLM(model, max_model_len=8192) as llm:
        messages = [
            {
                "role": "user",
                "content": [
                    {"type": "image", "image": Image.open(path)},  # or a path, a URL, uint8 pixels
                    {"type": "text", "text": "What does this picture show?"},
                ],
            }
        ]
        plan = llm.plan(messages)[0]
        picture = plan.images[0]
        print(f"{picture.width}x{picture.height} px, {picture.tiles} tiles, {plan.num_tokens} tokens")

        outputs = llm.chat(messages, SamplingParams(temperature=0, max_tokens=64), use_tqdm=False)
        print(outputs[0].outputs[0].text)


if __name__ == "__main__":
    main(*sys.argv[1:3])
