#!/usr/bin/env python3
"""Writes cases.json: templates with what Jinja2 makes of them, in the environment chat templates get
from transformers (immutable sandbox, trim_blocks, lstrip_blocks, loop controls, its own tojson).

usage: tests/jinja/make.py           (needs jinja2; made with 3.1.2)
"""
import datetime
import json
import pathlib

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.sandbox

HERE = pathlib.Path(__file__).parent
NOW = datetime.datetime(2025, 7, 26, 14, 5, 9)


class Generation(jinja2.ext.Extension):
    """{% generation %} marks what the model wrote and prints it as it is."""
    tags = {'generation'}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(('name:endgeneration',), drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method('_print'), [], [], body).set_lineno(line)

    def _print(self, caller):
        return caller()


def environment(mutable):
    kind = jinja2.sandbox.SandboxedEnvironment if mutable else jinja2.sandbox.ImmutableSandboxedEnvironment
    env = kind(trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols])

    def raise_exception(message):
        raise jinja2.TemplateError(message)

    def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
        return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators,
                          sort_keys=sort_keys)

    env.filters['tojson'] = tojson
    env.globals['raise_exception'] = raise_exception
    env.globals['strftime_now'] = NOW.strftime
    return env


VARIABLES = {
    'name': 'World', 'empty': '', 'n': 7, 'neg': -7, 'zero': 0, 'pi': 3.14159, 'big': 12345678901234567890,
    'tiny': 1e-7, 'huge': 1e22, 'yes': True, 'no': False, 'nothing': None,
    'words': ['delta', 'Alpha', 'charlie', 'bravo', 'alpha'], 'nums': [3, 1, 2, 3], 'mixed': [1, 'two', 3.0, None, True],
    'nested': {'a': {'b': [10, 20, {'c': 'deep'}]}, 'items': 'shadowed', 'get': 1},
    'people': [{'name': 'Ann', 'age': 31, 'tags': ['x']}, {'name': 'bob', 'age': 25, 'tags': []},
               {'name': 'Cyd', 'age': 31}],
    'text': '  some <b>text</b> & "quotes" it\'s\n', 'uni': 'Größe ΣΑΣ ﬁ ǆ 日本 👩‍👩‍👧 e\u0301', 'lines': 'one\ntwo\n\nthree',
    'quote': 'it\'s', 'quotes': 'both \' and "', 'path': 'a/b c?d=é', 'ctrl': 'a\x00b\x1f\x7f\u2028\u00a0\u200b\t\\',
    'tool': {'type': 'function', 'function': {'name': 'f', 'description': 'Ünïcode <tag> & "q"', 'parameters': {
        'type': 'object', 'properties': {'x': {'type': 'number', 'minimum': 0.1, 'maximum': 1e100, 'default': None}},
        'required': ['x'], 'additionalProperties': False}}},
    'messages': [{'role': 'system', 'content': 'S'}, {'role': 'user', 'content': 'U1'},
                 {'role': 'assistant', 'content': 'A1'}, {'role': 'user', 'content': [{'type': 'text', 'text': 'U2'}, {'type': 'image'}]}],
}

# One template a line, rendered over VARIABLES.
PLAIN = [line for line in (HERE / 'plain.txt').read_text().split('\n') if line and not line.startswith('## ')]
# Several lines a template, with a line of '----' between; those of mutable.txt may change lists and dicts.
BLOCKS = (HERE / 'blocks.txt').read_text().split('\n----\n')
MUTABLE = (HERE / 'mutable.txt').read_text().split('\n----\n')


def outcome(env, template, variables):
    try:
        return {'output': env.from_string(template).render(**variables)}
    except Exception as error:  # whatever Python raises, ours must refuse too
        return {'error': f'{type(error).__name__}: {error}'[:100]}


def main():
    fixed, mutable = environment(False), environment(True)
    small = []
    for kind, env, templates in (('plain', fixed, PLAIN), ('block', fixed, BLOCKS), ('mutable', mutable, MUTABLE)):
        for template in templates:
            if kind == 'plain':
                template = template.replace('⏎', '\n')
            small.append({'template': template, **outcome(env, template, VARIABLES)})
    conversations = json.loads((HERE / 'conversations.json').read_text())
    whole = []
    for path in sorted((HERE / 'templates').glob('*.jinja')):
        for name, variables in conversations.items():
            shared = {'bos_token': '<s>', 'eos_token': '</s>', **variables}
            whole.append({'file': path.name, 'conversation': name, **outcome(fixed, path.read_text(), shared)})
    out = {'made_with': f'jinja2 {jinja2.__version__}', 'now': NOW.isoformat(), 'variables': VARIABLES,
           'small': small, 'whole': whole}
    with open(HERE / 'cases.json', 'w') as file:
        json.dump(out, file, ensure_ascii=False, indent=0)
        file.write('\n')
    errors = sum('error' in case for case in small + whole)
    print(f'{len(small)} small cases, {len(whole)} whole templates with conversations; {errors} are refusals')


if __name__ == '__main__':
    main()
