#include "media/url.h"

#include <arpa/inet.h>

#include <algorithm>
#include <charconv>
#include <cstring>

#include "base/error.h"

namespace videre {
namespace {

constexpr size_t kMaxHostBytes = 253;

bool is_digit(char c) { return c >= '0' && c <= '9'; }
bool is_alpha(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); }
bool is_hex(char c) { return is_digit(c) || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F'); }
int hex_value(char c) { return is_digit(c) ? c - '0' : (c | 0x20) - 'a' + 10; }

std::string lowered(std::string_view text) {
  std::string result(text);
  for (char& c : result) {
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  }
  return result;
}

/// Characters that different parsers read differently, or that could split a request line.
Status check_characters(std::string_view text) {
  for (const char c : text) {
    const auto byte = static_cast<uint8_t>(c);
    if (byte <= 0x20 || byte == 0x7f) {
      return invalid_argument("", "the URL holds a space or control character; percent-encode it");
    }
    if (byte > 0x7f) {
      return invalid_argument("",
                              "the URL holds characters outside ASCII; write the host as xn--… "
                              "and percent-encode the path");
    }
    if (c == '\\') return invalid_argument("", "the URL holds a back slash, which is refused");
  }
  return {};
}

/// Whether a resolver might read the name as a number: its last label is all digits or 0x….
bool looks_numeric(std::string_view host) {
  const std::string_view last =
      host.substr(host.rfind('.') == std::string_view::npos ? 0 : host.rfind('.') + 1);
  if (std::all_of(last.begin(), last.end(), is_digit)) return true;
  return last.size() >= 2 && last[0] == '0' && last[1] == 'x' &&
         std::all_of(last.begin() + 2, last.end(), is_hex);
}

Status check_name(std::string_view host) {
  if (host.empty()) return invalid_argument("", "the URL names no host");
  if (host.size() > kMaxHostBytes) return invalid_argument("", "the URL's host name is too long");
  for (size_t i = 0; i < host.size(); ++i) {
    const char c = host[i];
    const bool dot = c == '.';
    if (!is_digit(c) && !is_alpha(c) && c != '-' && c != '_' && !dot) {
      return invalid_argument("",
                              "the URL's host name holds a character other than letters, digits, "
                              "'-', '_' and '.'");
    }
    if (dot && (i == 0 || host[i - 1] == '.')) {
      return invalid_argument("", "the URL's host name has an empty label");
    }
  }
  if (looks_numeric(host) && !parse_ip(host)) {
    return invalid_argument("",
                            "the URL's host is a number but no plain IPv4 address; write it as "
                            "four decimal numbers between dots");
  }
  return {};
}

Status parse_authority(std::string_view authority, Url& url) {
  if (authority.find('@') != std::string_view::npos) {
    return invalid_argument("", "the URL holds user information before '@', which is refused");
  }
  std::string_view host = authority;
  std::string_view port;
  bool has_port = false;
  if (authority.starts_with('[')) {
    const size_t end = authority.find(']');
    if (end == std::string_view::npos) {
      return invalid_argument("", "the URL's IPv6 address has no closing bracket");
    }
    host = authority.substr(1, end - 1);
    const std::string_view rest = authority.substr(end + 1);
    if (!rest.empty() && rest[0] != ':') {
      return invalid_argument("", "the URL has text after its IPv6 address");
    }
    has_port = !rest.empty();
    port = has_port ? rest.substr(1) : rest;
    const auto address = parse_ip(host);
    if (!address || !address->is_ipv6) {
      return invalid_argument("", "the URL's brackets hold no IPv6 address");
    }
    url.is_ipv6 = true;
    url.host = address->to_string();
  } else {
    const size_t colon = host.find(':');
    if (colon != std::string_view::npos) {
      has_port = true;
      port = host.substr(colon + 1);
      host = host.substr(0, colon);
    }
    if (host.ends_with('.')) host.remove_suffix(1);
    url.host = lowered(host);
    VIDERE_RETURN_IF_ERROR(check_name(url.host));
  }
  url.port = url.scheme == "https" ? 443 : 80;
  if (has_port && !port.empty()) {
    const auto [end, error] = std::from_chars(port.data(), port.data() + port.size(), url.port);
    if (error != std::errc() || end != port.data() + port.size() || url.port == 0) {
      return invalid_argument("", "the URL's port is not a number from 1 to 65535");
    }
  }
  return {};
}

/// Removes "." and ".." of a merged path (RFC 3986, 5.2.4); the server sees the plain path.
std::string remove_dots(std::string_view path) {
  std::string out;
  while (!path.empty()) {
    const size_t end = std::min(path.find('/', 1), path.size());
    const std::string_view segment = path.substr(0, end);
    const bool last = end == path.size();
    if (segment == "/.." || segment == "/.") {
      if (segment == "/..") out.erase(std::min(out.rfind('/'), out.size()));
      if (last) out += '/';
    } else {
      out += segment;
    }
    path.remove_prefix(end);
  }
  return out.empty() ? "/" : out;
}

}  // namespace

std::string Url::authority() const {
  std::string text = is_ipv6 ? "[" + host + "]" : host;
  if (port != (scheme == "https" ? 443 : 80)) text += ":" + std::to_string(port);
  return text;
}

std::string url_scheme(std::string_view text) {
  const size_t colon = text.find(':');
  if (colon == std::string_view::npos || colon == 0 || !is_alpha(text[0])) return "";
  const std::string_view scheme = text.substr(0, colon);
  for (const char c : scheme) {
    if (!is_alpha(c) && !is_digit(c) && c != '+' && c != '-' && c != '.') return "";
  }
  return lowered(scheme);
}

Result<Url> parse_http_url(std::string_view text) {
  VIDERE_RETURN_IF_ERROR(check_characters(text));
  Url url;
  url.scheme = url_scheme(text);
  if (url.scheme != "http" && url.scheme != "https") {
    return invalid_argument("", "the URL must be HTTP, HTTPS, data or file");
  }
  std::string_view rest = text.substr(url.scheme.size() + 1);
  if (!rest.starts_with("//")) {
    return invalid_argument("", "the URL has no \"//\" after its scheme");
  }
  rest.remove_prefix(2);
  const size_t end = std::min(rest.find_first_of("/?#"), rest.size());
  VIDERE_RETURN_IF_ERROR(parse_authority(rest.substr(0, end), url));
  std::string_view target = rest.substr(end);
  target = target.substr(0, target.find('#'));
  url.target = target.starts_with('/') ? std::string(target) : "/" + std::string(target);
  return url;
}

Result<Url> resolve_redirect(const Url& base, std::string_view location) {
  VIDERE_RETURN_IF_ERROR(check_characters(location));
  if (!url_scheme(location).empty()) return parse_http_url(location);
  if (location.starts_with("//")) return parse_http_url(base.scheme + ":" + std::string(location));
  location = location.substr(0, location.find('#'));
  Url url = base;
  const std::string_view base_path = std::string_view(base.target).substr(0, base.target.find('?'));
  const size_t query = std::min(location.find('?'), location.size());
  const std::string_view path = location.substr(0, query);
  std::string merged;
  if (path.empty()) {
    merged = base_path;
    if (query == location.size()) return url;  // the same document again
  } else if (path[0] == '/') {
    merged = remove_dots(path);
  } else {
    merged =
        remove_dots(std::string(base_path.substr(0, base_path.rfind('/') + 1)) + std::string(path));
  }
  url.target = merged + std::string(location.substr(query));
  return url;
}

Result<std::string> percent_decode(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (size_t i = 0; i < text.size(); ++i) {
    char c = text[i];
    if (c == '%') {
      if (i + 2 >= text.size() || !is_hex(text[i + 1]) || !is_hex(text[i + 2])) {
        return invalid_argument("", "the URL holds a '%' without two hexadecimal digits");
      }
      c = static_cast<char>(hex_value(text[i + 1]) * 16 + hex_value(text[i + 2]));
      i += 2;
    }
    if (c == '\0') return invalid_argument("", "the URL holds a NUL character");
    out += c;
  }
  return out;
}

std::string IpAddress::to_string() const {
  char text[INET6_ADDRSTRLEN] = {};
  ::inet_ntop(is_ipv6 ? AF_INET6 : AF_INET, bytes.data(), text, sizeof(text));
  return text;
}

std::optional<IpAddress> parse_ip(std::string_view text) {
  const std::string copy(text);
  IpAddress address;
  if (copy.find('\0') != std::string::npos) return std::nullopt;
  if (::inet_pton(AF_INET, copy.c_str(), address.bytes.data()) == 1) return address;
  address.is_ipv6 = true;
  if (::inet_pton(AF_INET6, copy.c_str(), address.bytes.data()) == 1) return address;
  return std::nullopt;
}

bool is_public_address(const IpAddress& address) {
  struct Range {
    uint8_t bytes[4];
    int bits;
  };
  // IANA's special-purpose registries.
  static constexpr Range kV4[] = {
      {{0, 0, 0, 0}, 8},      {{10, 0, 0, 0}, 8},     {{100, 64, 0, 0}, 10},
      {{127, 0, 0, 0}, 8},    {{169, 254, 0, 0}, 16}, {{172, 16, 0, 0}, 12},
      {{192, 0, 0, 0}, 24},   {{192, 0, 2, 0}, 24},   {{192, 88, 99, 0}, 24},
      {{192, 168, 0, 0}, 16}, {{198, 18, 0, 0}, 15},  {{198, 51, 100, 0}, 24},
      {{203, 0, 113, 0}, 24}, {{224, 0, 0, 0}, 4},    {{240, 0, 0, 0}, 4}};
  // Inside 2000::/3, the only global unicast block: protocol assignments with Teredo,
  // documentation, 6to4.
  static constexpr Range kV6[] = {{{0x20, 0x01, 0x00, 0x00}, 23},
                                  {{0x20, 0x01, 0x0d, 0xb8}, 32},
                                  {{0x20, 0x02, 0, 0}, 16},
                                  {{0x3f, 0xff, 0, 0}, 20}};
  const auto within = [&](const Range& range) {
    for (int bit = 0; bit < range.bits; bit += 8) {
      const auto mask =
          static_cast<uint8_t>(range.bits - bit >= 8 ? 0xff : 0xff << (8 - (range.bits - bit)));
      const auto i = static_cast<size_t>(bit / 8);
      if ((address.bytes[i] & mask) != (range.bytes[i] & mask)) return false;
    }
    return true;
  };
  if (!address.is_ipv6) return std::none_of(std::begin(kV4), std::end(kV4), within);
  if ((address.bytes[0] & 0xe0) != 0x20) return false;
  return std::none_of(std::begin(kV6), std::end(kV6), within);
}

bool is_metadata_host(std::string_view host) {
  for (const std::string_view name : {"metadata", "metadata.google.internal", "instance-data",
                                      "instance-data.ec2.internal", "metadata.azure.internal"}) {
    if (host == name) return true;
  }
  return host.ends_with(".metadata.google.internal");
}

}  // namespace videre
