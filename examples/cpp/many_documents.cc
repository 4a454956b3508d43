// A folder of page pictures, all at once: many_documents FOLDER [MODEL]
#include <algorithm>
#include <deque>
#include <filesystem>

#include "example.h"

namespace fs = std::filesystem;

int main(int argc, char** argv) {
  if (argc < 2) return std::cerr << "many_documents FOLDER [MODEL]\n", 2;
  const fs::path folder = fs::absolute(argv[1]);
  videre::EngineOptions options;
  if (argc > 2) options.model = argv[2];
  options.max_model_len = 8192;
  options.max_num_seqs = 8;
  options.allowed_local_media_path = folder;
  options.processor.max_num_tiles = 6;
  const auto engine = or_exit(videre::Engine::load(options));

  std::vector<fs::path> pages;
  for (const auto& entry : fs::directory_iterator(folder)) pages.push_back(entry.path());
  std::sort(pages.begin(), pages.end());

  // A window of requests: pages are read while earlier ones are answered, never all at once.
  std::deque<std::shared_ptr<videre::Generation>> running;
  size_t next = 0;
  for (const fs::path& page : pages) {
    while (next < pages.size() && running.size() < 16) {
      videre::ContentPart picture;
      picture.kind = videre::ContentPart::Kind::kImage;
      picture.media.url = "file://" + pages[next++].string();
      videre::Request request;
      request.messages = {message("user", {picture, text_part("Which document is this?")})};
      request.sampling.temperature = 0;
      request.sampling.max_tokens = 32;
      running.push_back(or_exit(engine->submit(std::move(request))));
    }
    const auto choices = videre::read_all(*running.front());
    running.pop_front();  // in the order of the pages
    std::cout << page.filename().string() << ": "
              << (choices.ok() ? choices->at(0).text : "error: " + choices.error().message) << '\n';
  }
}
