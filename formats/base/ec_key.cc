#include "formats/base/ec_key.h"

#include <openssl/bio.h>
#include <openssl/core_names.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>

#include <algorithm>
#include <array>

#include "formats/base/file.h"
#include "formats/base/hash.h"
#include "formats/base/text.h"

namespace q2c {
namespace {

constexpr uint64_t kMaxPem = 1U << 16U;

struct Curve {
  std::string_view name;  // OpenSSL's
  const EVP_MD* (*digest)();
};
constexpr std::array<Curve, 3> kCurves = {{{"prime256v1", EVP_sha256}, {"secp384r1", EVP_sha384}, {"secp521r1", EVP_sha512}}};

EVP_PKEY* KeyOf(void* key) { return static_cast<EVP_PKEY*>(key); }

const Curve* CurveOf(void* key) {
  std::array<char, 64> name{};
  if (EVP_PKEY_get_utf8_string_param(KeyOf(key), OSSL_PKEY_PARAM_GROUP_NAME, name.data(), name.size(), nullptr) != 1) return nullptr;
  const auto* found = std::ranges::find(kCurves, std::string_view(name.data()), &Curve::name);
  return found == kCurves.end() ? nullptr : found;
}

Result<std::string> ReadPem(const std::string& path) {
  const std::string absolute = AbsolutePath(path);
  QC_ASSIGN(const Dir dir, Dir::Open(ParentPath(absolute)));
  QC_ASSIGN(const InputFile file, InputFile::Open(dir, BaseName(absolute), Links::kFollow));
  return file.ReadAll(kMaxPem);
}

using Bio = std::unique_ptr<BIO, decltype(&BIO_free)>;
using Context = std::unique_ptr<EVP_MD_CTX, decltype(&EVP_MD_CTX_free)>;

int GivePassphrase(char* buffer, int size, int /*writing*/, void* passphrase) {
  const auto* text = static_cast<const std::string*>(passphrase);
  if (text->size() > static_cast<size_t>(size)) return -1;
  std::ranges::copy(*text, buffer);  // OpenSSL wants no zero behind it
  return static_cast<int>(text->size());
}

const unsigned char* BytesOf(std::string_view text) { return reinterpret_cast<const unsigned char*>(text.data()); }  // NOLINT: bytes as OpenSSL takes them

}  // namespace

void EcKey::Free::operator()(void* key) const { EVP_PKEY_free(KeyOf(key)); }

Result<EcKey> EcKey::Check(void* key, const std::string& path) {
  EcKey owned(key);
  if (CurveOf(key) == nullptr) return Refused("key-type", "key '{}' is no key on one of the curves P-256, P-384 and P-521; make one with 'openssl ecparam -name prime256v1 -genkey -noout'", Escape(path));
  return owned;
}

Result<EcKey> EcKey::LoadPrivate(const std::string& path, const std::string& passphrase) {
  QC_ASSIGN(const std::string pem, ReadPem(path));
  const Bio bio(BIO_new_mem_buf(pem.data(), static_cast<int>(pem.size())), BIO_free);
  std::string given = passphrase;
  EVP_PKEY* key = PEM_read_bio_PrivateKey(bio.get(), nullptr, GivePassphrase, &given);
  ERR_clear_error();
  if (key != nullptr) return Check(key, path);
  if (pem.find("ENCRYPTED") != std::string::npos) {
    return Usage("key-passphrase", "key '{}' is encrypted, and the passphrase is {}; give it in the environment as QWEN2_CONVERT_PASSPHRASE", Escape(path), passphrase.empty() ? "missing" : "wrong");
  }
  return Malformed("key", "file '{}' holds no private key in PEM form", Escape(path));
}

Result<EcKey> EcKey::LoadPublic(const std::string& path) {
  QC_ASSIGN(const std::string pem, ReadPem(path));
  const Bio bio(BIO_new_mem_buf(pem.data(), static_cast<int>(pem.size())), BIO_free);
  EVP_PKEY* key = PEM_read_bio_PUBKEY(bio.get(), nullptr, nullptr, nullptr);
  ERR_clear_error();
  if (key == nullptr) return Malformed("key", "file '{}' holds no public key in PEM form; 'openssl pkey -in KEY.pem -pubout' prints that of a private one", Escape(path));
  return Check(key, path);
}

Result<std::string> EcKey::Sign(std::string_view message) const {
  const Context context(EVP_MD_CTX_new(), EVP_MD_CTX_free);
  size_t bytes = 0;
  std::string signature;
  if (EVP_DigestSignInit(context.get(), nullptr, CurveOf(key_.get())->digest(), nullptr, KeyOf(key_.get())) == 1 &&
      EVP_DigestSign(context.get(), nullptr, &bytes, BytesOf(message), message.size()) == 1) {
    signature.resize(bytes);
    if (EVP_DigestSign(context.get(), reinterpret_cast<unsigned char*>(signature.data()), &bytes, BytesOf(message), message.size()) == 1) {  // NOLINT: as above
      signature.resize(bytes);
      return signature;
    }
  }
  ERR_clear_error();
  return MakeError(Code::kInternal, "sign", "OpenSSL could not sign with this key");
}

bool EcKey::Verify(std::string_view message, std::string_view signature) const {
  const Context context(EVP_MD_CTX_new(), EVP_MD_CTX_free);
  const bool good = EVP_DigestVerifyInit(context.get(), nullptr, CurveOf(key_.get())->digest(), nullptr, KeyOf(key_.get())) == 1 &&
                    EVP_DigestVerify(context.get(), BytesOf(signature), signature.size(), BytesOf(message), message.size()) == 1;
  ERR_clear_error();
  return good;
}

std::string EcKey::Hint() const {
  const Bio bio(BIO_new(BIO_s_mem()), BIO_free);
  PEM_write_bio_PUBKEY(bio.get(), KeyOf(key_.get()));
  char* text = nullptr;
  const long size = BIO_get_mem_data(bio.get(), &text);
  return Sha256::Of(AsBytes(std::string_view(text, static_cast<size_t>(size))));
}

std::string EncodeBase64(std::string_view bytes) {
  std::string text((bytes.size() + 2) / 3 * 4 + 1, '\0');  // and the zero that OpenSSL puts behind it
  const int size = EVP_EncodeBlock(reinterpret_cast<unsigned char*>(text.data()), BytesOf(bytes), static_cast<int>(bytes.size()));  // NOLINT: as above
  text.resize(static_cast<size_t>(size));
  return text;
}

std::optional<std::string> DecodeBase64(std::string_view text) {
  if (text.size() % 4 != 0) return std::nullopt;
  std::string bytes(text.size() / 4 * 3, '\0');
  const int size = EVP_DecodeBlock(reinterpret_cast<unsigned char*>(bytes.data()), BytesOf(text), static_cast<int>(text.size()));  // NOLINT: as above
  if (size < 0) return std::nullopt;
  const size_t padding = text.ends_with("==") ? 2 : text.ends_with('=') ? 1 : 0;
  bytes.resize(static_cast<size_t>(size) - padding);
  return bytes;
}

}  // namespace q2c
