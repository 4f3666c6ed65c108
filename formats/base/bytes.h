// Bytes: views, little-endian access, checked sizes. The only place that knows
// about byte order and that casts between bytes and words.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <span>
#include <string_view>
#include <type_traits>
#include <vector>

namespace q2c {

static_assert(std::endian::native == std::endian::little,
              "checkpoints are little-endian and are read without swapping: this host cannot run the tool");

using ByteView = std::span<const std::byte>;
using MutableBytes = std::span<std::byte>;

// Unaligned load and store of one word at a byte address.
template <typename T>
T Load(const std::byte* address) {
  static_assert(std::is_trivially_copyable_v<T>);
  T value;
  std::memcpy(&value, address, sizeof value);
  return value;
}
template <typename T>
void Store(std::byte* address, T value) {
  static_assert(std::is_trivially_copyable_v<T>);
  std::memcpy(address, &value, sizeof value);
}

// The bytes of a vector of words, and back.
template <typename T>
ByteView AsBytes(const std::vector<T>& words) {
  return std::as_bytes(std::span(words));
}
template <typename T>
std::vector<T> WordsFrom(ByteView bytes) {
  std::vector<T> words(bytes.size() / sizeof(T));
  if (!words.empty()) std::memcpy(words.data(), bytes.data(), words.size() * sizeof(T));
  return words;
}
inline ByteView AsBytes(std::string_view text) { return std::as_bytes(std::span(text.data(), text.size())); }

// A size computed from numbers in a hostile file: once it has overflowed it stays so.
class CheckedSize {
 public:
  constexpr CheckedSize(uint64_t value) : value_(value) {}  // NOLINT(google-explicit-constructor)

  constexpr CheckedSize& operator*=(CheckedSize other) {
    overflow_ = overflow_ || other.overflow_ || __builtin_mul_overflow(value_, other.value_, &value_);
    return *this;
  }
  constexpr CheckedSize& operator+=(CheckedSize other) {
    overflow_ = overflow_ || other.overflow_ || __builtin_add_overflow(value_, other.value_, &value_);
    return *this;
  }
  friend constexpr CheckedSize operator*(CheckedSize a, CheckedSize b) { return a *= b; }
  friend constexpr CheckedSize operator+(CheckedSize a, CheckedSize b) { return a += b; }

  constexpr std::optional<uint64_t> value() const {
    if (overflow_) return std::nullopt;
    return value_;
  }

 private:
  uint64_t value_;
  bool overflow_ = false;
};

constexpr uint64_t CeilDiv(uint64_t a, uint64_t b) { return a / b + (a % b != 0 ? 1 : 0); }

}  // namespace q2c
