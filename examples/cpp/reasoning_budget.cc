// Reasoning of at most so many tokens, then an answer: reasoning_budget [MODEL]
#include "example.h"

int main(int argc, char** argv) {
  videre::EngineOptions options;
  if (argc > 1) options.model = argv[1];
  options.max_model_len = 8192;
  const auto engine = or_exit(videre::Engine::load(options));

  // First the reasoning alone: it ends by itself at </think>, or when the budget is spent.
  videre::Request request;
  request.messages = {
      message("system", {text_part("/think")}),
      message("user",
              {text_part("A train leaves at 9:40 and arrives at 11:05. How long is that?")}),
  };
  request.sampling.temperature = 0;
  request.sampling.max_tokens = 32;
  request.sampling.stop = {"</think>"};
  const auto thinking = or_exit(engine->submit(request));
  const auto thought = or_exit(videre::read_all(*thinking)).at(0);
  const bool in_time = thought.finish_reason == videre::FinishReason::kStop;
  std::cout << "reasoning, " << thought.token_ids.size() << " tokens" << (in_time ? "" : ", cut")
            << ": " << thought.text << '\n';

  // Then the answer: the same prompt, the reasoning and its closing tag, continued.
  videre::Request next;
  next.prompt =
      thinking->rendered_prompt() + thought.text + (in_time ? "" : "...\n") + "</think>\n\n";
  next.sampling.temperature = 0;
  next.sampling.max_tokens = 48;
  std::cout << "answer: " << answer(*engine, next) << '\n';
}
