// What Python's str does, on UTF-8: case, stripping, splitting, and how values print. Chat
// templates are written against it. All inputs are valid UTF-8; positions and counts are of
// characters.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace videre::python {

bool is_space(char32_t c);  ///< str.isspace
bool is_word(char32_t c);   ///< \w of the re module

std::string upper(std::string_view text);
std::string lower(std::string_view text);
std::string title(std::string_view text);
std::string capitalize(std::string_view text);
std::string swapcase(std::string_view text);

/// Every character has the property and there is one; cased ones for the last two.
bool is_alpha(std::string_view text);
bool is_alnum(std::string_view text);
bool is_decimal(std::string_view text);
bool is_digit(std::string_view text);
bool is_numeric(std::string_view text);
bool is_lower(std::string_view text);
bool is_upper(std::string_view text);
bool is_title(std::string_view text);

/// Without `chars`, white space is stripped.
std::string_view strip(std::string_view text, std::optional<std::string_view> chars, bool left,
                       bool right);
/// By runs of white space; at most `max_splits` cuts when it is not negative.
std::vector<std::string_view> split_space(std::string_view text, int64_t max_splits,
                                          bool from_right);
/// `separator` is not empty.
std::vector<std::string_view> split(std::string_view text, std::string_view separator,
                                    int64_t max_splits, bool from_right);
std::vector<std::string_view> split_lines(std::string_view text, bool keep_ends);

/// Byte offset of the character `index`, or the size when there are fewer.
size_t byte_offset(std::string_view text, size_t index);
/// All-ASCII text has its offsets for free.
bool is_ascii(std::string_view text);

std::string repr(std::string_view text);
std::string repr(double value);
/// As json.dumps prints a string.
void append_json_string(std::string& out, std::string_view text, bool ascii_only);
/// &, <, >, ' and " as markupsafe does.
std::string escape_html(std::string_view text);

}  // namespace videre::python
