// Text for people: escaping, globs, sizes.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "formats/base/status.h"

namespace q2c {

// A name that came from a file, made safe to print: control characters, bidi marks
// and invalid UTF-8 appear as \x.. or \u....; longer than `limit` bytes is cut with '…'.
std::string Escape(std::string_view text, size_t limit = 200);

// Shell-style match of a whole name: '*' any run (dots too), '?' one character.
bool GlobMatch(std::string_view pattern, std::string_view name);

// "5.58 GB": decimal units, three digits.
std::string HumanBytes(uint64_t bytes);

// "200KB", "5GB", "4GiB", "123": bytes. Decimal units unless written KiB, MiB, GiB.
Result<uint64_t> ParseBytes(std::string_view text);

// ASCII letters in lower case; everything else as it is.
std::string Lower(std::string_view text);

// Without their ends, "\n" or "\r\n"; what follows the last end is a line unless it is empty.
std::vector<std::string_view> Lines(std::string_view text);

// Is this valid UTF-8?
bool IsUtf8(std::string_view text);

std::string Join(const std::vector<std::string>& parts, std::string_view separator);

// "a, b, c and 4 more": at most `limit` names, each escaped and quoted.
std::string QuoteSome(const std::vector<std::string>& names, size_t limit = 3);

// Shape as it is printed: [28,2368].
std::string ShapeText(const std::vector<uint64_t>& shape);

}  // namespace q2c
