// Asks about a picture: picture PICTURE [MODEL]
#include <fstream>
#include <iterator>

#include "example.h"

int main(int argc, char** argv) {
  if (argc < 2) return std::cerr << "picture PICTURE [MODEL]\n", 2;
  videre::EngineOptions options;
  if (argc > 2) options.model = argv[2];  // else the built-in model
  options.max_model_len = 8192;
  const auto engine = or_exit(videre::Engine::load(options));

  videre::ContentPart picture;
  picture.kind = videre::ContentPart::Kind::kImage;
  std::ifstream file(argv[1], std::ios::binary);
  picture.media.bytes = std::make_shared<std::vector<uint8_t>>(std::istreambuf_iterator<char>(file),
                                                               std::istreambuf_iterator<char>());

  videre::Request request;
  request.messages = {message("user", {picture, text_part("What does this picture show?")})};
  request.sampling.temperature = 0;
  request.sampling.max_tokens = 64;

  const auto plan = or_exit(engine->plan(request));
  const auto& image = plan.images.at(0);
  std::cout << image.width << 'x' << image.height << " px, " << image.tiles << " tiles, "
            << plan.usage.prompt_tokens << " tokens\n"
            << answer(*engine, request) << '\n';
}
