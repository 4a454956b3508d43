// The bytes of one picture or clip, wherever they came from. Kept apart from fetch.h so that the
// decoders need not know how bytes are fetched.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

namespace videre {

/// Owns heap bytes, or keeps a read-only mapping of a file alive. Movable; the span stays valid
/// across moves.
class MediaBytes {
 public:
  MediaBytes() = default;
  explicit MediaBytes(std::vector<uint8_t> bytes, std::string mime = "")
      : mime(std::move(mime)), heap_(std::move(bytes)) {}
  /// `owner` keeps `bytes` readable.
  MediaBytes(std::shared_ptr<const void> owner, std::span<const uint8_t> bytes)
      : owner_(std::move(owner)), mapped_(bytes) {}
  MediaBytes(MediaBytes&&) = default;
  MediaBytes& operator=(MediaBytes&&) = default;

  std::span<const uint8_t> bytes() const { return owner_ ? mapped_ : std::span(heap_); }

  /// Of a data: URL, lower case; "" otherwise. For "video/jpeg" the bytes are still the list of
  /// base64 frames between commas.
  std::string mime;

 private:
  std::vector<uint8_t> heap_;
  std::shared_ptr<const void> owner_;
  std::span<const uint8_t> mapped_;
};

}  // namespace videre
