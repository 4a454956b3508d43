// The subcommands of `videre`: each takes the words after its name and gives the exit code: 0 done,
// 1 failed, 2 usage, 3 model not found or invalid, 4 not enough memory, 5 port busy, 128 + signal.
#pragma once

#include <string>
#include <vector>

namespace videre {

/// The whole program: words as in argv, the program's name first.
int run_command_line(std::vector<std::string> words);

int serve_command(const std::vector<std::string>& arguments);
int run_command(const std::vector<std::string>& arguments);
/// MODEL; `tokens MODEL`; `dump MODEL`.
int inspect_command(const std::vector<std::string>& arguments);
/// SRC DST --format fp8|nvfp4.
int quantize_command(const std::vector<std::string>& arguments);
int export_command(const std::vector<std::string>& arguments);
/// `accuracy [MODEL]`.
int bench_command(const std::vector<std::string>& arguments);
int tokenize_command(const std::vector<std::string>& arguments);
int detokenize_command(const std::vector<std::string>& arguments);

}  // namespace videre
