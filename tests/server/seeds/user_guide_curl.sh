curl -X 'POST' \
  'http://127.0.0.1:5566/v1/chat/completions' \
  -H 'accept: application/json' \
  -H 'Content-Type: application/json' \
  -d '{
  "model": "nvidia/NVIDIA-Nemotron-Nano-12B-v2-VL-BF16",
  "messages": [{"role": "user", "content": [{"type": "text", "text": "Describe the video."}, {"type": "video_url", "video_url": {"url": "file:///path/to/video.mp4"}}]}]
}'
