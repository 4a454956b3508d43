#!/usr/bin/env python3
"""Makes tests/builtin/samples.jsonl: one or two questions a task whose answers by the built-in model are the same, and
right, in every format and at every pruning rate. Run again when models/ changes.

usage: choose_answers.py VIDERE SET OUT     (SET as models/*-eval; OUT as tests/builtin)
"""
import collections
import json
import pathlib
import subprocess
import sys
import tempfile

TWICE = ('form', 'pictures', 'clip_move', 'clip_words')     # two samples of these, one of all others


def main():
    binary, source, out = sys.argv[1], pathlib.Path(sys.argv[2]), pathlib.Path(sys.argv[3])
    with tempfile.TemporaryDirectory() as folder:
        answers = pathlib.Path(folder) / 'answers.jsonl'
        subprocess.run([binary, 'bench', 'accuracy', 'builtin', '--set', source, '--samples', '10', '--compare', 'all',
                        '--answers', answers], check=True)
        seen = collections.defaultdict(list)
        for line in answers.read_text().splitlines():
            answer = json.loads(line)
            seen[answer['where']].append((answer['variant'], answer['answer'], answer['right']))
    most = max(map(len, seen.values()))
    lines, counts = [], collections.Counter()
    for file in sorted(source.glob('*.jsonl')):
        if file.name == 'calibration.jsonl':
            continue
        stored = file.read_text().splitlines()
        steady = []
        for number, line in enumerate(stored, 1):
            runs = seen.get(f'{file.name}:{number}', [])
            clip = '"video_url"' in line
            if len(runs) != (most if clip else most - 2) or len({r[1] for r in runs}) != 1 or not all(r[2] for r in runs):
                continue
            entry = json.loads(line)
            entry['check'] = {'kind': 'exact', 'truth': runs[0][1]}
            steady.append(entry)
        for entry in sorted(steady, key=lambda e: len(json.dumps(e))):
            if counts[entry['task']] < (2 if entry['task'] in TWICE else 1):
                counts[entry['task']] += 1
                lines.append(json.dumps(entry, ensure_ascii=False))
    out.mkdir(parents=True, exist_ok=True)
    (out / 'samples.jsonl').write_text('\n'.join(lines) + '\n')
    print(len(lines), 'samples,', (out / 'samples.jsonl').stat().st_size // 1024, 'KiB;', dict(counts))


if __name__ == '__main__':
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    main()
