// One strict URL parser for everything that is checked and everything that is dialled: what cannot
// be read in one way only is refused, and requests are made from the parsed parts alone. Also which
// addresses count as public.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "videre/result.h"

namespace videre {

struct Url {
  std::string scheme;  // "http" or "https"
  std::string host;    // lower case, no trailing dot; IPv6 without brackets
  uint16_t port = 0;   // the scheme's own when none is written
  std::string target;  // path and query, begins with '/'; fragment dropped
  bool is_ipv6 = false;

  /// As written in a Host header: brackets around IPv6, port when it is not the scheme's.
  std::string authority() const;
};

/// Refuses user info, back slashes, control characters, spaces, bytes above 0x7f, port 0, host
/// names with odd characters, and numbers posing as hosts that are not plain dotted IPv4.
Result<Url> parse_http_url(std::string_view text);

/// A Location header against the URL it came from. Stays strict.
Result<Url> resolve_redirect(const Url& base, std::string_view location);

/// Lower-cased scheme of `text`, "" when it has none.
std::string url_scheme(std::string_view text);

/// "%2e" to "."; an error for a broken escape or an encoded NUL.
Result<std::string> percent_decode(std::string_view text);

struct IpAddress {
  std::array<uint8_t, 16> bytes{};  // IPv4: the first four
  bool is_ipv6 = false;
  bool operator==(const IpAddress&) const = default;
  std::string to_string() const;
};

/// Plain dotted IPv4, or IPv6 without brackets and zone.
std::optional<IpAddress> parse_ip(std::string_view text);

/// False for loopback, private, link-local, shared (carrier NAT), multicast, reserved and
/// unspecified addresses, and for every IPv6 form that embeds an IPv4 address.
bool is_public_address(const IpAddress& address);

/// Names under which clouds serve credentials to their machines.
bool is_metadata_host(std::string_view host);

}  // namespace videre
