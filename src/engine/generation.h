// The reader's side of a request: tokens from its channel to text, without splitting a character,
// and the watch for stop strings. Runs in whatever thread reads.
#pragma once

#include <memory>

#include "engine/request_state.h"
#include "text/tokenizer.h"
#include "videre/engine.h"

namespace videre {

std::shared_ptr<Generation> make_generation(std::shared_ptr<RequestState> state,
                                            std::shared_ptr<const Tokenizer> tokenizer);

}  // namespace videre
