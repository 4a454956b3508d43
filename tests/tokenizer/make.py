#!/usr/bin/env python3
"""Writes vectors.json: what the `tokenizers` package makes of texts, over tests/tiny-b's vocabulary with
parts of its tokenizer.json replaced, and how its regular expressions cut texts.

usage: tests/tokenizer/make.py       (needs tokenizers; made with 0.23.3)
"""
import json
import pathlib
import random

import tokenizers
from tokenizers import pre_tokenizers

HERE = pathlib.Path(__file__).parent
TEKKEN = (r'[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|'
          r'[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|'
          r'\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+')
RESAVED = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"
           r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
PATTERNS = [
    TEKKEN, RESAVED, GPT2,
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}",
    r'\p{N}{1,3}|[一-龥぀-ゟ゠-ヿ]+', r'[!"#$%&\'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+',
    r'\s', r'\S+', r'[^\s]+', r'[\S]', r'\d+', r'\D+', r'\w+', r'\W+', r'[\w-]+', r'\p{Han}+', r'\P{L}+', r'\p{^L}+', r'\p{Alphabetic}+',
    r'^.', r'.$', r'.+', r'a{2}', r'a{,2}', r'a{2,}', r'a{1,3}?', r'a++b?', r'(?>a|ab)c', r'(?i)s|k', r'(?i:d)', r'x|y|',
    r'(?<=a)b|(?<!a)c', r'\u0041|\x42|\x{43}|\t', r'[\u0041-\u0043\]\-]', r'\p{White_Space}+', r'\p{Lu}\p{Ll}*', r'(ab|a)(c|bcd)(d*)', r'a*?', r'[a-c&]+', r'\Aa', r'a\z',
]
WORDS = ['Hello', ' world', 'HELLO', "don't", "I'LL", "'ſ", 'naïve', 'Straße', 'ǅ', 'ʰ', '日本語', ' 한국어', 'हिन्दी', 'مرحبا', '1234567', ' ²½Ⅷ४', '\n', '\r\n', '\t', '  ', '\u00a0',
         '\u180e', '\u0085', '\u2028', '\u3000', '\u200b', '\u200d', '👩‍👩‍👧', '🏳️‍🌈', 'e\u0301', '.', '...', '//', '()', '<s>', '</s>', '<SPECIAL_11>', '<image>', ' foo', 'foobar', 'aab', 'abcd', 'aaaa',
         'K', '_x_', '\U0001d400', '\U0010ffff', 'ABC]-', 'x=1;', 'snake_case', 'camelCase', 'Ⓐ', '\u2071', '\u203f', '\u0345', '〇', '\u2160', '€', '⁴', '¹', '\u00aa']
random.seed(7)
TEXTS = ['', ' ', 'a'] + [''.join(random.choices(WORDS, k=random.randint(1, 9))) for _ in range(40)]

SPLIT = {'type': 'Split', 'pattern': {'Regex': TEKKEN}, 'behavior': 'Isolated', 'invert': False}
BYTES = {'type': 'ByteLevel', 'add_prefix_space': False, 'trim_offsets': True, 'use_regex': False}


def sequence(*steps):
    return {'type': 'Sequence', 'pretokenizers': list(steps)}


def added(content, **flags):
    return {'content': content, 'single_word': False, 'lstrip': False, 'rstrip': False, 'normalized': False, 'special': False, **flags}


def split(pattern, behavior='Isolated', invert=False):
    return {'type': 'Split', 'pattern': pattern, 'behavior': behavior, 'invert': invert}


# name: parts of tokenizer.json that replace tiny-b's; "model" is merged, "more_added_tokens" appended.
VARIANTS = {
    'tekken': {},
    'resaved': {'pre_tokenizer': sequence({**SPLIT, 'pattern': {'Regex': RESAVED}}, BYTES)},
    'merges only': {'model': {'ignore_merges': False}},
    'byte level alone': {'pre_tokenizer': {'type': 'ByteLevel', 'add_prefix_space': True, 'trim_offsets': True, 'use_regex': True}},
    'digits': {'pre_tokenizer': sequence({'type': 'Digits', 'individual_digits': True}, SPLIT, BYTES)},
    'previous': {'pre_tokenizer': sequence(split({'String': 'a'}, 'MergedWithPrevious'), BYTES)},
    'next': {'pre_tokenizer': sequence(split({'Regex': r'\s+'}, 'MergedWithNext'), BYTES)},
    'contiguous': {'pre_tokenizer': sequence(split({'Regex': r'\p{L}'}, 'Contiguous', True), BYTES)},
    'removed': {'pre_tokenizer': sequence(split({'String': '.'}, 'Removed'), split({'Regex': r'\w+'}, 'Removed', True), BYTES)},
    'normalized': {'normalizer': {'type': 'Sequence', 'normalizers': [
        {'type': 'Replace', 'pattern': {'String': 'o'}, 'content': '00'}, {'type': 'Prepend', 'prepend': '_'}]},
        'more_added_tokens': [added('foo', normalized=True)]},
    'added': {'more_added_tokens': [
        added('foo', single_word=True), added('foobar', lstrip=True, rstrip=True), added(' world', special=True),
        added('日本', single_word=True, lstrip=True), added('<s><s>', rstrip=True), added('case', normalized=True, lstrip=True)]},
    'fallback': {'model': {'ignore_merges': False, 'byte_fallback': True, 'unk_token': '<unk>', 'fuse_unk': True}, 'drop_letters': True},
    'fallback, unfused': {'model': {'ignore_merges': False, 'byte_fallback': True, 'unk_token': '<unk>'}, 'drop_letters': True},
}


def build(base, patch):
    """The whole tokenizer.json; tokenizer_test.cc does the same."""
    out = json.loads(json.dumps(base))
    for key, value in patch.items():
        if key == 'model':
            out['model'].update(value)
        elif key == 'more_added_tokens':
            first = max(token['id'] for token in out['added_tokens']) + 1
            out['added_tokens'] += [{'id': first + i, **token} for i, token in enumerate(value)]
        elif key == 'drop_letters':  # every third letter of the alphabet goes; every other byte gets a token
            vocab = out['model']['vocab']
            for token in [token for token, id in vocab.items() if len(token) == 1 and id % 3 == 0]:
                id = vocab.pop(token)
                vocab[f'<dropped {id}>'] = id
            known = lambda merge: merge[0] in vocab and merge[1] in vocab and merge[0] + merge[1] in vocab
            out['model']['merges'] = [merge for merge in out['model']['merges'] if known(merge)]
            ids = [id for token, id in vocab.items() if token.startswith('<SPECIAL_') and int(token[9:-1]) >= 20]
            names = {id: f'<0x{byte:02X}>' for id, byte in zip(sorted(ids), range(0, 256, 2))}
            out['added_tokens'] = [token for token in out['added_tokens'] if token['id'] not in names]
            for token in [token for token, id in vocab.items() if id in names]:
                id = vocab.pop(token)
                vocab[names[id]] = id
        else:
            out[key] = value
    return out


def main():
    base = json.loads((HERE.parent / 'tiny-b/checkpoint/tokenizer.json').read_text())
    variants = []
    for name, patch in VARIANTS.items():
        tokenizer = tokenizers.Tokenizer.from_str(json.dumps(build(base, patch)))
        rows = []
        for text in TEXTS:
            ids = tokenizer.encode(text, add_special_tokens=False).ids
            rows.append([text, ids, tokenizer.decode(ids, skip_special_tokens=True)])
        variants.append({'name': name, 'patch': patch, 'rows': rows})
    splits = []
    for pattern in PATTERNS:
        cutter = pre_tokenizers.Split(tokenizers.Regex(pattern), 'isolated')
        splits.append({'pattern': pattern, 'pieces': [[piece for piece, _ in cutter.pre_tokenize_str(text)] for text in TEXTS]})
    with open(HERE / 'vectors.json', 'w') as file:
        json.dump({'made_with': f'tokenizers {tokenizers.__version__}', 'texts': TEXTS, 'variants': variants, 'splits': splits}, file,
                  ensure_ascii=False, separators=(',', ':'))
        file.write('\n')


if __name__ == '__main__':
    main()
