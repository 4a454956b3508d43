"""A folder of page pictures, all at once: many_documents.py FOLDER [MODEL]

Pages of a PDF are made by a tool of your own, such as `pdftoppm -r 100 -png file.pdf pages/file`.
"""

import json
import pathlib
import sys

from videre import LLM, SamplingParams

QUESTION = "Name the kind of document, its date and its total."


def main(folder: str, model: str | None = None) -> None:
    pages = sorted(path for path in pathlib.Path(folder).iterdir() if path.suffix in (".png", ".jpg", ".webp"))
    llm = LLM(model, max_model_len=8192, max_num_seqs=16)
    conversations = [
        [{"role": "user", "content": [{"type": "image", "image": page}, {"type": "text", "text": QUESTION}]}]
        for page in pages
    ]
    # Pages are read while earlier ones are answered, a few at a time; a broken one spoils no other.
    outputs = llm.chat(
        conversations,
        SamplingParams(temperature=0, max_tokens=48),
        mm_processor_kwargs={"max_num_tiles": 6},
        on_error="return",
    )
    for page, output in zip(pages, outputs):
        answer = {"error": str(output.error)} if output.error else {"answer": output.outputs[0].text}
        print(json.dumps({"page": page.name, **answer}))


if __name__ == "__main__":
    main(*sys.argv[1:3])
