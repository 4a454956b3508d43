#!/usr/bin/env python3
"""Holds `videre bench latency`, `throughput` and `startup` to their definitions, on a model of a few layers.

usage: bench_test.py VIDERE [TestClass[.test]]...
"""
import json
import os
import signal
import subprocess
import sys
import time
import unittest

import cli_test
from cli_test import CHECKPOINT, Case, videre


class Bench(Case):
    def report(self, name, *flags):
        started = time.monotonic()
        report = json.loads(self.ok('bench', name, CHECKPOINT, *flags, '--json'))
        self.took = time.monotonic() - started
        self.assertEqual((report['model'], report['device']), (str(CHECKPOINT), 'cpu'))
        return report

    def test_latency(self):
        report = self.report('latency', '--batch-size', 3, '--input-len', 7, '--output-len', 5, '--num-iters', 4,
                             '--num-iters-warmup', 1)
        latencies = report['latencies']
        self.assertEqual(len(latencies), 4)
        self.assertAlmostEqual(report['avg_latency'], sum(latencies) / 4, places=5)
        percentiles = [report['percentiles'][key] for key in ('10', '25', '50', '75', '90', '99')]
        self.assertEqual(percentiles, sorted(percentiles))
        self.assertTrue(min(latencies) <= percentiles[0] and percentiles[-1] <= max(latencies))
        self.assertEqual((report['prompt_tokens'], report['output_tokens']), (4 * 3 * 7, 4 * 3 * 5))
        self.assertAlmostEqual(report['output_tokens_per_second'] * sum(latencies), 4 * 3 * 5, places=1)
        self.assertLess(report['ttft_ms']['median'], 1e3 * max(latencies))
        # Tokens that a busy machine's reader finds together have no time between them.
        self.assertTrue(0 <= report['tpot_ms']['mean'] < 1e3 * max(latencies) / 4, report['tpot_ms'])
        self.assertLess(sum(latencies), self.took)
        text = self.ok('bench', 'latency', CHECKPOINT, '--batch-size', 1, '--num-iters', 1, '--num-iters-warmup', 0,
                       '--output-len', 1)
        self.assertIn('1 at once, 32 tokens in, 1 out', text)
        self.assertRegex(text, r'(?m)^first token +mean +\d+\.\d+ ms')

    def test_throughput(self):
        report = self.report('throughput', '--num-prompts', 40, '--input-len', 6, '--output-len', 3, '--max-num-seqs', 2,
                             '--max-waiting-requests', 1)
        self.assertEqual((report['num_requests'], report['total_num_tokens']), (40, 40 * 9))
        self.assertAlmostEqual(report['requests_per_second'] * report['elapsed_time'], 40, places=2)
        self.assertAlmostEqual(report['tokens_per_second'] * report['elapsed_time'], 40 * 9, places=1)
        self.assertAlmostEqual(report['output_tokens_per_second'] * report['elapsed_time'], 40 * 3, places=1)
        self.assertLess(report['elapsed_time'], self.took)

    def test_media(self):
        flags = ['--num-images', 2, '--num-videos', 1, '--num-frames', 4, '--image-size', '40x30', '--output-len', 2]
        report = self.report('throughput', '--num-prompts', 3, '--input-len', 5, *flags)
        self.assertGreater(report['image_tokens'], 0)
        self.assertGreater(report['video_tokens'], 0)
        self.assertAlmostEqual(report['images_per_second'] * report['elapsed_time'], 6, places=2)
        self.assertAlmostEqual(report['video_seconds_per_second'] * report['elapsed_time'], 6, places=2)
        report = self.report('latency', '--batch-size', 1, '--num-iters', 1, '--num-iters-warmup', 0, *flags)
        self.assertGreater(report['image_tokens'], 0)

    def test_startup(self):
        report = self.report('startup', '--num-iters', 3)
        for name in ('ready', 'first_token'):
            self.assertEqual(len(report[name]['values']), 3)
            self.assertEqual(report[name]['median'], sorted(report[name]['values'])[1])
        for ready, first in zip(report['ready']['values'], report['first_token']['values']):
            self.assertTrue(0 < ready < first)
        self.assertLess(sum(report['first_token']['values']), self.took)
        text = self.ok('bench', 'startup', CHECKPOINT, '--num-iters', 1)
        self.assertIn('process start to first token  median', text)

    def test_refusals(self):
        self.refused(2, 'bench', 'latncy', says='did you mean latency?')
        self.refused(2, 'bench', 'latency', CHECKPOINT, '--image-size', '5', says=['--image-size', 'WIDTHxHEIGHT'])
        self.refused(2, 'bench', 'latency', CHECKPOINT, '--batch-size', 0, says='--batch-size')
        self.refused(2, 'bench', 'latency', CHECKPOINT, '--input-len', 10**6, '--num-iters', 1, says='context')
        self.refused(3, 'bench', 'throughput', '/nowhere', says='/nowhere')
        self.refused(3, 'bench', 'startup', '/nowhere', says=['/nowhere', 'started process'])
        self.assertEqual(videre('bench').code, 2)
        self.assertIn('throughput', self.ok('bench', '--help'))

    def test_ctrl_c(self):
        for name, flags in (('latency', ['--num-iters', 10**6]), ('throughput', ['--output-len', 3000]),
                            ('startup', ['--num-iters', 10**6])):
            process = subprocess.Popen([cli_test.BINARY, 'bench', name, str(CHECKPOINT), *map(str, flags)],
                                       stdout=subprocess.PIPE, stderr=subprocess.PIPE)
            try:
                time.sleep(1)
                process.send_signal(signal.SIGINT)
                out, err = process.communicate(timeout=10)
                self.assertNotEqual(process.returncode, 0, name)
                self.assertEqual(out, b'')
                self.assertIn(b'stopped', err)
            finally:
                process.kill()
                process.wait()


if __name__ == '__main__':
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    cli_test.BINARY = os.path.abspath(sys.argv.pop(1))
    unittest.main()
