"""Chat text, token ids and the small vocabulary: what ../models' chat template and tokenizer.json say, in Python.

    python -m training.prompt OUT     # makes tokenizer.json in OUT from the sentences of the tasks

Printed content (words, names, codes) is spelt character by character: only words of our own sentences get a token.
That works with plain byte-level BPE files: `ignore_merges` emits a whole piece that the vocabulary holds, and
without merges every other piece falls into its bytes.
"""
import collections
import functools
import json
import pathlib
import re
import sys

from tokenizers import Tokenizer

SPECIALS = ["<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[TOOL_RESULTS]",
            "[/TOOL_RESULTS]", "[TOOL_CALLS]"] + [f"<SPECIAL_{i}>" for i in range(10, 32)]
MEDIA = ["<image>", "<img>", "</img>", "<quad>", "</quad>", "<ref>", "</ref>", "<box>", "</box>", "<video>"]
PATTERN = (r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|"
           r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|"
           r"\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+")
BOS, EOS = 1, 12
END = "<SPECIAL_12>"

TOOLS_HEAD = "You can call these tools:\n<AVAILABLE_TOOLS>["
TOOLS_TAIL = ("]</AVAILABLE_TOOLS>\n\nTo call tools, answer with\n<TOOLCALL>[{\"name\": \"tool\", \"arguments\": {}}, "
              "{\"name\": \"tool\", \"arguments\": {}}]</TOOLCALL>\n\nResults come back as\n"
              "<TOOL_RESPONSE>[result, result]</TOOL_RESPONSE>\n\nThen call again, correct a call, or answer.")


# --- vocabulary ------------------------------------------------------------------------------------------------

def byte_symbols():
    """The usual printable stand-ins for the 256 bytes, in byte order."""
    plain = list(range(33, 127)) + list(range(161, 173)) + list(range(174, 256))
    table, spare = {b: chr(b) for b in plain}, 256
    for b in range(256):
        if b not in table:
            table[b] = chr(spare)
            spare += 1
    return [table[b] for b in range(256)]


def tokenizer_json(pieces):
    """The file's content; ids: specials, bytes, pieces, media tags."""
    symbols = byte_symbols()
    vocab = {s: i for i, s in enumerate(SPECIALS)}
    for s in symbols + [p for p in pieces if p not in symbols]:
        vocab.setdefault(s, len(vocab))
    tags = SPECIALS + MEDIA
    ids = {s: i for i, s in enumerate(SPECIALS)} | {s: len(vocab) + i for i, s in enumerate(MEDIA)}
    flags = dict(single_word=False, lstrip=False, rstrip=False, normalized=False, special=True)
    return {
        "version": "1.0", "truncation": None, "padding": None,
        "added_tokens": [{"id": ids[s], "content": s, **flags} for s in tags],
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": PATTERN}, "behavior": "Isolated", "invert": False},
            {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}]},
        "post_processor": {"type": "TemplateProcessing",
                           "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
                           "pair": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}},
                                    {"Sequence": {"id": "B", "type_id": 1}}],
                           "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}}},
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
                  "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": True,
                  "vocab": vocab, "merges": []}}


def make_vocabulary(out, samples=5000, least=3):
    """Counts the pieces of our sentences, content left blank, and writes tokenizer.json."""
    from . import tasks
    splitter = Tokenizer.from_str(json.dumps(tokenizer_json([]))).pre_tokenizer
    count = collections.Counter()
    for i in range(samples):
        sample = tasks.draw_sample(i, 1.0, blank=True)
        for string, _ in chat(sample):
            for part in re.split("|".join(map(re.escape, SPECIALS + MEDIA)), string):
                count.update(p for p, _ in splitter.pre_tokenize_str(part))
    for label in ("Frame 1 sampled at 0.00 seconds: ", "\nFrame 1 sampled at 0.00 seconds: ", "This is a video:\n"):
        count.update({p: 99 for p, _ in splitter.pre_tokenize_str(label)})
    pieces = sorted(p for p, n in count.items() if n >= least and len(p) > 1 and len(p) < 24)
    pathlib.Path(out).mkdir(parents=True, exist_ok=True)
    (pathlib.Path(out) / "tokenizer.json").write_text(json.dumps(tokenizer_json(pieces), ensure_ascii=False, indent=1))
    print(len(pieces), "pieces")


# --- chat ------------------------------------------------------------------------------------------------------

def clean(t):
    return (t.replace("</think>", "<_end_think>").replace("/think", "").replace("/no_think", "")
            .replace("<_end_think>", "</think>"))


def media_prefix(media):
    images = sum(not hasattr(m, "fps") for m in media)
    videos = len(media) - images
    tags = "<image>\n" if images == 1 else " ".join(f"<image {i + 1}><image>" for i in range(images)) + "\n" if images else ""
    return tags + "<video>\n" * videos


def system_text(system, tools):
    out = clean(system).strip()
    if tools:
        dumped = ", ".join(json.dumps(t["function"], ensure_ascii=False) for t in tools)
        out += ("\n\n" if out else "") + TOOLS_HEAD + dumped + TOOLS_TAIL
    return out


def chat(sample, as_history=False):
    """The conversation as [(text, learnt)]; the last pair's text is the last answer. `as_history` writes earlier
    answers the way a client sends them back; otherwise each turn opens as it does when it is generated."""
    parts = [("<s><SPECIAL_10>System\n" + system_text(sample.system, sample.tools) + "\n", False)]
    opening = "<SPECIAL_11>Assistant\n" + ("<think>\n" if sample.think else "<think></think>")
    if sample.messages:
        for m in sample.messages:
            if m["role"] == "user":
                parts.append((f"<SPECIAL_11>User\n{clean(m['content']).strip()}\n", False))
            elif m["role"] == "assistant":
                calls = ", ".join(f'{{"name": "{c["function"]["name"]}", "arguments": {json.dumps(c["function"]["arguments"], ensure_ascii=False)}}}'
                                  for c in m["tool_calls"])
                parts.append((f"<SPECIAL_11>Assistant\n<TOOLCALL>[{calls}]</TOOLCALL>\n{END}\n", False))
            else:
                parts.append((f"<SPECIAL_11>User\n<TOOL_RESPONSE>[{m['content']}]</TOOL_RESPONSE>\n", False))
        return parts + [(opening, False), (sample.turns[-1][1] + END, True)]
    for k, (question, answer) in enumerate(sample.turns):
        last = k == len(sample.turns) - 1
        user = (media_prefix(sample.media) if k == 0 else "") + clean(question).strip()
        parts.append((f"<SPECIAL_11>User\n{user}\n", False))
        if as_history and not last:
            parts.append((f"<SPECIAL_11>Assistant\n{answer}\n{END}\n", False))
        else:
            parts += [(opening, False), (answer + END, True)] + ([] if last else [("\n", False)])
    return parts


# --- ids -------------------------------------------------------------------------------------------------------

class Encoder:
    """Text and media to ids. `tile_tokens` is the number of rows that a tile gives."""

    def __init__(self, folder, tile_tokens):
        self.tok = Tokenizer.from_file(str(pathlib.Path(folder) / "tokenizer.json"))
        self.tile_tokens = tile_tokens
        self.image, self.start, self.end = (self.tok.token_to_id(t) for t in ("<image>", "<img>", "</img>"))
        self.text = functools.lru_cache(20000)(lambda s: self.tok.encode(s, add_special_tokens=False).ids)

    def decode(self, ids):
        return self.tok.decode([int(i) for i in ids], skip_special_tokens=True)

    def span(self, medium, label=0):
        """Ids of one image or clip (nothing pruned). `label` chooses the text around frames, see spec: 0 plain, 1 newlines."""
        if not hasattr(medium, "fps"):
            return [self.start] + [self.image] * (self.tile_tokens * len(medium.tiles)) + [self.end]
        ids = []
        for k, t in enumerate(medium.times()):
            lead = "\n" if label and k else ""
            ids += self.text(f"{lead}Frame {k + 1} sampled at {t:.2f} seconds: ") + [self.start] + [self.image] * self.tile_tokens + [self.end]
        return ids

    def sample(self, sample, as_history=False, label=0, prompt_only=False):
        """(ids, learnt): learnt[i] says that ids[i] is to be predicted."""
        ids, learnt, media = [], [], iter(sample.media)
        parts = chat(sample, as_history)
        for string, target in parts[:-1] if prompt_only else parts:
            for piece in re.split(r"(<image>|<video>)", string):
                more = self.span(next(media), label) if piece in ("<image>", "<video>") and not target else self.text(piece) if piece else []
                ids += more
                learnt += [target] * len(more)
        return ids, learnt


if __name__ == "__main__":
    make_vocabulary(sys.argv[1])
