// Which of the files in a folder are the weights, by their names.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "formats/base/status.h"

namespace q2c {

// A PyTorch file, by its name. Whether it holds weights of the model is another matter.
inline bool IsTorchFile(std::string_view name) { return name.ends_with(".bin") || name.ends_with(".pt") || name.ends_with(".pth"); }
inline constexpr std::string_view kTorchIndexEnding = ".bin.index.json";

// "model-00002-of-00003.safetensors" -> {"model", ".safetensors", 2, 3}
struct ShardName {
  std::string stem;
  std::string extension;
  uint64_t number = 0;
  uint64_t count = 0;
};
std::optional<ShardName> ParseShardName(const std::string& full);

// Without an index only the names say whether all shards are there. Errors: kMalformed "shard-missing".
Status CheckNumbering(const std::vector<std::string>& names);

// Those of `names` that make up one model: a file, or the shards of one series. Of several, the one that
// `base_name` (model_file_base_name of quantize_config.json) names, else the one that AutoGPTQ or
// GPTQ-for-LLaMa named after its bits. Errors: kMalformed "weights-several".
Result<std::vector<std::string>> ChooseWeights(const std::vector<std::string>& names, const std::string& base_name);

}  // namespace q2c
