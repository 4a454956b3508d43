"""Writes a model as a checkpoint folder in the released layout, weights in bfloat16.

    python -m training.export TOKENIZER OUT     # side files and random weights; the trainer calls save()
"""
import json
import pathlib
import sys

import torch
from safetensors.torch import save_file

from . import config, model

TEMPLATE = pathlib.Path(__file__).with_name("chat_template.jinja")
KEEP_FLOAT = ("A_log", "dt_bias", ".D")


def tensors(net):
    out = {}
    for name, value in net.state_dict().items():
        kind = torch.float32 if name.endswith(KEEP_FLOAT) else torch.bfloat16
        out[name] = value.detach().to("cpu", kind).contiguous()
    return out


def save(net, tokenizer, folder):
    """Replaces the weights at once, so that a reader never sees half a file."""
    folder = pathlib.Path(folder)
    config.write_side_files(folder, tokenizer, net.config, TEMPLATE.read_text())
    save_file(tensors(net), folder / "model.safetensors.new", metadata={"format": "pt"})
    (folder / "model.safetensors.new").chmod(0o644)
    (folder / "model.safetensors.new").rename(folder / "model.safetensors")


if __name__ == "__main__":
    vocabulary = json.loads(pathlib.Path(sys.argv[1]).read_text())
    torch.manual_seed(0)
    save(model.NemotronVl(config.build(vocabulary)), vocabulary, sys.argv[2])
