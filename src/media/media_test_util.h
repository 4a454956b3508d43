// What the tests of media share: files of tests/, digests, and the rule for error sentences.
#pragma once

#include <gtest/gtest.h>
#include <openssl/sha.h>
#include <zlib.h>

#include <algorithm>
#include <boost/json.hpp>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "media/data_url.h"
#include "videre/result.h"

namespace videre::testing {

inline std::vector<uint8_t> read_test_file(const std::string& name) {
  std::ifstream file(VIDERE_TEST_DATA "/" + name, std::ios::binary);
  EXPECT_TRUE(file) << name;
  return {std::istreambuf_iterator<char>(file), {}};
}

inline boost::json::value read_test_json(const std::string& name) {
  const std::vector<uint8_t> text = read_test_file(name);
  return boost::json::parse({reinterpret_cast<const char*>(text.data()), text.size()});
}

inline std::vector<uint8_t> base64(const boost::json::value& text) {
  auto bytes = decode_base64(std::string_view(text.as_string()), 1 << 30);
  EXPECT_TRUE(bytes.ok());
  return *bytes;
}

inline uint32_t crc32_of(const std::vector<uint8_t>& bytes) {
  return static_cast<uint32_t>(crc32(0, bytes.data(), static_cast<unsigned>(bytes.size())));
}

inline std::string sha256_of(const std::vector<uint8_t>& bytes) {
  unsigned char digest[SHA256_DIGEST_LENGTH];
  SHA256(bytes.data(), bytes.size(), digest);
  std::string text;
  for (const unsigned char byte : digest) {
    text += "0123456789abcdef"[byte >> 4];
    text += "0123456789abcdef"[byte & 15];
  }
  return text;
}

/// A refusal of bad media blames the request, in words that hold no text, path or address of a
/// library.
inline void expect_clean(const Error& error) {
  EXPECT_TRUE(error.code == ErrorCode::kInvalidArgument || error.code == ErrorCode::kTooLarge)
      << error.message;
  EXPECT_GE(error.message.size(), 15u);
  for (const char* leak : {"/usr", "lib", ".so", ".cc", "std::", "bad_alloc", "Invalid data"}) {
    EXPECT_EQ(error.message.find(leak), std::string::npos) << error.message;
  }
  for (size_t at = error.message.find("0x"); at != std::string::npos;
       at = error.message.find("0x", at + 1)) {  // "20x30 px" is a size, 0x7ffd12345678 is not
    const size_t end = error.message.find_first_not_of("0123456789abcdef", at + 2);
    EXPECT_LT(std::min(end, error.message.size()) - at - 2, 11u) << error.message;
  }
  for (const char c : error.message) EXPECT_TRUE(c >= ' ' && c <= '~') << error.message;
}

}  // namespace videre::testing
