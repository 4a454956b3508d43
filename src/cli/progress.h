// Where a long command stands, on stderr: one line that changes on a terminal, a plain line a stage
// elsewhere.
#pragma once

#include <chrono>
#include <string>

#include "videre/engine.h"

namespace videre {

class Progress {
 public:
  enum class Lines { kEverywhere, kOnTerminalOnly };
  explicit Progress(Lines lines);
  ~Progress() { clear(); }

  /// `fraction` of the stage that is done; negative when unknown.
  void show(const std::string& stage, double fraction = -1);
  /// Takes the changing line away, before anything else is printed.
  void clear();
  /// A line that stays.
  void note(const std::string& line);

  LoadProgress loader() {
    return
        [this](const std::string& stage, double fraction) { show("loading " + stage, fraction); };
  }

 private:
  const bool terminal_, silent_;
  const std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
  std::string stage_;  // the last plain line
  bool shown_ = false;
};

}  // namespace videre
