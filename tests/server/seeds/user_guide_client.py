from openai import OpenAI
client = OpenAI(
    base_url="http://localhost:5566/v1",
    api_key="<ignored>",
)

completion = client.chat.completions.create(
    model="nvidia/NVIDIA-Nemotron-Nano-12B-v2-VL-BF16",
    messages=[
      {
        "role": "user",
        "content": [
          {
            "type": "text",
            "text": "Describe the video."
          },
          {
            "type": "video_url",
            "video_url": {
              "url": "file:///path/to/video.mp4"
            }
          }
        ]
      }
    ],
)

print(completion.choices[0].message.content)

completion = client.chat.completions.create(
    model="nvidia/NVIDIA-Nemotron-Nano-12B-v2-VL-BF16",
    messages=[
      {
        "role": "user",
        "content": [
          {
            "type": "text",
            "text": "Describe the image."
          },
          {
            "type": "image_url",
            "image_url": {
              "url": "file:///path/to/image.jpg"
            }
          }
        ]
      }
    ],
)

print(completion.choices[0].message.content)
