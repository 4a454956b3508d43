// A media URL to bytes: data:, http(s): and file:, under limits of size, time and address. Every
// hop of a redirect is checked anew, and the address that was checked is the one that is dialled.
// What the bytes are is image.h's and video.h's business. Messages hold no text from the remote
// side and no resolved path.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "media/media_bytes.h"
#include "media/url.h"
#include "videre/result.h"

namespace videre {

enum class MediaKind { kImage, kVideo };

struct FetchOptions {
  std::string allowed_local_media_path;            // "" refuses file://
  std::vector<std::string> allowed_media_domains;  // exact host names; empty allows all
  bool allow_private_hosts = false;
  bool allow_redirects = true;
  int max_redirects = 5;
  double image_timeout_s = 5,
         video_timeout_s = 30;  // of the first try; the k-th has 4^k times that
  double connect_timeout_s = 3;
  int max_retries = 3;           // after time-outs, broken connections and 5xx
  double retry_pause_s = 1;      // before the first retry; four times longer each time
  double total_timeout_s = 120;  // over all tries and hops
  int64_t max_image_bytes = int64_t{64} << 20, max_video_bytes = int64_t{1} << 30;
  int64_t max_url_bytes = 8192;  // data: URLs excepted

  /// VLLM_IMAGE_FETCH_TIMEOUT, VLLM_VIDEO_FETCH_TIMEOUT, VLLM_MEDIA_FETCH_MAX_RETRIES and
  /// VLLM_MEDIA_URL_ALLOW_REDIRECTS, each with a VIDERE_ twin that wins. Values that cannot be read
  /// are warned about and left at their defaults.
  static FetchOptions from_environment();
};

/// Host name to addresses. Blocks; the fetcher gives up on it at its deadline.
using Resolver = std::function<Result<std::vector<IpAddress>>(const std::string& host)>;

class Fetcher {
 public:
  virtual ~Fetcher() = default;
  /// Blocks. Thread-safe. `cancel` may be null. Errors: kCancelled; kForbidden for what may not be
  /// fetched; kTooLarge past the size limit; kInvalidArgument for the rest.
  virtual Result<MediaBytes> fetch(const std::string& url, MediaKind kind,
                                   const std::atomic<bool>* cancel) = 0;
};

std::unique_ptr<Fetcher> make_fetcher(FetchOptions options);
/// With a resolver of the caller's (tests); the addresses it gives are checked all the same.
std::unique_ptr<Fetcher> make_fetcher(FetchOptions options, Resolver resolver);

/// For the start: the path is empty, or exists and is a directory.
Status check_local_media_root(const std::string& path);

}  // namespace videre
