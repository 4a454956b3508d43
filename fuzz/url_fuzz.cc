// Any text as a URL: what is accepted reads the same when it is written out again, so that the
// address that is checked is the one that is dialled. And data: URLs, escapes, addresses.
#include <cstdlib>

#include "media/data_url.h"
#include "media/url.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace videre;
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const auto same = [](const Url& a) {
    const auto b = parse_http_url(a.scheme + "://" + a.authority() + a.target);
    return b.ok() && b->scheme == a.scheme && b->host == a.host && b->port == a.port &&
           b->target == a.target && b->is_ipv6 == a.is_ipv6;
  };
  const auto url = parse_http_url(text);
  if (url.ok() && !same(*url)) std::abort();
  const auto base = parse_http_url("https://example.com/a/b?c");
  const auto next = resolve_redirect(*base, text);
  if (next.ok() && !same(*next)) std::abort();
  (void)percent_decode(text);
  (void)url_scheme(text);
  (void)is_metadata_host(text);
  if (const auto ip = parse_ip(text)) {
    (void)is_public_address(*ip);
    const auto again = parse_ip(ip->to_string());
    if (!again || !(*again == *ip)) std::abort();
  }
  const auto bytes = decode_base64(text, 1 << 16);
  if (bytes.ok() && bytes->size() > text.size()) std::abort();
  if (url_scheme(text) == "data") {
    (void)parse_data_url(text, 1 << 16, true);
    (void)parse_data_url(text, 1 << 16, false);
  }
  return 0;
}
