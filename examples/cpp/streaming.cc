// Text as it comes, of two requests side by side: streaming [MODEL]
#include <condition_variable>
#include <mutex>

#include "example.h"

int main(int argc, char** argv) {
  std::mutex mutex;  // these outlive the engine, whose threads call the listeners
  std::condition_variable something;
  bool readable = false;
  videre::EngineOptions options;
  if (argc > 1) options.model = argv[1];
  options.max_model_len = 4096;
  const auto engine = or_exit(videre::Engine::load(options));

  std::vector<std::shared_ptr<videre::Generation>> generations;
  for (const char* question : {"Count to ten.", "Name three colours."}) {
    videre::Request request;
    request.messages = {message("user", {text_part(question)})};
    request.sampling.temperature = 0;
    request.sampling.max_tokens = 24;
    generations.push_back(or_exit(engine->submit(std::move(request))));
    generations.back()->set_listener([&] {
      const std::lock_guard lock(mutex);
      readable = true;
      something.notify_one();
    });
  }
  const auto running = [&] { return !generations[0]->done() || !generations[1]->done(); };
  while (running()) {
    {
      std::unique_lock lock(mutex);
      something.wait(lock, [&] { return readable; });
      readable = false;
    }
    for (size_t i = 0; i < generations.size(); ++i) {
      if (generations[i]->done()) continue;
      for (const auto& delta : or_exit(generations[i]->read(std::chrono::milliseconds(0)))) {
        std::cout << i << ": " << delta.text << std::endl;
      }
    }
  }
}
