#include "formats/model_signature.h"

#include <algorithm>

#include "formats/base/hash.h"
#include "formats/base/json.h"
#include "formats/base/text.h"

namespace q2c {
namespace {

constexpr std::string_view kBundleType = "application/vnd.dev.sigstore.bundle.v0.3+json";
constexpr std::string_view kBundleFamily = "application/vnd.dev.sigstore.bundle";
constexpr std::string_view kPayloadType = "application/vnd.in-toto+json";
constexpr std::string_view kStatementType = "https://in-toto.io/Statement/v1";
constexpr std::string_view kPredicateType = "https://model_signing/signature/v1.0";
// What belongs to version control, and the signature itself.
constexpr std::string_view kIgnored[] = {".git", ".gitattributes", ".github", ".gitignore", kSignatureName};

// DSSE: what is signed says its own type and length.
std::string PreAuthentication(std::string_view payload) {
  return fmt::format("DSSEv1 {} {} {} {}", kPayloadType.size(), kPayloadType, payload.size(), payload);
}

std::optional<std::string> FromHex(std::string_view hex) {
  constexpr size_t kDigits = 64;
  if (hex.size() != kDigits) return std::nullopt;
  std::string bytes;
  for (size_t i = 0; i < hex.size(); i += 2) {
    unsigned value = 0;
    for (const char c : hex.substr(i, 2)) {
      const bool digit = c >= '0' && c <= '9';
      if (!digit && !(c >= 'a' && c <= 'f')) return std::nullopt;
      value = value * 16 + static_cast<unsigned>(digit ? c - '0' : c - 'a' + 10);
    }
    bytes += static_cast<char>(value);
  }
  return bytes;
}

// The digest of the digests, in order: one name for the whole folder.
Result<std::string> RootDigest(const std::vector<SignedFile>& files) {
  Sha256 root;
  for (const SignedFile& file : files) {
    const std::optional<std::string> digest = FromHex(file.sha256);
    if (!digest.has_value()) return Malformed("signature", "the digest of '{}' is no SHA-256", Escape(file.name));
    root.Update(AsBytes(*digest));
  }
  return root.Hex();
}

Result<std::string> TextAt(const Json& json, std::string_view what, std::initializer_list<std::string_view> path) {
  const Json* at = &json;
  for (const std::string_view key : path) {
    if (at != nullptr) at = at->Find(key);
  }
  if (at == nullptr || !at->is_string()) return Malformed("signature", "the signature has no {}", what);
  return at->text();
}

Result<std::string> BytesAt(const Json& json, std::string_view what, std::initializer_list<std::string_view> path) {
  QC_ASSIGN(const std::string text, TextAt(json, what, path));
  std::optional<std::string> bytes = DecodeBase64(text);
  if (!bytes.has_value()) return Malformed("signature", "the {} of the signature is not base64", what);
  return std::move(*bytes);
}

Error OtherVersion(std::string_view what, std::string_view found, std::string_view expected) {
  return Refused("signature-version", "the signature's {} is '{}', this program reads '{}'", what, Escape(found, 100), expected);
}

Status ReadStatement(const Json& statement, ModelSignature* out) {
  QC_ASSIGN(const std::string type, TextAt(statement, "statement type", {"_type"}));
  QC_ASSIGN(const std::string predicate, TextAt(statement, "predicate type", {"predicateType"}));
  QC_ASSIGN(const std::string method, TextAt(statement, "method", {"predicate", "serialization", "method"}));
  QC_ASSIGN(const std::string hash, TextAt(statement, "kind of digest", {"predicate", "serialization", "hash_type"}));
  if (type != kStatementType) return OtherVersion("statement", type, kStatementType);
  if (predicate != kPredicateType) return OtherVersion("predicate", predicate, kPredicateType);
  if (method != "files") return OtherVersion("method", method, "files");
  if (hash != "sha256") return OtherVersion("kind of digest", hash, "sha256");
  const Json& body = *statement.Find("predicate");
  if (const Json* ignored = body.Find("serialization")->Find("ignore_paths")) {
    for (const Json& path : ignored->items()) out->ignored.push_back(path.text());
  }
  const Json* resources = body.Find("resources");
  if (resources == nullptr || !resources->is_array()) return Malformed("signature", "the signature lists no files");
  for (const Json& resource : resources->items()) {
    QC_ASSIGN(const std::string name, TextAt(resource, "name of a file", {"name"}));
    QC_ASSIGN(const std::string algorithm, TextAt(resource, "kind of digest", {"algorithm"}));
    QC_ASSIGN(const std::string digest, TextAt(resource, "digest", {"digest"}));
    if (algorithm != "sha256") return OtherVersion("kind of digest", algorithm, "sha256");
    out->files.push_back({name, digest});
  }
  const Json* subjects = statement.Find("subject");
  if (subjects == nullptr || subjects->items().size() != 1) return Malformed("signature", "expected one subject");
  QC_ASSIGN(const std::string root, TextAt(subjects->items()[0], "digest of the whole", {"digest", "sha256"}));
  QC_ASSIGN(const std::string found, RootDigest(out->files));
  if (root != found) return Malformed("signature", "the digest of the whole is {}, that of the listed files {}", Escape(root, 64), found);
  return {};
}

}  // namespace

Result<std::string> WriteModelSignature(const std::string& name, std::vector<SignedFile> files, const EcKey& key) {
  std::ranges::sort(files, {}, &SignedFile::name);
  QC_ASSIGN(const std::string root, RootDigest(files));
  Json resources = Json::Array();
  for (const SignedFile& file : files) {
    resources.items().push_back(Json::Object({{"name", Json::String(file.name)}, {"algorithm", Json::String("sha256")}, {"digest", Json::String(file.sha256)}}));
  }
  Json ignored = Json::Array();
  for (const std::string_view path : kIgnored) ignored.items().push_back(Json::String(path));
  const Json statement = Json::Object(
      {{"_type", Json::String(kStatementType)},
       {"subject", Json::Array({Json::Object({{"name", Json::String(name)}, {"digest", Json::Object({{"sha256", Json::String(root)}})}})})},
       {"predicateType", Json::String(kPredicateType)},
       {"predicate", Json::Object({{"serialization", Json::Object({{"method", Json::String("files")}, {"hash_type", Json::String("sha256")}, {"allow_symlinks", Json::Bool(false)}, {"ignore_paths", std::move(ignored)}})},
                                   {"resources", std::move(resources)}})}});
  const std::string payload = statement.Dump(-1);
  QC_ASSIGN(const std::string signature, key.Sign(PreAuthentication(payload)));
  const Json bundle = Json::Object(
      {{"mediaType", Json::String(kBundleType)},
       {"verificationMaterial", Json::Object({{"publicKey", Json::Object({{"hint", Json::String(key.Hint())}})}, {"tlogEntries", Json::Array()}})},
       {"dsseEnvelope", Json::Object({{"payload", Json::String(EncodeBase64(payload))},
                                      {"payloadType", Json::String(kPayloadType)},
                                      {"signatures", Json::Array({Json::Object({{"sig", Json::String(EncodeBase64(signature))}, {"keyid", Json::String("")}})})}})}});
  return bundle.Dump(-1) + "\n";
}

Result<ModelSignature> ReadModelSignature(std::string_view text) {
  const Result<Json> parsed = ParseJson(text);
  if (!parsed.ok() || !parsed.value().is_object()) return Malformed("signature", "the signature is no JSON document");
  const Json& bundle = parsed.value();
  QC_ASSIGN(const std::string media, TextAt(bundle, "media type", {"mediaType"}));
  if (!media.starts_with(kBundleFamily)) return OtherVersion("media type", media, kBundleType);
  QC_ASSIGN(const std::string payload_type, TextAt(bundle, "payload type", {"dsseEnvelope", "payloadType"}));
  if (payload_type != kPayloadType) return OtherVersion("payload", payload_type, kPayloadType);
  ModelSignature signature;
  QC_ASSIGN(const std::string payload, BytesAt(bundle, "payload", {"dsseEnvelope", "payload"}));
  const Json* signatures = bundle.Find("dsseEnvelope")->Find("signatures");
  if (signatures == nullptr || signatures->items().empty()) return Malformed("signature", "the envelope is not signed");
  QC_ASSIGN(signature.signature, BytesAt(signatures->items()[0], "signature itself", {"sig"}));
  const Result<std::string> hint = TextAt(bundle, "hint", {"verificationMaterial", "publicKey", "hint"});
  if (hint.ok()) signature.key_hint = hint.value();
  signature.signed_text = PreAuthentication(payload);
  QC_ASSIGN(const Json statement, ParseJson(payload));
  QC_TRY(ReadStatement(statement, &signature));
  return signature;
}

}  // namespace q2c
