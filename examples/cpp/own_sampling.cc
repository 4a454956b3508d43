// Frames that the program has decoded and chosen itself: own_sampling [MODEL]
#include "example.h"

namespace {

constexpr int kHeight = 240, kWidth = 320;

// A square that moves over a grey ground: uint8 RGB, [kHeight, kWidth, 3] each.
void draw(uint8_t* frame, int step) {
  for (int y = 0; y < kHeight; ++y) {
    for (int x = 0; x < kWidth; ++x) {
      const bool inside = y / 60 == 1 && x / 40 == step;
      for (int c = 0; c < 3; ++c) *frame++ = inside && c == 0 ? 230 : 90;
    }
  }
}

}  // namespace

int main(int argc, char** argv) {
  videre::EngineOptions options;
  if (argc > 1) options.model = argv[1];
  options.max_model_len = 8192;
  const auto engine = or_exit(videre::Engine::load(options));

  // One frame of fifteen was kept of a clip of 30 frames a second: the model is told each one's
  // time, which is its index over that rate. `borrowed` would leave the pixels where they are.
  auto frames = std::make_shared<videre::RgbFrames>();
  frames->num_frames = 8;
  frames->height = kHeight;
  frames->width = kWidth;
  frames->fps = 30;
  frames->rgb.resize(size_t{8} * kHeight * kWidth * 3);
  for (int i = 0; i < 8; ++i) {
    frames->frames_indices.push_back(i * 15);
    draw(frames->rgb.data() + size_t{static_cast<size_t>(i)} * kHeight * kWidth * 3, i);
  }
  videre::ContentPart clip;
  clip.kind = videre::ContentPart::Kind::kVideo;
  clip.media.frames = std::move(frames);

  videre::Request request;
  request.messages = {message("user", {clip, text_part("What moves, and where to?")})};
  request.sampling.temperature = 0;
  request.sampling.max_tokens = 64;
  std::cout << answer(*engine, request) << '\n';
}
