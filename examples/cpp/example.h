// What the examples share: messages, and the end of a program that was refused something.
#pragma once

#include <videre/engine.h>

#include <cstdlib>
#include <iostream>

inline videre::ContentPart text_part(std::string text) {
  return {videre::ContentPart::Kind::kText, std::move(text), {}};
}

inline videre::ChatMessage message(std::string role, std::vector<videre::ContentPart> content) {
  videre::ChatMessage out;
  out.role = std::move(role);
  out.content_is_string = content.size() == 1 && content[0].media.placeholder();
  out.content = std::move(content);
  return out;
}

/// The value, or the error's sentence and its exit code.
template <typename T>
T or_exit(videre::Result<T> result) {
  if (result.ok()) return std::move(result).value();
  std::cerr << result.error().message << '\n';
  std::exit(videre::error_status(result.error().code).exit_code);
}

/// Runs a request to its end: the first choice's text.
inline std::string answer(videre::Engine& engine, videre::Request request) {
  const auto generation = or_exit(engine.submit(std::move(request)));
  return or_exit(videre::read_all(*generation)).at(0).text;
}
