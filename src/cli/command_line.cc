// `videre COMMAND ...`: finds the command and hands it the rest of the line.
#include <fmt/format.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>

#include "cli/commands.h"
#include "cli/flags.h"

namespace videre {
namespace {

struct Command {
  const char* name;
  int (*run)(const std::vector<std::string>&);
  const char* arguments;
  const char* summary;
};

constexpr Command kCommands[] = {
    {"serve", serve_command, "[MODEL] [flags]", "answer the OpenAI protocol over HTTP"},
    {"run", run_command, "[flags] \"question\"", "ask about pictures and clips right here"},
    {"inspect", inspect_command, "[MODEL] [flags]", "config, tensors, precision and memory plan"},
    {"inspect tokens", nullptr, "MODEL --request R.json",
     "the exact prompt that a request becomes"},
    {"inspect dump", nullptr, "MODEL --observe REGEX --out DIR",
     "named tensors of every stage as .npy files"},
    {"inspect init-config", nullptr, "NAME DST", "the real model's sizes, for measuring speed"},
    {"quantize", quantize_command, "SRC DST --format F", "a checkpoint to FP8 or NVFP4"},
    {"export", export_command, "DST", "the built-in model as a folder"},
    {"bench", bench_command, "latency [MODEL] [flags]",
     "time of a batch, of its first token, a token"},
    {"bench throughput", nullptr, "[MODEL] [flags]", "requests and tokens a second, many at once"},
    {"bench startup", nullptr, "[MODEL] [flags]", "from a process's start to its first token"},
    {"bench accuracy", nullptr, "[MODEL] [flags]", "answers that are right, task by task"},
    {"tokenize", tokenize_command, "[MODEL]", "text on stdin to token ids"},
    {"detokenize", detokenize_command, "[MODEL]", "token ids on stdin to text"},
};

void print_help() {
  fmt::print(
      "videre {}: NVIDIA Nemotron-Nano-12B-v2-VL in one binary; text, pictures and video in, text "
      "out.\n\nusage: videre COMMAND ...\n\n",
      version());
  for (const Command& command : kCommands) {
    fmt::print("  {:<46}{}\n", fmt::format("{} {}", command.name, command.arguments),
               command.summary);
  }
  fmt::print(
      "\n  videre COMMAND --help lists a command's flags; videre --version prints the version.\n"
      "\nFor example:\n"
      "  videre run --image receipt.png \"What is the total?\"\n"
      "  videre serve MODEL --port 8000 --allowed-local-media-path /data\n"
      "\nMODEL is a checkpoint's folder, or org/name in the Hugging Face hub cache; without one, "
      "the "
      "model in this\nbinary answers.\n");
}

// A full disk must not look like success.
int lost_output() {
  fmt::print(stderr, "videre: error: stdout cannot be written: {}\n", std::strerror(errno));
  return 1;
}

std::vector<std::string>& program() {
  static std::vector<std::string> words = {"/proc/self/exe"};
  return words;
}

}  // namespace

const std::vector<std::string>& program_words() { return program(); }

int run_command_line(std::vector<std::string> words, std::vector<std::string> again) {
  if (!again.empty()) program() = std::move(again);
  // The name under which scripts start the server without a subcommand.
  if (!words.empty() && std::filesystem::path(words[0]).filename() == "videre-api-server") {
    words.insert(words.begin() + 1, "serve");
  }
  if (words.size() < 2 || words[1] == "--help" || words[1] == "-h" || words[1] == "help") {
    print_help();
    return 0;
  }
  if (words[1] == "--version" || words[1] == "version") {
    fmt::print("videre {}\n", version());
    return 0;
  }
  std::vector<std::string> names;
  for (const Command& command : kCommands) {
    if (!command.run) continue;
    if (words[1] == command.name) {
      const int code = command.run({words.begin() + 2, words.end()});
      return std::fflush(stdout) == 0 || code != 0 ? code : lost_output();
    }
    names.push_back(command.name);
  }
  const std::string near = nearest_name(words[1], names);
  fmt::print(stderr, "videre: error: {} is no command{}\nvidere --help lists the commands\n",
             words[1], near.empty() ? "" : "; did you mean " + near + "?");
  return 2;
}

}  // namespace videre
