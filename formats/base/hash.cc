#include "formats/base/hash.h"

#include <fmt/format.h>
#include <openssl/evp.h>
#ifdef Q2C_XXHASH_DISPATCH
#include <xxh_x86dispatch.h>  // makes the names below those of the widest vectors there are
#else
#include <xxhash.h>
#endif

#include <array>
#include <new>

namespace q2c {
namespace {
XXH3_state_t* AsXxh(void* state) { return static_cast<XXH3_state_t*>(state); }
EVP_MD_CTX* AsEvp(void* context) { return static_cast<EVP_MD_CTX*>(context); }
std::string XxhHex(XXH128_hash_t hash) { return fmt::format("{:016x}{:016x}", hash.high64, hash.low64); }
}  // namespace

void Xxh3::Free::operator()(void* state) const { XXH3_freeState(AsXxh(state)); }
Xxh3::Xxh3() : state_(XXH3_createState()) {
  if (state_ == nullptr) throw std::bad_alloc();
  XXH3_128bits_reset(AsXxh(state_.get()));
}
void Xxh3::Update(ByteView bytes) { XXH3_128bits_update(AsXxh(state_.get()), bytes.data(), bytes.size()); }
std::string Xxh3::Hex() const { return XxhHex(XXH3_128bits_digest(AsXxh(state_.get()))); }
std::array<uint8_t, 16> Xxh3::Digest() const {
  XXH128_canonical_t canonical;
  XXH128_canonicalFromHash(&canonical, XXH3_128bits_digest(AsXxh(state_.get())));
  return std::to_array(canonical.digest);
}
std::string Xxh3::Of(ByteView bytes) { return XxhHex(XXH3_128bits(bytes.data(), bytes.size())); }

void Sha256::Free::operator()(void* context) const { EVP_MD_CTX_free(AsEvp(context)); }
Sha256::Sha256() : context_(EVP_MD_CTX_new()) {
  if (context_ == nullptr || EVP_DigestInit_ex(AsEvp(context_.get()), EVP_sha256(), nullptr) != 1) {
    throw std::bad_alloc();
  }
}
void Sha256::Update(ByteView bytes) { EVP_DigestUpdate(AsEvp(context_.get()), bytes.data(), bytes.size()); }
std::string Sha256::Hex() {
  std::array<unsigned char, 32> digest{};
  unsigned int size = 0;
  EVP_DigestFinal_ex(AsEvp(context_.get()), digest.data(), &size);
  return fmt::format("{:02x}", fmt::join(digest, ""));
}
std::string Sha256::Of(ByteView bytes) {
  Sha256 hash;
  hash.Update(bytes);
  return hash.Hex();
}

void GitBlobSha1::Free::operator()(void* context) const { EVP_MD_CTX_free(AsEvp(context)); }
GitBlobSha1::GitBlobSha1(uint64_t bytes) : context_(EVP_MD_CTX_new()) {
  if (context_ == nullptr || EVP_DigestInit_ex(AsEvp(context_.get()), EVP_sha1(), nullptr) != 1) throw std::bad_alloc();
  const std::string head = fmt::format("blob {}", bytes) + '\0';
  Update(AsBytes(head));
}
void GitBlobSha1::Update(ByteView bytes) { EVP_DigestUpdate(AsEvp(context_.get()), bytes.data(), bytes.size()); }
std::string GitBlobSha1::Hex() {
  std::array<unsigned char, 20> digest{};
  unsigned int size = 0;
  EVP_DigestFinal_ex(AsEvp(context_.get()), digest.data(), &size);
  return fmt::format("{:02x}", fmt::join(digest, ""));
}

}  // namespace q2c
