// Signatures with elliptic-curve keys in PEM files, by OpenSSL: P-256 with SHA-256, P-384 with
// SHA-384, P-521 with SHA-512.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "formats/base/bytes.h"
#include "formats/base/status.h"

namespace q2c {

class EcKey {
 public:
  // Errors: kMalformed "key" for a file that holds no such key; kRefused "key-type" for another kind
  // or curve; kUsage "key-passphrase" for an encrypted key whose passphrase is missing or wrong; by errno.
  static Result<EcKey> LoadPrivate(const std::string& path, const std::string& passphrase);
  static Result<EcKey> LoadPublic(const std::string& path);

  // DER, over the digest that belongs to the curve. Errors: kInternal.
  Result<std::string> Sign(std::string_view message) const;
  bool Verify(std::string_view message, std::string_view signature) const;
  // SHA-256 of the public key as `openssl pkey -pubout` prints it, in hex.
  std::string Hint() const;

 private:
  struct Free {
    void operator()(void* key) const;
  };
  explicit EcKey(void* key) : key_(key) {}
  static Result<EcKey> Check(void* key, const std::string& path);
  std::unique_ptr<void, Free> key_;
};

std::string EncodeBase64(std::string_view bytes);
// Nothing if it is not base64, in the usual alphabet, with its padding.
std::optional<std::string> DecodeBase64(std::string_view text);

}  // namespace q2c
