#include "convert/provenance.h"

#include <algorithm>

#include "formats/base/hash.h"
#include "formats/base/parallel.h"
#include "formats/base/text.h"
#include "formats/base/timings.h"

namespace q2c {
namespace {

constexpr std::string_view kStatementType = "https://in-toto.io/Statement/v1";
constexpr std::string_view kPredicateType = "https://slsa.dev/provenance/v1";
constexpr std::string_view kBuildType = "https://qwen2-convert.invalid/conversion/v1";
constexpr std::string_view kBuilder = "https://qwen2-convert.invalid/qwen2-convert";

Json Resource(const std::string& name, const std::string& sha256) {
  return Json::Object({{"name", Json::String(name)}, {"digest", Json::Object({{"sha256", Json::String(sha256)}})}});
}

Result<std::string> DigestOf(const Location& location, const std::string& name) {
  constexpr uint64_t kPiece = 1U << 20U;
  QC_ASSIGN(const InputFile file, location.OpenMember(name));
  Sha256 hash;
  std::vector<std::byte> buffer(std::min(kPiece, file.bytes()));
  for (uint64_t at = 0; at < file.bytes(); at += kPiece) {
    const MutableBytes part(buffer.data(), std::min(kPiece, file.bytes() - at));
    QC_TRY(file.ReadAt(at, part));
    const Timed timed(Stage::kHash);
    hash.Update(part);
  }
  QC_TRY(file.CheckUnchanged());
  return hash.Hex();
}

}  // namespace

Result<std::string> WriteProvenance(const Plan& plan, const Manifest& manifest, const std::vector<ManifestFile>& written, unsigned jobs) {
  const Location& location = plan.model->checkpoint->location();
  QC_ASSIGN(const std::vector<DirEntry> entries, location.dir().List());
  std::vector<std::string> names;
  for (const DirEntry& entry : entries) {
    if (entry.kind == FileKind::kRegular || entry.kind == FileKind::kLink) names.push_back(entry.name);
  }
  std::vector<std::string> digests(names.size());
  QC_TRY(RunParallel(names.size(), jobs, [&](size_t i) -> Status {
    QC_ASSIGN(digests[i], DigestOf(location, names[i]));
    return {};
  }));
  Json inputs = Json::Array();
  for (size_t i = 0; i < names.size(); ++i) inputs.items().push_back(Resource(names[i], digests[i]));
  Json subjects = Json::Array();
  for (const ManifestFile& file : written) subjects.items().push_back(Resource(file.name, file.sha256));
  Json targets = Json::Array();
  for (const std::string& target : manifest.targets) targets.items().push_back(Json::String(target));
  const Json statement = Json::Object(
      {{"_type", Json::String(kStatementType)},
       {"subject", std::move(subjects)},
       {"predicateType", Json::String(kPredicateType)},
       {"predicate",
        Json::Object({{"buildDefinition", Json::Object({{"buildType", Json::String(kBuildType)},
                                                        {"externalParameters", Json::Object({{"targets", std::move(targets)}, {"options", manifest.options}, {"verify", Json::String(manifest.verify)}})},
                                                        {"resolvedDependencies", std::move(inputs)}})},
                      {"runDetails", Json::Object({{"builder", Json::Object({{"id", Json::String(kBuilder)}, {"version", Json::Object({{"qwen2-convert", Json::String(manifest.tool_version)}})}})}})}})}});
  return statement.Dump() + "\n";
}

}  // namespace q2c
