#include "cli/progress.h"

#include <fmt/format.h>
#include <unistd.h>

namespace videre {

Progress::Progress(Lines lines)
    : terminal_(isatty(STDERR_FILENO)), silent_(!terminal_ && lines == Lines::kOnTerminalOnly) {}

void Progress::show(const std::string& stage, double fraction) {
  if (silent_) return;
  if (!terminal_) {
    if (stage == stage_) return;
    stage_ = stage;
    fmt::print(stderr, "{}\n", stage);
    return;
  }
  const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - start_;
  const std::string percent = fraction < 0 ? "" : fmt::format(" {:.0f} %", 100 * fraction);
  fmt::print(stderr, "\r\033[K{}{} ({:.0f} s)", stage, percent, elapsed.count());
  std::fflush(stderr);
  shown_ = true;
}

void Progress::clear() {
  if (shown_) fmt::print(stderr, "\r\033[K");
  shown_ = false;
}

void Progress::note(const std::string& line) {
  if (silent_) return;
  clear();
  fmt::print(stderr, "{}\n", line);
}

}  // namespace videre
