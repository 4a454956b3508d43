#!/usr/bin/env python3
"""The training code draws, takes two steps on the CPU, goes on from its state, and writes a checkpoint that Videre reads:
two_steps.py VIDERE. Exit code 77 (skipped) where PyTorch or another package is missing; VIDERE_TRAINING_PYTHON names the
Python that has them."""

import json
import os
import pathlib
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
PACKAGES = 'torch numpy cv2 PIL tokenizers safetensors jinja2'.split()
SETUP = '''
import pathlib
from PIL import ImageFont
from training import text
for part in ('train', 'held'):
    (pathlib.Path('.vt/fonts') / part).mkdir(parents=True)
    (pathlib.Path('.vt/fonts') / part / 'plain.ttf').write_bytes(ImageFont.load_default(20).path.getvalue())
pathlib.Path('.vt/words').write_text('\\n'.join(sorted({w.lower() for w in text.GOODS + text.CITY + text.LAST})))
'''


def main():
    binary = os.path.abspath(sys.argv[1])
    python = os.environ.get('VIDERE_TRAINING_PYTHON', sys.executable)
    for name in PACKAGES:
        if subprocess.run([python, '-c', f'import {name}'], capture_output=True).returncode:
            print(f'two_steps: skipped, {python} has no package {name}')
            return 77
    with tempfile.TemporaryDirectory() as folder:
        def run(*words):
            done = subprocess.run([str(w) for w in words], cwd=folder, text=True, capture_output=True, timeout=500,
                                  env=os.environ | {'PYTHONPATH': str(ROOT), 'PYTHONDONTWRITEBYTECODE': '1', 'OMP_NUM_THREADS': '2'})
            if done.returncode:
                sys.exit(f'{" ".join(map(str, words))}: exit code {done.returncode}\n{done.stdout[-2000:]}{done.stderr[-4000:]}')
            return done.stdout

        train = [python, '-m', 'training.train', 'run', '--cpu', '--no-compile', '--rows', 1, '--eval-rows', 1, '--workers', 1,
                 '--tokenizer', ROOT / 'models/videre-tiny', '--log-every', 1, '--quantise-from', 0, '--quantised', 1]
        run(python, '-c', SETUP)
        run(*train, '--steps', 2)
        run(*train, '--steps', 3)                                        # goes on from run/state.pt
        log = [json.loads(line) for line in (pathlib.Path(folder) / 'run/log.jsonl').read_text().splitlines()]
        ends = [entry['step'] for entry in log if 'done' in entry]
        losses = [entry['loss'] for entry in log if 'loss' in entry]
        if ends != [2, 3] or not losses or not all(0 < x < 20 for x in losses):
            sys.exit(f'two_steps: runs ended at steps {ends}, expected [2, 3]; losses {losses}, expected numbers from 0 to 20')
        exact = [entry['exact'] for entry in log if 'exact' in entry]
        print(f'two_steps: losses {losses}, {len(exact[-1])} tasks measured on held-out samples')
        tensors = json.loads(run(binary, 'inspect', 'run/model', '--json'))['tensors']
        shipped = json.loads(run(binary, 'inspect', ROOT / 'models/videre-tiny', '--json'))['tensors']
        if tensors != shipped:
            sys.exit('two_steps: the checkpoint written has other tensors than models/videre-tiny, expected the same names and shapes')
    return 0


if __name__ == '__main__':
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    sys.exit(main())
