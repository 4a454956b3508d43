#!/usr/bin/env python3
"""Makes the small clips of tests/media_video and golden.json, what OpenCV reads from them.

Needs the ffmpeg program and opencv-python-headless (made with OpenCV 5.0.0, ffmpeg 5.1).
Usage: tools/make_video_clips.py tests/media_video
"""
import json
import pathlib
import subprocess
import sys
import zlib

import cv2

SOURCE = ['-f', 'lavfi', '-i', 'testsrc2=s=64x48:r=10:d=1.2']
X264 = ['-c:v', 'libx264', '-preset', 'veryslow', '-crf', '30', '-pix_fmt', 'yuv420p']
CLIPS = {
    'mjpeg_420.avi': SOURCE + ['-c:v', 'mjpeg', '-q:v', '12', '-pix_fmt', 'yuvj420p'],
    'mjpeg_422.avi': SOURCE + ['-c:v', 'mjpeg', '-q:v', '12', '-pix_fmt', 'yuvj422p'],
    'mjpeg_gray.avi': SOURCE + ['-vf', 'format=gray', '-c:v', 'mjpeg', '-pix_fmt', 'gray'],
    'mjpeg_444.avi': SOURCE + ['-c:v', 'mjpeg', '-q:v', '12', '-pix_fmt', 'yuvj444p'],
    'yuv420.y4m': SOURCE + ['-frames:v', '3', '-pix_fmt', 'yuv420p'],
    'yuv422.y4m': SOURCE + ['-frames:v', '2', '-pix_fmt', 'yuv422p'],
    'gray.y4m': SOURCE + ['-frames:v', '2', '-pix_fmt', 'gray'],
    'h264.mp4': SOURCE + X264 + ['-bf', '3'],
    'h264_bt709.mp4': SOURCE + X264 + ['-colorspace', 'bt709'],
    'h264_vfr.mp4': SOURCE + ['-vf', "setpts='PTS+gt(N,5)*0.3/TB'", '-vsync', 'vfr'] + X264,
    'h264.ts': SOURCE + X264 + ['-f', 'mpegts'],
    'hevc.mp4': SOURCE + ['-c:v', 'libx265', '-x265-params', 'log-level=none', '-crf', '35',
                          '-pix_fmt', 'yuv420p'],
    'vp9.webm': SOURCE + ['-c:v', 'libvpx-vp9', '-b:v', '30k'],
    'mpeg4.avi': SOURCE + ['-c:v', 'mpeg4', '-bf', '2', '-q:v', '12'],
    'anim.gif': SOURCE + ['-vf', 'scale=32:24'],
}
# OpenCV's wheel has no AV1 decoder: these have no golden pixels.
NOT_IN_OPENCV = {
    'av1.mkv': SOURCE + ['-c:v', 'libaom-av1', '-cpu-used', '8', '-b:v', '20k'],
    'anim.webp': SOURCE + ['-vf', 'scale=32:24', '-c:v', 'libwebp_anim', '-loop', '0'],
}


def ffmpeg(*args):
    subprocess.run(['ffmpeg', '-v', 'error', '-y', '-bitexact', *args], check=True)


def read(path):
    capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG)
    crcs = []
    shape = None
    while True:
        ok, frame = capture.read()
        if not ok:
            break
        shape = frame.shape
        crcs.append(zlib.crc32(frame[..., ::-1].tobytes()))
    return {
        'num_frames': int(capture.get(cv2.CAP_PROP_FRAME_COUNT)),
        'fps': capture.get(cv2.CAP_PROP_FPS),
        'width': shape[1],
        'height': shape[0],
        'crc32_rgb': crcs,
    }


def main():
    out = pathlib.Path(sys.argv[1])
    out.mkdir(parents=True, exist_ok=True)
    for name, args in {**CLIPS, **NOT_IN_OPENCV}.items():
        ffmpeg(*args, str(out / name))
    for degrees in (90, 180, 270):
        name = f'h264_rot{degrees}.mp4'
        ffmpeg('-i', str(out / 'h264.mp4'), '-c', 'copy', '-metadata:s:v', f'rotate={degrees}',
               str(out / name))
        CLIPS[name] = None
    golden = {'made_with': {'opencv': cv2.__version__},
              'clips': {name: read(out / name) for name in sorted(CLIPS)}}
    (out / 'golden.json').write_text(json.dumps(golden, indent=1) + '\n')


if __name__ == '__main__':
    main()
