// A tokenizer.json in the place of the real model's, which is not at hand: the same structure,
// sizes and special ids, common words whole, and everything between filled with words that nobody
// says. Text takes about as many tokens as with the real one, and every id is text.
#pragma once

#include <string>

namespace videre {

/// 131,072 entries of vocabulary, 256 of them bytes; ten added tokens behind them, <image> first.
std::string made_up_tokenizer_json();
std::string made_up_tokenizer_config_json();

}  // namespace videre
