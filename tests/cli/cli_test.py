#!/usr/bin/env python3
"""Holds the built program to its command line: what each command prints, its JSON, its exit codes, and what it says
about checkpoints that cannot be used. Python's standard library only.

usage: cli_test.py VIDERE [TestClass[.test]]...
"""
import ast
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
import unittest
import urllib.request

TINY = pathlib.Path(__file__).resolve().parent.parent / 'tiny-b'
CHECKPOINT, MEDIA = TINY / 'checkpoint', TINY / 'media'
GOLDEN = json.loads((TINY / 'golden.json').read_text())
BINARY = ''


def environment(extra=None):
    kept = {k: v for k, v in os.environ.items() if not k.startswith(('VLLM_', 'VIDERE_', 'HF_'))}
    return {**kept, **(extra or {})}


def videre(*arguments, stdin='', env=None, binary=None, timeout=120):
    """Runs the program; .out, .err and .code are what came of it."""
    done = subprocess.run([binary or BINARY, *map(str, arguments)], input=stdin.encode(), capture_output=True,
                          env=environment(env), timeout=timeout)
    done.out, done.err, done.code = done.stdout.decode(), done.stderr.decode(), done.returncode
    return done


class Case(unittest.TestCase):
    def setUp(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix='videre_cli_'))
        self.addCleanup(shutil.rmtree, self.folder, True)

    def ok(self, *arguments, **options):
        done = videre(*arguments, **options)
        self.assertEqual(done.code, 0, done.err)
        return done.out

    def refused(self, code, *arguments, says=(), **options):
        """The exit code and words that must be in the one sentence on stderr."""
        done = videre(*arguments, **options)
        self.assertEqual(done.code, code, done.err or done.out)
        self.assertRegex(done.err, r'(^|\s)error\b')
        for words in (says if isinstance(says, (list, tuple)) else [says]):
            self.assertIn(words, done.err)
        self.assertNotIn('terminate', done.err)
        return done.err

    def write(self, name, content):
        path = self.folder / name
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return path


def body(kind, files, text, **fields):
    parts = [{'type': f'{kind}_url', f'{kind}_url': {'url': (MEDIA / file).as_uri()}} for file in files]
    return {'messages': [{'role': 'system', 'content': '/no_think'},
                         {'role': 'user', 'content': parts + [{'type': 'text', 'text': text}]}], **fields}


def golden_body(case):
    if case['kind'] == 'image':
        return body('image', case['files'], case['text'],
                    mm_processor_kwargs={'max_num_tiles': case['max_num_tiles']})
    return body('video', case['files'], case['text'],
                media_io_kwargs={'video': {'fps': case['fps'], 'num_frames': case['num_frames']}},
                mm_processor_kwargs={'video_pruning_rate': case['video_pruning_rate']})


def run_flags(case):
    """The flags of `videre run` that ask the same."""
    flags = ['--no-think', '--temperature', 0, '--dtype', 'float32', '--max-tokens', len(case['greedy'])]
    for file in case['files']:
        flags += [f"--{case['kind']}", MEDIA / file]
    if case['kind'] == 'image':
        flags += ['--mm-processor-kwargs.max_num_tiles', case['max_num_tiles']]
    else:
        flags += ['--media-io-kwargs.video.fps', case['fps'],
                  f"--media_io_kwargs.video.num_frames={case['num_frames']}",
                  '--video-pruning-rate', case['video_pruning_rate']]
    return flags


class Help(Case):
    COMMANDS = [['serve'], ['run'], ['inspect'], ['inspect', 'tokens'], ['inspect', 'dump'], ['inspect', 'init-config'],
                ['tokenize'],
                ['detokenize'], ['quantize'], ['export'],
                ['bench', 'latency'], ['bench', 'throughput'], ['bench', 'startup'], ['bench', 'accuracy']]

    def test_overview(self):
        text = self.ok()
        self.assertEqual(text, self.ok('--help'))
        for command in self.COMMANDS:
            self.assertIn('  ' + ' '.join(command) + ' ', text)
        self.assertRegex(self.ok('--version'), r'^videre \d+\.\d+\.\d+\n$')

    def test_every_command_explains_itself(self):
        for command in self.COMMANDS:
            text = self.ok(*command, '--help')
            self.assertIn('Usage: videre ' + ' '.join(command), text)
            self.assertEqual(text, self.ok(*command, '-h'))
            for line in text.splitlines():  # every flag has its words
                self.assertNotRegex(line, r'^  --\S+( N| X| VALUE)?( \.\.\.)?$' if len(line) < 38 else r'^$')
        text = self.ok('serve', '--help')
        for flag in ('--model', '--trust-remote-code', '--dtype', '--quantization', '--media-io-kwargs',
                     '--max-model-len', '--data-parallel-size', '--port', '--allowed-local-media-path',
                     '--video-pruning-rate', '--served-model-name'):
            self.assertIn(flag.replace('--trust', '--[no-]trust'), text)

    def test_slips(self):
        self.refused(2, 'sevre', says='did you mean serve?')
        self.refused(2, 'quantum', says='quantum is no command\n')
        self.refused(2, 'serve', '--prot', 1, says=['--prot', 'did you mean --port?'])
        self.refused(2, 'run', '--imgae', 'x.png', says='did you mean --image?')
        self.refused(2, 'inspect', 'dump', CHECKPOINT, '--out', self.folder, '--obsevre', 'x',
                     says='did you mean --observe?')


    def test_full_disk_is_no_success(self):
        with open('/dev/full', 'wb') as full:
            done = subprocess.run([BINARY, 'tokenize', str(CHECKPOINT)], input=b'Hi', stdout=full,
                                  stderr=subprocess.PIPE, env=environment())
        self.assertEqual(done.returncode, 1)
        self.assertIn(b'stdout cannot be written', done.stderr)


class Tokenize(Case):
    def test_reference_texts(self):
        cases = GOLDEN['tokenizer']
        out = self.ok('tokenize', CHECKPOINT, '--json', stdin=json.dumps([case['text'] for case in cases]))
        self.assertEqual(json.loads(out), [case['ids'] for case in cases])
        out = self.ok('detokenize', CHECKPOINT, '--json', stdin=json.dumps([case['ids'] for case in cases]))
        self.assertEqual(json.loads(out), [case['decoded'] for case in cases])

    def test_plain(self):
        case = GOLDEN['tokenizer'][0]
        out = self.ok('tokenize', CHECKPOINT, stdin=case['text'])
        self.assertEqual(out.split(), [str(i) for i in case['ids']])
        for ids in (out, json.dumps(case['ids'])):
            self.assertEqual(self.ok('detokenize', CHECKPOINT, stdin=ids), case['decoded'] + '\n')

    def test_refusals(self):
        if videre('inspect').code != 0:  # the binary carries none
            self.refused(2, 'tokenize', says='no model')
        self.refused(3, 'tokenize', '/nowhere', says='/nowhere')
        self.refused(2, 'tokenize', CHECKPOINT, '--json', stdin='{', says='stdin')
        self.refused(2, 'tokenize', CHECKPOINT, '--json', stdin='"text"', says='list of strings')
        self.refused(2, 'tokenize', CHECKPOINT, '--json', stdin='[1]', says='list of strings')
        self.refused(2, 'detokenize', CHECKPOINT, '--json', stdin='[1]', says='no list of token ids')
        self.refused(2, 'detokenize', CHECKPOINT, '--json', stdin='[[99999999]]', says='99999999 is no token id')
        self.refused(2, 'detokenize', CHECKPOINT, '--json', stdin='[[-1]]', says='-1 is no token id')
        self.refused(2, 'detokenize', CHECKPOINT, stdin='12 x', says='stdin')


class Inspect(Case):
    def test_text(self):
        text = self.ok('inspect', CHECKPOINT)
        for words in ('M-*-MM-*M-', '4 Mamba-2, 2 attention, 4 MLP', 'bfloat16', 'mixer.in_proj {0,4-5,8}',
                      'memory plan', 'KV cache', 'state slots', 'activations'):
            self.assertIn(words, text)

    def test_json(self):
        out = json.loads(self.ok('inspect', CHECKPOINT, '--json'))
        header = read_safetensors(CHECKPOINT / 'model.safetensors')[0]
        elements = {}
        for entry in header.values():
            count = 1
            for dim in entry['shape']:
                count *= dim
            elements[entry['dtype']] = elements.get(entry['dtype'], 0) + count
        names = {'BF16': 'bfloat16', 'F32': 'float32', 'I64': 'int64'}
        self.assertEqual({t['dtype']: t['elements'] for t in out['tensors']},
                         {names[dtype]: count for dtype, count in elements.items()})
        self.assertEqual(out['num_parameters'], elements['BF16'] + elements['F32'])
        self.assertEqual(out['config']['language_model']['pattern'], 'M-*-MM-*M-')
        self.assertEqual(out['config']['vision']['tile_size'], 128)

    def test_precision_of_quantised_checkpoints(self):
        for quantised, precision in (('fp8', 'fp8'), ('nvfp4', 'nvfp4')):
            out = json.loads(self.ok('inspect', TINY / f'checkpoint-{quantised}', '--json'))
            by_name = {m['name']: m['precision'] for m in out['modules']}
            self.assertEqual(by_name['language_model.backbone.layers.*.mixer.up_proj'], precision)
            self.assertEqual(by_name['language_model.backbone.embeddings'], 'bfloat16')
            self.assertGreater(out['num_parameters'], 1_200_000)

    def test_plan_follows_the_flags(self):
        def plan(*flags):
            return json.loads(self.ok('inspect', CHECKPOINT, '--json', *flags))['memory_plan']
        small = plan('--max-model-len', '4K', '--max-num-seqs', 2)
        self.assertEqual((small['max_model_len'], small['max_num_seqs']), (4096, 2))
        more = plan('--max-model-len', '4K', '--max-num-seqs', 8)
        self.assertGreater(more['state_slots'], small['state_slots'])
        self.assertEqual(small['total'], sum(small[k] for k in ('weights', 'vision_weights', 'kv_cache', 'state_slots',
                                                               'activations', 'encoder_cache')))
        fixed = plan('--kv-cache-memory-bytes', '64M', '--max-model-len', '4K')
        self.assertLess(abs(fixed['kv_cache'] - (64 << 20)), 1 << 20)

    def test_memory_that_does_not_fit(self):
        self.refused(4, 'inspect', CHECKPOINT, '--kv-cache-memory-bytes', '1K', says='--max-model-len')

    def test_flags_that_contradict_the_checkpoint(self):
        self.refused(2, 'inspect', CHECKPOINT, '--quantization', 'modelopt_fp4', says='modelopt_fp4')
        self.refused(2, 'inspect', TINY / 'checkpoint-fp8', '-q', 'modelopt_fp4', says='modelopt')
        self.refused(2, 'inspect', CHECKPOINT, '--quantization', 'awq', says='awq')
        self.refused(2, 'inspect', CHECKPOINT, '--dtype', 'float16', says='float16')
        self.refused(2, 'inspect', CHECKPOINT, '--max-model-len', '1M', says='131072')
        self.ok('inspect', TINY / 'checkpoint-fp8', '-q', 'modelopt')
        self.ok('inspect', TINY / 'checkpoint-nvfp4', '--quantization=modelopt_fp4')


class Tokens(Case):
    def tokens(self, request, *flags):
        return json.loads(self.ok('inspect', 'tokens', CHECKPOINT, '--json', '--request', '-', *flags,
                                  stdin=json.dumps(request)))

    def test_template_only(self):
        for case in GOLDEN['chat']:
            request = {k: case[k] for k in ('messages', 'tools', 'chat_template_kwargs', 'add_generation_prompt')
                       if case.get(k) is not None}
            out = self.tokens(request, '--template-only')
            self.assertEqual(out['rendered'], case['rendered'])
            self.assertEqual(out['prompt_ids'], case['ids'])

    def test_placeholder_parts(self):
        request = {'messages': [{'role': 'user', 'content': [{'type': 'text', 'text': 'Describe the video.'},
                                                             {'type': 'video'}]}]}
        out = self.tokens(request, '--template-only')
        self.assertIn('<video>', out['rendered'])
        self.refused(2, 'inspect', 'tokens', CHECKPOINT, '--request', self.write('r.json', request),
                     says='placeholder')

    def test_pictures(self):
        for image in GOLDEN['images']:
            out = self.tokens(body('image', [image['file']], 'x',
                                   mm_processor_kwargs={'max_num_tiles': image['max_num_tiles']}))
            seen = out['images'][0]
            self.assertEqual((seen['grid'], seen['tiles'], [seen['width'], seen['height']]),
                             (image['grid'], image['tiles'], image['size']), image)
            self.assertEqual(seen['tokens'], 16 * image['tiles'])

    def test_frames(self):
        for sampling in GOLDEN['video_sampling']:
            out = self.tokens(body('video', ['clip.avi'], 'x', media_io_kwargs={
                'video': {'fps': sampling['fps'], 'num_frames': sampling['num_frames']}}))
            video = out['videos'][0]
            self.assertEqual(video['frames_indices'], sampling['indices'])
            self.assertEqual(len(video['timestamps']), len(sampling['indices']))
            self.assertEqual(video['tokens'], 16 * len(sampling['indices']))

    def test_equal_to_the_run(self):
        for case in GOLDEN['e2e']:
            out = self.tokens(golden_body(case))
            self.assertEqual(out['rendered'], case['rendered'])
            self.assertEqual(len(out['prompt_ids']), len(case['prompt_ids']))
            if case.get('video_pruning_rate', 0) == 0:
                self.assertEqual(out['prompt_ids'], case['prompt_ids'])
            else:
                video = out['videos'][0]
                self.assertEqual(video['tokens'], sum(case['tokens_per_frame']))
                self.assertEqual(video['pruned_tokens'], 16 * len(case['indices']) - video['tokens'])
            ran = json.loads(self.ok('run', '--model', CHECKPOINT, *run_flags(case), '--json', case['text']))
            planned = out['usage']
            self.assertEqual(planned['prompt_tokens'], len(out['prompt_ids']))
            self.assertEqual(ran['usage']['prompt_tokens'], planned['prompt_tokens'])
            self.assertEqual(ran['usage']['prompt_tokens_details'], planned['prompt_tokens_details'])
            self.assertEqual(ran['text'], case['text_out'])

    def test_text_form(self):
        request = self.write('r.json', body('image', ['wide.jpg'], 'x'))
        text = self.ok('inspect', 'tokens', CHECKPOINT, '--request', request)
        self.assertIn('picture 1: 481x202 px, grid 5x2, 11 tiles, 176 tokens', text)

    def test_refusals(self):
        self.refused(2, 'inspect', 'tokens', CHECKPOINT, says='--request')
        self.refused(2, 'inspect', 'tokens', CHECKPOINT, '--request', '/nowhere.json', says='/nowhere.json')
        self.refused(2, 'inspect', 'tokens', CHECKPOINT, '--request', self.write('r.json', '{'), says='r.json')
        self.refused(2, 'inspect', 'tokens', CHECKPOINT, '--request', self.write('r.json', {'messages': 3}),
                     says='messages')
        outside = self.write('r.json', body('image', ['wide.jpg'], 'x'))
        self.refused(2, 'inspect', 'tokens', CHECKPOINT, '--request', outside, '--allowed-local-media-path',
                     self.folder, says='allowed')
        self.refused(2, 'inspect', 'tokens', CHECKPOINT, '--request', outside, '--max-model-len', 64,
                     says='maximum context length is 64')


class Run(Case):
    CASE = GOLDEN['e2e'][0]

    def test_json(self):
        out = json.loads(self.ok('run', '--model', CHECKPOINT, *run_flags(self.CASE), '--json', self.CASE['text']))
        self.assertEqual(set(out), {'text', 'finish_reason', 'usage', 'timings'})
        self.assertEqual((out['text'], out['finish_reason']), (self.CASE['text_out'], 'length'))
        self.assertEqual(out['usage']['prompt_tokens'], len(self.CASE['prompt_ids']))
        self.assertEqual(out['usage']['completion_tokens'], len(self.CASE['greedy']))
        self.assertEqual(set(out['timings']), {'load_s', 'first_token_s', 'total_s', 'tokens_per_s'})
        self.assertTrue(all(value > 0 for value in out['timings'].values()))

    def test_plain_text_and_progress(self):
        done = videre('run', '--model', CHECKPOINT, *run_flags(self.CASE), self.CASE['text'])
        self.assertEqual((done.code, done.out), (0, self.CASE['text_out'] + '\n'))
        self.assertIn('loading', done.err)
        self.assertIn(f"{len(self.CASE['prompt_ids'])} prompt tokens, 12 generated", done.err)

    def test_question_from_stdin(self):
        for question in ([], ['-']):
            out = self.ok('run', '--model', CHECKPOINT, *run_flags(self.CASE), *question,
                          stdin=self.CASE['text'] + '\n')
            self.assertEqual(out, self.CASE['text_out'] + '\n')

    def test_thinking_and_system(self):
        def prompt_tokens(*flags):
            out = self.ok('run', '--model', CHECKPOINT, '--max-tokens', 1, '--json', *flags, 'Hi')
            return json.loads(out)['usage']['prompt_tokens']
        plain = prompt_tokens()
        self.assertEqual(prompt_tokens('--no-think'), plain)  # the template's default, tag removed
        self.assertNotEqual(prompt_tokens('--think'), plain)
        self.assertGreater(prompt_tokens('--system', 'Answer like a pirate.'), plain)

    def test_sampling_flags(self):
        def answer(*flags):
            return json.loads(self.ok('run', '--model', CHECKPOINT, '--max-tokens', 8, '--ignore-eos', '--json',
                                      *flags, 'Hi'))['text']
        self.assertEqual(answer('--seed', 7), answer('--seed', 7))
        self.assertGreater(len({answer('--seed', seed) for seed in range(4)}), 1)
        self.assertEqual(answer('--temperature', 0), answer('--top-k', 1))
        whole = answer('--temperature', 0)
        self.assertEqual(answer('--temperature', 0, '--stop', whole[3:5]), whole[:3])

    def test_config_file(self):
        config = self.write('flags.yaml', f'model: {CHECKPOINT}\nmax_tokens: 3\ntemperature: 0\nignore-eos: true\n')
        def count(*flags):
            return json.loads(self.ok('run', '--config', config, '--json', *flags, 'Hi'))['usage']['completion_tokens']
        self.assertEqual(count(), 3)
        self.assertEqual(count('--max-tokens', 5), 5)

    def test_refusals(self):
        model = ['--model', CHECKPOINT]
        if videre('inspect').code != 0:  # the binary carries none
            self.refused(2, 'run', 'Hi', says=['--model', 'no model'])
        self.refused(3, 'run', '--model', '/nowhere', 'Hi', says='/nowhere')
        self.refused(2, 'run', *model, says='no question')
        self.refused(2, 'run', *model, '--image', 'nowhere.png', 'Hi', says=['--image', 'nowhere.png is no file'])
        self.refused(2, 'run', *model, '--video', self.folder, 'Hi', says='--video')
        self.refused(2, 'run', *model, '--think', '--no-think', 'Hi', says='choose one')
        self.refused(2, 'run', *model, 'two', 'questions')
        self.refused(2, 'run', *model, '--temperature', -1, 'Hi', says='--temperature')
        self.refused(2, 'run', *model, '--data-parallel-size', 2, 'Hi', says='--data-parallel-size')
        text = self.write('not a picture.png', 'text')
        self.refused(2, 'run', *model, '--image', text, 'Hi', says='error')
        self.refused(2, 'run', *model, '--image', MEDIA / 'wide.jpg', '--allowed-local-media-path', self.folder, 'Hi',
                     says='allowed')

    def test_names_with_odd_characters(self):
        copy = self.folder / 'a b%20ü#?.jpg'
        shutil.copy(MEDIA / 'wide.jpg', copy)
        out = self.ok('run', '--model', CHECKPOINT, '--image', copy, '--max-tokens', 1, '--json', 'Hi')
        self.assertGreater(json.loads(out)['usage']['prompt_tokens'], 176)

    def endless(self, *flags):
        return subprocess.Popen([BINARY, 'run', '--model', str(CHECKPOINT), '--ignore-eos', '--max-tokens', '100000',
                                 *flags, 'Hi'], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment())

    def test_interrupt(self):
        process = self.endless()
        self.assertTrue(process.stdout.read(20))  # text comes as it is made
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=20)
        self.assertEqual(process.returncode, 130, err)
        self.assertTrue(out.endswith(b'\n'))
        self.assertIn(b'generated', err)

    def test_interrupt_with_json(self):
        process = self.endless('--json')
        time.sleep(1)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=20)
        self.assertEqual(process.returncode, 130, err)
        if out:  # nothing when it had not begun
            self.assertEqual(json.loads(out)['finish_reason'], 'abort')


def read_npy(path):
    """(dtype, shape, flat values)"""
    data = path.read_bytes()
    assert data[:6] == b'\x93NUMPY', data[:6]
    length, at = (struct.unpack_from('<H', data, 8)[0], 10) if data[6] == 1 else (struct.unpack_from('<I', data, 8)[0], 12)
    header = ast.literal_eval(data[at:at + length].decode())
    codes = {'<f4': 'f', '<i4': 'i', '<i8': 'q', '|u1': 'B', '|b1': '?'}
    count = 1
    for dim in header['shape']:
        count *= dim
    assert not header['fortran_order']
    values = struct.unpack_from(f"<{count}{codes[header['descr']]}", data, at + length)
    return header['descr'], list(header['shape']), list(values)


def write_npy(path, descr, shape, blob):
    header = repr({'descr': descr, 'fortran_order': False, 'shape': tuple(shape)}).encode()
    header += b' ' * (-(11 + len(header)) % 64) + b'\n'
    path.write_bytes(b'\x93NUMPY\x01\x00' + struct.pack('<H', len(header)) + header + blob)


def read_safetensors(path):
    """(entries without metadata, data bytes)"""
    blob = path.read_bytes()
    length = struct.unpack_from('<Q', blob)[0]
    header = json.loads(blob[8:8 + length])
    header.pop('__metadata__', None)
    return header, blob[8 + length:]


def write_safetensors(path, header, data):
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack('<Q', len(text)) + text + data)


class Dump(Case):
    def dump(self, *arguments, model=CHECKPOINT):
        out = self.folder / 'dump'
        shutil.rmtree(out, True)
        listed = self.ok('inspect', 'dump', model, '--out', out, '--dtype', 'float32', *arguments)
        tensors = {path.name[:-4]: read_npy(path) for path in out.glob('*.npy')}
        self.assertEqual(sorted(line.split()[0] for line in listed.splitlines()), sorted(tensors))
        return tensors

    def golden(self, name):
        header, data = read_safetensors(TINY / 'golden.safetensors')
        entry = header[name]
        begin, end = entry['data_offsets']
        return entry['shape'], data[begin:end]

    def assert_close(self, values, name, tolerance=2e-4):
        shape, blob = self.golden(name)
        expected = struct.unpack(f'<{len(blob) // 4}f', blob)
        values = values[-len(expected):]
        mean = sum(expected) / len(expected)
        std = (sum((x - mean) ** 2 for x in expected) / len(expected)) ** 0.5
        worst = max(abs(a - b) for a, b in zip(values, expected))
        self.assertLessEqual(worst, tolerance * std, name)

    def test_ids(self):
        for length in (1, 5, 200):
            ids = self.golden(f'llm.ids_{length}')
            ids = list(struct.unpack(f"<{len(ids[1]) // 8}q", ids[1]))
            tensors = self.dump('--ids', self.write('i.json', ids), '--observe', r'^(llm\..*|out\.ids|prompt\.ids)$',
                                '--max-tokens', 16, '--all-logits')
            self.assertEqual(set(tensors), {'prompt.ids', 'out.ids', 'llm.logits', *(f'llm.hidden.{i}' for i in range(11))})
            self.assertEqual(tensors['prompt.ids'][2], ids)
            self.assertEqual(tensors['out.ids'][2], GOLDEN[f'llm.greedy_{length}'])
            self.assertEqual(tensors['llm.hidden.0'][1][-2:], [length, 96])
            self.assert_close(tensors['llm.logits'][2][:length * 1536], f'llm.logits_{length}')

    def test_request(self):
        case = GOLDEN['e2e'][4]
        tensors = self.dump('--request', self.write('r.json', golden_body(case)), '--max-tokens', len(case['greedy']))
        self.assertEqual(tensors['prompt.ids'][2], case['prompt_ids'])
        self.assertEqual(tensors['out.ids'][2], case['greedy'])
        frames = len(case['indices'])
        self.assertEqual(tensors['pixel_values'][1], [frames, 3, 128, 128])
        self.assertEqual(tensors['vision.features'][1], [frames, 64, 64])
        self.assertEqual(tensors['vision.projected'][1], [frames, 16, 96])
        self.assertEqual(tensors['llm.logits'][1], [16, 1536])
        self.assertEqual(sum(map(bool, tensors['evs.mask'][2])), sum(case['tokens_per_frame']))

    def test_rgb(self):
        shape, blob = self.golden('vision.rgb')
        write_npy(self.folder / 'rgb.npy', '|u1', shape, blob)
        tensors = self.dump('--rgb', self.folder / 'rgb.npy', '--observe', r'^(vision\.projected|evs\..*)',
                            '--video-pruning-rate', '0.75')
        self.assert_close(tensors['vision.projected'][2], 'vision.projected')
        expected = self.golden('evs.mask_0.75')[1]
        self.assertEqual([bool(x) for x in tensors['evs.mask'][2]], [bool(x) for x in expected])
        rectangle, blob = self.golden('vision.rect_128x32.pixels')
        write_npy(self.folder / 'pixels.npy', '<f4', rectangle, blob)
        tensors = self.dump('--rgb', self.folder / 'pixels.npy', '--observe', '^vision.features$')
        self.assert_close(tensors['vision.features'][2], 'vision.rect_128x32.features')

    def test_quantised(self):
        _, blob = self.golden('quant.ids')
        ids = self.write('i.json', list(struct.unpack(f'<{len(blob) // 8}q', blob)))
        for name in ('fp8', 'nvfp4'):
            logits = self.dump('--ids', ids, '--all-logits', '--observe', '^llm.logits$',
                               model=TINY / f'checkpoint-{name}')['llm.logits'][2]
            _, reference = self.golden(f'quant.{name}.logits_weight_only')
            expected = struct.unpack(f'<{len(reference) // 4}f', reference)
            got = logits[:len(ids.read_text()) and (len(blob) // 8) * 1536][-len(expected):]
            difference = sum((a - b) ** 2 for a, b in zip(got, expected)) ** 0.5
            self.assertLessEqual(difference, 0.01 * sum(x * x for x in expected) ** 0.5, name)

    def test_refusals(self):
        ids = self.write('i.json', [1, 2, 3])
        dump = ['inspect', 'dump', CHECKPOINT, '--out', self.folder / 'd']
        self.refused(2, *dump, says='exactly one')
        self.refused(2, *dump, '--ids', ids, '--rgb', 'x.npy', says='exactly one')
        self.refused(2, 'inspect', 'dump', CHECKPOINT, '--ids', ids, says='--out')
        self.refused(2, *dump, '--ids', self.write('x.json', ['a']), says='list of token ids')
        self.refused(2, *dump, '--ids', self.write('x.json', []), says='list of token ids')
        self.refused(2, *dump, '--ids', self.write('x.json', [1536]), says='1536')
        self.refused(2, *dump, '--ids', ids, '--observe', '(', says='--observe')
        self.refused(2, *dump, '--ids', ids, '--dtype', 'int8', says='int8')
        self.refused(2, *dump, '--rgb', self.write('x.npy', 'none'), says='x.npy')
        write_npy(self.folder / 'odd.npy', '<f4', [1, 3, 100, 128], bytes(4 * 3 * 100 * 128))
        self.refused(2, *dump, '--rgb', self.folder / 'odd.npy', says='100')


class BrokenCheckpoints(Case):
    """Each fault ends with exit code 3 and a sentence that names file, tensor or field."""

    def model(self, source='checkpoint'):
        folder = self.folder / 'model'
        shutil.rmtree(folder, True)
        shutil.copytree(TINY / source, folder)
        return folder

    def says(self, folder, *words):
        return self.refused(3, 'inspect', folder, says=words)

    def with_config(self, **fields):
        folder = self.model()
        config = json.loads((folder / 'config.json').read_text())
        for name, value in fields.items():
            at, *rest = name.split('__')
            into = config if not rest else config[at]
            key = rest[0] if rest else at
            if value is None:
                into.pop(key)
            else:
                into[key] = value
        (folder / 'config.json').write_text(json.dumps(config))
        return folder

    def with_tensors(self, edit, source='checkpoint'):
        folder = self.model(source)
        header, data = read_safetensors(folder / 'model.safetensors')
        data = bytearray(data)
        edit(header, data)
        write_safetensors(folder / 'model.safetensors', header, bytes(data))
        return folder

    def test_no_model(self):
        self.says('/nowhere', '/nowhere')
        self.says(self.folder, 'config.json')
        empty = {'HF_HOME': str(self.folder), 'HF_HUB_CACHE': ''}
        self.refused(3, 'inspect', 'org/name', env=empty, says=['org/name', str(self.folder)])

    def test_hub_cache(self):
        commit = '0123456789abcdef0123456789abcdef01234567'
        cached = self.folder / 'hub' / 'models--org--name'
        shutil.copytree(CHECKPOINT, cached / 'snapshots' / commit)
        (cached / 'refs').mkdir()
        (cached / 'refs' / 'main').write_text(commit)
        env = {'HF_HOME': str(self.folder)}
        self.assertIn('M-*-MM-*M-', self.ok('inspect', 'org/name', env=env))
        (cached / 'snapshots' / commit / 'model.safetensors').unlink()
        (cached / 'snapshots' / commit / 'model.safetensors.index.json').write_text(
            json.dumps({'metadata': {}, 'weight_map': {'a': 'model-00001-of-00002.safetensors'}}))
        self.refused(3, 'inspect', 'org/name', env=env, says='model-00001-of-00002.safetensors')

    def test_truncated_weights(self):
        folder = self.model()
        blob = (folder / 'model.safetensors').read_bytes()
        for size in (0, 4, 8, 100, len(blob) // 2, len(blob) - 1):
            (folder / 'model.safetensors').write_bytes(blob[:size])
            self.says(folder, 'model.safetensors')

    def test_lying_headers(self):
        def entry(header):
            return header['language_model.backbone.norm_f.weight']
        folder = self.model()
        blob = (folder / 'model.safetensors').read_bytes()
        (folder / 'model.safetensors').write_bytes(struct.pack('<Q', 1 << 60) + blob[8:])
        self.says(folder, 'model.safetensors', 'header')
        (folder / 'model.safetensors').write_bytes(blob[:8] + b'{]' + blob[10:])
        self.says(folder, 'model.safetensors')

        def beyond(header, data):
            entry(header)['data_offsets'] = [len(data) - 10, len(data) + 182]
        def overlap(header, data):
            entry(header)['data_offsets'] = header['language_model.lm_head.weight']['data_offsets']
        def size(header, data):
            entry(header)['shape'] = [97]
        def huge(header, data):
            entry(header)['shape'] = [1 << 40, 1 << 40]
        def negative(header, data):
            entry(header)['shape'] = [-96]
        def dtype(header, data):
            entry(header)['dtype'] = 'Q3'
        for edit in (beyond, overlap, size, huge, negative, dtype):
            self.says(self.with_tensors(edit), 'norm_f')

    def test_missing_tensor(self):
        def remove(header, data):
            header['language_model.backbone.norm_g.weight'] = header.pop('language_model.backbone.norm_f.weight')
        self.says(self.with_tensors(remove), 'language_model.backbone.norm_f.weight')

    def test_wrong_shape(self):
        def turn(header, data):
            header['language_model.lm_head.weight']['shape'].reverse()
        self.says(self.with_tensors(turn), 'language_model.lm_head', '[96, 1536]', '[1536, 96]')

    def test_scales(self):
        for value, word in ((float('nan'), 'nan'), (float('inf'), 'inf'), (-1.0, '-1')):
            def spoil(header, data):
                entry = header['language_model.backbone.layers.1.mixer.up_proj.weight_scale']
                struct.pack_into('<f', data, entry['data_offsets'][0], value)
            self.says(self.with_tensors(spoil, 'checkpoint-fp8'),
                      'language_model.backbone.layers.1.mixer.up_proj.weight_scale', word)

    def test_shards(self):
        header, data = read_safetensors(CHECKPOINT / 'model.safetensors')
        names = sorted(header)
        folder = self.model()
        (folder / 'model.safetensors').unlink()
        files = {}
        for number, part in ((1, names[::2]), (2, names[1::2])):
            file = f'model-0000{number}-of-00002.safetensors'
            shard, blob = {}, b''
            for name in part:
                begin, end = header[name]['data_offsets']
                shard[name] = {**header[name], 'data_offsets': [len(blob), len(blob) + end - begin]}
                blob += data[begin:end]
                files[name] = file
            write_safetensors(folder / file, shard, blob)
        index = folder / 'model.safetensors.index.json'
        index.write_text(json.dumps({'metadata': {'total_size': len(data)}, 'weight_map': files}))
        self.assertEqual(json.loads(self.ok('inspect', folder, '--json'))['num_parameters'],
                         json.loads(self.ok('inspect', CHECKPOINT, '--json'))['num_parameters'])
        index.write_text(json.dumps({'weight_map': {**files, 'nobody.weight': 'model-00002-of-00002.safetensors'}}))
        self.says(folder, 'nobody.weight')
        index.write_text(json.dumps({'weight_map': {**files, names[0]: '../model.safetensors'}}))
        self.says(folder, '../model.safetensors')
        index.write_text('{"weight_map": 3}')
        self.says(folder, 'weight_map')
        index.write_text(json.dumps({'weight_map': files}))
        (folder / 'model-00002-of-00002.safetensors').unlink()
        self.says(folder, 'model-00002-of-00002.safetensors')

    def test_no_weights(self):
        folder = self.model()
        (folder / 'model.safetensors').unlink()
        self.says(folder, 'model.safetensors')

    def test_config(self):
        folder = self.model()
        for text, word in (('', 'architectures'), ('{', 'config.json'), ('[]', 'config.json'), ('{}', 'architectures')):
            (folder / 'config.json').write_text(text)
            self.says(folder, word)
        self.says(self.with_config(architectures=['LlamaForCausalLM']), 'LlamaForCausalLM', 'NemotronH_Nano_VL_V2')
        self.says(self.with_config(llm_config__n_routed_experts=8), 'n_routed_experts')
        self.says(self.with_config(sound_config={}), 'sound_config')
        self.says(self.with_config(llm_config__hybrid_override_pattern='M-*-ME-*M-'), 'E')
        self.says(self.with_config(llm_config__hybrid_override_pattern='M-*'), 'num_hidden_layers', 'M-*')
        self.says(self.with_config(llm_config__hidden_size='many'), 'hidden_size')
        self.says(self.with_config(llm_config__hidden_size=-1), 'hidden_size')
        self.says(self.with_config(llm_config__hidden_size=None), 'hidden_size')
        self.says(self.with_config(llm_config__vocab_size=1 << 60), 'vocab_size')
        self.says(self.with_config(force_image_size=100), 'force_image_size')

    def test_tokenizer(self):
        folder = self.model()
        tokenizer = json.loads((folder / 'tokenizer.json').read_text())
        tokenizer['model']['type'] = 'WordPiece'
        (folder / 'tokenizer.json').write_text(json.dumps(tokenizer))
        self.says(folder, 'tokenizer.json', 'WordPiece')
        (folder / 'tokenizer.json').write_text('{')
        self.says(folder, 'tokenizer.json')
        (folder / 'tokenizer.json').unlink()
        self.says(folder, 'tokenizer.json')

    def test_template(self):
        folder = self.model()
        (folder / 'chat_template.jinja').write_text('{% for x in %}')
        self.refused(3, 'inspect', folder, says='chat_template.jinja')
        (folder / 'chat_template.jinja').write_text("{{ raise_exception('no talk today') }}")
        self.refused(2, 'run', '--model', folder, 'Hi', says='no talk today')


class Serve(Case):
    def start(self, *arguments, env=None):
        port = free_port()
        log = open(self.folder / 'log', 'wb')
        process = subprocess.Popen([BINARY, 'serve', *map(str, arguments), '--port', str(port), '--host', '127.0.0.1'],
                                   stdout=log, stderr=log, env=environment(env))
        self.addCleanup(lambda: (process.kill(), process.wait(), log.close()))
        for _ in range(200):
            self.assertIsNone(process.poll(), (self.folder / 'log').read_text())
            try:
                urllib.request.urlopen(f'http://127.0.0.1:{port}/health', timeout=5)
                return process, port
            except OSError:
                time.sleep(0.05)
        self.fail('the server did not become ready')

    def get(self, port, path):
        return json.loads(urllib.request.urlopen(f'http://127.0.0.1:{port}{path}', timeout=20).read())

    def test_the_guides_flags(self):
        process, port = self.start(
            '--model', CHECKPOINT, '--trust-remote-code', '--dtype', 'bfloat16', '--media-io-kwargs',
            '{"video": {"fps": 2, "num_frames": 128} }', '--max-model-len', 131072, '--data-parallel-size', 1,
            '--allowed-local-media-path', '/', '--video-pruning-rate', 0.75, '--served-model-name', 'org/name', 'other',
            env={'VLLM_VIDEO_LOADER_BACKEND': 'opencv'})
        models = self.get(port, '/v1/models')['data']
        self.assertEqual([model['id'] for model in models], ['org/name', 'other'])
        self.assertEqual(models[0]['max_model_len'], 131072)
        process.send_signal(signal.SIGTERM)
        self.assertEqual(process.wait(20), 0)

    def test_config_file(self):
        config = self.write('serve.yaml', f'model: {CHECKPOINT}\nserved-model-name: [a, b]\nmax-model-len: 32K\n'
                                          'media-io-kwargs:\n  video:\n    fps: 2\nskip-mm-profiling: true\n')
        process, port = self.start('--config', config, '--max-model-len', '4k')
        models = self.get(port, '/v1/models')['data']
        self.assertEqual([(model['id'], model['max_model_len']) for model in models], [('a', 4000), ('b', 4000)])
        self.assertIn('--skip-mm-profiling has no effect', (self.folder / 'log').read_text())
        process.send_signal(signal.SIGINT)
        self.assertEqual(process.wait(20), 0)

    def test_name_without_a_subcommand(self):
        alias = self.folder / 'videre-api-server'
        alias.symlink_to(BINARY)
        done = videre('--model', '/nowhere', '--port', free_port(), binary=str(alias))
        self.assertEqual(done.code, 3, done.err)

    def test_busy_port(self):
        with socket.socket() as busy:
            busy.bind(('127.0.0.1', 0))
            busy.listen()
            port = busy.getsockname()[1]
            done = videre('serve', CHECKPOINT, '--host', '127.0.0.1', '--port', port)
            self.assertEqual(done.code, 5, done.err)
            self.assertIn(str(port), done.err)

    def test_refusals(self):
        if videre('inspect').code != 0:  # the binary carries none
            self.refused(2, 'serve', says='no model')
        self.refused(3, 'serve', '/nowhere', '--port', 0, says='/nowhere')
        self.refused(2, 'serve', CHECKPOINT, '--port', 70000, says='--port')
        self.refused(2, 'serve', CHECKPOINT, '--data-parallel-size', 2, says=['--data-parallel-size', 'one device'])
        self.refused(2, 'serve', CHECKPOINT, '--api-key', 'k', says='--api-key')
        self.refused(2, 'serve', CHECKPOINT, env={'VLLM_API_KEY': 'k'}, says='VLLM_API_KEY')
        self.refused(2, 'serve', CHECKPOINT, '--video-pruning-rate', 1, says='--video-pruning-rate')
        self.refused(2, 'serve', CHECKPOINT, '--allowed-local-media-path', '/nowhere', says='/nowhere')
        self.refused(2, 'serve', CHECKPOINT, '--enable-auto-tool-choice', says='--tool-call-parser')
        self.refused(2, 'serve', CHECKPOINT, '--allowed-origins', '*', says='--allowed-origins')
        self.refused(2, 'serve', CHECKPOINT, '--config', '/nowhere.yaml', says='/nowhere.yaml')
        self.refused(2, 'serve', CHECKPOINT, '--max-model-len', '1M', '--port', 0, says='131072')
        self.refused(4, 'serve', CHECKPOINT, '--port', 0, '--kv-cache-memory-bytes', '1K', says='--max-model-len')


class Binary(Case):
    def test_runs_as_one_file(self):
        copy = self.folder / 'videre'
        shutil.copy(BINARY, copy)
        out = self.ok('run', '--model', CHECKPOINT, '--image', MEDIA / 'tall.webp', '--max-tokens', 1, '--json', 'Hi',
                      binary=str(copy))
        self.assertEqual(json.loads(out)['usage']['completion_tokens'], 1)

    def test_links_libc_only(self):
        done = subprocess.run(['ldd', BINARY], capture_output=True, text=True)
        if 'libasan' in done.stdout or 'libtsan' in done.stdout:
            self.skipTest('built with a sanitizer')
        names = set(re.findall(r'(\S+)\.so[.\d]*', done.stdout))
        names = {os.path.basename(name) for name in names}
        self.assertLessEqual(names, {'linux-vdso', 'libc', 'libm', 'libdl', 'libpthread', 'librt', 'ld-linux-x86-64',
                                     'ld-linux-aarch64'}, done.stdout)


def free_port():
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        return probe.getsockname()[1]


if __name__ == '__main__':
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    BINARY = os.path.abspath(sys.argv.pop(1))
    unittest.main()
