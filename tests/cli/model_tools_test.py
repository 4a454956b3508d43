#!/usr/bin/env python3
"""Holds the built program to what it promises of models: quantize, export, init-config, bench accuracy, and the built-in one.

usage: model_tools_test.py VIDERE [TestClass[.test]]...
"""
import json
import os
import pathlib
import shutil
import signal
import struct
import subprocess
import sys
import time
import unittest

import cli_test
from cli_test import CHECKPOINT, MEDIA, TINY, Case, body, read_safetensors, videre

ANSWERS = TINY.parent / 'builtin'


def carries_model():
    return videre('tokenize', 'builtin', stdin='x').code == 0


def line(task, question, truth, kind='exact', **fields):
    return json.dumps({'task': task, 'request': {'messages': [{'role': 'user', 'content': question}], 'max_tokens': 4, **fields},
                       'check': {'kind': kind, 'truth': truth}}) + '\n'


class Quantize(Case):
    def calibration(self):
        folder = self.folder / 'requests'
        folder.mkdir()
        shutil.copy(MEDIA / 'square.png', folder / 'a picture.png')
        (folder / 'one.json').write_text(json.dumps({'messages': [{'role': 'user', 'content': [
            {'type': 'image_url', 'image_url': {'url': 'a picture.png'}}, {'type': 'text', 'text': 'Read this.'}]}]}))
        (folder / 'more.jsonl').write_text(json.dumps(body('video', ['clip.avi'], 'What moves?')) + '\n\n' +
                                           json.dumps({'messages': [{'role': 'user', 'content': 'Hi'}], 'max_tokens': 3}) + '\n')
        return folder

    def test_both_formats_load_and_answer(self):
        requests = self.calibration()
        for name, dtype in (('fp8', 'F8_E4M3'), ('nvfp4', 'U8')):
            out = self.folder / name
            done = videre('quantize', CHECKPOINT, out, '--format', name, '--calibration', requests, '--kv-cache', 'fp8',
                          '--exclude', '*layers.1.*')
            self.assertEqual(done.code, 0, done.err)
            self.assertIn('22 of 24 linears', done.out)
            self.assertIn('calibrated with 3 requests', done.err)
            header = read_safetensors(out / 'model.safetensors')[0]
            stem = 'language_model.backbone.layers.2.mixer.'
            self.assertEqual(header[stem + 'q_proj.weight']['dtype'], dtype)
            self.assertEqual(header['language_model.backbone.layers.1.mixer.up_proj.weight']['dtype'], 'BF16')
            for scale in ('q_proj.weight_scale', 'q_proj.input_scale', 'k_proj.k_scale', 'v_proj.v_scale'):
                self.assertIn(stem + scale, header)
            config = json.loads((out / 'config.json').read_text())
            declared = config.pop('quantization_config')
            self.assertEqual(config, json.loads((CHECKPOINT / 'config.json').read_text()))
            self.assertEqual(declared['quant_algo'], name.upper())
            self.assertIn('*layers.1.*', declared['ignore'])
            self.assertEqual(declared['kv_cache_scheme'], {'dynamic': False, 'num_bits': 8, 'type': 'float'})
            outside = json.loads((out / 'hf_quant_config.json').read_text())['quantization']
            self.assertEqual((outside['quant_algo'], outside['kv_cache_quant_algo']), (name.upper(), 'FP8'))
            summary = json.loads(self.ok('inspect', out, '--json'))
            self.assertIn(name, json.dumps(summary))
            run = json.loads(self.ok('run', '--model', out, '--image', MEDIA / 'square.png', '--max-tokens', 4, '--ignore-eos',
                                     '--json', 'Hi'))
            self.assertEqual(run['usage']['completion_tokens'], 4)
            self.refused(2, 'quantize', out, self.folder / 'again', '--format', name, says='quantised already')
        self.assertEqual(sorted(p.name for p in self.folder.iterdir()), ['fp8', 'nvfp4', 'requests'])

    def test_without_calibration_it_says_so(self):
        out = self.folder / 'out'
        done = videre('quantize', CHECKPOINT, out, '--format', 'fp8')
        self.assertEqual(done.code, 0, done.err)
        self.assertIn('--calibration', done.err)
        header = read_safetensors(out / 'model.safetensors')[0]
        self.assertFalse([name for name in header if name.endswith('input_scale')])
        self.assertTrue(json.loads((out / 'config.json').read_text())['quantization_config']['config_groups']['group_0']
                        ['input_activations']['dynamic'])

    def test_refusals(self):
        out = self.folder / 'out'
        self.refused(2, 'quantize', CHECKPOINT, out, says='--format')
        self.refused(2, 'quantize', CHECKPOINT, '--format', 'fp8', says='DST')
        self.refused(2, 'quantize', CHECKPOINT, out, '--format', 'int4', says='int4')
        self.refused(2, 'quantize', CHECKPOINT, out, '--format', 'fp8', '--exclude', 'nothing', says='matches no linear')
        self.refused(2, 'quantize', CHECKPOINT, MEDIA, '--format', 'fp8', says='exists already')
        self.refused(2, 'quantize', CHECKPOINT, out / 'deeper', '--format', 'fp8', says='there is no folder')
        self.refused(3, 'quantize', '/nowhere', out, '--format', 'fp8', says='/nowhere')
        self.refused(2, 'quantize', CHECKPOINT, out, '--format', 'fp8', '--calibration', '/nowhere', says='/nowhere')
        empty = self.folder / 'empty'
        empty.mkdir()
        self.refused(2, 'quantize', CHECKPOINT, out, '--format', 'fp8', '--calibration', empty, says='holds no request')
        (empty / 'bad.json').write_text('{"messages": 3}')
        self.refused(2, 'quantize', CHECKPOINT, out, '--format', 'fp8', '--calibration', empty, says=['bad.json', 'messages'])
        broken = self.folder / 'broken'
        shutil.copytree(CHECKPOINT, broken)
        with open(broken / 'model.safetensors', 'r+b') as file:
            file.truncate(100_000)
        self.refused(3, 'quantize', broken, out, '--format', 'fp8', says='model.safetensors')
        self.assertFalse(out.exists())

    def test_a_kill_leaves_nothing(self):
        """A larger checkpoint, killed at several moments of its way."""
        large = self.folder / 'large'
        large.mkdir()
        shutil.copy(CHECKPOINT / 'config.json', large)
        shape, header, at = [4096, 2048], {}, 0
        size = 2 * shape[0] * shape[1]
        for i in range(16):
            header[f'language_model.backbone.layers.{i}.mixer.up_proj.weight'] = {
                'dtype': 'BF16', 'shape': shape, 'data_offsets': [at, at + size]}
            at += size
        text = json.dumps(header).encode()
        with open(large / 'model.safetensors', 'wb') as file:
            file.write(struct.pack('<Q', len(text)) + text)
            file.write(os.urandom(1 << 10) * 0)
            file.truncate(8 + len(text) + at)
        place = self.folder / 'place'
        place.mkdir()
        command = [cli_test.BINARY, 'quantize', str(large), str(place / 'out'), '--format', 'nvfp4']
        started = time.monotonic()
        self.assertEqual(subprocess.run(command, capture_output=True).returncode, 0)
        whole_s = time.monotonic() - started
        shutil.rmtree(place / 'out')
        for sign, part in ((signal.SIGKILL, 0.2), (signal.SIGKILL, 0.5), (signal.SIGKILL, 0.8), (signal.SIGTERM, 0.5)):
            process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
            time.sleep(whole_s * part)
            process.send_signal(sign)
            process.communicate()
            left = [p.name for p in place.iterdir() if not p.name.endswith('.partial')]
            if process.returncode == 0:  # it was faster
                self.assertEqual(left, ['out'])
                shutil.rmtree(place / 'out')
                continue
            self.assertEqual(process.returncode, -sign if sign == signal.SIGKILL else 128 + sign)
            self.assertEqual(left, [])


class Accuracy(Case):
    def make_set(self):
        folder = self.folder / 'set'
        folder.mkdir()
        shutil.copy(MEDIA / 'square.png', folder)
        shutil.copy(MEDIA / 'clip.avi', folder)
        picture = [{'type': 'image_url', 'image_url': {'url': 'square.png'}}, {'type': 'text', 'text': 'Read.'}]
        clip = [{'type': 'video_url', 'video_url': {'url': 'clip.avi'}}, {'type': 'text', 'text': 'What moves?'}]
        (folder / 'look.jsonl').write_text(line('look', picture, 'nothing') * 3 + line('watch', clip, 'nothing'))
        (folder / 'talk.jsonl').write_text(line('talk', 'Hi', 'nothing', kind='lines') * 2)
        (folder / 'calibration.jsonl').write_text(json.dumps({'messages': [{'role': 'user', 'content': picture}]}) + '\n')
        return folder

    def test_tables_and_variants(self):
        folder = self.make_set()
        text = self.ok('bench', 'accuracy', CHECKPOINT, '--set', folder, '--show', 1)
        self.assertRegex(text, r'look +3 +0\.0 %')
        self.assertRegex(text, r'talk +2 +0\.0 % +characters [\d.]+ % +lines 0\.0 %')
        self.assertRegex(text, r'mean +6 +0\.0 %')
        self.assertIn('expected "nothing"', text)
        answers = self.folder / 'answers.jsonl'
        out = json.loads(self.ok('bench', 'accuracy', CHECKPOINT, '--set', folder, '--json', '--answers', answers,
                                 '--compare', 'float32,fp8,fp8-weights,nvfp4,nvfp4-w4a4,evs-0.5', timeout=300))
        self.assertEqual(out['tasks']['look'], {'count': 3, 'right': 0})
        self.assertEqual(list(out['variants']), ['float32', 'fp8', 'fp8-weights', 'nvfp4', 'nvfp4-w4a4', 'evs-0.5'])
        self.assertEqual(list(out['variants']['evs-0.5']['tasks']), ['watch'])
        self.assertEqual(out['variants']['fp8']['cost'], 0)
        lines = [json.loads(x) for x in answers.read_text().splitlines()]
        self.assertEqual(len(lines), 6 + 5 * 6 + 1)
        by_variant = {}
        for x in lines:
            if x['where'] == 'look.jsonl:1':
                by_variant[x['variant']] = x['answer']
        self.assertEqual(len(by_variant), 6)
        self.assertNotEqual(by_variant['nvfp4-w4a4'], by_variant['bfloat16'])  # rounding is there

    def test_selection_and_expectations(self):
        folder = self.make_set()
        out = json.loads(self.ok('bench', 'accuracy', CHECKPOINT, '--set', folder, '--tasks', 'look', '--samples', 2, '--json'))
        self.assertEqual(list(out['tasks']), ['look'])
        self.assertEqual(out['tasks']['look']['count'], 2)
        good = self.write('good.json', {'tasks': {'look': {'right': 0}}, 'mean': 0})
        bad = self.write('bad.json', {'tasks': {'look': {'right': 50}}, 'mean': 1})
        self.ok('bench', 'accuracy', CHECKPOINT, '--set', folder, '--expect', good)
        done = videre('bench', 'accuracy', CHECKPOINT, '--set', folder, '--expect', bad, '--json')
        self.assertEqual(done.code, 1)
        self.assertEqual(len(json.loads(done.out)['missed']), 2)
        self.assertIn('missed: look right is 0.0 %, expected 50.0 %', done.err)

    def test_refusals(self):
        folder = self.make_set()
        command = ['bench', 'accuracy', CHECKPOINT, '--set']
        self.refused(2, *command, '/nowhere', says='/nowhere')
        self.refused(2, *command, folder, '--tasks', 'look,fly', says=['fly', 'look, talk'])
        self.refused(2, *command, folder, '--compare', 'int8', says=['int8', 'nvfp4-w4a4'])
        self.refused(2, *command, folder, '--compare', 'evs-1', says='evs-1')
        self.refused(2, *command, folder, '--tasks', 'talk', '--compare', 'evs-0.5', says='no sample has a clip')
        self.refused(2, *command, folder, '--expect', self.write('x.json', {'tusks': {}}), says='tusks')
        (folder / 'calibration.jsonl').unlink()
        self.refused(2, *command, folder, '--compare', 'fp8', says='calibration.jsonl')
        (folder / 'talk.jsonl').write_text('{"task": 3}\n')
        self.refused(2, *command, folder, says='talk.jsonl:1')
        done = videre('bench')
        self.assertEqual((done.code, done.out), (2, ''))
        self.assertEqual(videre('bench', '--help').code, 0)


class InitConfig(Case):
    """A folder with sizes and no weights, random ones at load time, and the same ones as files."""
    ASK = ['--max-tokens', 8, '--temperature', 0, '--json', 'What is this?', '--image', MEDIA / 'square.png']
    PARAMETERS = 13181860352  # docs/model.md

    def run_json(self, *flags):
        done = videre('run', *flags, *self.ASK)
        self.assertEqual(done.code, 0, done.err)
        self.assertNotIn('warning', done.err)
        return json.loads(done.out)

    def test_real_sizes(self):
        for flags, algorithm, size in (((), '', 26.36), (('--quantization', 'modelopt'), 'FP8', 15.40),
                                       (('-q', 'modelopt_fp4'), 'NVFP4', 10.60)):
            out = self.folder / f'real{algorithm}'
            self.assertIn('--load-format dummy', self.ok('inspect', 'init-config', 'nemotron-nano-12b-v2-vl', out, *flags))
            self.refused(3, 'inspect', out, says=['model.safetensors', '--load-format dummy'])
            summary = json.loads(self.ok('inspect', out, '--load-format', 'dummy', '--json', '--kv-cache-memory-bytes', '4G'))
            self.assertEqual(summary['num_parameters'], self.PARAMETERS)
            self.assertEqual(summary['quantization'], algorithm)
            self.assertAlmostEqual(summary['size_bytes'] / 1e9, size, delta=0.01)
            plan = summary['memory_plan']
            self.assertEqual(plan['weights'] + plan['vision_weights'], summary['size_bytes'])
            self.assertEqual(plan['kv_bytes_per_token'], 24576)
        config = json.loads((self.folder / 'real' / 'config.json').read_text())
        self.assertEqual(config['llm_config']['num_hidden_layers'], len(config['llm_config']['hybrid_override_pattern']))
        self.assertEqual(len(json.loads((self.folder / 'real' / 'tokenizer.json').read_text())['model']['vocab']), 131072)
        text = 'Grüße, 東京: a  picture of <video> and 12 words.\n\n'
        ids = self.ok('tokenize', self.folder / 'real', stdin=text)
        self.assertEqual(self.ok('detokenize', self.folder / 'real', stdin=ids), text + '\n')

    def test_dummy_and_written_weights_are_one(self):
        for flags in ((), ('-q', 'modelopt'), ('-q', 'modelopt_fp4')):
            bare, whole = (self.folder / f'{name}{len(flags)}{flags[-1:]}' for name in ('bare', 'whole'))
            self.ok('inspect', 'init-config', 'tiny', bare, *flags)
            self.assertRegex(self.ok('inspect', 'init-config', 'tiny', whole, '--random-weights', *flags), r'tensors, 0\.\d+ GB')
            dummy = self.run_json('--model', bare, '--load-format', 'dummy')
            self.assertEqual(dummy['text'], self.run_json('--model', whole)['text'])
            self.assertGreater(len(dummy['text']), 8)
            names = {path.name for path in whole.iterdir()} - {path.name for path in bare.iterdir()}
            self.assertEqual(names, {'model.safetensors'})

    def test_dummy_of_another_folder(self):
        folder = self.folder / 'sizes'
        shutil.copytree(CHECKPOINT, folder)
        (folder / 'model.safetensors').unlink()
        real, dummy = self.run_json('--model', CHECKPOINT), self.run_json('--model', folder, '--load-format', 'dummy')
        self.assertNotEqual(real['text'], dummy['text'])
        self.assertEqual(real['usage']['prompt_tokens'], dummy['usage']['prompt_tokens'])
        config = json.loads((folder / 'config.json').read_text())
        config['llm_config'].pop('intermediate_size')
        (folder / 'config.json').write_text(json.dumps(config))
        self.refused(3, 'inspect', folder, '--load-format', 'dummy', says='llm_config.intermediate_size')

    def test_refusals(self):
        command = ['inspect', 'init-config']
        self.refused(2, *command, 'huge', self.folder / 'x', says=['huge', 'nemotron-nano-12b-v2-vl'])
        self.refused(2, *command, 'tiny', self.folder, says='exists already')
        self.refused(2, *command, 'tiny', self.folder / 'no' / 'folder', says='there is no folder')
        self.refused(2, *command, 'tiny', self.folder / 'x', '-q', 'awq', says='modelopt_fp4')
        self.refused(2, *command, 'tiny', says='DST')
        self.refused(2, 'inspect', CHECKPOINT, '--load-format', 'gguf', says='dummy')
        self.assertEqual(list(self.folder.iterdir()), [])


class BuiltIn(Case):
    def setUp(self):
        super().setUp()
        if not carries_model():
            self.skipTest('this binary carries no model')

    def test_every_command_takes_it(self):
        out = self.folder / 'model'
        self.assertIn('files', self.ok('export', out))
        self.refused(2, 'export', out, says='exists already')
        self.assertEqual(self.ok('tokenize', stdin='Hello'), self.ok('tokenize', out, stdin='Hello'))
        mine, other = (json.loads(self.ok('inspect', *model, '--json')) for model in ([], [out]))
        self.assertEqual(mine['tensors'], other['tensors'])
        flags = ['--image', MEDIA / 'wide.jpg', '--max-tokens', 8, '--temperature', 0, '--json', 'What is this?']
        texts = [json.loads(self.ok('run', *model, *flags))['text'] for model in ([], ['--model', 'builtin'], ['--model', out])]
        self.assertEqual(texts[0], texts[1])
        self.assertEqual(texts[0], texts[2])

    def test_quantises(self):
        for name in ('fp8', 'nvfp4'):
            out = self.folder / name
            self.ok('quantize', 'builtin', out, '--format', name)
            self.ok('run', '--model', out, '--max-tokens', 4, 'Hi')

    def test_answers_are_the_stored_ones(self):
        """Pictures and clips of every task: the same exact text in every format and at every pruning rate."""
        if not list(ANSWERS.glob('*.jsonl')):
            self.skipTest('no answers are stored')
        out = json.loads(self.ok('bench', 'accuracy', 'builtin', '--set', ANSWERS, '--json', '--compare', 'all', timeout=600))
        wrong = {name: part['mean'] for name, part in ({'bfloat16': out} | out['variants']).items() if part['mean'] != 100}
        self.assertEqual(wrong, {})


if __name__ == '__main__':
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    cli_test.BINARY = os.path.abspath(sys.argv.pop(1))
    unittest.main()
