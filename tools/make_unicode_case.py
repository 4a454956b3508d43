#!/usr/bin/env python3
"""Writes src/text/unicode_case.inc, the case mappings of Python's str, from the Python that runs it.

usage: tools/make_unicode_case.py > src/text/unicode_case.inc
"""
import unicodedata

CHARACTERS = [chr(c) for c in range(0x110000) if not 0xD800 <= c < 0xE000]


def ranges(mapping):
    """Runs of characters, one or two apart, that move by the same distance."""
    runs = []
    for c in CHARACTERS:
        mapped = mapping(c)
        if mapped is None or len(mapped) != 1:
            continue
        at, delta = ord(c), ord(mapped) - ord(c)
        if runs and runs[-1][3] == delta:
            first, last, step, _ = runs[-1]
            gap = at - last
            if gap in (1, 2) and (first == last or gap == step):
                runs[-1] = (first, at, gap, delta)
                continue
        runs.append((at, at, 1, delta))
    return runs


def table(name, mapping):
    print(f'constexpr CaseRange {name}[] = {{')
    line = '   '
    for first, last, step, delta in ranges(mapping):
        item = f' {{{first:#x}, {last:#x}, {step}, {delta}}},'
        if len(line) + len(item) > 100:
            print(line)
            line = '   '
        line += item
    print(line)
    print('};')


def literal(text):
    if len(text) == 1:
        return 'nullptr'
    return '"' + ''.join(f'\\x{byte:02x}' for byte in text.encode()) + '"'


print(f'// Made by tools/make_unicode_case.py from Unicode {unicodedata.unidata_version}; '
      'do not edit.')
print('// {first, last, step, distance}; title case only where it is not upper case.')
table('kUpper', lambda c: c.upper() if c.upper() != c else None)
table('kLower', lambda c: c.lower() if c.lower() != c else None)
table('kTitle', lambda c: c.title() if c.title() != c.upper() else None)
print('// Mappings to several characters: {character, upper, lower, title}.')
print('constexpr CaseSpecial kSpecial[] = {')
for c in CHARACTERS:
    if max(len(c.upper()), len(c.lower()), len(c.title())) > 1:
        print(f'    {{{ord(c):#x}, {literal(c.upper())}, {literal(c.lower())}, '
              f'{literal(c.title())}}},')
print('};')
