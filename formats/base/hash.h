// Digests. XXH3-128 finds accidents and is as fast as memory; SHA-256 is what
// `sha256sum -c` and the model hubs use. Both stream.
#pragma once

#include <array>
#include <memory>
#include <string>

#include "formats/base/bytes.h"

namespace q2c {

class Xxh3 {
 public:
  Xxh3();
  void Update(ByteView bytes);
  std::string Hex() const;  // 32 digits, high half first, as xxhsum -H2 prints it
  std::array<uint8_t, 16> Digest() const;  // the bytes of these digits
  static std::string Of(ByteView bytes);

 private:
  struct Free {
    void operator()(void* state) const;
  };
  std::unique_ptr<void, Free> state_;
};

class Sha256 {
 public:
  Sha256();
  void Update(ByteView bytes);
  std::string Hex();  // 64 digits; ends the stream
  static std::string Of(ByteView bytes);

 private:
  struct Free {
    void operator()(void* context) const;
  };
  std::unique_ptr<void, Free> context_;
};

// The SHA-1 by which git names a file of this many bytes ("blob SIZE\0" and the bytes): the Hub
// names small files so. It proves nothing against somebody who wants to deceive.
class GitBlobSha1 {
 public:
  explicit GitBlobSha1(uint64_t bytes);
  void Update(ByteView bytes);
  std::string Hex();  // 40 digits; ends the stream

 private:
  struct Free {
    void operator()(void* context) const;
  };
  std::unique_ptr<void, Free> context_;
};

}  // namespace q2c
