// Framing of server-sent events: one `data:` line an event, as the OpenAI protocol uses them.
#pragma once

#include <string>
#include <string_view>

namespace videre {

/// Appends one event. `payload` is JSON or a word: it holds no line break, since JSON escapes them.
inline void append_sse(std::string& out, std::string_view payload) {
  out.append("data: ").append(payload).append("\n\n");
}

inline void append_sse_done(std::string& out) { append_sse(out, "[DONE]"); }

/// A comment, which clients skip: keeps idle proxies from closing the connection.
inline void append_sse_ping(std::string& out) { out.append(": ping\n\n"); }

}  // namespace videre
