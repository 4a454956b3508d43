// The subcommands of `videre`: each takes the words after its name and gives the exit code: 0 done,
// 1 failed, 2 usage, 3 model not found or invalid, 4 not enough memory, 5 port busy, 128 + signal.
#pragma once

#include <string>
#include <vector>

namespace videre {

/// The whole program: words as in argv, the program's name first. `program`: the words that start
/// it again, when that takes more than this process's own file.
int run_command_line(std::vector<std::string> words, std::vector<std::string> program = {});
/// Those words; a path first.
const std::vector<std::string>& program_words();

int serve_command(const std::vector<std::string>& arguments);
int run_command(const std::vector<std::string>& arguments);
/// MODEL; `tokens MODEL`; `dump MODEL`; `init-config NAME DST`.
int inspect_command(const std::vector<std::string>& arguments);
int init_config_command(const std::vector<std::string>& arguments);
/// SRC DST --format fp8|nvfp4.
int quantize_command(const std::vector<std::string>& arguments);
int export_command(const std::vector<std::string>& arguments);
/// `accuracy`, `latency`, `throughput` or `startup`, then [MODEL].
int bench_command(const std::vector<std::string>& arguments);
int bench_latency_command(const std::vector<std::string>& arguments);
int bench_throughput_command(const std::vector<std::string>& arguments);
int bench_startup_command(const std::vector<std::string>& arguments);
int tokenize_command(const std::vector<std::string>& arguments);
int detokenize_command(const std::vector<std::string>& arguments);

}  // namespace videre
