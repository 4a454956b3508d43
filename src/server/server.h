// `videre serve` from flags to exit code: bind, load, answer, drain. Ties sockets, routes and
// engine together and leaves each its own work.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "server/http.h"
#include "server/routes.h"
#include "videre/engine.h"

namespace videre {

struct ServerOptions {
  EngineOptions engine;
  std::string host;  // "" = all interfaces
  int port = 8000;
  HttpLimits limits;
  /// No served name means the model's; limits that the engine's options state are taken from there.
  RoutesOptions routes;
  double shutdown_timeout_s = 0;     // how long running requests may go on after SIGTERM
  double log_stats_interval_s = 10;  // 0 = no periodic line
};

/// The plan as lines for people.
std::string describe(const MemoryPlan& plan);

using EngineLoader =
    std::function<Result<std::unique_ptr<Engine>>(const EngineOptions&, const LoadProgress&)>;

/// Runs until SIGTERM or SIGINT. Returns the process's exit code: 0 clean stop, 1 the engine died,
/// 2 to 4 as error_status() says, 5 the port is busy; a second signal, or one while loading, ends
/// the process at once with 128 + signal. Call it from the main thread, before others start.
int serve_main(ServerOptions options, const EngineLoader& load = &Engine::load);

}  // namespace videre
