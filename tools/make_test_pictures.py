#!/usr/bin/env python3
"""Makes tests/media_image/pillow.json: small picture files of many kinds and the RGB bytes that
Pillow makes of them (orientation applied, transparency over white).

Needs Pillow and numpy (made with Pillow 12.3.0). Usage: tools/make_test_pictures.py tests/media_image
"""
import base64
import io
import json
import pathlib
import sys
import zlib

import numpy
import PIL
from PIL import Image, ImageOps

WIDTH, HEIGHT = 23, 17


def samples():
    y, x = numpy.mgrid[0:HEIGHT, 0:WIDTH]
    noise = numpy.random.default_rng(5).normal(0, 6, (HEIGHT, WIDTH))
    channels = [128 + 100 * numpy.sin(x / 5 + c) * numpy.cos(y / 4) + noise for c in range(4)]
    return numpy.stack(channels, -1).clip(0, 255).astype(numpy.uint8)


def make(mode):
    data = samples()
    if mode == 'I;16':
        return Image.fromarray(data[..., 0].astype(numpy.uint16) * 2)
    if mode == 'I;16 above':
        return Image.fromarray(data[..., 0].astype(numpy.uint16) * 257)
    if mode == 'I':
        return Image.fromarray(data[..., 0].astype(numpy.int32) * 2)
    if mode == 'F':
        return Image.fromarray(data[..., 0].astype(numpy.float32) * 1.5)
    if mode == 'CMYK':
        return Image.merge('CMYK', [Image.fromarray(data[..., c]) for c in range(4)])
    if mode == 'RGBA':
        return Image.fromarray(data)
    if mode == 'LA':
        return Image.merge('LA', [Image.fromarray(data[..., c]) for c in range(2)])
    rgb = Image.fromarray(numpy.ascontiguousarray(data[..., :3]))
    if mode.startswith('P'):
        return rgb.quantize(int(mode[1:]))
    return rgb.convert(mode)


def exif(orientation):
    block = Image.Exif()
    block[0x112] = orientation
    return block


KINDS = [
    ('JPEG', 'RGB', dict(quality=80, subsampling=0)),
    ('JPEG', 'RGB', dict(quality=80, subsampling=1)),
    ('JPEG', 'RGB', dict(quality=80, subsampling=2)),
    ('JPEG', 'RGB', dict(quality=30, progressive=True)),
    ('JPEG', 'RGB', dict(quality=60, restart_marker_blocks=1)),
    ('JPEG', 'L', {}),
    ('JPEG', 'CMYK', {}),
    ('JPEG', 'RGB', dict(exif=exif(6))),
    ('PNG', '1', {}),
    ('PNG', 'P2', {}),
    ('PNG', 'P4', {}),
    ('PNG', 'P16', dict(transparency=1)),
    ('PNG', 'P200', dict(transparency=bytes([0, 100, 200]))),
    ('PNG', 'L', dict(transparency=140)),
    ('PNG', 'LA', {}),
    ('PNG', 'RGB', {}),
    ('PNG', 'RGBA', {}),
    ('PNG', 'I;16', {}),
    ('PNG', 'I;16 above', {}),
    ('PNG', 'RGB', dict(exif=exif(5))),
    ('WEBP', 'RGB', dict(quality=60)),
    ('WEBP', 'RGB', dict(lossless=True)),
    ('WEBP', 'RGBA', dict(quality=60)),
    ('WEBP', 'RGBA', dict(lossless=True)),
    ('WEBP', 'RGB', dict(exif=exif(8))),
    ('GIF', 'P16', dict(interlace=0)),
    ('GIF', 'P200', dict(interlace=1)),
    ('GIF', 'RGBA', {}),
    ('BMP', '1', {}),
    ('BMP', 'P16', {}),
    ('BMP', 'P200', {}),
    ('BMP', 'L', {}),
    ('BMP', 'RGB', {}),
    ('BMP', 'RGBA', {}),
    ('TIFF', '1', dict(compression='group4')),
    ('TIFF', '1', dict(compression='group3')),
    ('TIFF', 'L', dict(compression='packbits')),
    ('TIFF', 'LA', dict(compression='tiff_lzw')),
    ('TIFF', 'P200', {}),
    ('TIFF', 'RGB', {}),
    ('TIFF', 'RGB', dict(compression='jpeg')),
    ('TIFF', 'RGB', dict(compression='tiff_adobe_deflate', exif=exif(7))),
    ('TIFF', 'RGBA', dict(compression='tiff_lzw')),
    ('TIFF', 'CMYK', dict(compression='tiff_lzw')),
    ('TIFF', 'I;16', {}),
    ('TIFF', 'I', {}),
    ('TIFF', 'F', {}),
    ('PPM', '1', {}),
    ('PPM', 'L', {}),
    ('PPM', 'I', {}),
    ('PPM', 'RGB', {}),
]


def to_rgb(data):
    image = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    transparent = image.mode in ('RGBA', 'LA', 'PA') or 'transparency' in image.info
    if image.mode != 'RGB' and transparent:
        rgba = image.convert('RGBA')
        image = Image.new('RGB', image.size, (255, 255, 255))
        image.paste(rgba, mask=rgba.getchannel('A'))
    return image.convert('RGB')


def main():
    pictures = []
    for kind, mode, options in KINDS:
        buffer = io.BytesIO()
        make(mode).save(buffer, kind, **options)
        rgb = to_rgb(buffer.getvalue())
        words = ', '.join(f'{k} {int(v[0x112]) if k == "exif" else v}' for k, v in options.items())
        pictures.append({
            'name': f'{kind} {mode}' + (f', {words}' if words else ''),
            'file_base64': base64.b64encode(buffer.getvalue()).decode(),
            'size': list(rgb.size),
            'rgb_crc32': zlib.crc32(rgb.tobytes()),
        })
    lines = ',\n  '.join(json.dumps(p) for p in pictures)
    text = f'{{"made_with": "Pillow {PIL.__version__}", "pictures": [\n  {lines}\n]}}\n'
    pathlib.Path(sys.argv[1], 'pillow.json').write_text(text)


main()
