#include "convert/repairs.h"

#include <algorithm>
#include <array>
#include <tuple>

#include "formats/base/text.h"

namespace q2c {
namespace {

constexpr Without kLeft = Without::kLeft;
constexpr Without kRefused = Without::kRefused;
constexpr Without kNothing = Without::kNothing;

// In the order in which they are made.
constexpr auto kRepairs = std::to_array<Repair>({
    // id, pass, what, when, without
    {"stale-shard", "files", "files of weights that the index does not name are left out", "they lie beside the shards", kNothing},
    {"index-total", "files", "total_size is written anew", "it is missing, or not what the tensors have", kNothing},
    {"tensor-twice", "files", "one of several equal tensors is kept", "two shards hold it", kNothing},
    {"safetensors", "files", "the header is written anew: format in the metadata, aligned data, no gaps", "always", kNothing},
    {"torch", "files", "tensors of PyTorch files are written as safetensors, each by itself", "the weights are *.bin or *.pt", kNothing},
    {"file-names", "files", "files are named as transformers looks for them", "always", kNothing},
    {"family", "names", "linears stored as one are cut apart, and the config is put in the words of the architecture that is written", "first-generation Qwen; a text model's config inside that of a vision model; num_local_experts without num_experts", kRefused},
    {"names", "names", "tensors are named as the architecture names them", "a wrapper left its prefix, or 'model.' is missing or doubled", kRefused},
    {"derived-buffer", "names", "buffers that the loader computes are left out", "rotary_emb.inv_freq and its kin are stored", kLeft},
    {"bias-declared", "biases", "the config declares the biases that the file has; others of the kind become zero", "they are not zero, and the key that declares them is off", kRefused},
    {"zero-bias", "biases", "biases of zeros are left out", "the architecture has none there, or the loaders of the target read none that the config declares", kLeft},
    {"zero-fill", "biases", "biases of zeros are added", "the target builds one on every quantised linear", kLeft},
    {"tied-head", "heads", "a head that repeats the embedding is left out", "config.json ties the two", kLeft},
    {"head-differs", "heads", "tie_word_embeddings becomes false", "it is true, and head and embedding differ", kLeft},
    {"zero-label", "layout", "zero points are read as the data shows they are stored, and labelled so", "the config names the other convention", kRefused},
    {"zero-wrap", "layout", "zero fields of all ones are read as 0", "AutoGPTQ had to store a zero point of 0 in GPTQ v1", kRefused},
    {"act-order-fold", "channels", "the channels between gate/up and down are put in the order of down's groups", "of the scattered linears only down_proj does not fit the layout", kRefused},
    {"group-split", "layout", "groups are split into smaller ones", "the layout or its loader knows no such size, or --group-size", kRefused},
    {"pad-intermediate", "channels", "gate, up and down get channels of zeros", "--pad-intermediate", kRefused},
    {"scale-dtype", "layout", "scales take the type that the loaders compute in", "theirs is another one, and every value has a place there (else --allow-rounding)", kLeft},
    {"g-idx", "repack", "g_idx is made", "a GPTQ loader needs it and the file has none", kRefused},
    {"config-class", "config", "architectures is written", "it is missing", kLeft},
    {"config-private", "config", "paths and calibration data of the maker are removed", "a config holds some", kLeft},
    {"config-code", "config", "auto_map is removed", "it asks for code that a known architecture does not need", kLeft},
    {"config-unsettable", "config", "keys that stop a loader are removed", "use_return_dict, attn_implementation or their kin are stored", kLeft},
    {"config-dtype", "config", "torch_dtype and dtype name the type of the scales", "one is missing or names another", kLeft},
    {"config-rope", "config", "both forms of the rope base and scaling are written", "one is missing", kLeft},
    {"config-types", "config", "numbers and flags get the types that transformers 5 checks", "an integer stands for a float, or null for a flag", kLeft},
    {"config-window", "config", "sliding_window becomes null", "use_sliding_window is false", kLeft},
    {"config-cache", "config", "use_cache becomes true", "training left it false", kLeft},
    {"config-generation", "config", "settings of generation move to generation_config.json", "config.json holds some", kLeft},
    {"generation-sampling", "config", "do_sample becomes true in generation_config.json", "temperature, top_p or top_k are set while it is false, which save_pretrained refuses", kLeft},
    {"config-layer-types", "config", "layer_types is removed", "it does not fit the layers or the window", kLeft},
    {"config-tie", "config", "tie_word_embeddings is written out", "it is missing", kLeft},
    {"quant-config", "quant-config", "quantization_config says what the tensors show", "always", kNothing},
    {"quant-modules", "quant-config", "modules_in_block_to_quantize lists the quantised linears", "some linears of a block are float", kLeft},
    {"quant-leftovers", "quant-config", "keys that stop or mislead a loader are removed", "is_marlin_format, disable_exllama, null and the like are stored", kLeft},
    {"quant-order", "quant-config", "act_group_aware becomes false", "the linears are in act-order, with which GPTQModel refuses it", kLeft},
});

std::string_view WithoutText(Without without) {
  switch (without) {
    case kLeft: return "left as it is";
    case kRefused: return "refused";
    case kNothing: return "cannot be left out";
  }
  return "";
}

std::vector<std::string> Choosable() {
  std::vector<std::string> ids;
  for (const Repair& repair : kRepairs) {
    if (repair.without != kNothing) ids.emplace_back(repair.id);
  }
  return ids;
}

}  // namespace

std::span<const Repair> Repairs() { return kRepairs; }

const Repair* FindRepair(std::string_view id) {
  const auto found = std::ranges::find(kRepairs, id, &Repair::id);
  return found == kRepairs.end() ? nullptr : &*found;
}

Result<RepairChoice> RepairChoice::Make(const std::vector<std::string>& only, const std::vector<std::string>& skip) {
  RepairChoice choice;
  for (const auto& [ids, option, chosen] : {std::tuple(&only, "only", &choice.only_), std::tuple(&skip, "skip", &choice.skip_)}) {
    for (const std::string& id : *ids) {
      const Repair* repair = FindRepair(id);
      if (repair == nullptr) return Usage("repair", "--{}={}: there is no such repair; known are {}", option, Escape(id), Join(Choosable(), ", "));
      if (repair->without == kNothing && chosen == &choice.skip_) return Usage("repair", "--skip={}: it is part of writing the files and cannot be left out", id);
      chosen->insert(id);
    }
  }
  return choice;
}

bool RepairChoice::Wants(std::string_view id) const {
  if (FindRepair(id)->without == kNothing) return true;
  return !skip_.contains(id) && (only_.empty() || only_.contains(id));
}

std::string RepairChoice::Why(std::string_view id) const {
  if (skip_.contains(id)) return fmt::format("--skip={}", id);
  return fmt::format("--only={}", fmt::join(only_, " --only="));
}

std::string RepairsText() {
  std::string text;
  for (const Repair& repair : kRepairs) text += fmt::format("{}\n  {}\n  when: {}\n  without it: {}\n", repair.id, repair.what, repair.when, WithoutText(repair.without));
  return text;
}

Json RepairsJson() {
  Json list = Json::Array();
  for (const Repair& repair : kRepairs) {
    list.items().push_back(Json::Object({{"id", Json::String(repair.id)}, {"pass", Json::String(repair.pass)}, {"what", Json::String(repair.what)}, {"when", Json::String(repair.when)},
                                         {"without", Json::String(WithoutText(repair.without))}}));
  }
  return Json::Object({{"schema", Json::Integer(1)}, {"repairs", std::move(list)}});
}

}  // namespace q2c
