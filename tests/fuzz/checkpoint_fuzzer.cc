// One file of a small, sound checkpoint is the fuzzer's: index, configs, tokenizer files, checksums, manifest or
// the front of the weights. The plan from it and the audit of it end with a result, never otherwise.
#include <filesystem>
#include <fstream>

#include <unistd.h>

#include "convert/job.h"
#include "tests/fuzz/fuzz.h"
#include "verify/audit.h"

namespace {

namespace fs = std::filesystem;

constexpr std::string_view kWeights = "model-00001-of-00003.safetensors";
constexpr std::string_view kFiles[] = {"config.json", "quantize_config.json", "model.safetensors.index.json", "tokenizer_config.json", "tokenizer.json",
                                       "generation_config.json", "SHA256SUMS", "qwen2-convert.manifest.json", kWeights};
constexpr const char* kTargets[] = {"transformers-4.x", "transformers-5.x", "compressed-tensors", "awq", "gguf", "mlx", "gptqmodel-v2", "dense-bf16"};

// A copy of the fixture for this process, taken away at its end.
struct Place {
  Place() : folder(fs::temp_directory_path() / ("q2c-fuzz-" + std::to_string(::getpid()))) {
    fs::remove_all(folder);
    fs::create_directories(folder);
    fs::copy(Q2C_FIXTURES "/published-int4-g128-sharded/checkpoint", folder / "in", fs::copy_options::recursive | fs::copy_options::create_hard_links);
  }
  ~Place() { fs::remove_all(folder); }
  Place(const Place&) = delete;
  Place& operator=(const Place&) = delete;
  fs::path folder;
};

void Put(const fs::path& path, std::string_view content, std::string_view rest) {
  std::ofstream file(path, std::ios::binary | std::ios::trunc);
  file << content << rest;
}

std::string Get(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

}  // namespace

// Byte 0: which file; byte 1: for which target; then its content.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const Place place;
  if (size < 2) return 0;
  const std::string_view name = kFiles[data[0] % std::size(kFiles)];
  const fs::path path = place.folder / "in" / name;
  const bool existed = fs::exists(path);
  const std::string before = existed ? Get(path) : std::string();
  fs::remove(path);  // a hard link to the fixture: it must not be written through
  const std::string_view content = FuzzText(data + 2, size - 2);
  // Of weights only the front is the fuzzer's: the header with its length.
  Put(path, content, name == kWeights && content.size() < before.size() ? std::string_view(before).substr(content.size()) : std::string_view());

  q2c::JobOptions job;
  job.in = (place.folder / "in").string();
  job.out = (place.folder / "out").string();
  job.targets = {kTargets[data[1] % std::size(kTargets)]};
  const auto planned = q2c::PlanJob(job);
  if (planned.ok()) {
    FUZZ_CHECK(!q2c::PlanText(planned.value().plan, true).empty());
    FUZZ_CHECK(planned.value().plan.OutputBytes() > 0);
  } else {
    FUZZ_CHECK(!planned.error().message.empty() && !planned.error().id.empty());
  }
  q2c::AuditRequest request;
  request.check_manifest = true;
  const auto audit = q2c::RunAudit(job.in, request);
  FUZZ_CHECK(audit.ok());

  fs::remove(path);
  if (existed) fs::create_hard_link(fs::path(Q2C_FIXTURES "/published-int4-g128-sharded/checkpoint") / name, path);
  return 0;
}
