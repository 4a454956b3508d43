// Asks about a clip, with most of its tokens pruned: video CLIP [MODEL]
#include <filesystem>

#include "example.h"

int main(int argc, char** argv) {
  if (argc < 2) return std::cerr << "video CLIP [MODEL]\n", 2;
  const std::filesystem::path path = std::filesystem::absolute(argv[1]);
  videre::EngineOptions options;
  if (argc > 2) options.model = argv[2];
  options.max_model_len = 8192;
  options.allowed_local_media_path = path.parent_path();  // file: URLs must lie below
  options.media_io.fps = 2;
  options.media_io.num_frames = 128;
  options.video_pruning_rate = 0.75;
  const auto engine = or_exit(videre::Engine::load(options));

  videre::ContentPart clip;
  clip.kind = videre::ContentPart::Kind::kVideo;
  clip.media.url = "file://" + path.string();

  videre::Request request;
  request.messages = {message("user", {clip, text_part("What happens in this clip?")})};
  request.sampling.temperature = 0;
  request.sampling.max_tokens = 64;

  for (const double rate : {0.75, 0.5}) {  // a request may have its own rate; 0 turns pruning off
    request.processor.video_pruning_rate = rate;
    const auto plan = or_exit(engine->plan(request));
    std::cout << plan.videos.at(0).frames_indices.size() << " frames, " << plan.videos.at(0).tokens
              << " vision tokens at rate " << rate << ": " << answer(*engine, request) << '\n';
  }
}
