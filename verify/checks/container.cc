// Files, headers and the index: what the readers noted, and what they need not care about.
#include <algorithm>
#include <array>

#include "formats/base/text.h"
#include "verify/checks/checks.h"

namespace q2c {
namespace {

constexpr std::array<std::string_view, 4> kFrameworks = {"pt", "mlx", "tf", "flax"};
constexpr std::array<std::string_view, 9> kWeightEndings = {".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack", ".onnx", ".gguf", ".npz"};

// The metadata that loaders insist on, and how the data lie in the files.
void CheckHeaders(const CheckInput& input, Findings* findings) {
  struct Seen {
    uint64_t tensors = 0;
    uint64_t first = UINT64_MAX;  // byte of the data
    uint64_t needed = 0;          // bytes of header
    std::vector<std::string> misaligned;
  };
  const std::vector<WeightFile>& files = input.checkpoint->files();
  std::vector<Seen> seen(files.size());
  for (const TensorInfo& tensor : input.checkpoint->tensors()) {
    Seen& file = seen[tensor.file];
    const uint64_t width = std::max<uint64_t>(1, InfoOf(tensor.dtype).bits / 8U);
    if (tensor.offset % width != 0) file.misaligned.push_back(tensor.name);
    ++file.tensors;
    file.first = std::min(file.first, tensor.offset);
    file.needed += 256 + 2 * tensor.name.size();
  }
  for (size_t i = 0; i < files.size(); ++i) {
    if (!files[i].name.ends_with(".safetensors")) continue;
    const std::string name = Escape(files[i].name);
    const auto& metadata = files[i].metadata;
    const auto format = std::ranges::find(metadata, "format", &std::pair<std::string, std::string>::first);
    if (format == metadata.end()) {
      findings->Add("metadata-format", fmt::format("file '{}': the metadata have no \"format\", expected \"pt\"", name));
    } else if (std::ranges::find(kFrameworks, format->second) == kFrameworks.end()) {
      findings->Add("metadata-format", fmt::format("file '{}': \"format\" is '{}', expected \"pt\"", name, Escape(format->second, 40)));
    }
    const Seen& file = seen[i];
    if (!file.misaligned.empty()) {
      findings->Add("header-misaligned", fmt::format("file '{}': {} tensors do not begin at a multiple of their element's size, such as '{}'", name, file.misaligned.size(), Escape(file.misaligned.front())), file.misaligned);
    }
    constexpr uint64_t kMetadata = 1'000'000;
    const uint64_t head = file.tensors == 0 ? files[i].stamp.bytes : file.first;
    if (head > kMetadata + 4 * file.needed) findings->Add("header-large", fmt::format("file '{}': the header has {}, its {} tensors need less than {}", name, HumanBytes(head), file.tensors, HumanBytes(file.needed)));
  }
}

// transformers looks for model.safetensors, else for model.safetensors.index.json.
void CheckNames(const CheckInput& input, Findings* findings) {
  const std::vector<WeightFile>& files = input.checkpoint->files();
  if (files.empty() || input.Gguf() || input.HasEntry(kIndexName) || input.HasEntry("model.safetensors")) return;
  std::vector<std::string> names;
  for (const WeightFile& file : files) names.push_back(file.name);
  findings->Add("file-names", fmt::format("the weights are in {}, expected model.safetensors or shards with {}", QuoteSome(names), kIndexName));
}

void CheckOthers(const CheckInput& input, Findings* findings) {
  std::vector<std::string> stray;
  for (const DirEntry& entry : input.entries) {
    if (entry.kind == FileKind::kFolder) continue;
    if (entry.name.ends_with(".incomplete") || entry.name.ends_with(".part") || entry.name.ends_with(".aria2")) {
      findings->Add("download-incomplete", fmt::format("file '{}' is what an interrupted download leaves", Escape(entry.name)));
    }
    if (entry.name == "adapter_model.safetensors" || entry.name == "adapter_config.json" || entry.name == "adapter_model.bin") {
      findings->Add("adapter", fmt::format("file '{}' belongs to a LoRA adapter", Escape(entry.name)));
      continue;
    }
    const bool read = std::ranges::find(input.checkpoint->files(), entry.name, &WeightFile::name) != input.checkpoint->files().end();
    const bool state = entry.name == "training_args.bin" || entry.name.starts_with("optimizer.") || entry.name.starts_with("scheduler.") || entry.name.starts_with("rng_state");
    const bool weights = std::ranges::any_of(kWeightEndings, [&](std::string_view ending) { return entry.name.ends_with(ending); }) || (entry.name.starts_with("autogptq_model") && entry.name.ends_with(".safetensors"));
    if (weights && !read && !state && !input.checkpoint->files().empty()) stray.push_back(entry.name);
  }
  if (!stray.empty()) findings->Add("stray-weights", fmt::format("other weights lie beside those that are read: {}", QuoteSome(stray, 8)));
}

}  // namespace

void CheckContainer(const CheckInput& input, Findings* findings) {
  for (const Note& note : input.checkpoint->notes()) {
    const bool header = note.id == "safetensors";
    if (header && note.message.find("no metadata") != std::string::npos) continue;  // said below
    if (FindKind(note.id) == nullptr) {
      findings->Add("unmanaged", fmt::format("{} [{}]", note.message, note.id));
      continue;
    }
    findings->Add(header && note.message.ends_with("no tensors") ? "no-tensors" : note.id, note.message);
  }
  CheckHeaders(input, findings);
  if (input.single_file) return;
  CheckNames(input, findings);
  CheckOthers(input, findings);
}

}  // namespace q2c
